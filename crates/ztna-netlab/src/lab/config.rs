//! The description of a network, as JSON.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::{Lab, Part};
use crate::args::{self, End};
use crate::impairment::Impairment;
use crate::nat::{Filtering, FirewallConfig, Mapping, NatConfig, Ports, Timeouts};
use crate::sim::{Block, Network, Policy, RouterConfig, Way};
use crate::{Error, Result, units};

/// Builds the network that `text` describes (see `ztna-netlab net --help`).
///
/// Errors name the line and column, or the part and the accepted values.
pub fn parse(text: &str) -> Result<Lab> {
    let spec: Spec =
        serde_json::from_str(text).map_err(|error| Error::Config(format!("{error}; see ztna-netlab net --help")))?;
    let if_mtu = args::if_mtu("ifMtu", &spec.if_mtu.to_string())?;
    let mut lab = Lab { network: Network::new(spec.seed), ends: Vec::new(), if_mtu, names: BTreeMap::new() };
    for router in spec.routers {
        let name = router.name.clone();
        add_router(&mut lab, router).map_err(|error| error.within(&name))?;
    }
    for host in spec.hosts {
        let name = host.name.clone();
        add_host(&mut lab, host).map_err(|error| error.within(&name))?;
    }
    if lab.ends.is_empty() {
        return Err(Error::invalid("hosts", "[]", "one at least"));
    }
    Ok(lab)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Spec {
    #[serde(default = "one")]
    seed: u64,
    #[serde(default = "ethernet")]
    if_mtu: u16,
    #[serde(default)]
    routers: Vec<Router>,
    hosts: Vec<Host>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Router {
    name: String,
    #[serde(default = "internet")]
    outer: String,
    #[serde(default)]
    external: Vec<IpAddr>,
    #[serde(default)]
    v4: Family,
    #[serde(default)]
    v6: Family,
    #[serde(default)]
    block: Blocked,
    #[serde(default)]
    up: Settings,
    #[serde(default)]
    down: Settings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Host {
    name: String,
    #[serde(default = "internet")]
    realm: String,
    netns: String,
    #[serde(default = "eth0")]
    interface: String,
    addresses: Vec<String>,
    #[serde(default)]
    up: Settings,
    #[serde(default)]
    down: Settings,
}

/// Words of `ztna-netlab wire --help`.
type Settings = BTreeMap<String, String>;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
enum Family {
    #[default]
    None,
    Open,
    Firewall(Firewall),
    Nat(Nat),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Firewall {
    filtering: Option<FilteringName>,
    timeouts: Option<Timings>,
    max_mappings: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Nat {
    mapping: Option<MappingName>,
    filtering: Option<FilteringName>,
    ports: Option<PortsName>,
    hairpin: Option<bool>,
    overload: Option<bool>,
    timeouts: Option<Timings>,
    port_range: Option<(u16, u16)>,
    max_mappings: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Timings {
    unreplied: Option<String>,
    replied: Option<String>,
    lifetime: Option<String>,
    refresh_inbound: Option<bool>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum MappingName {
    Eim,
    Adm,
    Apdm,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum FilteringName {
    Eif,
    Adf,
    Apdf,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum PortsName {
    Preserve,
    Sequential,
    Random,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
enum Blocked {
    #[default]
    Nothing,
    All,
    AllExcept(Vec<SocketAddr>),
}

fn add_router(lab: &mut Lab, router: Router) -> Result<()> {
    check_name(lab, &router.name)?;
    let outer = lab.realm(&router.outer)?;
    let config = RouterConfig {
        v4: policy(router.v4)?,
        v6: policy(router.v6)?,
        external: router.external,
        block: match router.block {
            Blocked::Nothing => Block::Nothing,
            Blocked::All => Block::All,
            Blocked::AllExcept(permitted) => Block::AllExcept(permitted),
        },
        up: impairment(&router.up)?,
        down: impairment(&router.down)?,
    };
    let id = lab.network.add_router(outer, config)?;
    lab.names.insert(router.name, Part::Router(id));
    Ok(())
}

fn add_host(lab: &mut Lab, host: Host) -> Result<()> {
    check_name(lab, &host.name)?;
    let realm = lab.realm(&host.realm)?;
    let addresses = host.addresses.iter().map(|text| args::address("addresses", text)).collect::<Result<Vec<_>>>()?;
    let ips: Vec<IpAddr> = addresses.iter().map(|address| address.ip).collect();
    let end = End {
        netns: args::netns("netns", &host.netns)?,
        interface: args::interface("interface", &host.interface)?,
        addresses,
    };
    let same = |(_, other): &(_, End)| other.netns == end.netns && other.interface == end.interface;
    if lab.ends.iter().any(same) {
        return Err(Error::invalid("interface", end.interface, "one that no other host has in that namespace"));
    }
    let id = lab.network.add_host(realm, &ips)?;
    lab.network.set_link(id, Way::Up, impairment(&host.up)?)?;
    lab.network.set_link(id, Way::Down, impairment(&host.down)?)?;
    lab.ends.push((id, end));
    lab.names.insert(host.name, Part::Host(id));
    Ok(())
}

/// Commands are words, so names are.
fn check_name(lab: &Lab, name: &str) -> Result<()> {
    let word = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == ',');
    if !word || name == "internet" {
        return Err(Error::invalid("name", name, "one word other than internet, without a comma"));
    }
    if lab.names.contains_key(name) {
        return Err(Error::invalid("name", name, "one that no other router or host has"));
    }
    Ok(())
}

fn impairment(settings: &Settings) -> Result<Impairment> {
    let mut impairment = Impairment::default();
    settings.iter().try_for_each(|(name, value)| impairment.set(name, value))?;
    Ok(impairment)
}

fn policy(family: Family) -> Result<Policy> {
    Ok(match family {
        Family::None => Policy::NoRoute,
        Family::Open => Policy::Open,
        Family::Firewall(Firewall { filtering, timeouts, max_mappings }) => {
            let default = FirewallConfig::default();
            Policy::Firewall(FirewallConfig {
                filtering: filtering.map_or(default.filtering, filtering_of),
                timeouts: timings(timeouts)?,
                max_mappings: max_mappings.unwrap_or(default.max_mappings),
            })
        }
        Family::Nat(Nat { mapping, filtering, ports, hairpin, overload, timeouts, port_range, max_mappings }) => {
            let default = NatConfig::default();
            Policy::Nat(NatConfig {
                mapping: mapping.map_or(default.mapping, |name| match name {
                    MappingName::Eim => Mapping::EndpointIndependent,
                    MappingName::Adm => Mapping::AddressDependent,
                    MappingName::Apdm => Mapping::AddressAndPortDependent,
                }),
                filtering: filtering.map_or(default.filtering, filtering_of),
                ports: ports.map_or(default.ports, |name| match name {
                    PortsName::Preserve => Ports::Preserve,
                    PortsName::Sequential => Ports::Sequential,
                    PortsName::Random => Ports::Random,
                }),
                hairpin: hairpin.unwrap_or(default.hairpin),
                overload: overload.unwrap_or(default.overload),
                timeouts: timings(timeouts)?,
                port_range: match port_range {
                    None => default.port_range,
                    Some((first, last)) if 0 < first && first <= last => first..=last,
                    Some((first, last)) => {
                        let accepted = "the first and the last port, from 1 to 65535";
                        return Err(Error::invalid("portRange", format!("[{first}, {last}]"), accepted));
                    }
                },
                max_mappings: max_mappings.unwrap_or(default.max_mappings),
            })
        }
    })
}

fn filtering_of(name: FilteringName) -> Filtering {
    match name {
        FilteringName::Eif => Filtering::EndpointIndependent,
        FilteringName::Adf => Filtering::AddressDependent,
        FilteringName::Apdf => Filtering::AddressAndPortDependent,
    }
}

fn timings(given: Option<Timings>) -> Result<Timeouts> {
    let default = Timeouts::default();
    let Some(Timings { unreplied, replied, lifetime, refresh_inbound }) = given else { return Ok(default) };
    let time = |name: &str, text: Option<String>| text.map(|text| units::duration(name, &text)).transpose();
    Ok(Timeouts {
        unreplied: time("unreplied", unreplied)?.unwrap_or(default.unreplied),
        replied: time("replied", replied)?.unwrap_or(default.replied),
        lifetime: time("lifetime", lifetime)?,
        refresh_inbound: refresh_inbound.unwrap_or(default.refresh_inbound),
    })
}

fn one() -> u64 {
    1
}

fn ethernet() -> u16 {
    1500
}

fn internet() -> String {
    "internet".into()
}

fn eth0() -> String {
    "eth0".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_help_is_accepted() {
        let start = super::super::HELP.find("{\n").unwrap();
        let end = super::super::HELP.rfind("\n}").unwrap() + 2;
        let lab = parse(&super::super::HELP[start..end]).unwrap();
        assert!(lab.ends.len() >= 2 && lab.names.len() > lab.ends.len());
    }

    #[test]
    fn every_field_can_be_given() {
        let lab = parse(
            r#"{ "seed": 7, "ifMtu": 1400,
              "routers": [
                { "name": "isp", "external": ["203.0.113.1", "203.0.113.2"], "v6": "open", "v4": { "nat": {
                    "mapping": "apdm", "filtering": "adf", "ports": "sequential", "hairpin": true, "overload": true,
                    "timeouts": { "unreplied": "10s", "replied": "60s", "lifetime": "75s", "refreshInbound": false },
                    "portRange": [20000, 29999], "maxMappings": 100 } } },
                { "name": "home", "outer": "isp", "external": ["100.64.0.2"], "v4": { "nat": {} },
                  "v6": { "firewall": { "filtering": "eif", "timeouts": {}, "maxMappings": 9 } },
                  "block": { "allExcept": ["198.51.100.1:4433"] }, "up": { "delay": "10ms" }, "down": { "loss": "1%" } } ],
              "hosts": [ { "name": "a", "realm": "home", "netns": "ns", "interface": "eth1",
                "addresses": ["192.168.1.10/24", "2001:db8::10/64"], "up": { "mtu": "1280" }, "down": {} } ] }"#,
        )
        .unwrap();
        assert_eq!((lab.if_mtu, lab.ends.len(), lab.names.len()), (1400, 1, 3));
    }

    #[test]
    fn a_mistake_is_named_with_what_is_accepted() {
        let host = r#""hosts": [{ "name": "a", "netns": "n", "addresses": ["198.51.100.1/24"] }]"#;
        for (text, named) in [
            ("{", "line 1"),
            (r#"{ "hosts": [] }"#, "hosts"),
            (&format!(r#"{{ "routters": [], {host} }}"#), "routters"),
            (
                &format!(r#"{{ "routers": [{{ "name": "r", "v4": "nat" }}], {host} }}"#),
                "column 42; see ztna-netlab net --help",
            ),
            (&format!(r#"{{ "routers": [{{ "name": "r", "v4": {{ "nat": {{}} }} }}], {host} }}"#), "external"),
            (&format!(r#"{{ "routers": [{{ "name": "r", "outer": "q" }}], {host} }}"#), "\"q\""),
            (&format!(r#"{{ "routers": [{{ "name": "a" }}], {host} }}"#), "no other router or host"),
            (&format!(r#"{{ "routers": [{{ "name": "a b" }}], {host} }}"#), "one word"),
            (&format!(r#"{{ "routers": [{{ "name": "r", "up": {{ "dealy": "1ms" }} }}], {host} }}"#), "dealy"),
            (r#"{ "hosts": [{ "name": "a", "netns": "n", "addresses": ["10.0.0.1/24"] }] }"#, "private use"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
