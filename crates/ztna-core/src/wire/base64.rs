//! Base64 (RFC 4648 §4), decoding only, for HTTP Basic credentials.

/// Decodes canonical base64 with padding; `None` for anything else, non-zero spare bits included (§3.5).
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let (chunks, rest) = text.as_chunks::<4>();
    let (last, body) = chunks.split_last()?;
    if !rest.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for &[a, b, c, d] in body {
        out.extend_from_slice(&[
            (sextet(a)? << 2) | (sextet(b)? >> 4),
            (sextet(b)? << 4) | (sextet(c)? >> 2),
            (sextet(c)? << 6) | sextet(d)?,
        ]);
    }
    match *last {
        [a, b, b'=', b'='] => {
            let (a, b) = (sextet(a)?, sextet(b)?);
            (b & 0x0f == 0).then(|| out.push((a << 2) | (b >> 4)))?;
        }
        [a, b, c, b'='] => {
            let (a, b, c) = (sextet(a)?, sextet(b)?, sextet(c)?);
            (c & 0x03 == 0).then(|| out.extend_from_slice(&[(a << 2) | (b >> 4), (b << 4) | (c >> 2)]))?;
        }
        [a, b, c, d] => {
            let (a, b, c, d) = (sextet(a)?, sextet(b)?, sextet(c)?, sextet(d)?);
            out.extend_from_slice(&[(a << 2) | (b >> 4), (b << 4) | (c >> 2), (c << 6) | d]);
        }
    }
    Some(out)
}

fn sextet(c: u8) -> Option<u8> {
    match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_4648_section_10_decode() {
        for (text, plain) in [
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(plain.as_bytes()), "{text}");
        }
    }

    #[test]
    fn text_that_is_not_canonical_is_refused() {
        for bad in ["", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "=Zg=", "Zm=v", "Zm9v\n", "Zm-_", "====", "Z==="] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
