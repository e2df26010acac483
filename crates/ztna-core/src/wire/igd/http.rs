//! HTTP/1.1 (RFC 9112) as far as a gateway is asked by it: one request, one answer, then the end of the connection.

use super::Url;
use crate::wire::error::DecodeError;

/// Longest answer that is read, head and body, bytes: descriptions of real gateways have up to 30,000.
pub const ANSWER_MAX: usize = 128 * 1024;
/// Header fields of an answer.
const FIELDS: usize = 64;

const WHAT: &str = "HTTP answer of the gateway";

/// A request for a document.
pub fn get(url: &Url) -> Vec<u8> {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\nAccept: text/xml\r\nConnection: close\r\n\r\n", url.path, url.at)
        .into_bytes()
}

/// A SOAP call (UPnP Device Architecture 1.1 §3.2.1). `action` must be from [`soap`](super::soap).
pub fn post(url: &Url, action: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nSOAPACTION: \"{action}\"\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        url.path,
        url.at,
        body.len()
    )
    .into_bytes()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Interim answers (RFC 9110 §15.2) before the one that counts.
const INTERIM: usize = 4;

/// Reads an answer from its first byte on. `ended`: nothing follows `bytes`. `Ok(None)`: more is to come. A redirect is an answer like any
/// other. Errors: not HTTP, or over [`ANSWER_MAX`].
pub fn parse(bytes: &[u8], ended: bool) -> Result<Option<HttpAnswer>, DecodeError> {
    if bytes.len() > ANSWER_MAX {
        return Err(DecodeError::too_long(WHAT, bytes.len(), ANSWER_MAX));
    }
    let mut rest = bytes;
    for _ in 0..=INTERIM {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let bad = |e: httparse::Error| DecodeError::invalid(WHAT, e, "HTTP/1.1");
        let httparse::Status::Complete(used) = head.parse(rest).map_err(bad)? else {
            return if ended { Err(DecodeError::truncated(WHAT)) } else { Ok(None) };
        };
        rest = rest.get(used..).unwrap_or_default();
        let status = head.code.unwrap_or_default();
        if !(100..200).contains(&status) {
            return whole(status, head.headers, rest, ended);
        }
    }
    Err(DecodeError::invalid(WHAT, "interim answers without an end", "HTTP/1.1"))
}

fn whole(
    status: u16,
    fields: &[httparse::Header<'_>],
    rest: &[u8],
    ended: bool,
) -> Result<Option<HttpAnswer>, DecodeError> {
    let field = |name: &str| {
        let found = fields.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let body = if field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        chunks(rest)?
    } else if let Some(length) = field("content-length") {
        let length: usize = length
            .parse()
            .ok()
            .filter(|n| *n <= ANSWER_MAX)
            .ok_or_else(|| DecodeError::invalid("Content-Length", length, "at most 131072"))?;
        rest.get(..length).map(<[u8]>::to_vec)
    } else {
        ended.then(|| rest.to_vec())
    };
    match body {
        Some(body) => Ok(Some(HttpAnswer { status, body })),
        None if ended => Err(DecodeError::truncated(WHAT)),
        None => Ok(None),
    }
}

/// A chunked body (RFC 9112 §7.1). `None`: more is to come.
fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
    let bad = || DecodeError::invalid("chunk size", "something else", "hexadecimal digits");
    let mut body = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(bad()),
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).ok().filter(|n| *n <= ANSWER_MAX).ok_or_else(bad)?;
        let Some(chunk) = rest.get(start..start + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        rest = match rest.get(start + size..start + size + 2) {
            None => return Ok(None),
            Some(b"\r\n") => rest.get(start + size + 2..).unwrap_or_default(),
            Some(_) => return Err(bad()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<HttpAnswer> {
        parse(text.as_bytes(), false).unwrap()
    }

    fn body(text: &str) -> Option<String> {
        read(text).map(|a| String::from_utf8(a.body).unwrap())
    }

    #[test]
    fn a_body_ends_by_length_by_chunks_or_with_the_connection() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd").unwrap(), "abc");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
        assert_eq!(body(chunked).unwrap(), "abc");
        let open = b"HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(parse(open, false).unwrap(), None);
        assert_eq!(parse(open, true).unwrap().unwrap().body, b"abc");
    }

    #[test]
    fn an_answer_is_waited_for_until_it_is_whole() {
        for whole in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ] {
            assert!(read(whole).is_some());
            for cut in 0..whole.len() {
                assert_eq!(parse(&whole.as_bytes()[..cut], false).unwrap(), None, "{cut} of {whole}");
                assert!(parse(&whole.as_bytes()[..cut], true).is_err(), "{cut} of {whole}");
            }
        }
    }

    #[test]
    fn what_is_too_long_or_no_http_is_refused() {
        assert!(parse(b"220 smtp ready\r\n", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", false).is_err());
        assert!(parse(&vec![b'x'; ANSWER_MAX + 1], false).is_err());
    }

    #[test]
    fn an_interim_answer_is_passed_over_and_thousands_are_not() {
        assert_eq!(
            read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").unwrap().status,
            500
        );
    }
}
