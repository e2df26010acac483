//! What policies decide, on small networks.

use std::time::{Duration, SystemTime};

use super::*;
use crate::trust::text::system_time;

const NETWORK: &str = r#"trust_domain = "example.test"
[[service]]
name = "web"
connectors = ["c1"]
tcp = [80, "8000-8010"]
udp = [53]
icmp = true
[[service]]
name = "db"
connectors = ["c2"]
tcp = [5432]
[[agent]]
name = "alice"
groups = ["eng", "ops"]
[[agent]]
name = "bob"
"#;

#[test]
fn an_empty_policy_allows_nothing() {
    let policy = policy("");
    assert_eq!(policy.decide("alice", &tcp("web", 80)), deny(None, "no policy permits it"));
    assert!(!policy.may_reach("alice", "c1").allowed);
}

#[test]
fn a_renewed_policy_of_the_same_text_decides_by_the_new_network() {
    let text = r#"permit(principal in Group::"eng", action, resource == Service::"web");"#;
    let first = policy(text);
    assert!(!first.decide("bob", &tcp("web", 80)).allowed);
    let promoted = NETWORK.replace("name = \"bob\"", "name = \"bob\"\ngroups = [\"eng\"]");
    let network = Network::parse(&promoted, "network.toml").unwrap();
    let second = first.renew(text, &network, "policy.cedar").unwrap();
    assert!(Arc::ptr_eq(&first.rules, &second.rules));
    assert!(second.decide("bob", &tcp("web", 80)).allowed);
    let third = second.renew("", &network, "policy.cedar").unwrap();
    assert!(!third.decide("bob", &tcp("web", 80)).allowed);
}

#[test]
fn more_policies_than_are_read_in_seconds_are_refused_with_their_number() {
    let network = Network::parse(NETWORK, "network.toml").unwrap();
    let error =
        Policy::new(&"permit(principal,action,resource);".repeat(20_001), &network, "policy.cedar").unwrap_err();
    assert!(error.to_string().starts_with("policy.cedar: holds 20001 policies, and 20000 are accepted"), "{error}");
}

#[test]
fn a_group_is_let_in_and_others_are_not() {
    let policy = policy(
        r#"@id("eng-web") permit(principal in Group::"eng", action == Action::"connect", resource == Service::"web");"#,
    );
    let decision = policy.decide("alice", &tcp("web", 80));
    assert_eq!((decision.allowed, decision.policy_id.as_deref()), (true, Some("eng-web")));
    assert!(!policy.decide("bob", &tcp("web", 80)).allowed);
    assert!(!policy.decide("alice", &tcp("db", 5432)).allowed);
    assert!(policy.may_reach("alice", "c1").allowed);
    assert!(!policy.may_reach("alice", "c2").allowed && !policy.may_reach("bob", "c1").allowed);
}

#[test]
fn what_the_network_does_not_declare_is_denied_under_any_policy() {
    let policy = policy("permit(principal, action, resource);");
    assert_eq!(policy.decide("alice", &tcp("web", 80)).policy_id.as_deref(), Some("policy0"));
    for (agent, service, protocol, port) in [
        ("mallory", "web", Protocol::Tcp, 80),
        ("alice", "nope", Protocol::Tcp, 80),
        ("alice", "web", Protocol::Tcp, 81),
        ("alice", "web", Protocol::Udp, 80),
        ("alice", "db", Protocol::Icmp, 0),
        ("alice\"", "web", Protocol::Tcp, 80),
    ] {
        let flow = FlowContext { protocol, port, ..tcp(service, port) };
        assert!(!policy.decide(agent, &flow).allowed, "{agent} {service} {protocol} {port}");
    }
    let ping = FlowContext { protocol: Protocol::Icmp, port: 0, ..tcp("web", 0) };
    assert!(policy.decide("alice", &ping).allowed);
    assert!(!policy.may_reach("mallory", "c1").allowed && !policy.may_reach("alice", "c9").allowed);
}

