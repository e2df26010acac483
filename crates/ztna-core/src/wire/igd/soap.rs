//! Calls of WANIPConnection and WANPPPConnection (UPnP Forum, WANIPConnection:1 §2.4), and their answers.

use std::net::{Ipv4Addr, SocketAddrV4};

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::wire::error::DecodeError;

/// One call: the value of SOAPACTION, and the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub action: String,
    pub body: String,
}

/// Asks for the address outside.
pub fn external_address(service: &str) -> Call {
    call(service, "GetExternalIPAddress", &[])
}

/// Asks that UDP to `external_port` outside goes to `to`, for `lease` seconds. 0 would be for ever.
pub fn add_mapping(service: &str, external_port: u16, to: SocketAddrV4, lease: u32) -> Call {
    let arguments = [
        ("NewRemoteHost", String::new()),
        ("NewExternalPort", external_port.to_string()),
        ("NewProtocol", "UDP".to_owned()),
        ("NewInternalPort", to.port().to_string()),
        ("NewInternalClient", to.ip().to_string()),
        ("NewEnabled", "1".to_owned()),
        ("NewPortMappingDescription", "ztna".to_owned()),
        ("NewLeaseDuration", lease.to_string()),
    ];
    call(service, "AddPortMapping", &arguments)
}

/// Takes a mapping back.
pub fn delete_mapping(service: &str, external_port: u16) -> Call {
    let arguments = [
        ("NewRemoteHost", String::new()),
        ("NewExternalPort", external_port.to_string()),
        ("NewProtocol", "UDP".to_owned()),
    ];
    call(service, "DeletePortMapping", &arguments)
}

/// `service` is one of a few names that [`description`](super::description) compares with, and no argument holds a character of XML's own.
fn call(service: &str, action: &str, arguments: &[(&str, String)]) -> Call {
    let arguments: String = arguments.iter().map(|(name, value)| format!("<{name}>{value}</{name}>")).collect();
    let body = format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{service}\">{arguments}</u:{action}>\
         </s:Body></s:Envelope>\r\n"
    );
    Call { action: format!("{service}#{action}"), body }
}

/// What a service answered to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoapAnswer {
    Done {
        /// Of GetExternalIPAddress, where there is one.
        external: Option<Ipv4Addr>,
    },
    /// UPnP Device Architecture 1.1 §3.2.2; codes from 700 on are the service's own.
    Refused { code: u16 },
}

/// Reads the answer with HTTP's `status` and `body`. Errors: neither an answer nor a refusal.
pub fn parse(status: u16, body: &[u8]) -> Result<SoapAnswer, DecodeError> {
    const ACCEPTED: &str = "200 with an answer, or 500 with an error code";
    let bad = |why: String| DecodeError::invalid("SOAP answer of the gateway", why, ACCEPTED);
    let external = |text: String| text.parse().ok();
    match status {
        200 => Ok(SoapAnswer::Done { external: value(body, "NewExternalIPAddress")?.and_then(external) }),
        500 => {
            let code = value(body, "errorCode")?.and_then(|c| c.parse().ok());
            Ok(SoapAnswer::Refused { code: code.ok_or_else(|| bad("500 without errorCode".into()))? })
        }
        other => Err(bad(format!("status {other}"))),
    }
}

/// The text of the first element of that name.
fn value(xml: &[u8], name: &str) -> Result<Option<String>, DecodeError> {
    let bad = |why: String| DecodeError::invalid("SOAP answer of the gateway", why, "XML");
    let xml = String::from_utf8_lossy(xml);
    let (mut reader, mut inside) = (Reader::from_str(&xml), false);
    loop {
        match reader.read_event().map_err(|e| bad(e.to_string()))? {
            Event::Start(tag) => inside = tag.local_name().as_ref() == name,
            Event::Text(text) if inside => {
                return Ok(Some(text.trim().to_owned()));
            }
            Event::End(_) => inside = false,
            Event::Eof => return Ok(None),
            Event::Text(_)
            | Event::Empty(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_)
            | Event::GeneralRef(_) => {}
        }
    }
}

/// Another host has this external port (WANIPConnection:1 §2.4.16).
pub const CONFLICT: u16 = 718;

/// Error codes in words (UPnP Device Architecture 1.1 §3.2.2, WANIPConnection:2 §2.5.16).
pub fn describe(code: u16) -> &'static str {
    match code {
        401 | 602 => "it does not know the action",
        402 | 600 | 601 => "it calls an argument wrong",
        403 | 606 => "it does not let this host map ports",
        501 => "it failed: it has no public address, or none yet",
        603 | 728 => "it has no room for another mapping",
        714 => "it has no such mapping",
        CONFLICT => "another host has the port",
        724 => "it maps ports to themselves alone, and another host has ours",
        725 => "it only knows mappings without an end, which would outlive us",
        _ => "it refuses for a reason of its own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

    fn envelope(body: &str) -> Vec<u8> {
        format!("<?xml version=\"1.0\"?>\n<s:Envelope xmlns:s=\"x\"><s:Body>{body}</s:Body></s:Envelope>").into_bytes()
    }

    #[test]
    fn a_mapping_is_asked_for_with_an_end() {
        let call = add_mapping(SERVICE, 6_000, "192.168.1.10:5000".parse().unwrap(), 1_200);
        assert_eq!(call.action, format!("{SERVICE}#AddPortMapping"));
        for part in [
            "<NewExternalPort>6000<",
            "<NewProtocol>UDP<",
            "<NewInternalPort>5000<",
            "<NewInternalClient>192.168.1.10<",
            "<NewLeaseDuration>1200<",
            "xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\"",
        ] {
            assert!(call.body.contains(part), "{part}");
        }
    }

    #[test]
    fn an_answer_is_read_whatever_its_prefixes_are() {
        let text = "<u:GetExternalIPAddressResponse><NewExternalIPAddress>203.0.113.7</NewExternalIPAddress></u:GetExternalIPAddressResponse>";
        let external = Some(Ipv4Addr::new(203, 0, 113, 7));
        assert_eq!(parse(200, &envelope(text)), Ok(SoapAnswer::Done { external }));
        assert_eq!(parse(200, &envelope("<u:AddPortMappingResponse/>")), Ok(SoapAnswer::Done { external: None }));
    }

    #[test]
    fn a_refusal_keeps_its_code() {
        let text = "<s:Fault><detail><UPnPError><errorCode>718</errorCode><errorDescription>Conflict</errorDescription></UPnPError></detail></s:Fault>";
        assert_eq!(parse(500, &envelope(text)), Ok(SoapAnswer::Refused { code: CONFLICT }));
    }

    #[test]
    fn other_answers_are_errors() {
        assert!(parse(302, b"").is_err() && parse(500, b"oops").is_err() && parse(200, b"<a></b>").is_err());
    }
}
