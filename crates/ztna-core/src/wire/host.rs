//! The host and port of a target, wherever a client may write one: a path, an authority, a SOCKS request.

use std::net::{IpAddr, Ipv6Addr};

use super::error::DecodeError;

/// Longest host name, in bytes (RFC 1035 §2.3.4, as text).
pub const HOST_MAX: usize = 253;

const HOST: &str = "host";
const HOST_ACCEPTED: &str = "a DNS name of at most 253 bytes or an IP address";
const PORT: &str = "port";
const PORT_ACCEPTED: &str = "1 to 65535";

/// Checks a host that carries no brackets and no port. Returns a DNS name in lower case without its final dot (both mean the
/// same name), an IP address in its canonical text.
pub fn parse_host(text: &str) -> Result<String, DecodeError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let label =
        |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    // A last label of digits is an IPv4 address that did not parse (RFC 3696 §2), `127.1` for one: resolvers disagree about it.
    let numeric =
        |l: &str| l.bytes().all(|b| b.is_ascii_digit()) || l.strip_prefix("0x").or(l.strip_prefix("0X")).is_some();
    if name.len() > HOST_MAX || !name.split('.').all(label) || name.rsplit('.').next().is_none_or(numeric) {
        return Err(DecodeError::invalid(HOST, text, HOST_ACCEPTED));
    }
    Ok(name.to_ascii_lowercase())
}

/// Decimal, no sign, no leading zero, never 0.
pub fn parse_port(text: &str) -> Result<u16, DecodeError> {
    let bad = || DecodeError::invalid(PORT, text, PORT_ACCEPTED);
    if text.starts_with(['0', '+']) {
        return Err(bad());
    }
    text.parse().map_err(|_| bad())
}

/// Splits `host:port`, an IPv6 address in brackets (RFC 3986 §3.2.2), and checks both.
pub fn parse_host_port(text: &str) -> Result<(String, u16), DecodeError> {
    let bad = || DecodeError::invalid("authority", text, "`host:port`, an IPv6 address in brackets");
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let host = if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or_else(bad)?;
        inner.parse::<Ipv6Addr>().map_err(|_| bad())?.to_string()
    } else if host.contains(':') {
        return Err(bad());
    } else {
        parse_host(host)?
    };
    Ok((host, parse_port(port)?))
}

/// `host:port`, with brackets where `host` is an IPv6 address.
pub fn format_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_addresses_become_canonical() {
        for (text, host) in [
            ("Web.ZTNA.internal", "web.ztna.internal"),
            ("web.ztna.internal.", "web.ztna.internal"),
            ("_dns.example", "_dns.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8::0:1", "2001:db8::1"),
        ] {
            assert_eq!(parse_host(text).unwrap(), host);
        }
    }

    #[test]
    fn what_is_neither_a_name_nor_an_address_is_refused() {
        let long = format!("{}.example", "a.".repeat(130));
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "a/b",
            "a@b",
            "[::1]",
            "::1%eth0",
            "ü",
            "*",
            "127.1",
            "1.2.3.4.5",
            "0x7f000001",
            "2130706433",
            &long,
        ] {
            assert!(parse_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_is_plain_decimal() {
        assert_eq!(parse_port("65535").unwrap(), 65_535);
        for bad in ["", "0", "00", "080", "+80", "-1", "65536", "8o", " 80", "80 "] {
            assert!(parse_port(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_authority_reads_back_as_it_was_written() {
        for (text, host, port) in
            [("web.example:80", "web.example", 80), ("[::1]:443", "::1", 443), ("192.0.2.1:1", "192.0.2.1", 1)]
        {
            assert_eq!(parse_host_port(text).unwrap(), (host.to_owned(), port));
            assert_eq!(format_host_port(host, port), text);
        }
        for bad in ["web", "web:", ":80", "::1:80", "[::1]", "[::1]80", "[::1:80", "[web]:80", "u@web:80", "web:80:80"]
        {
            assert!(parse_host_port(bad).is_err(), "{bad}");
        }
    }
}
