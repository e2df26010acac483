//! Variable-length integers (RFC 9000 §16): two bits of length, then 6, 14, 30 or 62 bits of value.

/// Largest value, 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// Appends `v` in its shortest form. No identifier here comes near the end of the range; a value above [`MAX`], which has
/// no encoding, is written as [`MAX`].
pub fn encode(v: u64, out: &mut Vec<u8>) {
    let v = v.min(MAX);
    match len(v) {
        1 => out.push(v as u8),
        2 => out.extend_from_slice(&(v as u16 | 0x4000).to_be_bytes()),
        4 => out.extend_from_slice(&(v as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(v | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Value and number of bytes read, or `None` when `buf` ends before the integer does. Longer forms than needed are valid.
pub fn decode(buf: &[u8]) -> Option<(u64, usize)> {
    let first = *buf.first()?;
    match first >> 6 {
        0 => Some((u64::from(first), 1)),
        1 => Some((u64::from(u16::from_be_bytes(*buf.first_chunk()?) & 0x3fff), 2)),
        2 => Some((u64::from(u32::from_be_bytes(*buf.first_chunk()?) & 0x3fff_ffff), 4)),
        _ => Some((u64::from_be_bytes(*buf.first_chunk()?) & MAX, 8)),
    }
}

/// Bytes that [`encode`] writes for `v`: 1, 2, 4 or 8.
pub fn len(v: u64) -> usize {
    match v {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_samples_of_rfc_9000_appendix_a1_decode() {
        let samples: [(&[u8], u64); 5] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in samples {
            assert_eq!(decode(bytes), Some((value, bytes.len())));
        }
    }

    #[test]
    fn a_value_takes_the_shortest_form_at_every_boundary() {
        for (v, n) in [(0, 1), (63, 1), (64, 2), (16_383, 2), (16_384, 4), ((1 << 30) - 1, 4), (1 << 30, 8), (MAX, 8)] {
            let mut out = Vec::new();
            encode(v, &mut out);
            assert_eq!((out.len(), len(v)), (n, n), "{v}");
            assert_eq!(decode(&out), Some((v, n)));
        }
    }

    #[test]
    fn a_value_beyond_the_range_is_written_as_the_largest() {
        let mut out = Vec::new();
        encode(u64::MAX, &mut out);
        assert_eq!(decode(&out), Some((MAX, 8)));
    }

    proptest! {
        #[test]
        fn every_value_reads_back_and_every_truncation_waits_for_more(v in 0..=MAX) {
            let mut out = Vec::new();
            encode(v, &mut out);
            prop_assert_eq!(decode(&out), Some((v, out.len())));
            for cut in 0..out.len() {
                prop_assert_eq!(decode(&out[..cut]), None);
            }
        }
    }
}
