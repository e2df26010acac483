//! What an operator asks of a trust folder without a running node: policy questions, and examinations of a node's folder.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use ztna_core::io::pki_folder::run;

use super::trust::Trust;

#[test]
fn a_policy_question_is_answered_without_a_running_node() {
    let t = Trust::with_nodes();
    let ask = |options: Value| t.run("policy-check", options).unwrap();
    let denied = ask(json!({"agent": "alice", "to": "web:80", "protocol": "tcp"}));
    assert_eq!((&denied["ok"], &denied["decision"]["allowed"]), (&json!(true), &json!(false)));
    t.permit();
    let allowed = ask(json!({"agent": "alice", "to": "web:80"}));
    assert_eq!((&allowed["decision"]["allowed"], &allowed["decision"]["policyId"]), (&json!(true), &json!("eng-web")));
    assert_eq!(ask(json!({"agent": "alice", "to": "web"}))["decision"]["allowed"], json!(true));
    assert_eq!(ask(json!({}))["decision"], json!(null));
    fs::write(t.dir().join("policy.cedar"), "permit(").unwrap();
    let broken = ask(json!({}));
    assert_eq!((&broken["ok"], &broken["findings"][0]["severity"]), (&json!(false), &json!("error")));
}

#[test]
fn a_policy_question_about_a_revoked_agent_is_answered_with_the_revocation() {
    let t = Trust::with_nodes();
    t.permit();
    let ask = || t.run("policy-check", json!({"agent": "alice", "to": "web:80"})).unwrap()["decision"].clone();
    assert_eq!(ask()["allowed"], json!(true));
    t.run("revoke", json!({"name": "alice"})).unwrap();
    assert_eq!((&ask()["allowed"], &ask()["policyId"]), (&json!(false), &json!(null)));
    assert!(ask()["reason"].as_str().unwrap().starts_with("revoked: "), "{}", ask());
    // By the serial of the certificate it has, too.
    let revoked = t.dir().join("revoked.toml");
    let text = fs::read_to_string(&revoked).unwrap().replace("\"agent/alice\"", "");
    fs::write(&revoked, text).unwrap();
    assert!(ask()["reason"].as_str().unwrap().starts_with("revoked: "), "{}", ask());
    t.run("renew", json!({"name": "alice", "out": t.out("alice")})).unwrap();
    assert_eq!(ask()["allowed"], json!(true));
}

#[test]
fn a_policy_that_reads_the_path_can_be_asked_about_either() {
    let t = Trust::with_nodes();
    let policy = r#"@id("web-direct") permit(principal, action == Action::"connect", resource == Service::"web") when { context.path == "direct" };"#;
    fs::write(t.dir().join("policy.cedar"), policy).unwrap();
    let ask = |path: Value| {
        t.run("policy-check", json!({"agent": "alice", "to": "web:80", "path": path})).map(|r| r["decision"].clone())
    };
    let direct = ask(json!("direct")).unwrap();
    assert_eq!(
        (&direct["allowed"], &direct["policyId"], &direct["path"]),
        (&json!(true), &json!("web-direct"), &json!(null))
    );
    assert_eq!(ask(json!("relay")).unwrap()["allowed"], json!(false));
    let any = ask(json!(null)).unwrap();
    assert_eq!((&any["allowed"], &any["path"]), (&json!(true), &json!("direct")));
    assert_eq!(any["reason"], json!("policy `web-direct` permits it on a direct path only"));
    let wrong = ask(json!("sideways")).unwrap_err().to_string();
    assert_eq!(wrong, "path `sideways`: must be direct or relay");
}

#[test]
fn a_policy_question_with_a_name_that_is_not_in_the_network_is_a_mistake_and_no_denial() {
    let t = Trust::with_nodes();
    for (agent, to, says) in [
        ("alcie", "web:80", "agent `alcie`: not in network.toml; known: alice"),
        ("alice", "wbe:80", "service `wbe`: not in network.toml; known: web"),
    ] {
        let error = t.run("policy-check", json!({"agent": agent, "to": to})).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), ("ERR_ZTNA_CONFIG", says));
    }
}

#[test]
fn an_examination_tells_of_each_part_of_a_nodes_folder() {
    let t = Trust::with_nodes();
    let sound = t.examine("c1", false);
    assert_eq!(sound["node"]["faults"], json!([]));
    assert_eq!(sound["node"]["id"], "spiffe://example.test/connector/c1");
    assert_eq!(sound["node"]["policy"]["barred"], json!(["web"]));
    assert_eq!(t.examine("alice", false)["node"]["policy"], Value::Null);

    let expired = SystemTime::now() + Duration::from_secs(3 * 86_400);
    let late = run("examine", &json!({"node": t.out("c1")}).to_string(), expired).unwrap();
    let late: Value = serde_json::from_str(&late).unwrap();
    assert_eq!((late["node"]["faults"][0]["part"].as_str(), late["node"]["id"].as_str()), (Some("identity"), None));
    assert_eq!(late["node"]["policy"]["barred"], json!(["web"]));

    fs::write(t.out("c1").join("ca.pem"), "").unwrap();
    let torn = &t.examine("c1", false)["node"]["faults"];
    assert_eq!((torn[0]["part"].as_str(), torn.as_array().unwrap().len()), (Some("files"), 1));
}

#[test]
fn an_examination_names_the_files_that_were_not_published_and_the_services_that_nobody_may_reach() {
    let t = Trust::with_nodes();
    assert_eq!(t.examine("c1", true)["publication"], json!({"name": "connector/c1", "stale": []}));
    t.permit();
    let found = t.examine("c1", true);
    assert_eq!(found["publication"]["stale"], json!(["policy.cedar"]));
    assert_eq!(
        (&found["trust"]["policy"]["barred"], &found["node"]["policy"]["barred"]),
        (&json!([]), &json!(["web"]))
    );
    assert_eq!(t.examine("alice", true)["publication"]["stale"], json!([]));
    t.publish(&["c1"]);
    assert_eq!(t.examine("c1", true)["publication"]["stale"], json!([]));
    fs::write(t.dir().join("policy.cedar"), "permit(").unwrap();
    let broken = t.examine("c1", true);
    assert!(broken["trust"]["faults"][0]["message"].as_str().unwrap().contains("policy.cedar:1"), "{broken}");
    assert_eq!(broken["publication"], Value::Null);
}
