//! The `traceparent` header (W3C Trace Context, level 1, §3.2).

use std::fmt;

use super::error::DecodeError;
use super::reader::Reader;

/// Longest header that is read, in bytes; version 00 has 55, a later one may have more.
pub const LEN_MAX: usize = 256;
const LEN_V0: usize = 55;

/// A valid header. Written as version 00, whatever version it came in (§4.3: the parts that version 00 knows).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Not all zeroes.
    pub trace_id: [u8; 16],
    /// Not all zeroes.
    pub parent_id: [u8; 8],
    /// Bit 0 is "sampled".
    pub flags: u8,
}

/// Whether `text` may be passed on as it is.
pub fn is_valid(text: &str) -> bool {
    TraceParent::parse(text).is_ok()
}

impl TraceParent {
    /// Reads the header's value; lower-case hex only. An invalid one is to be dropped, not repaired (§4.3).
    pub fn parse(text: &str) -> Result<Self, DecodeError> {
        if text.len() > LEN_MAX {
            return Err(DecodeError::too_long("traceparent", text.len(), LEN_MAX));
        }
        read(text.as_bytes()).ok_or_else(|| {
            DecodeError::invalid("traceparent", text, "`00-<32 hex>-<16 hex>-<2 hex>`, lower case, IDs not zero")
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, parent) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.parent_id));
        write!(f, "00-{trace:032x}-{parent:016x}-{:02x}", self.flags)
    }
}

fn read(text: &[u8]) -> Option<TraceParent> {
    let mut r = Reader::new(text);
    let [version] = hex::<1>(&mut r)?;
    dash(&mut r)?;
    let trace_id = hex::<16>(&mut r)?;
    dash(&mut r)?;
    let parent_id = hex::<8>(&mut r)?;
    dash(&mut r)?;
    let [flags] = hex::<1>(&mut r)?;
    let length_ok = match version {
        0 => text.len() == LEN_V0,
        0xff => false,
        _ => r.is_empty() || dash(&mut r).is_some(),
    };
    (length_ok && trace_id != [0; 16] && parent_id != [0; 8]).then_some(TraceParent { trace_id, parent_id, flags })
}

fn dash(r: &mut Reader<'_>) -> Option<()> {
    (r.u8()? == b'-').then_some(())
}

fn hex<const N: usize>(r: &mut Reader<'_>) -> Option<[u8; N]> {
    let mut out = [0; N];
    for byte in &mut out {
        *byte = digit(r.u8()?)? << 4 | digit(r.u8()?)?;
    }
    Some(out)
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_sample_of_the_specification_reads_back() {
        let parent = TraceParent::parse(SAMPLE).unwrap();
        assert_eq!((parent.parent_id[0], parent.flags), (0xb7, 1));
        assert_eq!(parent.to_string(), SAMPLE);
    }

    #[test]
    fn a_later_version_may_say_more_after_a_dash() {
        assert!(is_valid(&format!("cc{}", &SAMPLE[2..])));
        assert!(is_valid(&format!("cc{}-what-the-future", &SAMPLE[2..])));
        assert!(!is_valid(&format!("cc{}.what", &SAMPLE[2..])));
    }

    #[test]
    fn malformed_headers_are_refused() {
        for bad in [
            String::new(),
            SAMPLE.to_uppercase(),
            format!("{SAMPLE}-00"),
            format!(" {SAMPLE}"),
            SAMPLE[..54].to_owned(),
            format!("ff{}", &SAMPLE[2..]),
            SAMPLE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            SAMPLE.replace("b7ad6b7169203331", &"0".repeat(16)),
            SAMPLE.replace('-', "_"),
            format!("cc{}-{}", &SAMPLE[2..], "x".repeat(300)),
        ] {
            assert!(!is_valid(&bad), "{bad}");
        }
    }
}
