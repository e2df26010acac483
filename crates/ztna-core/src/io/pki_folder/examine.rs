//! What `ztna doctor` asks: is a node's folder sound, part by part, does its policy let anybody in, and has what the trust folder
//! says now been published to it.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::publish;
use super::question::connector_warnings;
use super::store::{Checked, Store};
use crate::error::{Error, Result};
use crate::io::folder::read_folder;
use crate::trust::network::PortRange;
use crate::trust::{FlowContext, Network, NodeFiles, PathClass, Policy, Protocol, Snapshot};

/// Decisions that one examination takes, each a few microseconds to a millisecond: more ports than these are not asked about.
const MOST_DECISIONS: usize = 5_000;

/// What to look at; at least one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExamineOptions {
    /// A node's folder.
    #[serde(default)]
    pub node: Option<PathBuf>,
    /// A trust folder. Nothing in it is changed.
    #[serde(default)]
    pub trust: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExamineReport {
    pub node: Option<Examined>,
    pub trust: Option<Examined>,
    /// With both.
    pub publication: Option<Publication>,
}

/// One folder. What is missing could not be found out, and a fault says why.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Examined {
    pub faults: Vec<Fault>,
    /// Of the snapshot, or of the last publication.
    pub version: Option<u64>,
    /// `spiffe://…`, of a node.
    pub id: Option<String>,
    /// Not at agents, which hold none.
    pub policy: Option<PolicyReport>,
    /// Connectors that services name and that can't serve.
    pub warnings: Vec<String>,
}

/// What a role would refuse to start with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// `files`, `network`, `identity`, `policy`, or `trust` for a trust folder's own.
    pub part: &'static str,
    /// `ERR_ZTNA_…`.
    pub code: &'static str,
    pub message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// Services to which no agent of the network is permitted anything.
    pub barred: Vec<String>,
    /// Services of which only a part was asked about, being too many ports and agents.
    pub undecided: usize,
    /// What the validator found odd.
    pub warnings: Vec<String>,
}

/// How a node's folder stands to the trust folder.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Publication {
    /// `agent/alice`; `None`: its certificate was not issued there, or is no longer the newest.
    pub name: Option<String>,
    /// Files that `publish` would change.
    pub stale: Vec<&'static str>,
}

/// Reads folders and judges them. Errors: `Config` when neither is named; what is wrong in a folder is in the report.
pub fn examine(options: &ExamineOptions, now: SystemTime) -> Result<ExamineReport> {
    if options.node.is_none() && options.trust.is_none() {
        return Err(Error::config("examine", "name a node's folder or a trust folder"));
    }
    let mut report =
        ExamineReport { node: options.node.as_deref().map(|dir| examine_node(dir, now)), ..Default::default() };
    let Some(dir) = &options.trust else { return Ok(report) };
    let mut trust = Examined::default();
    match open(dir) {
        Ok((store, checked)) => {
            trust.version = Some(store.state.version);
            trust.policy = Some(policy_report(&checked.policy, &checked.network, now));
            trust.warnings = connector_warnings(&store, &checked);
            if let Some(node) = &options.node {
                match publication(&store, &checked, node) {
                    Ok(found) => report.publication = Some(found),
                    Err(e) => trust.faults.push(fault("trust", &e)),
                }
            }
        }
        Err(e) => trust.faults.push(fault("trust", &e)),
    }
    report.trust = Some(trust);
    Ok(report)
}

fn open(dir: &Path) -> Result<(Store, Checked)> {
    let store = Store::open(dir)?;
    let checked = store.check(None, None)?;
    Ok((store, checked))
}

fn publication(store: &Store, checked: &Checked, node: &Path) -> Result<Publication> {
    let Some(record) = store.node_of(node)? else { return Ok(Publication { name: None, stale: Vec::new() }) };
    let stale = publish::prepare(store, checked, &record.name, node, None)?.stale()?;
    Ok(Publication { name: Some(record.name.clone()), stale })
}

fn examine_node(dir: &Path, now: SystemTime) -> Examined {
    let mut found = Examined::default();
    let files = match read_folder(dir) {
        Ok(files) => files,
        Err(e) => {
            found.faults.push(fault("files", &e));
            return found;
        }
    };
    found.version = Some(files.version);
    let at = |file: &str| dir.join(file).display().to_string();
    let network = match Network::parse(&files.network_toml, &at("network.toml")) {
        Ok(network) => network,
        Err(e) => {
            found.faults.push(fault("network", &e));
            return found;
        }
    };
    let policy = files.policy_cedar.as_deref().map(|text| Policy::new(text, &network, &at("policy.cedar")));
    match policy.transpose() {
        Ok(policy) => found.policy = policy.map(|policy| policy_report(&policy, &network, now)),
        Err(e) => found.faults.push(fault("policy", &e)),
    }
    // Without the policy, whose fault has been told and would hide another.
    match Snapshot::from_files(&without_policies(files), now) {
        Ok(snapshot) => found.id = Some(snapshot.identity().id.to_string()),
        Err(e) => found.faults.push(fault("identity", &e)),
    }
    found
}

/// An empty policy takes the place of one; where there is none, that is a fault of its own.
fn without_policies(files: NodeFiles) -> NodeFiles {
    NodeFiles { policy_cedar: files.policy_cedar.as_ref().map(|_| String::new()), ..files }
}

fn policy_report(policy: &Policy, network: &Network, now: SystemTime) -> PolicyReport {
    let mut report = PolicyReport { barred: Vec::new(), undecided: 0, warnings: policy.warnings().to_vec() };
    let mut left = MOST_DECISIONS;
    for service in network.services.values() {
        let ports = |protocol, ranges: &[PortRange]| -> Vec<(Protocol, u16, u16)> {
            ranges.iter().map(|r| (protocol, r.lo, r.hi)).collect()
        };
        let mut asked = [ports(Protocol::Tcp, &service.tcp), ports(Protocol::Udp, &service.udp)].concat();
        if service.icmp {
            asked.push((Protocol::Icmp, 0, 0));
        }
        let asked = asked.into_iter().flat_map(|(protocol, lo, hi)| (lo..=hi).map(move |port| (protocol, port)));
        let flows = asked.flat_map(|(protocol, port)| {
            [PathClass::Relay, PathClass::Direct].map(|path| FlowContext {
                service: &service.name,
                protocol,
                port,
                path,
                now,
            })
        });
        let mut questions = flows.flat_map(|flow| network.agents.keys().map(move |agent| (agent, flow)));
        let mut permitted = false;
        while !permitted && left > 0 {
            let Some((agent, flow)) = questions.next() else { break };
            left -= 1;
            permitted = policy.decide(agent, &flow).allowed;
        }
        if permitted {
            continue;
        }
        if left == 0 && questions.next().is_some() {
            report.undecided += 1;
        } else {
            report.barred.push(service.name.clone());
        }
    }
    report
}

fn fault(part: &'static str, error: &Error) -> Fault {
    Fault { part, code: error.code(), message: error.to_string() }
}
