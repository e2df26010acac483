//! HTTP/1.1 CONNECT (RFC 9110 §9.3.6, RFC 9112 §3.2.3), the proxy's side, on the SOCKS port. Other methods are told so.

use super::base64;
use super::error::DecodeError;
use super::host;
use super::password::Password;
use super::proxy_status::ProxyStatus;

/// Longest request head, in bytes: what nginx and Apache accept for one line by default, and ours has a handful.
pub const HEAD_MAX: usize = 8 * 1024;

const START: &[u8] = b"CONNECT ";
const REQUEST_LINE: &str = "CONNECT request line";
const FIELD: &str = "CONNECT header field";
const AUTHORIZATION: &str = "Proxy-Authorization";

/// A whole request head.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// A name in lower case without final dot, or an IP address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// User and password of `Basic` (RFC 7617). `None` when absent or of another scheme: answer 407 where one is wanted.
    pub proxy_authorization: Option<(String, Password)>,
}

/// Status of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Established,
    BadRequest,
    Forbidden,
    MethodNotAllowed,
    ProxyAuthenticationRequired,
    TooManyRequests,
    BadGateway,
    ServiceUnavailable,
    GatewayTimeout,
}

impl Status {
    pub fn code(self) -> u16 {
        self.line().0
    }

    fn line(self) -> (u16, &'static str) {
        match self {
            Status::Established => (200, "Connection established"),
            Status::BadRequest => (400, "Bad Request"),
            Status::Forbidden => (403, "Forbidden"),
            Status::MethodNotAllowed => (405, "Method Not Allowed"),
            Status::ProxyAuthenticationRequired => (407, "Proxy Authentication Required"),
            Status::TooManyRequests => (429, "Too Many Requests"),
            Status::BadGateway => (502, "Bad Gateway"),
            Status::ServiceUnavailable => (503, "Service Unavailable"),
            Status::GatewayTimeout => (504, "Gateway Timeout"),
        }
    }
}

/// Whether a stream that starts with this byte may be HTTP/1.1: registered methods (RFC 9110 §18.2) start with a capital letter.
/// SOCKS5 starts with 5.
pub fn is_http(first_byte: u8) -> bool {
    first_byte.is_ascii_uppercase()
}

/// Whether what [`parse`] refused is a request of another method. `None`: its first line is not whole yet.
pub fn is_other_request(buf: &[u8]) -> Option<bool> {
    let Some(end) = buf.iter().take(HEAD_MAX).position(|b| *b == b'\n') else {
        return (buf.len() >= HEAD_MAX).then_some(false);
    };
    let line = buf.get(..end).unwrap_or_default();
    let mut parts = line.strip_suffix(b"\r").unwrap_or(line).split(|b| *b == b' ');
    let method = parts.next().unwrap_or_default();
    let is_method = method != b"CONNECT" && method.iter().all(|b| b.is_ascii_uppercase() || *b == b'-');
    let version = parts.next_back().unwrap_or_default();
    Some(is_method && parts.next().is_some() && matches!(version, b"HTTP/1.1" | b"HTTP/1.0"))
}

