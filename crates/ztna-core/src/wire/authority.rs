//! `<service>.<zone>:<port>`: the `:authority` of an inner CONNECT.

use super::error::DecodeError;
use super::host;
use crate::id;

const WHAT: &str = "authority";
const ACCEPTED: &str = "`<service>.<zone>:<port>` with one label before the zone of this network";

/// Service and port of `authority` in `zone`. Letters may be of either case (RFC 9110 §4.2.3), the service comes out in lower case;
/// the port is 1 to 65535 without sign or leading zero. A final dot, a user, an address, a second label are refused.
pub fn parse(authority: &str, zone: &str) -> Result<(String, u16), DecodeError> {
    let bad = || DecodeError::invalid(WHAT, authority, ACCEPTED);
    let (name, port) = authority.rsplit_once(':').ok_or_else(bad)?;
    Ok((parse_name(name, zone).map_err(|_| bad())?, host::parse_port(port)?))
}

/// The service of a name without port, `<service>.<zone>`; the rules of [`parse`].
pub fn parse_name(name: &str, zone: &str) -> Result<String, DecodeError> {
    let bad =
        || DecodeError::invalid("name", name, "`<service>.<zone>` with one label before the zone of this network");
    let lower = name.to_ascii_lowercase();
    let service = lower.strip_suffix(&zone.to_ascii_lowercase()).and_then(|s| s.strip_suffix('.')).ok_or_else(bad)?;
    id::check_name("service", service).map_err(|_| bad())?;
    Ok(service.to_owned())
}

/// The authority that [`parse`] reads.
pub fn format(service: &str, zone: &str, port: u16) -> String {
    format!("{service}.{zone}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZONE: &str = "ztna.internal";

    #[test]
    fn letters_of_either_case_name_the_same_service() {
        assert_eq!(parse("Web.ZTNA.internal:80", ZONE).unwrap(), ("web".into(), 80));
    }

    #[test]
    fn anything_but_one_label_in_the_zone_is_refused() {
        for bad in [
            "",
            "web",
            "web:80",
            "web.ztna.internal",
            "web.ztna.internal:",
            "web.ztna.internal:0",
            "web.ztna.internal:080",
            "web.ztna.internal:+80",
            "web.ztna.internal:65536",
            "web.ztna.internal.:80",
            ".ztna.internal:80",
            "ztna.internal:80",
            "a.web.ztna.internal:80",
            "webztna.internal:80",
            "u@web.ztna.internal:80",
            "web.other.internal:80",
            "web.ztna.internal:80:80",
            "-web.ztna.internal:80",
            "w_b.ztna.internal:80",
            "192.0.2.1:80",
            "[::1]:80",
            " web.ztna.internal:80",
            "wéb.ztna.internal:80",
        ] {
            assert!(parse(bad, ZONE).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_authority_reads_back_as_it_was_written(service in "[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", port in 1u16..) {
            prop_assert_eq!(parse(&format(&service, ZONE, port), ZONE).unwrap(), (service, port));
        }
    }
}