#[test]
fn a_forbid_wins_and_names_itself() {
    let policy = policy(
        "permit(principal, action, resource);\n@id(\"no-bob\") forbid(principal == Agent::\"bob\", action, resource);",
    );
    let decision = policy.decide("bob", &tcp("web", 80));
    assert_eq!(
        (decision.allowed, decision.policy_id.as_deref(), decision.reason.as_str()),
        (false, Some("no-bob"), "forbidden by `no-bob`")
    );
    assert!(!policy.may_reach("bob", "c1").allowed && policy.may_reach("alice", "c1").allowed);
}

#[test]
fn a_policy_that_fails_denies_what_another_permits() {
    // Validation can't see an overflow.
    let text = "permit(principal, action, resource);\n@id(\"broken\") permit(principal, action, resource) when { context.port * 9223372036854775807 > 0 };";
    let decision = policy(text).decide("alice", &tcp("web", 80));
    assert_eq!((decision.allowed, decision.policy_id.as_deref()), (false, Some("broken")));
    assert!(decision.reason.starts_with("a policy failed: "), "{}", decision.reason);
}

#[test]
fn what_does_not_parse_or_validate_is_refused_with_its_line() {
    for (text, line, says) in [
        ("permit(principal, action, resource)\nwhen { context.prot == 80 };", 2, "prot"),
        ("\npermit(principal, action, resource) when { context.port == \"80\" };", 2, "type"),
        ("\n\npermit(principal == User::\"alice\", action, resource);", 3, "User"),
        (
            "permit(principal, action, resource);\npermit(principal, action == Action::\"conect\", resource);",
            2,
            "conect",
        ),
        ("permit(principal, action, resource)\n\npermit(", 3, "unexpected"),
        (
            "permit(principal, action, resource);\n@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);",
            2,
            "used twice",
        ),
        ("@id(\"a\\nb\") permit(principal, action, resource);", 1, "letters, digits"),
    ] {
        let error = Policy::new(text, &network(), "D/policy.cedar").unwrap_err().to_string();
        assert!(error.starts_with(&format!("D/policy.cedar:{line}: ")) && error.contains(says), "{text}\n=> {error}");
    }
    let template =
        Policy::new("permit(principal == ?principal, action, resource);", &network(), "p").unwrap_err().to_string();
    assert!(template.contains("templates are not accepted"), "{template}");
}

#[test]
fn names_that_the_network_does_not_know_are_warned_about() {
    let policy = policy(
        "permit(principal in Group::\"egn\", action, resource == Service::\"web\") unless { principal == Agent::\"carol\" };",
    );
    assert_eq!(
        policy.warnings(),
        [
            "policy.cedar: names Agent::\"carol\", which is not in network.toml",
            "policy.cedar: names Group::\"egn\", which is not in network.toml"
        ]
    );
}

#[test]
fn a_port_condition_is_seen_by_decision_and_admission_alike() {
    let narrow = policy(
        "permit(principal, action, resource) when { context.port > 8004 && context.port < 8006 && context.protocol == \"tcp\" };",
    );
    assert!(narrow.decide("bob", &tcp("web", 8005)).allowed && !narrow.decide("bob", &tcp("web", 8006)).allowed);
    assert!(narrow.may_reach("bob", "c1").allowed && !narrow.may_reach("bob", "c2").allowed);
    let outside = policy("permit(principal, action, resource) when { context.port == 443 };");
    assert!(!outside.may_reach("bob", "c1").allowed);
}

#[test]
fn a_policy_on_the_path_admits_for_either_and_decides_for_one() {
    let policy = policy("permit(principal, action, resource) when { context.path == \"direct\" };");
    assert!(policy.reads_path() && !policy.reads_now());
    assert!(policy.may_reach("alice", "c1").allowed);
    assert!(!policy.decide("alice", &tcp("web", 80)).allowed);
    assert!(policy.decide("alice", &FlowContext { path: PathClass::Direct, ..tcp("web", 80) }).allowed);
}

#[test]
fn a_policy_on_the_time_is_decided_afresh_and_admits_always() {
    let text = r#"permit(principal == Agent::"alice", action, resource == Service::"web") when { context.now < datetime("2027-02-01") };
        forbid(principal, action, resource) when { context.now > datetime("2027-01-20") };"#;
    let policy = policy(text);
    assert!(policy.reads_now() && !policy.reads_path());
    let at = |now| policy.decide("alice", &FlowContext { now, ..tcp("web", 80) });
    assert!(at(now()).allowed);
    assert!(!at(now() + Duration::from_secs(10 * 86_400)).allowed);
    assert!(at(now()).allowed);
    assert!(policy.may_reach("alice", "c1").allowed && !policy.may_reach("bob", "c1").allowed);
}

