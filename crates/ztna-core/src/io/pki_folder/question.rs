//! What an operator can ask a trust folder: is it sound, and may this agent open that flow.

use std::time::SystemTime;

use super::{CheckDecision, CheckOptions, CheckReport, Finding};
use crate::error::{Error, Result};
use crate::io::pki_folder::store::{Checked, Store};
use crate::trust::{Decision, FlowContext, PathClass, Protocol};

/// Checks network, policy and revocations as `publish` would, and asks the policy one question.
pub fn policy_check(options: &CheckOptions, now: SystemTime) -> Result<CheckReport> {
    let store = Store::open(&options.dir)?;
    let checked = match store.check(None, None) {
        Ok(checked) => checked,
        Err(Error::Config { at, message }) => {
            return Ok(CheckReport {
                ok: false,
                findings: vec![Finding { severity: "error", at, message }],
                decision: None,
            });
        }
        Err(other) => return Err(other),
    };
    let warning = |w: &String| {
        let (at, message) = w.split_once(": ").unwrap_or(("", w));
        Finding { severity: "warning", at: at.to_owned(), message: message.to_owned() }
    };
    let findings = checked.policy.warnings().iter().map(warning).collect();
    let decision = match (&options.agent, &options.to) {
        (Some(agent), Some(to)) => Some(decide(&checked, agent, to, options.protocol.as_deref(), now)?),
        (None, None) => None,
        (Some(_), None) => return Err(Error::config("--to", "is missing: say which service, such as web:80")),
        (None, Some(_)) => return Err(Error::config("--agent", "is missing: say who, such as alice")),
    };
    Ok(CheckReport { ok: true, findings, decision })
}

fn decide(checked: &Checked, agent: &str, to: &str, protocol: Option<&str>, now: SystemTime) -> Result<CheckDecision> {
    let protocol: Protocol = protocol.unwrap_or("tcp").parse()?;
    let bad = |why: String| Error::config(format!("--to {}", to.escape_debug()), why);
    let (service, port) = match to.split_once(':') {
        Some((service, port)) => (
            service,
            port.parse::<u16>().map_err(|_| bad("must be SERVICE or SERVICE:PORT, such as web:80".to_owned()))?,
        ),
        None => match protocol {
            Protocol::Icmp => (to, 0),
            Protocol::Tcp => (
                to,
                checked
                    .network
                    .sole_tcp_port(to)
                    .ok_or_else(|| bad("has more than one TCP port or none: say which, such as web:80".to_owned()))?,
            ),
            Protocol::Udp => return Err(bad("say which port, such as dns:53".to_owned())),
        },
    };
    let flow = FlowContext { service, protocol, port, path: PathClass::Relay, now };
    let Decision { allowed, policy_id, reason } = checked.policy.decide(agent, &flow);
    Ok(CheckDecision { allowed, policy_id, reason })
}
