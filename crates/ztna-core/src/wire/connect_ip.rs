//! CONNECT-IP (RFC 9484), the part an ICMP echo flow needs: the URI template and its scope.
//!
//! Left out: ADDRESS_ASSIGN, ADDRESS_REQUEST and ROUTE_ADVERTISEMENT (§4.7). A flow is scoped to one service and one protocol
//! by its path, and the connector rewrites addresses; there is nothing to negotiate.

use std::net::IpAddr;

use super::error::DecodeError;
use super::{host, percent};

/// IP protocol number of ICMP (IANA protocol-numbers).
pub const PROTO_ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;

const PREFIX: &str = "/.well-known/masque/ip/";
const ACCEPTED: &str = "`/.well-known/masque/ip/{target}/{ipproto}/`, percent-encoded";

/// What a CONNECT-IP request is limited to (RFC 9484 §4.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub target: Target,
    /// IP protocol number; `None` is the wildcard `*`.
    pub proto: Option<u8>,
}

/// The `target` variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `*`.
    Any,
    /// A name in lower case without final dot, or an IP address in canonical text.
    Host(String),
    /// An IP prefix; the bits past `len` are zero (RFC 9484 §4.6).
    Prefix { ip: IpAddr, len: u8 },
}

impl Scope {
    /// The path of a request, by the default template of RFC 9484 §3.
    pub fn path(&self) -> String {
        let mut path = String::from(PREFIX);
        match &self.target {
            Target::Any => percent::encode("*", &mut path),
            Target::Host(host) => percent::encode(host, &mut path),
            Target::Prefix { ip, len } => percent::encode(&format!("{ip}/{len}"), &mut path),
        }
        path.push('/');
        match self.proto {
            Some(proto) => path.push_str(&proto.to_string()),
            None => percent::encode("*", &mut path),
        }
        path.push('/');
        path
    }

    /// Reads a `:path`.
    pub fn parse_path(path: &str) -> Result<Self, DecodeError> {
        let bad = || DecodeError::invalid("CONNECT-IP path", path, ACCEPTED);
        let inner = path.strip_prefix(PREFIX).and_then(|p| p.strip_suffix('/')).ok_or_else(bad)?;
        let (target, proto) = inner.split_once('/').ok_or_else(bad)?;
        let (target, proto) = (percent::decode(target).ok_or_else(bad)?, percent::decode(proto).ok_or_else(bad)?);
        Ok(Scope { target: parse_target(&target)?, proto: parse_proto(&proto)? })
    }
}

fn parse_target(text: &str) -> Result<Target, DecodeError> {
    if text == "*" {
        return Ok(Target::Any);
    }
    let Some((ip, len)) = text.split_once('/') else {
        return Ok(Target::Host(host::parse_host(text)?));
    };
    let bad = || {
        DecodeError::invalid("CONNECT-IP target", text, "`*`, a name, an address or a prefix whose host bits are zero")
    };
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
    let len = decimal(len).ok_or_else(bad)?;
    // Bits of the address, left-aligned in 128, that lie past the prefix.
    let (bits, width) = match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    if len > width || bits.checked_shl(u32::from(len)).unwrap_or(0) != 0 {
        return Err(bad());
    }
    Ok(Target::Prefix { ip, len })
}

fn parse_proto(text: &str) -> Result<Option<u8>, DecodeError> {
    if text == "*" {
        return Ok(None);
    }
    decimal(text).map(Some).ok_or_else(|| DecodeError::invalid("CONNECT-IP protocol", text, "`*` or 0 to 255"))
}

/// Decimal without sign or leading zero.
fn decimal(text: &str) -> Option<u8> {
    if text.starts_with('+') || (text.starts_with('0') && text != "0") {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_9484_section_8_read() {
        let read = |p: &str| Scope::parse_path(p).unwrap();
        assert_eq!(read("/.well-known/masque/ip/%2A/%2A/"), Scope { target: Target::Any, proto: None });
        assert_eq!(
            read("/.well-known/masque/ip/target.example.com/17/"),
            Scope { target: Target::Host("target.example.com".into()), proto: Some(17) }
        );
        assert_eq!(
            read("/.well-known/masque/ip/2001%3Adb8%3A%3A%2F32/58/"),
            Scope { target: Target::Prefix { ip: "2001:db8::".parse().unwrap(), len: 32 }, proto: Some(PROTO_ICMPV6) }
        );
    }

    #[test]
    fn anything_but_the_template_is_refused() {
        for bad in [
            "",
            "/.well-known/masque/ip/",
            "/.well-known/masque/ip/a/1",
            "/.well-known/masque/ip/a/256/",
            "/.well-known/masque/ip/a/01/",
            "/.well-known/masque/ip/a/1/2/",
            "/.well-known/masque/ip/192.0.2.1%2F24/1/",
            "/.well-known/masque/ip/192.0.2.0%2F33/1/",
            "/.well-known/masque/ip/a%2F8/1/",
            "/.well-known/masque/ip/%252A/1/",
            "/.well-known/masque/udp/a/1/",
            "/.well-known/masque/ip//1/",
        ] {
            assert!(Scope::parse_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_whole_address_and_the_empty_prefix_are_prefixes() {
        for (ip, len) in [("192.0.2.1", 32), ("::1", 128), ("0.0.0.0", 0), ("::", 0)] {
            let scope = Scope { target: Target::Prefix { ip: ip.parse().unwrap(), len }, proto: Some(0) };
            assert_eq!(Scope::parse_path(&scope.path()).unwrap(), scope);
        }
    }

    proptest! {
        #[test]
        fn a_scope_reads_back_as_it_was_written(name in "[a-z]{1,9}\\.[a-z]{1,9}", proto in any::<Option<u8>>()) {
            let scope = Scope { target: Target::Host(name), proto };
            prop_assert_eq!(Scope::parse_path(&scope.path()).unwrap(), scope);
        }
    }
}
