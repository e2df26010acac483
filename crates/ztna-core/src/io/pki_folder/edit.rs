//! The texts an operator sees: first contents, and edits that keep the comments.

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value, value};

use crate::error::{Error, Result};
use crate::trust::{Network, PortRange, RelayMode};

/// network.toml as `init` writes it.
pub(super) fn first_network(trust_domain: &str, zone: &str) -> String {
    format!(
        r#"# The network as every node sees it. After an edit: `ztna pki publish DIR OUT...`
trust_domain = "{trust_domain}"
zone = "{zone}"
# relay_mode = "forwarded"    # or "tunnel": dearer, and hides packet boundaries from whoever sees both legs of a relay

# A service is reached as <name>.{zone}. Its connectors are named here and issued with `ztna pki issue DIR connector NAME`.
# [[service]]
# name = "web"
# connectors = ["c1"]
# tcp = [80, "8000-8010"]
# udp = [53]
# icmp = true

# `ztna pki issue` adds [[relay]] and [[agent]] entries below.
"#
    )
}

/// policy.cedar as `init` writes it: it allows nothing.
pub(super) const FIRST_POLICY: &str = r#"// Who may reach what, in Cedar (https://docs.cedarpolicy.com). What no policy permits is denied, so this file allows nothing yet.
// context.protocol is "tcp", "udp" or "icmp"; context.port a number; context.path "relay" or "direct"; context.now a datetime.
// After an edit: `ztna policy check DIR`, then `ztna pki publish DIR OUT...`
//
// @id("engineers-web")
// permit(principal in Group::"eng", action == Action::"connect", resource == Service::"web")
// when { context.protocol == "tcp" && context.port == 80 };
"#;

/// revoked.toml as `init` writes it.
pub(super) const FIRST_REVOKED: &str = "# Written by `ztna pki revoke`. A name stops every certificate of a node until it is issued again, a serial one certificate for good.\nnames = []\nserials = []\n";

/// Adds an agent, or groups to an agent that is listed already.
pub(super) fn add_agent(text: &str, at: &str, name: &str, groups: &[String]) -> Result<String> {
    let mut doc = document(text, at)?;
    let table = entry(&mut doc, at, "agent", name)?;
    if !groups.is_empty() {
        add_to_array(table, at, "groups", groups)?;
    } else if !table.contains_key("groups") {
        table.insert("groups", value(Array::new()));
    }
    Ok(doc.to_string())
}

/// Adds a relay, or URLs to a relay that is listed already.
pub(super) fn add_relay(text: &str, at: &str, name: &str, urls: &[String]) -> Result<String> {
    let mut doc = document(text, at)?;
    let table = entry(&mut doc, at, "relay", name)?;
    add_to_array(table, at, "urls", urls)?;
    Ok(doc.to_string())
}

/// Adds a node's name and serials to revoked.toml.
pub(super) fn add_revocation(text: &str, at: &str, name: &str, serials: &[String]) -> Result<String> {
    let mut doc = document(text, at)?;
    add_to_array(doc.as_table_mut(), at, "names", &[name.to_owned()])?;
    add_to_array(doc.as_table_mut(), at, "serials", serials)?;
    Ok(doc.to_string())
}

/// Lets a name come back; its old serials stay.
pub(super) fn remove_revoked_name(text: &str, at: &str, name: &str) -> Result<String> {
    let mut doc = document(text, at)?;
    if let Some(names) = doc.get_mut("names").and_then(Item::as_array_mut) {
        names.retain(|n| n.as_str() != Some(name));
    }
    Ok(doc.to_string())
}

