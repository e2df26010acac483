//! What a gateway says of itself: where its services are asked.

use quick_xml::Reader;
use quick_xml::events::Event;

use super::Url;
use crate::wire::error::DecodeError;

/// A service that maps ports, and where it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Such as `urn:schemas-upnp-org:service:WANIPConnection:1`.
    pub kind: String,
    pub control: Url,
}

/// What maps ports, the likelier first. A device may have several, of which one leads out.
const KINDS: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// Services that are asked of one device: it has one for each line out.
const SERVICES: usize = 4;

/// The services of a description that was found at `at`. Those elsewhere than on the gateway itself are left out. Errors: no XML, or none.
pub fn parse(xml: &[u8], at: &Url) -> Result<Vec<Service>, DecodeError> {
    let bad = |why: String| DecodeError::invalid("description of the gateway", why, "XML");
    // What is not UTF-8 is in names for people.
    let xml = String::from_utf8_lossy(xml);
    let mut reader = Reader::from_str(&xml);
    let (mut path, mut base) = (Vec::<String>::new(), at.clone());
    let (mut kind, mut control) = (String::new(), String::new());
    let mut found = Vec::new();
    loop {
        match reader.read_event().map_err(|e| bad(e.to_string()))? {
            Event::Start(tag) => {
                path.push(tag.local_name().as_ref().to_owned());
                if path.last().is_some_and(|t| t == "service") {
                    kind.clear();
                    control.clear();
                }
            }
            Event::Text(text) => match path.last().map(String::as_str) {
                Some("serviceType") => kind.push_str(text.trim()),
                Some("controlURL") => control.push_str(text.trim()),
                // RFC 3986 §5.1.1; UPnP 1.0 only. One that leads elsewhere is not followed.
                Some("URLBase") => base = at.join(text.trim()).unwrap_or(base),
                _ => {}
            },
            // Of the five that XML knows, a URL may hold the ampersand.
            Event::GeneralRef(name) => {
                if path.last().is_some_and(|t| t == "controlURL") && name.as_ref() == "amp" {
                    control.push('&');
                }
            }
            Event::End(_) => {
                let closed = path.pop();
                if closed.is_some_and(|t| t == "service")
                    && let Some(rank) = KINDS.iter().position(|k| *k == kind)
                    && found.len() < SERVICES
                {
                    found.push((rank, kind.clone(), control.clone()));
                }
            }
            Event::Eof => break,
            Event::Empty(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => {}
        }
    }
    found.sort_by_key(|(rank, ..)| *rank);
    let services: Vec<Service> = found
        .into_iter()
        .filter_map(|(_, kind, control)| Some(Service { kind, control: base.join(&control).ok()? }))
        .collect();
    if services.is_empty() {
        return Err(DecodeError::invalid(
            "description of the gateway",
            "no such service",
            "WANIPConnection or WANPPPConnection",
        ));
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn at() -> Url {
        Url::parse("http://192.168.1.1:5000/rootDesc.xml", Ipv4Addr::new(192, 168, 1, 1)).unwrap()
    }

    fn service(kind: &str, control: &str) -> String {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><controlURL>{control}</controlURL></service>"
        )
    }

    fn device(services: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList>{}</serviceList>\
             <deviceList><device><serviceList>{services}</serviceList></device></deviceList></device></root>",
            service("Layer3Forwarding:1", "/ctl/L3F")
        )
    }

    #[test]
    fn the_service_that_maps_ports_is_found_however_deep_it_is() {
        let found = parse(device(&service("WANIPConnection:1", "/ctl/IPConn?a&amp;b")).as_bytes(), &at()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].control.path, "/ctl/IPConn?a&b");
        assert_eq!(found[0].kind, "urn:schemas-upnp-org:service:WANIPConnection:1");
    }

    #[test]
    fn of_several_the_likelier_comes_first_and_one_elsewhere_is_left_out() {
        let text = [
            service("WANPPPConnection:1", "/ppp"),
            service("WANIPConnection:1", "http://192.168.1.9/ctl"),
            service("WANIPConnection:2", "ip2"),
        ];
        let found = parse(device(&text.concat()).as_bytes(), &at()).unwrap();
        assert_eq!(found.iter().map(|s| s.control.path.as_str()).collect::<Vec<_>>(), ["/ip2", "/ppp"]);
    }

    #[test]
    fn a_base_on_the_gateway_counts_and_one_elsewhere_does_not() {
        let with = |base: &str| {
            let text = device(&service("WANIPConnection:1", "ctl"))
                .replace("<device>", &format!("<URLBase>{base}</URLBase><device>"));
            parse(text.as_bytes(), &at()).unwrap()[0].control.clone()
        };
        assert_eq!(with("http://192.168.1.1:49152/x/").at.port(), 49_152);
        assert_eq!(with("http://192.168.1.9:49152/").at.port(), 5_000);
    }

    #[test]
    fn no_xml_and_no_service_are_refused() {
        assert!(parse(b"<root><device>", &at()).is_err());
        assert!(parse(b"<root></other>", &at()).is_err());
        assert!(parse(device("").as_bytes(), &at()).is_err());
        assert!(parse(b"\xff\xfe<\x00", &at()).is_err());
    }
}
