//! Decision IDs: what joins the logs of both ends about one denial. A refusal carries one in its text; a flow that is cut has no
//! text, so its reset carries the ID in the code.

use std::fmt;

/// Bits of an ID. They leave 14 of a code's 62 (RFC 9000 §16) for the prefix.
const BITS: u32 = 48;
/// What the codes begin with: in no range that RFC 9114 §8.1 or §11.2.3 gives a meaning to.
const PREFIX: u64 = 0x1d03;

/// One denial by policy, at a connector or at a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionId(u64);

impl DecisionId {
    /// Of a counter, whose lowest 48 bits count.
    pub fn new(n: u64) -> Self {
        DecisionId(n & ((1 << BITS) - 1))
    }

    /// The text form, `d` and hexadecimal digits; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('d').filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u64::from_str_radix(digits, 16).ok().filter(|n| n >> BITS == 0).map(DecisionId)
    }

    /// The code with which a flow is reset that is no longer permitted.
    pub fn to_reset_code(self) -> u64 {
        (PREFIX << BITS) | self.0
    }

    /// `None`: the code says something else.
    pub fn from_reset_code(code: u64) -> Option<Self> {
        (code >> BITS == PREFIX).then(|| DecisionId::new(code))
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_from_its_code_and_from_its_text() {
        for n in [0, 7, 0xffff_ffff_ffff] {
            let id = DecisionId::new(n);
            assert_eq!(DecisionId::from_reset_code(id.to_reset_code()), Some(id));
            assert_eq!(DecisionId::parse(&id.to_string()), Some(id));
            assert!(id.to_reset_code() < 1 << 62);
        }
    }

    #[test]
    fn codes_and_texts_of_others_are_no_ids() {
        assert_eq!(DecisionId::from_reset_code(0x10f), None);
        assert_eq!(DecisionId::from_reset_code(0x7a02), None);
        for text in ["", "d", "dx", "7", "d+7", "d1000000000000", "denied"] {
            assert_eq!(DecisionId::parse(text), None, "{text}");
        }
    }
}