/// The network as one node may see it: with `agent`, no other agent's entry. Comments are the operator's and stay home.
pub(super) fn render(network: &Network, agent: Option<&str>) -> String {
    let strings = |of: &mut dyn Iterator<Item = String>| value(of.collect::<Array>());
    let ports = |ranges: &[PortRange]| {
        value(
            ranges
                .iter()
                .map(|r| if r.lo == r.hi { Value::from(i64::from(r.lo)) } else { Value::from(r.to_string()) })
                .collect::<Array>(),
        )
    };
    let mut doc = DocumentMut::new();
    doc.insert("trust_domain", value(network.trust_domain.as_str()));
    doc.insert("zone", value(network.zone.as_str()));
    match network.relay_mode {
        RelayMode::Forwarded => {}
        RelayMode::Tunnel => {
            doc.insert("relay_mode", value("tunnel"));
        }
    }
    let mut lists = [ArrayOfTables::new(), ArrayOfTables::new(), ArrayOfTables::new()];
    let [relays, services, agents] = &mut lists;
    for relay in &network.relays {
        let mut table = Table::new();
        table.insert("name", value(relay.name.as_str()));
        table.insert("urls", strings(&mut relay.urls.iter().map(ToString::to_string)));
        if let Some(region) = &relay.region {
            table.insert("region", value(region.as_str()));
        }
        relays.push(table);
    }
    for service in network.services.values() {
        let mut table = Table::new();
        table.insert("name", value(service.name.as_str()));
        table.insert("connectors", strings(&mut service.connectors.iter().cloned()));
        table.insert("tcp", ports(&service.tcp));
        table.insert("udp", ports(&service.udp));
        table.insert("icmp", value(service.icmp));
        services.push(table);
    }
    for entry in network.agents.values().filter(|a| agent.is_none_or(|only| only == a.name)) {
        let mut table = Table::new();
        table.insert("name", value(entry.name.as_str()));
        table.insert("groups", strings(&mut entry.groups.iter().cloned()));
        agents.push(table);
    }
    for (key, list) in ["relay", "service", "agent"].into_iter().zip(lists) {
        if !list.is_empty() {
            doc.insert(key, Item::ArrayOfTables(list));
        }
    }
    doc.to_string()
}

/// Where `trust_domain` stands in a network.toml that was read; 1 when it can't be found.
pub(super) fn line_of_trust_domain(text: &str) -> usize {
    #[derive(serde::Deserialize)]
    struct Named {
        trust_domain: toml::Spanned<serde::de::IgnoredAny>,
    }
    let found = toml::from_str(text).map(|named: Named| named.trust_domain.span().start);
    crate::trust::line_of(text, found.unwrap_or(0))
}

fn document(text: &str, at: &str) -> Result<DocumentMut> {
    text.parse().map_err(|e: toml_edit::TomlError| {
        let line = crate::trust::line_of(text, e.span().map_or(0, |s| s.start));
        Error::config(format!("{at}:{line}"), e.message())
    })
}

/// The `[[kind]]` table of that name, made when there is none.
fn entry<'a>(doc: &'a mut DocumentMut, at: &str, kind: &str, name: &str) -> Result<&'a mut Table> {
    let shape = || Error::config(at, format!("`{kind}` must be written as [[{kind}]] tables"));
    let list = doc
        .entry(kind)
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(shape)?;
    let found = list.iter().position(|t| t.get("name").and_then(Item::as_str) == Some(name));
    let index = match found {
        Some(index) => index,
        None => {
            let mut table = Table::new();
            table.insert("name", value(name));
            list.push(table);
            list.len() - 1
        }
    };
    list.get_mut(index).ok_or_else(shape)
}

fn add_to_array(table: &mut Table, at: &str, key: &str, items: &[String]) -> Result<()> {
    let array = table
        .entry(key)
        .or_insert_with(|| value(Array::new()))
        .as_array_mut()
        .ok_or_else(|| Error::config(at, format!("`{key}` must be a list of texts")))?;
    for item in items {
        if !array.iter().any(|v| v.as_str() == Some(item)) {
            array.push(item.as_str());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_network_is_valid_and_an_entry_keeps_its_comments() {
        let text = first_network("example.test", "corp.internal");
        let text = add_agent(&text, "network.toml", "alice", &["eng".into()]).unwrap();
        let text = add_relay(&text, "network.toml", "r1", &["https://192.0.2.1".into()]).unwrap();
        let text = add_agent(&text, "network.toml", "alice", &["ops".into(), "eng".into()]).unwrap();
        assert!(text.starts_with("# The network as every node sees it."));
        let net = Network::parse(&text, "network.toml").unwrap();
        assert_eq!((net.zone.as_str(), net.relays.len(), net.agents["alice"].groups.len()), ("corp.internal", 1, 2));
    }

    #[test]
    fn a_rendered_network_reads_back_the_same_but_for_the_other_agents() {
        let text = r#"trust_domain = "example.test"
relay_mode = "tunnel"
[[relay]]
name = "r1"
urls = ["https://[2001:db8::1]:443"]
region = "a \"quoted\" place"
[[service]]
name = "web"
connectors = ["c1"]
tcp = [80, "8000-8010"]
[[agent]]
name = "alice"
groups = ["eng"]
[[agent]]
name = "bob"
"#;
        let net = Network::parse(text, "n").unwrap();
        assert_eq!(Network::parse(&render(&net, None), "n").unwrap(), net);
        let seen = render(&net, Some("alice"));
        assert!(!seen.contains("bob"));
        assert_eq!(Network::parse(&seen, "n").unwrap().agents.len(), 1);
    }
}
