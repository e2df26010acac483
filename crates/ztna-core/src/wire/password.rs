//! A password that a local client sent: wiped when dropped, never printed, never compared with `==`.

use std::fmt;

use zeroize::Zeroizing;

/// Holds the text of a password. `Debug` shows nothing of it, its length included.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    pub fn new(text: String) -> Self {
        Password(Zeroizing::new(text))
    }

    /// Whether it is `expected`, in a time that depends on the lengths alone.
    pub fn matches(&self, expected: &str) -> bool {
        let same = self.0.len() == expected.len();
        let differing = self.0.bytes().zip(expected.bytes()).fold(0u8, |acc, (a, b)| acc | (a ^ b));
        // Keeps the optimiser from turning the fold into an early exit.
        same & (std::hint::black_box(differing) == 0)
    }

    /// The text itself, for whoever has to send it on.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_text_matches() {
        let p = Password::new("s3cret".into());
        assert!(p.matches("s3cret"));
        for wrong in ["", "s3cre", "s3creT", "s3cret ", "xs3cret"] {
            assert!(!p.matches(wrong), "{wrong}");
        }
    }

    #[test]
    fn debug_output_does_not_hold_the_text() {
        assert!(!format!("{:?}", Password::new("s3cret".into())).contains("s3cret"));
    }
}
