//! A QUIC connection ID of this network: always eight bytes.

use std::fmt;

/// Length of every connection ID we issue, in bytes (protocol.md, Sizes). A short header does not say its own length
/// (RFC 9000 §17.3.1), so one length lets any node and the relay find the ID without knowing the connection.
pub const CID_LEN: usize = 8;

/// A connection ID. Orders and hashes as its bytes; printed as hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid(pub [u8; CID_LEN]);

impl Cid {
    /// `None` unless `bytes` is exactly [`CID_LEN`] long.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Cid)
    }

    pub fn as_bytes(&self) -> &[u8; CID_LEN] {
        &self.0
    }
}

impl AsRef<[u8]> for Cid {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_is_eight_bytes_and_prints_as_hex() {
        let cid = Cid::from_slice(&[0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]).unwrap();
        assert_eq!(format!("{cid:?}"), "00010203fcfdfeff");
        assert_eq!(Cid::from_slice(&[0; 7]), None);
        assert_eq!(Cid::from_slice(&[0; 9]), None);
    }
}
