//! The trust folder that the tests of `ztna pki` run on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use ztna_core::error::Error;
use ztna_core::io::folder::read_folder;
use ztna_core::io::pki_folder::run;
use ztna_core::trust::Snapshot;

/// A trust folder `trust` with the nodes alice, c1 and r1 beside it.
pub struct Trust {
    pub root: tempfile::TempDir,
    pub now: SystemTime,
}

impl Trust {
    pub fn with_nodes() -> Trust {
        // Certificates hold whole seconds.
        let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let t =
            Trust { root: tempfile::tempdir().unwrap(), now: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) };
        t.run("init", json!({"trustDomain": "example.test"})).unwrap();
        let network = t.dir().join("network.toml");
        let service = "\n[[service]]\nname = \"web\"\nconnectors = [\"c1\"]\ntcp = [80]\n";
        fs::write(&network, fs::read_to_string(&network).unwrap() + service).unwrap();
        t.run("issue", json!({"role": "relay", "name": "r1", "out": t.out("r1"), "urls": ["https://192.0.2.1:4433"]}))
            .unwrap();
        t.run("issue", json!({"role": "connector", "name": "c1", "out": t.out("c1")})).unwrap();
        t.run("issue", json!({"role": "agent", "name": "alice", "out": t.out("alice"), "groups": ["eng"]})).unwrap();
        t.publish(&["alice", "c1", "r1"]);
        t
    }
    pub fn dir(&self) -> PathBuf {
        self.root.path().join("trust")
    }
    pub fn out(&self, node: &str) -> PathBuf {
        self.root.path().join("nodes").join(node)
    }
    pub fn run(&self, command: &str, mut options: Value) -> Result<Value, Error> {
        options["dir"] = json!(self.dir());
        run(command, &options.to_string(), self.now).map(|report| serde_json::from_str(&report).unwrap())
    }
    pub fn publish(&self, nodes: &[&str]) -> Value {
        let outs: Vec<PathBuf> = nodes.iter().map(|n| self.out(n)).collect();
        self.run("publish", json!({ "outs": outs })).unwrap()
    }
    pub fn examine(&self, node: &str, with_trust: bool) -> Value {
        let mut options = json!({"node": self.out(node)});
        if with_trust {
            options["trust"] = json!(self.dir());
        }
        serde_json::from_str(&run("examine", &options.to_string(), self.now).unwrap()).unwrap()
    }
    pub fn permit(&self) {
        let text = "@id(\"eng-web\")\npermit(principal in Group::\"eng\", action == Action::\"connect\", resource == Service::\"web\");\n";
        fs::write(self.dir().join("policy.cedar"), text).unwrap();
    }
    pub fn snapshot(&self, node: &str) -> Result<Snapshot, Error> {
        Snapshot::from_files(&read_folder(&self.out(node))?, self.now)
    }
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
