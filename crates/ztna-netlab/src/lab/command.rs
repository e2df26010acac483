//! Commands to a running network: one line in, one JSON line out.

use std::net::IpAddr;
use std::str::FromStr;

use serde_json::{Value, json};

use super::{Lab, Part};
use crate::nat::Counters;
use crate::sim::{Block, LinkId, Way};
use crate::{Error, Result, command};

const COMMANDS: &str = "set NAME up|down|both SETTING VALUE, cut NAME up|down|both, mend NAME up|down|both, rebind ROUTER, \
    external ROUTER IP,…, block ROUTER nothing|all|except IP:PORT,…, move HOST REALM IP,…, stats NAME or stats";

/// Carries out one line and returns the answer, without a line end: `{"ok":true,…}` or `{"ok":false,"error":"…"}`.
pub fn answer(lab: &mut Lab, line: &str) -> String {
    command::json_line(execute(lab, line))
}

fn execute(lab: &mut Lab, line: &str) -> Result<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["stats"] => return Ok(network_stats(lab)),
        ["stats", name] => return stats(lab, name),
        ["set", name, way, setting, value] => {
            let link = link(lab, name)?;
            // All or none: both are tried before either is stored.
            let mut changed = Vec::with_capacity(2);
            for way in ways(way)? {
                let mut impairment = lab.network.link(link, *way)?;
                impairment.set(setting, value)?;
                changed.push((*way, impairment));
            }
            for (way, impairment) in changed {
                lab.network.set_link(link, way, impairment)?;
            }
        }
        [verb @ ("cut" | "mend"), name, way] => {
            let link = link(lab, name)?;
            for way in ways(way)? {
                lab.network.set_cut(link, *way, *verb == "cut")?;
            }
        }
        ["rebind", router] => lab.network.rebind(lab.router(router)?)?,
        ["external", router, ips] => {
            let ips = list::<IpAddr>("external", ips, "addresses with commas between")?;
            lab.network.set_external(lab.router(router)?, ips)?;
        }
        ["block", router, "nothing"] => lab.network.block(lab.router(router)?, Block::Nothing)?,
        ["block", router, "all"] => lab.network.block(lab.router(router)?, Block::All)?,
        ["block", router, "except", permitted] => {
            let permitted = list("except", permitted, "IP:PORT with commas between")?;
            lab.network.block(lab.router(router)?, Block::AllExcept(permitted))?;
        }
        ["move", host, realm, ips] => {
            let ips = list::<IpAddr>("addresses", ips, "addresses with commas between")?;
            lab.network.move_host(lab.host(host)?, lab.realm(realm)?, &ips)?;
        }
        _ => return Err(Error::invalid("command", line, COMMANDS)),
    }
    Ok(json!({ "ok": true }))
}

fn link(lab: &Lab, name: &str) -> Result<LinkId> {
    Ok(match lab.part(name)? {
        Part::Host(host) => host.into(),
        Part::Router(router) => router.into(),
    })
}

fn ways(text: &str) -> Result<&'static [Way]> {
    match text {
        "up" => Ok(&[Way::Up]),
        "down" => Ok(&[Way::Down]),
        "both" => Ok(&Way::BOTH),
        _ => Err(Error::invalid("way", text, "up, down or both")),
    }
}

fn list<T: FromStr>(what: &str, text: &str, accepted: &'static str) -> Result<Vec<T>> {
    text.split(',').map(|item| item.parse().map_err(|_| Error::invalid(what, item, accepted))).collect()
}

fn stats(lab: &mut Lab, name: &str) -> Result<Value> {
    let (part, link) = (lab.part(name)?, link(lab, name)?);
    let of = |way| lab.network.link_stats(link, way).map(command::stats);
    let (up, down) = (of(Way::Up), of(Way::Down));
    Ok(match part {
        Part::Host(_) => json!({ "ok": true, "up": up, "down": down }),
        Part::Router(router) => {
            let v4 = lab.network.nat_counters(router, std::net::Ipv4Addr::UNSPECIFIED.into()).map(counters);
            let v6 = lab.network.nat_counters(router, std::net::Ipv6Addr::UNSPECIFIED.into()).map(counters);
            json!({ "ok": true, "up": up, "down": down, "v4": v4, "v6": v6 })
        }
    })
}

fn network_stats(lab: &Lab) -> Value {
    let drops = lab.network.drops();
    json!({
        "ok": true,
        "dropped": {
            "unsendable": drops.unsendable,
            "unroutable": drops.unroutable,
            "blocked": drops.blocked,
            "filtered": drops.filtered,
            "unmapped": drops.unmapped,
            "hairpin": drops.hairpin,
            "exhausted": drops.exhausted,
            "moved": drops.moved,
            "looped": drops.looped,
        },
    })
}

fn counters(c: Counters) -> Value {
    json!({
        "mappings": c.mappings,
        "mappingsMax": c.mappings_max,
        "sessions": c.sessions,
        "filtered": c.filtered,
        "unmapped": c.unmapped,
        "exhausted": c.exhausted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_help_is_carried_out() {
        let mut lab = lab();
        for line in [
            "set home both delay 100ms",
            "set a up loss 5%",
            "cut home up",
            "mend home both",
            "rebind home",
            "external home 203.0.113.2,203.0.113.3",
            "block home all",
            "block home except 198.51.100.1:4433,198.51.100.1:4434",
            "block home nothing",
            "move a internet 203.0.113.9",
            "move a home 192.168.1.11",
            "stats",
        ] {
            assert_eq!(ask(&mut lab, line)["ok"], true, "{line}");
        }
        let stats = ask(&mut lab, "stats home");
        assert_eq!(
            (&stats["v4"]["mappings"], &stats["v6"], &stats["up"]["packetsIn"]),
            (&json!(0), &json!(null), &json!(0))
        );
    }

    #[test]
    fn a_bad_command_changes_nothing_and_says_what_is_accepted() {
        let mut lab = lab();
        for line in [
            "",
            "set",
            "set home both delay",
            "set home left delay 1ms",
            "set none both delay 1ms",
            "set home both dealy 1ms",
            "cut home",
            "rebind a",
            "external home 10.0.0.1",
            "external home x",
            "block home some",
            "block home except x",
            "move home internet 203.0.113.9",
            "move a nowhere 203.0.113.9",
            "move a internet 192.168.1.1",
            "stats none",
        ] {
            let answer = ask(&mut lab, line);
            assert_eq!(answer["ok"], false, "{line}");
            assert!(answer["error"].as_str().is_some_and(|text| text.contains("expected")), "{answer}");
        }
    }

    fn lab() -> Lab {
        crate::lab::parse(
            r#"{ "routers": [{ "name": "home", "external": ["203.0.113.1"], "v4": { "nat": {} } }],
              "hosts": [{ "name": "a", "realm": "home", "netns": "n", "addresses": ["192.168.1.10/24"] }] }"#,
        )
        .unwrap()
    }

    fn ask(lab: &mut Lab, line: &str) -> Value {
        serde_json::from_str(&answer(lab, line)).unwrap()
    }
}
