//! The life of a trust folder: init, issue, publish, renew, revoke, rotate, as an operator runs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test says what it expects, and is its own host and clock"
)]

mod questions;
mod trust;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ztna_core::error::Error;
use ztna_core::io::folder::{FolderWatch, read_folder};
use ztna_core::io::pki_folder::run;
use ztna_core::trust::{Refusal, Snapshot};

use trust::{Trust, mode};

#[test]
fn a_fresh_folder_allows_nothing_and_every_role_can_be_issued() {
    let t = Trust::with_nodes();
    for (node, role) in [("alice", "agent"), ("c1", "connector"), ("r1", "relay")] {
        let snapshot = t.snapshot(node).unwrap();
        assert_eq!(snapshot.identity().id.to_string(), format!("spiffe://example.test/{role}/{node}"));
        assert_eq!(snapshot.policy.is_some(), role != "agent");
        assert_eq!(mode(&t.out(node).join("key.pem")), 0o600);
    }
    assert!(!t.snapshot("r1").unwrap().policy.unwrap().may_reach("alice", "c1").allowed);
    assert_eq!(mode(&t.dir().join("ca")) & 0o077, 0);
    for entry in fs::read_dir(t.dir().join("ca")).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.to_string_lossy().ends_with(".cert.pem") || mode(&path) == 0o600, "{}", path.display());
    }
}

#[test]
fn an_agents_folder_names_no_other_agent_and_has_no_policy() {
    let t = Trust::with_nodes();
    t.run("issue", json!({"role": "agent", "name": "bob", "out": t.out("bob")})).unwrap();
    t.publish(&["alice", "bob", "c1", "r1"]);
    let network = fs::read_to_string(t.out("alice").join("network.toml")).unwrap();
    assert!(network.contains("alice") && !network.contains("bob") && !network.contains('#'), "{network}");
    assert!(!t.out("alice").join("policy.cedar").exists() && !t.out("alice").join("revoked.toml").exists());
    assert_eq!(t.snapshot("c1").unwrap().network.agents.len(), 2);
}

#[test]
fn publishing_moves_every_node_to_one_new_version() {
    let t = Trust::with_nodes();
    let mut watch = FolderWatch::new(&t.out("c1"));
    let before = t.snapshot("c1").unwrap().version;
    t.permit();
    let report = t.publish(&["alice", "c1", "r1"]);
    let files = watch.poll(Instant::now()).unwrap().unwrap();
    assert!(files.version > before);
    for node in ["alice", "c1", "r1"] {
        assert_eq!(json!(t.snapshot(node).unwrap().version), report["version"]);
    }
    assert!(t.snapshot("r1").unwrap().policy.unwrap().may_reach("alice", "c1").allowed);
}

#[test]
fn an_invalid_policy_or_network_is_published_nowhere() {
    let t = Trust::with_nodes();
    let before = fs::read(t.out("r1").join("snapshot.json")).unwrap();
    fs::write(t.dir().join("policy.cedar"), "\npermit(principal, action, resource) when { context.prot == 1 };")
        .unwrap();
    let error = t.run("publish", json!({"outs": [t.out("c1"), t.out("r1")]})).unwrap_err();
    assert!(error.to_string().contains("policy.cedar:2: "), "{error}");
    fs::write(t.dir().join("policy.cedar"), "").unwrap();
    let network = t.dir().join("network.toml");
    fs::write(&network, fs::read_to_string(&network).unwrap() + "\n[[agent]]\nname = \"alice\"\n").unwrap();
    let error = t.run("publish", json!({"outs": [t.out("r1")]})).unwrap_err();
    assert!(error.to_string().contains("listed twice"), "{error}");
    assert_eq!(fs::read(t.out("r1").join("snapshot.json")).unwrap(), before);
}

