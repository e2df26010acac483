//! Capsules (RFC 9297 §3.2): type, length and value on a request stream.

use std::net::SocketAddr;

use super::address;
use super::cid::{CID_LEN, Cid};
use super::error::DecodeError;
use super::reader::Reader;
use super::varint;

/// `DATAGRAM` (RFC 9297 §3.5).
pub const DATAGRAM: u64 = 0x00;
/// `COMPRESSION_ASSIGN` (draft-ietf-masque-connect-udp-listen; 0x11 to 0x13 from version 10 on, 0x1c0fe323 and up before).
pub const COMPRESSION_ASSIGN: u64 = 0x11;
/// `COMPRESSION_ACK` (same draft).
pub const COMPRESSION_ACK: u64 = 0x12;
/// `COMPRESSION_CLOSE` (same draft).
pub const COMPRESSION_CLOSE: u64 = 0x13;
/// `OBSERVED_ADDRESS` (protocol.md, private).
pub const OBSERVED_ADDRESS: u64 = 0x29c5a1;
/// `REGISTER_CID` (protocol.md, private).
pub const REGISTER_CID: u64 = 0x29c5a2;
/// `ACK_CID` (protocol.md, private).
pub const ACK_CID: u64 = 0x29c5a3;
/// `CLOSE_CID` (protocol.md, private).
pub const CLOSE_CID: u64 = 0x29c5a4;
/// `REPLACED` (protocol.md, private).
pub const REPLACED: u64 = 0x29c5a5;

/// Longest value of a capsule that is kept, in bytes: an inner packet is 1,320 (protocol.md, Sizes), all others are shorter.
pub const MAX_CAPSULE: usize = 2048;
/// Longest value of a capsule of unknown type, in bytes. It is skipped unread (RFC 9297 §3.2), never stored; the bound keeps
/// a peer from parking a stream in one endless capsule.
pub const MAX_SKIPPED: u64 = 64 * 1024;
/// Memory that a reader keeps while its stream is idle, in bytes: a relay has thousands of idle streams.
const IDLE_CAPACITY: usize = 256;

/// One capsule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capsule {
    /// An HTTP Datagram's payload: context ID, then data. For a leg on which a QUIC DATAGRAM does not fit.
    Datagram(Vec<u8>),
    /// Registers a context for a target; `None` (IP version 0 on the wire) registers the uncompressed context.
    CompressionAssign {
        context_id: u64,
        target: Option<SocketAddr>,
    },
    CompressionAck {
        context_id: u64,
    },
    CompressionClose {
        context_id: u64,
    },
    /// The address from which the relay sees us.
    ObservedAddress(SocketAddr),
    /// Asks that short-header packets with this destination ID be forwarded raw. Context 0 is the agent's session.
    RegisterCid {
        context_id: u64,
        cid: Cid,
    },
    AckCid {
        context_id: u64,
        cid: Cid,
    },
    CloseCid {
        context_id: u64,
        cid: Cid,
    },
    /// To a connector: a newer process of its identity, at this address, takes new sessions from now on.
    Replaced(SocketAddr),
    /// A type not known here; its value has been skipped, and is empty when such a capsule is written.
    Unknown {
        ty: u64,
    },
}

impl Capsule {
    /// Appends the capsule, header included. A `Datagram` over [`MAX_CAPSULE`] is the caller's to refuse: our reader would.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut value = Vec::with_capacity(32);
        let ty = match self {
            Capsule::Datagram(payload) => return encode_datagram(payload, out),
            Capsule::CompressionAssign { context_id, target } => {
                varint::encode(*context_id, &mut value);
                match target {
                    Some(addr) => address::encode(*addr, &mut value),
                    None => value.push(0),
                }
                COMPRESSION_ASSIGN
            }
            Capsule::CompressionAck { context_id } => {
                varint::encode(*context_id, &mut value);
                COMPRESSION_ACK
            }
            Capsule::CompressionClose { context_id } => {
                varint::encode(*context_id, &mut value);
                COMPRESSION_CLOSE
            }
            Capsule::ObservedAddress(addr) => {
                address::encode(*addr, &mut value);
                OBSERVED_ADDRESS
            }
            Capsule::RegisterCid { context_id, cid } => encode_cid(*context_id, cid, &mut value, REGISTER_CID),
            Capsule::AckCid { context_id, cid } => encode_cid(*context_id, cid, &mut value, ACK_CID),
            Capsule::CloseCid { context_id, cid } => encode_cid(*context_id, cid, &mut value, CLOSE_CID),
            Capsule::Replaced(addr) => {
                address::encode(*addr, &mut value);
                REPLACED
            }
            Capsule::Unknown { ty } => *ty,
        };
        varint::encode(ty, out);
        varint::encode(value.len() as u64, out);
        out.extend_from_slice(&value);
    }
}