#[test]
fn admission_never_refuses_what_a_decision_could_allow() {
    let conditions = [
        "context.port == 8003",
        "context.port != 80 && context.path == \"direct\"",
        "context.port * 2 == 16006",
        "[53, 8009].contains(context.port)",
        "if context.protocol == \"udp\" then context.port < 60 else context.port > 8008",
        "context.now > datetime(\"2020-01-01\") && context.port == 8001",
        "duration(\"8007ms\").toMilliseconds() == context.port",
        "context has now && !(context.protocol like \"t*\")",
        "principal in [Group::\"ops\", Group::\"none\"] || context.path == \"relay\"",
        "context == {protocol: \"tcp\", port: 8002, path: \"relay\", now: context.now}",
    ];
    let mut texts: Vec<String> = Vec::new();
    for one in conditions {
        for shape in ["when", "unless"] {
            texts.push(format!("permit(principal, action, resource) {shape} {{ {one} }};"));
            texts.push(format!(
                "permit(principal, action, resource); forbid(principal, action, resource) {shape} {{ {one} }};"
            ));
            for two in conditions {
                texts.push(format!("permit(principal, action, resource) {shape} {{ ({one}) && ({two}) }};"));
                texts.push(format!("permit(principal, action, resource) when {{ {one} }}; forbid(principal, action, resource) {shape} {{ ({one}) || ({two}) }};"));
            }
        }
    }
    let mut allowed = 0;
    for text in texts {
        let policy = policy(&text);
        for agent in ["alice", "bob"] {
            for connector in ["c1", "c2"] {
                let flow = some_allowed_flow(&policy, agent, connector);
                allowed += usize::from(flow.is_some());
                assert!(
                    flow.is_none() || policy.may_reach(agent, connector).allowed,
                    "{text}\n{agent} {connector} {flow:?}"
                );
            }
        }
    }
    assert!(allowed > 100, "{allowed} cases had anything to admit");
}

#[test]
fn a_remembered_decision_is_the_decision() {
    let policy = policy("permit(principal, action, resource) when { context.port == 80 };");
    for _ in 0..3 {
        assert!(policy.decide("alice", &tcp("web", 80)).allowed);
        assert!(!policy.decide("alice", &tcp("web", 8000)).allowed);
    }
}

/// Every flow of every service on the connector, at one time.
fn some_allowed_flow(policy: &Policy, agent: &str, connector: &str) -> Option<(String, Protocol, u16)> {
    let net = network();
    for service in net.services_of_connector(connector) {
        let ports = |of: &[crate::trust::PortRange]| of.iter().flat_map(|r| r.lo..=r.hi).collect::<Vec<_>>();
        let mut flows: Vec<(Protocol, u16)> = ports(&service.tcp).into_iter().map(|p| (Protocol::Tcp, p)).collect();
        flows.extend(ports(&service.udp).into_iter().map(|p| (Protocol::Udp, p)));
        flows.extend(service.icmp.then_some((Protocol::Icmp, 0)));
        for (protocol, port) in flows {
            for path in [PathClass::Relay, PathClass::Direct] {
                if policy
                    .decide(agent, &FlowContext { service: &service.name, protocol, port, path, now: now() })
                    .allowed
                {
                    return Some((service.name.clone(), protocol, port));
                }
            }
        }
    }
    None
}

fn tcp(service: &str, port: u16) -> FlowContext<'_> {
    FlowContext { service, protocol: Protocol::Tcp, port, path: PathClass::Relay, now: now() }
}

fn policy(text: &str) -> Policy {
    Policy::new(text, &network(), "policy.cedar").unwrap()
}

fn network() -> Network {
    Network::parse(NETWORK, "network.toml").unwrap()
}

fn now() -> SystemTime {
    // 2027-01-15
    system_time(1_800_000_000)
}