#[test]
fn nothing_is_written_over_another_node_or_another_folder() {
    let t = Trust::with_nodes();
    let refused = |command: &str, options: Value, says: &str| {
        let error = t.run(command, options).unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && error.to_string().contains(says), "{error}");
    };
    refused("init", json!({"trustDomain": "example.test"}), "not empty");
    refused("issue", json!({"role": "agent", "name": "bob", "out": t.out("r1")}), "holds the folder of relay/r1");
    refused("issue", json!({"role": "agent", "name": "bob", "out": t.dir()}), "not empty");
    refused("issue", json!({"role": "agent", "name": "alice", "out": t.out("x")}), "was issued already");
    refused("issue", json!({"role": "agent", "name": "Al", "out": t.out("x")}), "a-z, 0-9");
    refused("issue", json!({"role": "admin", "name": "al", "out": t.out("x")}), "agent, connector or relay");
    refused("issue", json!({"role": "relay", "name": "r2", "out": t.out("x")}), "needs at least one");
    refused("issue", json!({"role": "relay", "name": "r2", "out": t.out("x"), "urls": ["http://a"]}), "https://");
    refused(
        "issue",
        json!({"role": "connector", "name": "c2", "out": t.out("x"), "groups": ["g"]}),
        "only agents have groups",
    );
    refused("issue", json!({"role": "agent", "name": "bob", "out": t.out("x"), "ttlSeconds": 0}), "at least 1 s");
    refused(
        "issue",
        json!({"role": "agent", "name": "bob", "out": t.out("x"), "ttlSeconds": 400_000_000}),
        "before the CA does",
    );
    refused("renew", json!({"name": "alice", "out": t.out("r1")}), "holds the folder of relay/r1");
    refused("renew", json!({"name": "carol", "out": t.out("x")}), "was never issued here; issued: agent/alice");
    refused("publish", json!({"outs": [t.out("x")]}), "holds no certificate");
    refused("publish", json!({"outs": []}), "at least one");
    refused("publish", json!({"outs": [], "force": true}), "unknown field `force`");
    refused("shred", json!({}), "is not one of init, issue");
    assert!(!t.out("x").exists());
    assert!(!fs::read_to_string(t.dir().join("network.toml")).unwrap().contains("bob"));
}

#[test]
fn renewing_gives_a_new_key_and_the_old_certificate_stays_good() {
    let t = Trust::with_nodes();
    let old = t.snapshot("alice").unwrap();
    let key = fs::read(t.out("alice").join("key.pem")).unwrap();
    let report = t.run("renew", json!({"name": "alice", "out": t.out("alice")})).unwrap();
    let new = t.snapshot("alice").unwrap();
    assert_eq!(json!(new.identity().serial), report["serial"]);
    assert_ne!(new.identity().serial, old.identity().serial);
    assert_ne!(fs::read(t.out("alice").join("key.pem")).unwrap(), key);
    assert!(new.version > old.version);
    assert_eq!(t.snapshot("r1").unwrap().still_trusted(old.identity(), t.now), Ok(()));
}

#[test]
fn a_revoked_node_is_refused_with_all_its_certificates_and_comes_back_with_a_new_one() {
    let t = Trust::with_nodes();
    let first = t.snapshot("alice").unwrap();
    t.run("renew", json!({"name": "alice", "out": t.out("alice")})).unwrap();
    let second = t.snapshot("alice").unwrap();
    let report = t.run("revoke", json!({"name": "alice"})).unwrap();
    assert_eq!((report["name"].as_str(), report["serials"].as_array().unwrap().len()), (Some("agent/alice"), 2));
    let published = t.publish(&["alice", "c1", "r1"]);
    assert_eq!(published["nodes"][0]["published"], json!(false));
    for node in ["c1", "r1"] {
        let snapshot = t.snapshot(node).unwrap();
        for old in [&first, &second] {
            assert_eq!(snapshot.still_trusted(old.identity(), t.now), Err(Refusal::Revoked));
        }
    }
    assert!(
        t.run("renew", json!({"name": "alice", "out": t.out("alice")})).unwrap_err().to_string().contains("is revoked")
    );

    t.run("issue", json!({"role": "agent", "name": "alice", "out": t.out("alice")})).unwrap();
    t.publish(&["alice", "c1", "r1"]);
    let relay = t.snapshot("r1").unwrap();
    assert_eq!(relay.still_trusted(t.snapshot("alice").unwrap().identity(), t.now), Ok(()));
    assert_eq!(relay.still_trusted(second.identity(), t.now), Err(Refusal::Revoked));
}

