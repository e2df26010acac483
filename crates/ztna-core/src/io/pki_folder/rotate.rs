//! A change of the CA in two runs: the first makes a second CA that signs from then on, the second drops the old one.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::pki_folder::question::shortened;
use crate::io::pki_folder::store::{Checked, Record, Store};
use crate::trust::pki::Ca;
use crate::trust::{rfc3339, system_time, unix_seconds};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotateOptions {
    pub dir: std::path::PathBuf,
}

/// What `rotate-ca` did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RotateReport {
    pub phase: Phase,
    /// Trusted from the next publication on: two from the start of a rotation to its finish (contract.md), one otherwise.
    pub trusted_cas: usize,
    /// Nodes to renew before the rotation can be finished: they live by the old CA.
    pub renew: Vec<String>,
    pub advice: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Two CAs are trusted, the new one signs.
    Started,
    /// The old CA is dropped.
    Finished,
}

/// Starts a rotation, or finishes the one that was started.
///
/// Errors: [`Error::Config`] when it can't be finished yet, because nodes live by the old CA; nothing has changed then.
pub fn rotate_ca(options: &RotateOptions, now: SystemTime) -> Result<RotateReport> {
    let mut store = Store::open(&options.dir)?;
    let checked = store.check(None, None)?;
    if store.state.cas.len() > 1 { finish(&mut store, &checked, now) } else { start(&mut store, &checked, now) }
}

fn start(store: &mut Store, checked: &Checked, now: SystemTime) -> Result<RotateReport> {
    let ca = Ca::generate(&checked.network.trust_domain, now)?;
    store.add_ca(&ca)?;
    store.save_state()?;
    let dir = store.dir.display();
    let advice = vec![
        format!("first publish to every node, so that all trust the new CA: ztna pki publish {dir} OUT..."),
        format!("once the folders have arrived, renew each node: ztna pki renew {dir} NAME --out OUT"),
        format!("once those have arrived, finish the rotation, which drops the old CA: ztna pki rotate-ca {dir}"),
    ];
    Ok(RotateReport {
        phase: Phase::Started,
        trusted_cas: store.state.cas.len(),
        renew: living_by_an_old_ca(store, checked, now),
        advice,
    })
}

fn finish(store: &mut Store, checked: &Checked, now: SystemTime) -> Result<RotateReport> {
    let late = living_by_an_old_ca(store, checked, now);
    let dir = store.dir.display().to_string();
    if !late.is_empty() {
        let renew: Vec<String> = late.iter().map(|name| format!("`ztna pki renew {dir} {name} --out OUT`")).collect();
        let renew: Vec<&str> = renew.iter().map(String::as_str).collect();
        return Err(Error::config(
            format!("{dir}/ca"),
            format!(
                "the rotation can't be finished yet: nodes live by the old CA. Run {}, and `ztna pki rotate-ca` again; a node \
                 that is gone is in the way until `ztna pki revoke` or until its certificate expires",
                shortened(&renew)
            ),
        ));
    }
    let signing = store.state.cas.last().copied();
    let old: Vec<u32> = store.state.cas.iter().copied().filter(|ca| Some(*ca) != signing).collect();
    store.state.cas.retain(|ca| Some(*ca) == signing);
    // The record first: were the old CA's key removed before, a failure here would leave a CA that is named but gone.
    store.save_state()?;
    for number in old {
        store.drop_ca(number)?;
    }
    let mut advice = vec![format!(
        "publish to every node that has taken its renewed folder; it trusts the old CA until then: ztna pki publish {dir} OUT..."
    )];
    // Renewed long ago or not: a connection lives by the certificate that it was made with.
    let replaced = store.state.certificates.iter().filter(|r| Some(r.ca) != signing && !checked.is_revoked(r));
    if let Some(end) = replaced.map(|r| r.not_after).max().filter(|end| *end >= unix_seconds(now)) {
        advice.push(format!(
            "that cuts the flows on connections made before the renewals, and nodes connect again at once; to cut none, publish \
             after {}, when the last of those certificates has ended",
            rfc3339(system_time(end))
        ));
    }
    Ok(RotateReport { phase: Phase::Finished, trusted_cas: store.state.cas.len(), renew: Vec::new(), advice })
}

/// Nodes whose newest certificate is good and not signed by the present CA.
fn living_by_an_old_ca(store: &Store, checked: &Checked, now: SystemTime) -> Vec<String> {
    let signing = store.state.cas.last().copied();
    let mut newest: BTreeMap<&str, &Record> = BTreeMap::new();
    for record in &store.state.certificates {
        newest.insert(record.name.as_str(), record);
    }
    let lives = |r: &&Record| Some(r.ca) != signing && r.not_after >= unix_seconds(now) && !checked.is_revoked(r);
    newest.into_values().filter(lives).map(|r| r.name.clone()).collect()
}
