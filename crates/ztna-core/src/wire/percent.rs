//! Percent-encoding (RFC 3986 §2.1) of one variable of a URI template (RFC 6570 §3.2.2, simple expansion).

/// Appends `text` with everything but unreserved characters (RFC 3986 §2.3) encoded.
pub(crate) fn encode(text: &str, out: &mut String) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let hex = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            out.extend(['%', hex(b >> 4), hex(b & 0x0f)]);
        }
    }
}

/// Decodes once. `None` for a `%` without two hex digits and for what is not UTF-8 afterwards.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |bytes: &mut std::str::Bytes<'_>| bytes.next().and_then(|b| char::from(b).to_digit(16));
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let (high, low) = (digit(&mut bytes)?, digit(&mut bytes)?);
        out.push((high << 4 | low) as u8);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_characters_are_encoded_and_come_back() {
        let mut out = String::new();
        encode("*:/ü~a", &mut out);
        assert_eq!(out, "%2A%3A%2F%C3%BC~a");
        assert_eq!(decode(&out).as_deref(), Some("*:/ü~a"));
    }

    #[test]
    fn decoding_happens_once_and_broken_escapes_are_refused() {
        assert_eq!(decode("%252A").as_deref(), Some("%2A"));
        for bad in ["%", "%2", "%2g", "%+1", "a%", "%ff"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