#[test]
fn a_name_that_two_roles_share_must_be_said_in_full() {
    let t = Trust::with_nodes();
    t.run("issue", json!({"role": "agent", "name": "c1", "out": t.out("agent-c1")})).unwrap();
    let error = t.run("revoke", json!({"name": "c1"})).unwrap_err().to_string();
    assert!(error.contains("say agent/c1 or connector/c1"), "{error}");
    assert_eq!(t.run("revoke", json!({"name": "connector/c1"})).unwrap()["name"], "connector/c1");
}

#[test]
fn a_rotation_never_leaves_two_nodes_that_distrust_each_other() {
    let t = Trust::with_nodes();
    let all = ["alice", "c1", "r1"];
    let trust_each_other = || {
        for a in all {
            for b in all {
                assert_eq!(
                    t.snapshot(a).unwrap().still_trusted(t.snapshot(b).unwrap().identity(), t.now),
                    Ok(()),
                    "{a} {b}"
                );
            }
        }
    };
    let report = t.run("rotate-ca", json!({})).unwrap();
    assert_eq!(report["renew"], json!(["agent/alice", "connector/c1", "relay/r1"]));
    t.publish(&all);
    trust_each_other();
    let old = t.snapshot("alice").unwrap();
    assert_eq!(old.anchors.certificates_der().count(), 2);
    for node in all {
        t.run("renew", json!({"name": node, "out": t.out(node)})).unwrap();
        trust_each_other();
    }
    let report = t.run("rotate-ca", json!({})).unwrap();
    assert_eq!((&report["phase"], &report["trustedCas"]), (&json!("finished"), &json!(1)));
    t.publish(&all);
    trust_each_other();
    assert_eq!(t.snapshot("alice").unwrap().anchors.certificates_der().count(), 1);
    assert_eq!(t.snapshot("r1").unwrap().still_trusted(old.identity(), t.now), Err(Refusal::UnknownCa));
    assert!(!t.dir().join("ca/1.key.pem").exists() && t.dir().join("ca/1.cert.pem").exists());
}