/// Reads a request head. `Ok(None)` until it is whole; then the request and the head's length, tunnel data follows. Refuses at
/// once what can't become a CONNECT, a head over [`HEAD_MAX`], bare line feeds, folded lines and a request with content.
pub fn parse(buf: &[u8]) -> Result<Option<(ConnectRequest, usize)>, DecodeError> {
    let known = buf.len().min(START.len());
    if buf.get(..known) != START.get(..known) {
        let line = buf.split(|b| matches!(b, b'\r' | b'\n')).next().unwrap_or_default();
        return Err(DecodeError::invalid(
            "HTTP method",
            String::from_utf8_lossy(line.get(..16).unwrap_or(line)),
            "CONNECT",
        ));
    }
    let Some(end) = buf.windows(4).take(HEAD_MAX).position(|w| w == b"\r\n\r\n") else {
        return if buf.len() < HEAD_MAX {
            Ok(None)
        } else {
            Err(DecodeError::too_long("CONNECT request head", buf.len(), HEAD_MAX))
        };
    };
    let len = end + 4;
    if len > HEAD_MAX {
        return Err(DecodeError::too_long("CONNECT request head", len, HEAD_MAX));
    }
    // The value of a credential must not reach an error message: only what is outside of header values is quoted below.
    let head = std::str::from_utf8(buf.get(..end).unwrap_or_default())
        .ok()
        .filter(|h| h.split("\r\n").all(|line| !line.contains(|c: char| c.is_ascii_control() && c != '\t')))
        .ok_or_else(|| {
            DecodeError::invalid("CONNECT request head", "not text in CRLF lines", "UTF-8 without control characters")
        })?;
    let mut lines = head.split("\r\n");
    let (host, port) = parse_request_line(lines.next().unwrap_or_default())?;
    let mut proxy_authorization = None;
    let mut seen_authorization = false;
    for line in lines {
        let (name, value) = parse_field(line)?;
        if name.eq_ignore_ascii_case("proxy-authorization") {
            if std::mem::replace(&mut seen_authorization, true) {
                return Err(DecodeError::invalid(AUTHORIZATION, "sent twice", "one field"));
            }
            proxy_authorization = parse_basic(value)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding")
            || (name.eq_ignore_ascii_case("content-length") && value != "0")
        {
            // CONNECT has no content; what follows the head is the tunnel, and nobody may take it for something else.
            return Err(DecodeError::invalid(FIELD, name, "a request without content"));
        }
    }
    Ok(Some((ConnectRequest { host, port, proxy_authorization }, len)))
}

/// Appends an answer. All but 200 close the connection, carry `status` as Proxy-Status and its text as content.
pub fn response(code: Status, status: Option<&ProxyStatus>, out: &mut Vec<u8>) {
    if code == Status::Established {
        // No Content-Length: RFC 9110 §9.3.6 forbids it in a 2xx answer to CONNECT.
        let (number, reason) = code.line();
        return out.extend_from_slice(format!("HTTP/1.1 {number} {reason}\r\n\r\n").as_bytes());
    }
    refuse(code, status, "", out);
}

/// Appends a refusal with `why`, a line of text for a person, as content.
pub fn refusal(code: Status, why: &str, out: &mut Vec<u8>) {
    refuse(code, None, why, out);
}

fn refuse(code: Status, status: Option<&ProxyStatus>, why: &str, out: &mut Vec<u8>) {
    let (number, reason) = code.line();
    let mut text = format!("HTTP/1.1 {number} {reason}\r\n");
    if code == Status::MethodNotAllowed {
        text.push_str("Allow: CONNECT\r\n");
    }
    if code == Status::ProxyAuthenticationRequired {
        text.push_str("Proxy-Authenticate: Basic realm=\"ztna\", charset=\"UTF-8\"\r\n");
    }
    let mut body = format!("{number} {reason}\n");
    if let Some(status) = status {
        let header = status.to_header();
        text.push_str(&format!("Proxy-Status: {header}\r\n"));
        body.push_str(&header);
        body.push('\n');
    }
    if !why.is_empty() {
        body.push_str(why);
        body.push('\n');
    }
    text.push_str(&format!(
        "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ));
    out.extend_from_slice(text.as_bytes());
}

/// `CONNECT host:port HTTP/1.1`; 1.0 is what some older clients say, and means the same.
fn parse_request_line(line: &str) -> Result<(String, u16), DecodeError> {
    let mut parts = line.split(' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("CONNECT"), Some(authority), Some("HTTP/1.1" | "HTTP/1.0"), None) => host::parse_host_port(authority),
        _ => Err(DecodeError::invalid(REQUEST_LINE, line, "`CONNECT host:port HTTP/1.1`")),
    }
}

/// RFC 9112 §5: a token, a colon at once, the value. A folded line starts with white space and so has no name.
fn parse_field(line: &str) -> Result<(&str, &str), DecodeError> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    match line.split_once(':') {
        Some((name, value)) if !name.is_empty() && name.chars().all(token) => {
            Ok((name, value.trim_matches([' ', '\t'])))
        }
        _ => Err(DecodeError::invalid(FIELD, "a line without `name:`", "`name: value`, not folded")),
    }
}

/// RFC 7617 §2: base64 of `user:password`; the user has no colon, the password may.
fn parse_basic(value: &str) -> Result<Option<(String, Password)>, DecodeError> {
    let Some((scheme, rest)) = value.split_once(' ') else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let bad = || DecodeError::invalid(AUTHORIZATION, "malformed", "`Basic` with base64 of `user:password`");
    let plain = zeroize::Zeroizing::new(base64::decode(rest.trim_start_matches(' ').as_bytes()).ok_or_else(bad)?);
    let (user, password) = std::str::from_utf8(&plain).ok().and_then(|p| p.split_once(':')).ok_or_else(bad)?;
    Ok(Some((user.to_owned(), Password::new(password.to_owned()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::proxy_status::ProxyError;

    const CURL: &[u8] = b"CONNECT Web.ztna.internal:80 HTTP/1.1\r\nHost: web.ztna.internal:80\r\n\
        Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\nUser-Agent: x\r\nProxy-Connection: Keep-Alive\r\n\r\n";

    #[test]
    fn a_request_with_credentials_is_read_and_tunnel_data_is_left() {
        let mut bytes = CURL.to_vec();
        bytes.extend_from_slice(b"\x16\x03\x01");
        let (request, used) = parse(&bytes).unwrap().unwrap();
        assert_eq!((request.host.as_str(), request.port, used), ("web.ztna.internal", 80, CURL.len()));
        let (user, password) = request.proxy_authorization.unwrap();
        assert!(user == "Aladdin" && password.matches("open sesame")); // RFC 7617 §2
    }

    #[test]
    fn every_truncation_waits_for_more() {
        for cut in 0..CURL.len() {
            assert!(parse(&CURL[..cut]).unwrap().is_none(), "{cut}");
        }
    }

    #[test]
    fn an_ipv6_target_has_brackets() {
        let (request, _) = parse(b"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert_eq!((request.host.as_str(), request.port), ("2001:db8::1", 443));
    }

    #[test]
    fn what_can_not_become_a_connect_is_refused_at_once() {
        for bad in
            [&b"G"[..], b"GET / HTTP/1.1\r\n", b"connect a:1 HTTP/1.1\r\n\r\n", b"CONNECTX", b"\x05\x01\x00", b"\r\n"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_request_of_another_method_is_told_from_what_is_no_request() {
        for request in ["GET http://web.ztna.internal/ HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH * HTTP/1.0\n"] {
            assert_eq!(is_other_request(request.as_bytes()), Some(true), "{request}");
        }
        for cut in 0..16 {
            assert_eq!(is_other_request(&b"GET / HTTP/1.1\r\n"[..cut.min(15)]), None, "{cut}");
        }
        for no in ["CONNECT a HTTP/1.1\r\n", "GET /\r\n", "GET HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "QUIT\r\n"] {
            assert_eq!(is_other_request(no.as_bytes()), Some(false), "{no}");
        }
        assert_eq!(is_other_request(&[b'G'; HEAD_MAX]), Some(false));
    }

    #[test]
    fn malformed_heads_are_refused() {
        for bad in [
            "CONNECT a HTTP/1.1\r\n\r\n",
            "CONNECT a:0 HTTP/1.1\r\n\r\n",
            "CONNECT http://a:1/ HTTP/1.1\r\n\r\n",
            "CONNECT u@a:1 HTTP/1.1\r\n\r\n",
            "CONNECT  a:1 HTTP/1.1\r\n\r\n",
            "CONNECT a:1 HTTP/2\r\n\r\n",
            "CONNECT a:1 HTTP/1.1 \r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nno colon\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nHost : a\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nX: a\r\n folded: b\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\nHost: a\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nX: \0\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Basic !\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Basic YQ==\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Basic YTpi\r\nproxy-authorization: Basic YTpi\r\n\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn credentials_of_another_scheme_count_as_none() {
        let (request, _) = parse(b"CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Bearer x\r\n\r\n").unwrap().unwrap();
        assert!(request.proxy_authorization.is_none());
    }

    #[test]
    fn a_head_of_8_kib_is_accepted_and_a_longer_one_is_not() {
        let head = |len: usize| {
            let mut h = b"CONNECT a:1 HTTP/1.1\r\nX: ".to_vec();
            h.resize(len - 4, b'x');
            h.extend_from_slice(b"\r\n\r\n");
            h
        };
        assert_eq!(parse(&head(HEAD_MAX)).unwrap().unwrap().1, HEAD_MAX);
        assert!(matches!(parse(&head(HEAD_MAX + 1)), Err(DecodeError::TooLong { .. })));
        assert!(matches!(parse(&head(HEAD_MAX + 8)[..HEAD_MAX]), Err(DecodeError::TooLong { .. })));
    }

    #[test]
    fn an_established_answer_has_no_content_and_a_refusal_says_why() {
        let mut out = Vec::new();
        response(Status::Established, None, &mut out);
        assert_eq!(out, b"HTTP/1.1 200 Connection established\r\n\r\n");
        out.clear();
        let status =
            ProxyStatus { proxy: "c1".into(), error: ProxyError::HttpRequestDenied, details: Some("a\r\nb".into()) };
        response(Status::Forbidden, Some(&status), &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(
                "HTTP/1.1 403 Forbidden\r\nProxy-Status: c1; error=http_request_denied; details=\"a??b\"\r\n"
            ),
            "{head}"
        );
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())) && head.contains("Connection: close"));
        let mut out = Vec::new();
        response(Status::ProxyAuthenticationRequired, None, &mut out);
        assert!(String::from_utf8(out).unwrap().contains("\r\nProxy-Authenticate: Basic realm=\"ztna\""));
    }
}
