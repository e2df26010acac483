//! `Proxy-Status` (RFC 9209): which hop refused a request, and why.

use super::error::DecodeError;
use super::structured::{self, BareItem};

/// Longest `details` that is written or kept, in bytes: a decision ID and a policy ID, or one sentence.
pub const DETAILS_MAX: usize = 256;
/// Longest header value that is read, in bytes.
pub const HEADER_MAX: usize = 4096;

/// One entry of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyStatus {
    /// Name of the hop that generated the response: a node name.
    pub proxy: String,
    pub error: ProxyError,
    /// For a person to read; printable ASCII, at most [`DETAILS_MAX`] bytes.
    pub details: Option<String>,
}

/// Proxy error types (RFC 9209 §2.3) that a node of ours sends; any other is kept by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyError {
    HttpRequestDenied,
    ConnectionRefused,
    ConnectionTimeout,
    DnsError,
    DestinationUnavailable,
    ConnectionLimitReached,
    ProxyInternalError,
    Other(String),
}

impl ProxyError {
    /// The token of the IANA registry.
    pub fn as_str(&self) -> &str {
        match self {
            ProxyError::HttpRequestDenied => "http_request_denied",
            ProxyError::ConnectionRefused => "connection_refused",
            ProxyError::ConnectionTimeout => "connection_timeout",
            ProxyError::DnsError => "dns_error",
            ProxyError::DestinationUnavailable => "destination_unavailable",
            ProxyError::ConnectionLimitReached => "connection_limit_reached",
            ProxyError::ProxyInternalError => "proxy_internal_error",
            ProxyError::Other(token) => token,
        }
    }

    fn from_token(token: &str) -> Self {
        match token {
            "http_request_denied" => ProxyError::HttpRequestDenied,
            "connection_refused" => ProxyError::ConnectionRefused,
            "connection_timeout" => ProxyError::ConnectionTimeout,
            "dns_error" => ProxyError::DnsError,
            "destination_unavailable" => ProxyError::DestinationUnavailable,
            "connection_limit_reached" => ProxyError::ConnectionLimitReached,
            "proxy_internal_error" => ProxyError::ProxyInternalError,
            other => ProxyError::Other(other.to_owned()),
        }
    }
}

impl ProxyStatus {
    /// The header's value. `details` is cut to [`DETAILS_MAX`], what is not printable ASCII becomes `?`; an
    /// [`ProxyError::Other`] that is no token becomes `proxy_internal_error`.
    pub fn to_header(&self) -> String {
        let mut out = String::new();
        if structured::is_token(&self.proxy) {
            out.push_str(&self.proxy);
        } else {
            structured::push_string(&self.proxy, &mut out);
        }
        let error = Some(self.error.as_str()).filter(|t| structured::is_token(t));
        out.push_str("; error=");
        out.push_str(error.unwrap_or(ProxyError::ProxyInternalError.as_str()));
        if let Some(details) = &self.details {
            out.push_str("; details=");
            structured::push_string(shorten(details), &mut out);
        }
        out
    }

    /// Reads the header's value and returns the first entry with an `error`: the hop closest to the service. Several header
    /// lines are to be joined with `, ` first.
    pub fn parse(value: &str) -> Result<Self, DecodeError> {
        const WHAT: &str = "Proxy-Status";
        if value.len() > HEADER_MAX {
            return Err(DecodeError::too_long(WHAT, value.len(), HEADER_MAX));
        }
        let bad = || DecodeError::invalid(WHAT, value, "a list of hops (RFC 9209), one of them with `error=<token>`");
        for item in structured::parse_list(value).ok_or_else(bad)? {
            let Some(BareItem::Token(error)) = item.param("error") else {
                continue;
            };
            let details = match item.param("details") {
                Some(BareItem::String(text)) => Some(shorten(text).to_owned()),
                Some(BareItem::Token(_) | BareItem::Other) | None => None,
            };
            let error = ProxyError::from_token(error);
            return match item.value {
                BareItem::Token(proxy) | BareItem::String(proxy) => Ok(ProxyStatus { proxy, error, details }),
                BareItem::Other => Err(bad()),
            };
        }
        Err(bad())
    }
}

fn shorten(text: &str) -> &str {
    let end = (0..=DETAILS_MAX.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn denied(details: Option<&str>) -> ProxyStatus {
        ProxyStatus { proxy: "c1".into(), error: ProxyError::HttpRequestDenied, details: details.map(str::to_owned) }
    }

    #[test]
    fn a_denial_is_written_as_in_protocol_md() {
        assert_eq!(denied(Some("d7: policy0")).to_header(), "c1; error=http_request_denied; details=\"d7: policy0\"");
    }

    #[test]
    fn a_name_that_is_no_token_is_quoted() {
        let status = ProxyStatus { proxy: "1st".into(), ..denied(None) };
        assert_eq!(status.to_header(), "\"1st\"; error=http_request_denied");
        assert_eq!(ProxyStatus::parse(&status.to_header()).unwrap(), status);
    }

    #[test]
    fn details_can_not_leave_their_quotes_nor_start_a_header() {
        let header = denied(Some("a\"; error=x\r\nevil: 1\\é")).to_header();
        assert_eq!(header, "c1; error=http_request_denied; details=\"a\\\"; error=x??evil: 1\\\\?\"");
        assert_eq!(ProxyStatus::parse(&header).unwrap().details.unwrap(), "a\"; error=x??evil: 1\\?");
    }

    #[test]
    fn long_details_are_cut() {
        let status = ProxyStatus::parse(&denied(Some(&"é".repeat(500))).to_header()).unwrap();
        assert_eq!(status.details.unwrap(), "?".repeat(DETAILS_MAX / 2));
    }

    #[test]
    fn the_hop_that_failed_is_found_in_a_chain() {
        let status =
            ProxyStatus::parse("cache.example;next-hop=a, c1; error=dns_error;rcode=\"NXDOMAIN\";info-code=3, r1")
                .unwrap();
        assert_eq!(status, ProxyStatus { proxy: "c1".into(), error: ProxyError::DnsError, details: None });
    }

    #[test]
    fn a_header_without_an_error_or_with_bad_syntax_is_refused() {
        for bad in [
            "",
            "c1",
            "c1; error=\"dns_error\"",
            "c1; error",
            "c1; error=dns_error,",
            "1; error=dns_error",
            &"a".repeat(5000),
        ] {
            assert!(ProxyStatus::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read_and_written_again(proxy in "[ -~]{0,20}", token in "[a-z_*][a-z0-9_]{0,20}", details in proptest::option::of(".{0,300}")) {
            let header = ProxyStatus { proxy, error: ProxyError::from_token(&token), details }.to_header();
            prop_assert!(header.bytes().all(|b| (b' '..=b'~').contains(&b)));
            let read = ProxyStatus::parse(&header).unwrap();
            prop_assert_eq!(read.to_header(), header);
        }
    }
}