#[test]
fn a_rotation_is_started_then_finished_and_only_then_started_anew() {
    let t = Trust::with_nodes();
    let told = |report: &Value| {
        let advice = report["advice"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect::<Vec<_>>();
        (report["phase"].as_str().unwrap().to_owned(), report["trustedCas"].as_u64().unwrap(), advice.join("\n"))
    };
    for round in 0..2 {
        let (phase, cas, advice) = told(&t.run("rotate-ca", json!({})).unwrap());
        assert_eq!((phase.as_str(), cas), ("started", 2), "round {round}");
        let steps: Vec<_> = ["pki publish", "pki renew", "pki rotate-ca"].map(|s| advice.find(s).unwrap()).into();
        assert!(steps.is_sorted(), "{advice}");
        for node in ["alice", "c1", "r1"] {
            t.run("renew", json!({"name": node, "out": t.out(node)})).unwrap();
        }
        let (phase, cas, advice) = told(&t.run("rotate-ca", json!({})).unwrap());
        assert_eq!((phase.as_str(), cas), ("finished", 1), "round {round}");
        assert!(advice.contains("pki publish") && !advice.contains("rotate-ca"), "{advice}");
        assert!(advice.contains("cuts the flows") && advice.contains("publish after 20"), "{advice}");
    }
    let mut t = t;
    t.run("rotate-ca", json!({})).unwrap();
    t.now += Duration::from_secs(24 * 3600 + 1);
    let (phase, _, advice) = told(&t.run("rotate-ca", json!({})).unwrap());
    assert!(phase == "finished" && !advice.contains("cuts the flows"), "{advice}");
}

#[test]
fn a_rotation_is_not_finished_while_a_node_still_lives_by_the_old_ca() {
    let mut t = Trust::with_nodes();
    t.run("issue", json!({"role": "agent", "name": "bob", "out": t.out("bob"), "ttlSeconds": 60})).unwrap();
    t.run("rotate-ca", json!({})).unwrap();
    t.run("renew", json!({"name": "c1", "out": t.out("c1")})).unwrap();
    let state = fs::read(t.dir().join("ca/state.json")).unwrap();
    let error = t.run("rotate-ca", json!({})).unwrap_err();
    assert_eq!(error.code(), "ERR_ZTNA_CONFIG");
    let text = error.to_string();
    for node in ["agent/alice", "agent/bob", "relay/r1"] {
        assert!(text.contains(&format!("`ztna pki renew {} {node} --out OUT`", t.dir().display())), "{text}");
    }
    assert!(!text.contains("connector/c1") && text.contains("ztna pki revoke"), "{text}");
    assert_eq!(fs::read(t.dir().join("ca/state.json")).unwrap(), state);
    assert!(t.dir().join("ca/1.key.pem").exists());
    t.publish(&["alice", "c1", "r1"]);
    assert_eq!(t.snapshot("alice").unwrap().still_trusted(t.snapshot("c1").unwrap().identity(), t.now), Ok(()));
    // What has expired or was revoked holds nothing up.
    t.now += Duration::from_secs(61);
    t.run("revoke", json!({"name": "alice"})).unwrap();
    t.run("renew", json!({"name": "r1", "out": t.out("r1")})).unwrap();
    assert_eq!(t.run("rotate-ca", json!({})).unwrap()["phase"], "finished");
}

#[test]
fn a_trust_domain_that_is_not_the_cas_is_refused_with_its_line_by_every_command() {
    let t = Trust::with_nodes();
    let network = t.dir().join("network.toml");
    let text = fs::read_to_string(&network).unwrap();
    fs::write(&network, text.replace("\"example.test\"", "\"exmaple.test\"")).unwrap();
    let says = |why: &str| {
        assert!(why.contains("`exmaple.test`") && why.contains("`example.test`") && why.contains("pki init"), "{why}");
    };
    for (command, options) in [
        ("publish", json!({"outs": [t.out("r1")]})),
        ("renew", json!({"name": "r1", "out": t.out("r1")})),
        ("issue", json!({"role": "agent", "name": "bob", "out": t.out("bob")})),
        ("rotate-ca", json!({})),
    ] {
        let error = t.run(command, options).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:2: trust_domain", network.display())), "{command}: {error}");
        says(&error);
    }
    let report = t.run("policy-check", json!({})).unwrap();
    assert_eq!((&report["ok"], &report["findings"][0]["severity"]), (&json!(false), &json!("error")));
    assert_eq!(report["findings"][0]["at"], json!(format!("{}:2", network.display())));
    says(report["findings"][0]["message"].as_str().unwrap());
}

#[test]
fn certificates_that_have_expired_and_were_renewed_are_forgotten() {
    let mut t = Trust::with_nodes();
    let serials = |t: &Trust| {
        let state: Value = serde_json::from_slice(&fs::read(t.dir().join("ca/state.json")).unwrap()).unwrap();
        let of = |c: &Value| (c["name"] == "agent/alice").then(|| c["serial"].as_str().unwrap().to_owned());
        state["certificates"].as_array().unwrap().iter().filter_map(of).collect::<Vec<_>>()
    };
    for _ in 0..10 {
        t.now += Duration::from_secs(12 * 3600);
        t.run("renew", json!({"name": "alice", "out": t.out("alice")})).unwrap();
    }
    // The newest, the one before it, which is still good, and the one that expires just now: clocks differ.
    assert_eq!(serials(&t).len(), 3);
    let live = serials(&t);
    let report = t.run("revoke", json!({"name": "alice"})).unwrap();
    assert_eq!(report["serials"], json!(live));
    t.now += Duration::from_secs(48 * 3600);
    assert_eq!(t.run("revoke", json!({"name": "alice"})).unwrap()["serials"], json!([]));
    // The node is known as long as its last record is.
    assert!(t.run("issue", json!({"role": "agent", "name": "alice", "out": t.out("alice")})).is_ok());
    t.run("revoke", json!({"name": "c1"})).unwrap();
    assert!(t.run("renew", json!({"name": "r1", "out": t.out("r1")})).is_ok());
}

#[test]
fn a_folder_whose_renewal_failed_is_known_after_its_certificate_has_expired() {
    let mut t = Trust::with_nodes();
    let blocked = t.out("alice").join("key.pem");
    let key = fs::read(&blocked).unwrap();
    fs::remove_file(&blocked).unwrap();
    fs::create_dir(&blocked).unwrap();
    for _ in 0..4 {
        t.now += Duration::from_secs(13 * 3600);
        assert!(t.run("renew", json!({"name": "alice", "out": t.out("alice")})).is_err());
    }
    fs::remove_dir(&blocked).unwrap();
    fs::write(&blocked, key).unwrap();
    t.run("renew", json!({"name": "alice", "out": t.out("alice")})).unwrap();
}

#[test]
fn services_whose_connector_was_never_issued_are_told_in_one_line() {
    let t = Trust::with_nodes();
    let network = t.dir().join("network.toml");
    let mut text = fs::read_to_string(&network).unwrap();
    for name in ["db", "dns", "mail"] {
        text += &format!("\n[[service]]\nname = \"{name}\"\nconnectors = [\"c8\"]\ntcp = [1]\n");
    }
    fs::write(&network, &text).unwrap();
    let warnings = t.publish(&["r1"])["warnings"].clone();
    let dir = t.dir().display().to_string();
    let expected = format!(
        "{dir}/network.toml: services `db`, `dns`, `mail` name connector `c8`, which was never issued; issued: c1; `ztna pki issue {dir} connector c8 --out OUT` makes it"
    );
    assert_eq!(warnings, json!([expected]));
    fs::write(&network, text.replace("[\"c1\"]", "[\"c9\"]")).unwrap();
    let warnings = t.publish(&["r1"])["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    let line = warnings[0].as_str().unwrap();
    assert!(line.contains("`web`") && line.contains("connectors `c8`, `c9`, which were never issued"), "{line}");
}

#[test]
fn an_expired_certificate_stops_its_node_with_the_remedy() {
    let mut t = Trust::with_nodes();
    t.now += Duration::from_secs(24 * 3600 + 1);
    let error = t.snapshot("alice").unwrap_err();
    assert!(matches!(error, Error::Identity(_)) && error.to_string().contains("ztna pki renew"), "{error}");
    assert!(t.publish(&["alice"])["warnings"][0].as_str().unwrap().contains("has expired"));
    t.run("renew", json!({"name": "alice", "out": t.out("alice"), "ttlSeconds": 60})).unwrap();
    assert_eq!(t.snapshot("alice").unwrap().identity().not_after, t.now + Duration::from_secs(60));
}

#[test]
fn a_service_on_a_connector_that_was_never_issued_is_published_with_a_warning_that_names_the_command() {
    let t = Trust::with_nodes();
    let network = t.dir().join("network.toml");
    let text = fs::read_to_string(&network).unwrap().replace("[\"c1\"]", "[\"c1\", \"c9\"]");
    fs::write(&network, text).unwrap();
    let warnings = t.publish(&["r1"])["warnings"].clone();
    let expected = format!(
        "{}: service `web` names connector `c9`, which was never issued; issued: c1; `ztna pki issue {} connector c9 --out OUT` makes it",
        network.display(),
        t.dir().display()
    );
    assert_eq!(warnings, json!([expected]));
    let findings = t.run("policy-check", json!({})).unwrap()["findings"].clone();
    assert_eq!(
        (&findings[0]["severity"], &findings[0]["at"]),
        (&json!("warning"), &json!(network.display().to_string()))
    );
    t.run("issue", json!({"role": "connector", "name": "c9", "out": t.out("c9")})).unwrap();
    assert_eq!(t.publish(&["r1"])["warnings"], json!([]));
    t.run("revoke", json!({"name": "connector/c9"})).unwrap();
    assert!(t.publish(&["r1"])["warnings"][0].as_str().unwrap().contains("connector `c9`, which is revoked"));
}

#[test]
fn a_wrong_value_of_an_option_is_told_by_the_option_and_the_value() {
    let t = Trust::with_nodes();
    let at = |command: &str, options: Value| t.run(command, options).unwrap_err().to_string();
    let url = at("issue", json!({"role": "relay", "name": "r2", "out": t.out("x"), "urls": ["http://192.0.2.1:4433"]}));
    assert!(url.starts_with("--url: `http://192.0.2.1:4433` is not a relay's URL: https://<host"), "{url}");
    let group = at("issue", json!({"role": "agent", "name": "bob", "out": t.out("x"), "groups": ["en g"]}));
    assert!(group.starts_with("--group: group name `en g`: must be 1 to 63"), "{group}");
    let role = at("issue", json!({"role": "agent", "name": "bob", "out": t.out("x"), "urls": ["https://a"]}));
    assert_eq!(role, "--url: only relays have URLs, not an agent");
    let elsewhere = json!({"dir": t.root.path().join("new"), "trustDomain": "BAD_"}).to_string();
    let domain = run("init", &elsewhere, t.now).unwrap_err().to_string();
    assert!(domain.starts_with("--trust-domain: `BAD_` must be a lower-case DNS name"), "{domain}");
    assert!(!fs::read_to_string(t.dir().join("network.toml")).unwrap().contains("r2"));
}

#[test]
fn a_snapshot_takes_the_place_of_an_equal_or_older_one_only() {
    let t = Trust::with_nodes();
    let old = t.snapshot("c1").unwrap();
    t.permit();
    t.publish(&["c1"]);
    let new = t.snapshot("c1").unwrap();
    assert!(new.supersedes(&old).is_ok() && new.supersedes(&new).is_ok());
    let error = old.supersedes(&new).unwrap_err().to_string();
    let versions = format!("snapshot.json: version {} is older than {}, which is in use", old.version, new.version);
    assert!(error.starts_with(&versions) && error.contains("ztna pki publish"), "{error}");
}

#[test]
fn a_running_node_stays_who_it_is_though_its_folder_becomes_anothers() {
    let t = Trust::with_nodes();
    let (connector, relay) = (t.snapshot("c1").unwrap(), t.snapshot("r1").unwrap());
    let error = relay.supersedes(&connector).unwrap_err().to_string();
    assert!(error.contains("the certificate of `spiffe://") && error.contains("/connector/c1` runs on"), "{error}");
}

#[test]
fn a_relay_without_a_policy_does_not_start() {
    let t = Trust::with_nodes();
    let mut files = read_folder(&t.out("r1")).unwrap();
    files.policy_cedar = None;
    let error = Snapshot::from_files(&files, t.now).unwrap_err();
    assert!(error.to_string().contains("policy.cedar: missing: a relay decides by policy"), "{error}");
}

#[test]
fn a_damaged_record_of_certificates_is_not_worked_around() {
    let t = Trust::with_nodes();
    fs::write(t.dir().join("ca/state.json"), "{").unwrap();
    let error = t.run("revoke", json!({"name": "alice"})).unwrap_err().to_string();
    assert!(error.contains("state.json:1: damaged") && error.contains("backup"), "{error}");
    let elsewhere = run("publish", &json!({"dir": t.root.path(), "outs": ["x"]}).to_string(), t.now).unwrap_err();
    assert!(elsewhere.to_string().contains("not a trust folder"), "{elsewhere}");
}

#[test]
fn openssl_accepts_what_was_issued_for_its_purpose_only() {
    let t = Trust::with_nodes();
    for (node, purpose, good) in [
        ("alice", "sslclient", true),
        ("alice", "sslserver", false),
        ("c1", "sslclient", true),
        ("c1", "sslserver", true),
        ("r1", "sslserver", true),
        ("r1", "sslclient", false),
    ] {
        let out = t.out(node);
        let verdict = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
            .args([out.join("ca.pem"), out.join("cert.pem")])
            .output()
            .expect("this test runs the openssl command of Debian's package `openssl`");
        assert_eq!(verdict.status.success(), good, "{node} {purpose}: {}", String::from_utf8_lossy(&verdict.stderr));
    }
    let shown = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(t.out("r1").join("cert.pem"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains("URI:spiffe://example.test/relay/r1, DNS:r1.relay.example.test"), "{text}");
}
