//! Why some bytes were refused.

use std::fmt::Display;

/// Longest piece of a peer's input that an error repeats, in characters: enough to recognise it, short enough for a log line.
const GOT_MAX: usize = 64;

/// A peer (or a local client) sent something that can't be read. Says what, what it was, and what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ended inside the named field.
    #[error("{what} is cut short")]
    Truncated { what: &'static str },
    /// A field has a value that is not accepted. `got` is escaped and shortened.
    #[error("{what} is `{got}`, must be {accepted}")]
    Invalid { what: &'static str, got: String, accepted: &'static str },
    /// A field is longer than its bound; both in bytes.
    #[error("{what} is {got} bytes, {max} are accepted")]
    TooLong { what: &'static str, got: u64, max: u64 },
}

impl DecodeError {
    pub(crate) fn truncated(what: &'static str) -> Self {
        DecodeError::Truncated { what }
    }

    pub(crate) fn invalid(what: &'static str, got: impl Display, accepted: &'static str) -> Self {
        let got = got.to_string().escape_debug().take(GOT_MAX).collect();
        DecodeError::Invalid { what, got, accepted }
    }

    pub(crate) fn too_long(what: &'static str, got: usize, max: usize) -> Self {
        DecodeError::TooLong { what, got: got as u64, max: max as u64 }
    }
}

impl From<DecodeError> for crate::Error {
    /// Whoever sent the bytes is at fault.
    fn from(e: DecodeError) -> Self {
        crate::Error::Peer(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sent_is_escaped_and_shortened_in_the_message() {
        let message =
            DecodeError::invalid("port", format!("\u{1b}[31m\n{}", "9".repeat(500)), "1 to 65535").to_string();
        assert!(message.starts_with("port is `\\u{1b}[31m\\n999"), "{message}");
        assert!(message.ends_with("`, must be 1 to 65535") && message.len() < 120, "{message}");
    }
}
