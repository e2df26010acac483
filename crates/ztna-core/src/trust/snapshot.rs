//! Everything a node was told, as one value that is applied whole or not at all.

use std::sync::Arc;
use std::time::SystemTime;

use crate::error::Error;
use crate::id::Role;
use crate::trust::anchors::TrustAnchors;
use crate::trust::credentials::{Credentials, Secret};
use crate::trust::identity::PeerIdentity;
use crate::trust::network::Network;
use crate::trust::policy::Policy;
use crate::trust::revocation::Revocations;

/// One version of a node's world. Cheap to clone; never changed, only replaced.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows with every publication.
    pub version: u64,
    pub network: Arc<Network>,
    pub credentials: Arc<Credentials>,
    pub anchors: Arc<TrustAnchors>,
    /// Always present at relays and connectors, never at agents.
    pub policy: Option<Arc<Policy>>,
    pub revoked: Arc<Revocations>,
}

/// The files of a node's folder, read but not yet believed.
#[derive(Clone)]
pub struct NodeFiles {
    pub cert_pem: String,
    pub key_pem: Secret,
    pub ca_pem: String,
    pub network_toml: String,
    /// Relays and connectors only.
    pub policy_cedar: Option<String>,
    /// Relays and connectors only.
    pub revoked_toml: Option<String>,
    pub version: u64,
    /// Where they came from, for error texts.
    pub folder: Option<String>,
}

impl Snapshot {
    /// Checks all files against each other and builds the snapshot. On error nothing of them is used.
    ///
    /// Errors: [`Error::Config`] with file and line, [`Error::Identity`] for an unusable certificate.
    pub fn from_files(files: &NodeFiles, now: SystemTime) -> Result<Snapshot, Error> {
        Snapshot::build(files, now, None)
    }

    /// As [`from_files`](Self::from_files), with what has not changed since `self`: a renewed certificate then costs no policies.
    pub fn next(&self, files: &NodeFiles, now: SystemTime) -> Result<Snapshot, Error> {
        Snapshot::build(files, now, Some(self))
    }

    fn build(files: &NodeFiles, now: SystemTime, used: Option<&Snapshot>) -> Result<Snapshot, Error> {
        let folder = files.folder.as_deref().map_or_else(String::new, |f| format!("{}/", f.trim_end_matches('/')));
        let at = |file: &str| format!("{folder}{file}");
        let network = Network::parse(&files.network_toml, &at("network.toml"))?;
        let anchors = TrustAnchors::from_pem(&files.ca_pem, &at("ca.pem"))?;
        let revoked = match &files.revoked_toml {
            Some(text) => Revocations::parse(text, &at("revoked.toml"))?,
            None => Revocations::default(),
        };
        let credentials = Credentials::from_pem(
            files.cert_pem.clone(),
            files.key_pem.clone(),
            &anchors,
            &network.trust_domain,
            &revoked,
            now,
            &folder,
        )?;
        let network = match used {
            Some(used) if *used.network == network => used.network.clone(),
            Some(_) | None => Arc::new(network),
        };
        let policy = match (credentials.leaf.id.role(), &files.policy_cedar) {
            (Role::Agent, _) => None,
            (Role::Connector | Role::Relay, Some(text)) => {
                let at = at("policy.cedar");
                Some(match used.and_then(|used| Some((used, used.policy.as_ref()?))) {
                    Some((used, policy)) if Arc::ptr_eq(&used.network, &network) && policy.is_of(text) => {
                        policy.clone()
                    }
                    Some((_, policy)) => Arc::new(policy.renew(text, &network, &at)?),
                    None => Arc::new(Policy::new(text, &network, &at)?),
                })
            }
            (role @ (Role::Connector | Role::Relay), None) => {
                return Err(Error::config(
                    at("policy.cedar"),
                    format!(
                        "missing: a {role} decides by policy and does not start without one; an empty file allows nothing"
                    ),
                ));
            }
        };
        Ok(Snapshot {
            version: files.version,
            network,
            credentials: Arc::new(credentials),
            anchors: Arc::new(anchors),
            policy,
            revoked: Arc::new(revoked),
        })
    }

    /// Who this node is.
    pub fn identity(&self) -> &PeerIdentity {
        &self.credentials.leaf
    }

    /// Whether a running node may go from `used` to this one. A folder that was put back as a whole matches its own hashes; only
    /// its version tells that it would undo a revocation.
    ///
    /// Errors: [`Error::Config`] when this one is older; [`Error::Identity`] when it is another node's.
    pub fn supersedes(&self, used: &Snapshot) -> Result<(), Error> {
        let (new, old) = (&self.identity().id, &used.identity().id);
        if new != old {
            return Err(Error::Identity(format!(
                "the folder now holds the certificate of `{new}`, and `{old}` runs on: put the folder of `{old}` back, or start anew \
                 to run as `{new}`"
            )));
        }
        if self.version >= used.version {
            return Ok(());
        }
        Err(Error::config(
            "snapshot.json",
            format!(
                "version {} is older than {}, which is in use and stays: an older copy of the folder was put back. To go back, put \
                 the trust folder's own files back and run `ztna pki publish`, which makes them the newest version; a node that \
                 starts takes what lies there",
                self.version, used.version
            ),
        ))
    }

    /// Judges a connected peer under this snapshot.
    pub fn still_trusted(&self, peer: &PeerIdentity, now: SystemTime) -> Result<(), crate::trust::Refusal> {
        self.anchors.still_trusted(peer, &self.network.trust_domain, &self.revoked, now)
    }
}
