//! What an operator can ask a trust folder: is it sound, and may this agent open that flow.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::{CheckDecision, CheckOptions, CheckReport, Finding};
use crate::error::{Error, Result};
use crate::id::Role;
use crate::io::pki_folder::store::{Checked, NETWORK, Store};
use crate::path::demand::permits;
use crate::trust::{Decision, FlowContext, PathClass, Protocol};

/// Names listed in a message: enough to see the slip, few enough to read.
const LISTED: usize = 20;

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
    let findings = checked.policy.warnings().iter().chain(&connector_warnings(&store, &checked)).map(warning).collect();
    let decision = match (&options.agent, &options.to) {
        (Some(agent), Some(to)) => Some(decide(&store, &checked, agent, to, options, now)?),
        (None, None) => None,
        (Some(_), None) => return Err(Error::config("--to", "is missing: say which service, such as web:80")),
        (None, Some(_)) => return Err(Error::config("--agent", "is missing: say who, such as alice")),
    };
    Ok(CheckReport { ok: true, findings, decision })
}

fn decide(
    store: &Store,
    checked: &Checked,
    agent: &str,
    to: &str,
    options: &CheckOptions,
    now: SystemTime,
) -> Result<CheckDecision> {
    let protocol: Protocol = options.protocol.as_deref().unwrap_or("tcp").parse()?;
    let path: Option<PathClass> = options.path.as_deref().map(str::parse).transpose()?;
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
    // A name that nobody has is a slip of the keyboard, and "denied" would hide it.
    known("agent", agent, checked.network.agents.keys())?;
    known("service", service, checked.network.services.keys())?;
    if let Some(reason) = revocation(store, checked, agent, now) {
        return Ok(CheckDecision { allowed: false, path: None, policy_id: None, reason });
    }
    let flow = FlowContext { service, protocol, port, path: path.unwrap_or(PathClass::Relay), now };
    if let (None, Some((only, policy_id))) = (path, checked.policy.only_path(agent, &flow)) {
        let reason = permits(policy_id.as_deref(), only);
        return Ok(CheckDecision { allowed: true, path: Some(only.as_str()), policy_id, reason });
    }
    let Decision { allowed, policy_id, reason } = checked.policy.decide(agent, &flow);
    Ok(CheckDecision { allowed, path: None, policy_id, reason })
}

fn known<'a>(kind: &str, name: &str, names: impl Iterator<Item = &'a String>) -> Result<()> {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.contains(&name) {
        return Ok(());
    }
    let list = if names.is_empty() { "none".to_owned() } else { shortened(&names) };
    Err(Error::config(format!("{kind} `{}`", name.escape_debug()), format!("not in network.toml; known: {list}")))
}

/// Why an agent's certificates open nothing any more, whatever the policy says.
fn revocation(store: &Store, checked: &Checked, agent: &str, now: SystemTime) -> Option<String> {
    let name = format!("{}/{agent}", Role::Agent);
    if checked.revoked.names().any(|n| n == name) {
        return Some(format!("revoked: {name} is in revoked.toml; `ztna pki issue` lets it come back"));
    }
    let mut live = store.state.certificates.iter().filter(|c| c.name == name && !c.is_over(now)).peekable();
    let all = live.peek().is_some() && live.all(|c| checked.is_revoked(c));
    all.then(|| format!("revoked: every certificate of {name} is in revoked.toml; `ztna pki renew` gives it another"))
}

/// Connectors that services name and that can't serve: publishing first and issuing later is a legitimate order, a slip of the
/// keyboard looks the same.
pub(super) fn connector_warnings(store: &Store, checked: &Checked) -> Vec<String> {
    let prefix = format!("{}/", Role::Connector);
    let issued: BTreeSet<&str> =
        store.state.certificates.iter().filter_map(|c| c.name.strip_prefix(prefix.as_str())).collect();
    let list =
        if issued.is_empty() { "none".to_owned() } else { shortened(&issued.iter().copied().collect::<Vec<&str>>()) };
    let (at, dir) = (store.at(NETWORK), store.dir.display());
    // One line for each reason, however many services there are: before the first `issue` it holds for all of them.
    let (mut revoked, mut unissued) = (Blamed::default(), Blamed::default());
    for service in checked.network.services.values() {
        for connector in &service.connectors {
            let full = format!("{prefix}{connector}");
            if checked.revoked.names().any(|n| *n == full) {
                revoked.add(&service.name, connector);
            } else if !issued.contains(connector.as_str()) {
                unissued.add(&service.name, connector);
            }
        }
    }
    let issue = |name: &str| format!("`ztna pki issue {dir} connector {name} --out OUT`");
    let mut warnings = Vec::new();
    if let Some((names, verb, command)) = revoked.told(issue) {
        let it = if verb == "is" { "lets it" } else { "lets one" };
        warnings.push(format!("{at}: {names}, which {verb} revoked; {command} {it} come back"));
    }
    if let Some((names, verb, command)) = unissued.told(issue) {
        let (was, it) = if verb == "is" { ("was", "it") } else { ("were", "one") };
        warnings.push(format!("{at}: {names}, which {was} never issued; issued: {list}; {command} makes {it}"));
    }
    warnings
}

/// Services and the connectors they name that share one flaw.
#[derive(Default)]
struct Blamed<'a> {
    services: BTreeSet<&'a str>,
    connectors: BTreeSet<&'a str>,
}

impl<'a> Blamed<'a> {
    fn add(&mut self, service: &'a str, connector: &'a str) {
        self.services.insert(service);
        self.connectors.insert(connector);
    }

    /// Who names whom, `is` or `are`, and the command for the connector.
    fn told(&self, command: impl Fn(&str) -> String) -> Option<(String, &'static str, String)> {
        let quoted = |names: &BTreeSet<&str>| {
            let quoted: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
            shortened(&quoted.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let (services, connectors) = (quoted(&self.services), quoted(&self.connectors));
        let subject = if self.services.len() == 1 {
            format!("service {services} names")
        } else {
            format!("services {services} name")
        };
        match (self.connectors.first(), self.connectors.len()) {
            (None, _) => None,
            (Some(only), 1) => Some((format!("{subject} connector {connectors}"), "is", command(only))),
            (Some(_), _) => Some((format!("{subject} connectors {connectors}"), "are", command("NAME"))),
        }
    }
}

/// The first twenty names.
pub(super) fn shortened(names: &[&str]) -> String {
    let more = if names.len() > LISTED { ", …" } else { "" };
    format!("{}{more}", names.iter().copied().take(LISTED).collect::<Vec<_>>().join(", "))
}