/// Appends a `DATAGRAM` capsule around `payload` without an intermediate copy.
pub fn encode_datagram(payload: &[u8], out: &mut Vec<u8>) {
    varint::encode(DATAGRAM, out);
    varint::encode(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// Reads capsules out of a stream that arrives in pieces. `push`, then `next` until it gives `Ok(None)`; at rest it holds
/// less than one capsule of [`MAX_CAPSULE`]. After an error it gives that error for ever: the stream is to be reset with
/// H3_DATAGRAM_ERROR (RFC 9297 §3.3).
#[derive(Debug, Default)]
pub struct CapsuleReader {
    buf: Vec<u8>,
    /// Bytes at the front of `buf` that `next` has given out.
    used: usize,
    /// The unknown capsule being skipped.
    skipping: Option<Skip>,
    failed: Option<DecodeError>,
}

#[derive(Debug, Clone, Copy)]
struct Skip {
    ty: u64,
    left: u64,
}

impl CapsuleReader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream. Keeps no more than it is given; nothing at all after an error.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.used > 0 {
            self.buf.drain(..self.used.min(self.buf.len()));
            self.used = 0;
        }
        // A value being skipped is not worth a copy. (Anything buffered comes before it and is dropped in `next`.)
        if let Some(skip) = &mut self.skipping
            && self.buf.is_empty()
        {
            let n = skip.left.min(bytes.len() as u64) as usize;
            skip.left -= n as u64;
            bytes = bytes.get(n..).unwrap_or_default();
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole capsule, `None` until there is one.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: `Ok(None)` means `push` more, not the end")]
    pub fn next(&mut self) -> Result<Option<Capsule>, DecodeError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let step = self.step();
        if let Err(e) = &step {
            self.failed = Some(e.clone());
            self.buf = Vec::new();
            self.used = 0;
        } else if self.used >= self.buf.len() {
            self.buf.clear();
            self.buf.shrink_to(IDLE_CAPACITY);
            self.used = 0;
        }
        step
    }

    /// Whether the stream may end here. A stream that ends inside a capsule is malformed (RFC 9297 §3.3).
    pub fn is_at_boundary(&self) -> bool {
        self.failed.is_none() && self.skipping.is_none() && self.used >= self.buf.len()
    }

    fn step(&mut self) -> Result<Option<Capsule>, DecodeError> {
        if let Some(skip) = self.skipping {
            return Ok(self.skip(skip));
        }
        let pending = self.buf.get(self.used..).unwrap_or_default();
        let mut r = Reader::new(pending);
        let (Some(ty), Some(len)) = (r.varint(), r.varint()) else {
            return Ok(None);
        };
        let header = pending.len() - r.rest().len();
        if !is_known(ty) {
            if len > MAX_SKIPPED {
                return Err(DecodeError::TooLong { what: "capsule of unknown type", got: len, max: MAX_SKIPPED });
            }
            self.used += header;
            return Ok(self.skip(Skip { ty, left: len }));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MAX_CAPSULE {
            return Err(DecodeError::too_long("capsule", len, MAX_CAPSULE));
        }
        let Some(value) = r.take(len) else {
            return Ok(None);
        };
        let capsule = decode_value(ty, value)?;
        self.used += header + len;
        Ok(Some(capsule))
    }

    fn skip(&mut self, skip: Skip) -> Option<Capsule> {
        let have = self.buf.len().saturating_sub(self.used) as u64;
        let n = skip.left.min(have);
        self.used += n as usize;
        let left = skip.left - n;
        self.skipping = (left > 0).then_some(Skip { left, ..skip });
        (left == 0).then_some(Capsule::Unknown { ty: skip.ty })
    }
}

fn is_known(ty: u64) -> bool {
    matches!(
        ty,
        DATAGRAM
            | COMPRESSION_ASSIGN
            | COMPRESSION_ACK
            | COMPRESSION_CLOSE
            | OBSERVED_ADDRESS
            | REGISTER_CID
            | ACK_CID
            | CLOSE_CID
            | REPLACED
    )
}

fn encode_cid(context_id: u64, cid: &Cid, value: &mut Vec<u8>, ty: u64) -> u64 {
    varint::encode(context_id, value);
    value.push(CID_LEN as u8);
    value.extend_from_slice(cid.as_bytes());
    ty
}

fn decode_value(ty: u64, value: &[u8]) -> Result<Capsule, DecodeError> {
    let mut r = Reader::new(value);
    let capsule = match ty {
        DATAGRAM => return Ok(Capsule::Datagram(value.to_vec())),
        COMPRESSION_ASSIGN => Capsule::CompressionAssign {
            context_id: nonzero_context(&mut r)?,
            target: address::decode_optional(&mut r)?,
        },
        COMPRESSION_ACK => Capsule::CompressionAck { context_id: nonzero_context(&mut r)? },
        COMPRESSION_CLOSE => Capsule::CompressionClose { context_id: nonzero_context(&mut r)? },
        OBSERVED_ADDRESS => Capsule::ObservedAddress(address::decode(&mut r)?),
        REGISTER_CID => {
            let (context_id, cid) = decode_cid(&mut r)?;
            Capsule::RegisterCid { context_id, cid }
        }
        ACK_CID => {
            let (context_id, cid) = decode_cid(&mut r)?;
            Capsule::AckCid { context_id, cid }
        }
        CLOSE_CID => {
            let (context_id, cid) = decode_cid(&mut r)?;
            Capsule::CloseCid { context_id, cid }
        }
        REPLACED => Capsule::Replaced(address::decode(&mut r)?),
        ty => return Ok(Capsule::Unknown { ty }),
    };
    if !r.is_empty() {
        return Err(DecodeError::invalid(
            "capsule",
            format!("{} bytes longer than its fields", r.rest().len()),
            "exactly its fields",
        ));
    }
    Ok(capsule)
}

fn context(r: &mut Reader<'_>) -> Result<u64, DecodeError> {
    r.varint().ok_or_else(|| DecodeError::truncated("context ID of a capsule"))
}

/// Context 0 belongs to RFC 9298; the bind draft says that its capsules never name it.
fn nonzero_context(r: &mut Reader<'_>) -> Result<u64, DecodeError> {
    match context(r)? {
        0 => Err(DecodeError::invalid("context ID of a compression capsule", 0, "1 or more")),
        id => Ok(id),
    }
}

fn decode_cid(r: &mut Reader<'_>) -> Result<(u64, Cid), DecodeError> {
    let cut = || DecodeError::truncated("connection ID of a capsule");
    let context_id = context(r)?;
    let len = r.u8().ok_or_else(cut)?;
    if usize::from(len) != CID_LEN {
        return Err(DecodeError::invalid("connection ID length of a capsule", len, "8"));
    }
    Ok((context_id, Cid(r.array().ok_or_else(cut)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_compression_assign_is_laid_out_as_in_the_draft() {
        let mut out = Vec::new();
        Capsule::CompressionAssign { context_id: 3, target: Some("192.0.2.1:443".parse().unwrap()) }.encode(&mut out);
        assert_eq!(out, [0x11, 8, 3, 4, 192, 0, 2, 1, 0x01, 0xbb]);
        out.clear();
        Capsule::CompressionAssign { context_id: 2, target: None }.encode(&mut out);
        assert_eq!(out, [0x11, 2, 2, 0]);
    }

    #[test]
    fn a_register_cid_is_context_length_and_eight_bytes() {
        let mut out = Vec::new();
        Capsule::RegisterCid { context_id: 0, cid: Cid([7; 8]) }.encode(&mut out);
        assert_eq!(out, [0x80, 0x29, 0xc5, 0xa2, 10, 0, 8, 7, 7, 7, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn a_replaced_is_the_address_of_the_newer_process() {
        let mut out = Vec::new();
        Capsule::Replaced("192.0.2.1:443".parse().unwrap()).encode(&mut out);
        assert_eq!(out, [0x80, 0x29, 0xc5, 0xa5, 7, 4, 192, 0, 2, 1, 0x01, 0xbb]);
    }

    #[test]
    fn malformed_values_are_refused_and_the_refusal_is_final() {
        for bad in [
            &[0x11, 1, 1][..],                                       // no IP version
            &[0x11, 2, 0, 0],                                        // context 0
            &[0x11, 2, 1, 5],                                        // IP version 5
            &[0x11, 4, 1, 4, 1, 2],                                  // address cut short
            &[0x11, 3, 1, 0, 9],                                     // trailing byte
            &[0x12, 0],                                              // no context
            &[0x13, 2, 1, 1],                                        // trailing byte
            &[0x80, 0x29, 0xc5, 0xa1, 1, 0],                         // observed address of no family
            &[0x80, 0x29, 0xc5, 0xa5, 1, 0],                         // replaced by an address of no family
            &[0x80, 0x29, 0xc5, 0xa2, 9, 1, 7, 1, 2, 3, 4, 5, 6, 7], // seven-byte connection ID
            &[0x80, 0x29, 0xc5, 0xa3, 9, 1, 8, 1, 2, 3, 4, 5, 6, 7], // connection ID cut short
        ] {
            let mut reader = CapsuleReader::new();
            reader.push(bad);
            let first = reader.next().expect_err(&format!("{bad:x?}"));
            reader.push(&[0x12, 1, 1]);
            assert_eq!(reader.next(), Err(first));
            assert!(!reader.is_at_boundary());
        }
    }

    #[test]
    fn a_known_capsule_over_the_bound_is_refused_before_its_value_arrives() {
        let mut reader = CapsuleReader::new();
        reader.push(&[0x00, 0x48, 0x01]);
        assert_eq!(reader.next(), Err(DecodeError::TooLong { what: "capsule", got: 2049, max: 2048 }));
    }

    #[test]
    fn an_unknown_capsule_is_skipped_without_being_stored() {
        let mut reader = CapsuleReader::new();
        let mut header = Vec::new();
        varint::encode(0x17, &mut header);
        varint::encode(MAX_SKIPPED, &mut header);
        reader.push(&header);
        assert_eq!(reader.next(), Ok(None));
        for _ in 0..64 {
            reader.push(&[0xff; 1024]);
            assert!(reader.buf.is_empty());
        }
        reader.push(&[0x12, 1, 5]);
        assert_eq!(reader.next(), Ok(Some(Capsule::Unknown { ty: 0x17 })));
        assert_eq!(reader.next(), Ok(Some(Capsule::CompressionAck { context_id: 5 })));
        assert!(reader.is_at_boundary());
    }

    #[test]
    fn an_unknown_capsule_over_64_kib_is_refused() {
        let mut reader = CapsuleReader::new();
        let mut header = vec![0x17];
        varint::encode(MAX_SKIPPED + 1, &mut header);
        reader.push(&header);
        assert!(matches!(reader.next(), Err(DecodeError::TooLong { .. })));
    }

    #[test]
    fn an_idle_reader_gives_its_memory_back() {
        let mut reader = CapsuleReader::new();
        let mut bytes = Vec::new();
        (0..1000).for_each(|i| Capsule::CompressionAck { context_id: i + 1 }.encode(&mut bytes));
        reader.push(&bytes);
        assert_eq!(std::iter::from_fn(|| reader.next().unwrap()).count(), 1000);
        assert!(reader.buf.capacity() <= IDLE_CAPACITY);
    }

    #[test]
    fn a_stream_that_ends_inside_a_capsule_is_not_at_a_boundary() {
        let mut reader = CapsuleReader::new();
        assert!(reader.is_at_boundary());
        reader.push(&[0x12]);
        assert_eq!(reader.next(), Ok(None));
        assert!(!reader.is_at_boundary());
        reader.push(&[1, 1]);
        assert!(reader.next().unwrap().is_some() && reader.is_at_boundary());
    }

    fn any_capsule() -> impl Strategy<Value = Capsule> {
        let context = 1..=varint::MAX;
        let cid = any::<[u8; 8]>().prop_map(Cid);
        let addr = any::<(std::net::IpAddr, u16)>().prop_map(SocketAddr::from);
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..MAX_CAPSULE).prop_map(Capsule::Datagram),
            (context.clone(), proptest::option::of(addr.clone()))
                .prop_map(|(context_id, target)| Capsule::CompressionAssign { context_id, target }),
            context.clone().prop_map(|context_id| Capsule::CompressionAck { context_id }),
            context.clone().prop_map(|context_id| Capsule::CompressionClose { context_id }),
            addr.clone().prop_map(Capsule::ObservedAddress),
            addr.prop_map(Capsule::Replaced),
            (context.clone(), cid.clone()).prop_map(|(context_id, cid)| Capsule::RegisterCid { context_id, cid }),
            (context.clone(), cid.clone()).prop_map(|(context_id, cid)| Capsule::AckCid { context_id, cid }),
            (context, cid).prop_map(|(context_id, cid)| Capsule::CloseCid { context_id, cid }),
            (0x100u64..0x200).prop_map(|ty| Capsule::Unknown { ty }),
        ]
    }

    proptest! {
        #[test]
        fn capsules_read_back_however_the_stream_is_cut(
            capsules in proptest::collection::vec(any_capsule(), 0..8), piece in 1usize..3000,
        ) {
            let mut bytes = Vec::new();
            capsules.iter().for_each(|c| c.encode(&mut bytes));
            let (mut reader, mut read) = (CapsuleReader::new(), Vec::new());
            for chunk in bytes.chunks(piece) {
                reader.push(chunk);
                while let Some(c) = reader.next().unwrap() {
                    read.push(c);
                }
            }
            prop_assert_eq!(read, capsules);
            prop_assert!(reader.is_at_boundary());
        }
    }
}
