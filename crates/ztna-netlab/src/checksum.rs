//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Sum without the final fold; 64 KB can't overflow 32 bits.
pub fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(u16::from_be_bytes([high, 0])),
            _ => 0,
        })
        .sum()
}

/// Adds the carries; the checksum field is the complement of this.
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum after bytes with the sum `old` have become bytes with the sum `new` (RFC 1624, equation 3).
pub fn update(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!fold(old)) + u32::from(fold(new)))
}

/// Writes a field of 16 bits; nothing when it is beyond the end.
pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(slot) = bytes.get_mut(at..at + 2) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}

/// Reads a field of 16 bits.
pub fn get(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_updated_checksum_is_the_recomputed_one() {
        let mut bytes = *b"\x12\x34\xff\xff\x00\x00\xab\xcd\x00\x01";
        for (n, value) in [0u16, 1, 0xffff, 0xab, 0x8000].into_iter().enumerate() {
            let checksum = !fold(sum(&bytes));
            let old = sum(&bytes[2..4]);
            put(&mut bytes, 2, value);
            let updated = update(checksum, old, sum(&bytes[2..4]));
            assert_eq!(updated, !fold(sum(&bytes)), "{n}");
        }
    }
}
