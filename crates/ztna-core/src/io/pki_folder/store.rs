//! The operator's trust folder on disk: CAs, the record of what was issued, and atomic writes.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::io::folder::{file_error, read_text};
use crate::io::pki_folder::edit;
use crate::trust::pki::{BACKDATE, Ca, trust_domain_of};
use crate::trust::{Network, Policy, Revocations, Secret, unix_seconds};

pub(super) const NETWORK: &str = "network.toml";
pub(super) const POLICY: &str = "policy.cedar";
pub(super) const SCHEMA_FILE: &str = "schema.cedarschema";
pub(super) const REVOKED: &str = "revoked.toml";
const STATE: &str = "state.json";

/// Mode of what holds a key, and of what does not.
pub(super) const PRIVATE: u32 = 0o600;
pub(super) const PUBLIC: u32 = 0o644;

/// An open trust folder. One command at a time: the lock is held until this is dropped.
pub(super) struct Store {
    pub dir: PathBuf,
    pub state: State,
    _lock: File,
}

/// `ca/state.json`: what this folder has done.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct State {
    /// Version of the last publication.
    pub version: u64,
    /// Numbers of the trusted CAs, oldest first; the last one signs.
    pub cas: Vec<u32>,
    /// The certificates issued, oldest first; of each node at least the last one.
    pub certificates: Vec<Record>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Record {
    /// `agent/alice`.
    pub name: String,
    pub serial: String,
    /// Seconds since 1970.
    pub not_after: i64,
    pub ttl_seconds: u64,
    /// Number of the CA that signed it.
    pub ca: u32,
    /// SHA-256 of cert.pem's text, by which `publish` knows a node's folder.
    pub sha256: String,
}

impl Record {
    /// Whether no node accepts it any more, also one whose clock is behind by [`BACKDATE`]: nothing is left to revoke.
    pub fn is_over(&self, now: SystemTime) -> bool {
        now.checked_sub(BACKDATE).is_some_and(|at| self.not_after < unix_seconds(at))
    }
}

/// The operator's files, read and checked against each other.
pub(super) struct Checked {
    pub network: Network,
    pub policy_text: String,
    pub policy: Policy,
    pub revoked_text: String,
    pub revoked: Revocations,
}

impl Checked {
    /// By its serial or its node's name.
    pub fn is_revoked(&self, record: &Record) -> bool {
        self.revoked.names().any(|n| n == record.name) || self.revoked.serials().any(|s| s == record.serial)
    }
}

impl Store {
    /// Opens the folder of an earlier `init`.
    pub fn open(dir: &Path) -> Result<Store> {
        let ca = dir.join("ca");
        if !ca.is_dir() {
            let why = "not a trust folder: it has no ca/; make one with `ztna pki init DIR --trust-domain D`";
            return Err(Error::config(dir.display().to_string(), why));
        }
        let lock = lock(&ca)?;
        let path = ca.join(STATE);
        let text = read_text(&path)?.ok_or_else(|| {
            Error::config(path.display().to_string(), "missing: restore it from a backup of the trust folder")
        })?;
        let state: State = serde_json::from_str(&text).map_err(|e| {
            Error::config(format!("{}:{}", path.display(), e.line()), format!("damaged: {e}; restore it from a backup"))
        })?;
        if state.cas.is_empty() {
            return Err(Error::config(path.display().to_string(), "names no CA; restore it from a backup"));
        }
        Ok(Store { dir: dir.to_owned(), state, _lock: lock })
    }

    /// Makes a new, empty one. `dir` must not exist or be empty.
    pub fn create(dir: &Path) -> Result<Store> {
        require_empty(dir, "init makes a new trust folder and never overwrites one; choose another DIR")?;
        let ca = dir.join("ca");
        make_dir(dir, 0o755)?;
        make_dir(&ca, 0o700)?;
        let lock = lock(&ca)?;
        Ok(Store { dir: dir.to_owned(), state: State::default(), _lock: lock })
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }
    pub fn at(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }

    pub fn save_state(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.state).map_err(|e| Error::Internal(e.to_string()))?;
        write_atomic(&self.path("ca").join(STATE), &format!("{text}\n"), PRIVATE)
    }

    /// Writes a CA under the next number, which becomes the signing one once the state is saved.
    pub fn add_ca(&mut self, ca: &Ca) -> Result<()> {
        let number = self.state.cas.iter().max().map_or(1, |n| n + 1);
        write_atomic(&self.ca_path(number, "key.pem"), ca.key_pem.expose(), PRIVATE)?;
        write_atomic(&self.ca_path(number, "cert.pem"), &ca.cert_pem, PUBLIC)?;
        self.state.cas.push(number);
        Ok(())
    }

    /// The signing CA and its number.
    pub fn signing_ca(&self) -> Result<(u32, Ca)> {
        let number = self.state.cas.last().copied().ok_or_else(|| Error::Internal("no CA".to_owned()))?;
        let (cert_pem, key_pem) = (self.ca_text(number, "cert.pem")?, self.ca_text(number, "key.pem")?);
        Ok((number, Ca { cert_pem, key_pem: Secret::new(key_pem) }))
    }

    /// What nodes will hold against every certificate: a CA is made for one trust domain.
    fn check_trust_domain(&self, network: &Network, text: &str) -> Result<()> {
        let number = self.state.cas.last().copied().ok_or_else(|| Error::Internal("no CA".to_owned()))?;
        let at = self.ca_path(number, "cert.pem").display().to_string();
        let own = trust_domain_of(&self.ca_text(number, "cert.pem")?)
            .map_err(|why| Error::config(&at, format!("{why}; restore it from a backup of the trust folder")))?;
        if own == network.trust_domain {
            return Ok(());
        }
        Err(Error::config(
            format!("{}:{}", self.at(NETWORK), edit::line_of_trust_domain(text)),
            format!(
                "trust_domain is `{}`, but the CA and every certificate here are for `{own}`: put that back; another trust \
                 domain needs a trust folder of its own (`ztna pki init`)",
                network.trust_domain
            ),
        ))
    }

    /// Forgets a CA's key for good; its certificate stays for the record.
    pub fn drop_ca(&mut self, number: u32) -> Result<()> {
        self.state.cas.retain(|n| *n != number);
        let key = self.ca_path(number, "key.pem");
        match fs::remove_file(&key) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(file_error(&key, &e)),
        }
    }

    /// ca.pem as nodes get it: every trusted CA, the signing one first.
    pub fn ca_bundle(&self) -> Result<String> {
        let mut bundle = String::new();
        for number in self.state.cas.iter().rev() {
            bundle += &self.ca_text(*number, "cert.pem")?;
        }
        Ok(bundle)
    }

    fn ca_text(&self, number: u32, kind: &str) -> Result<String> {
        let path = self.ca_path(number, kind);
        read_text(&path)?.ok_or_else(|| {
            Error::config(path.display().to_string(), "missing: restore it from a backup of the trust folder")
        })
    }

    fn ca_path(&self, number: u32, kind: &str) -> PathBuf {
        self.path("ca").join(format!("{number}.{kind}"))
    }

    /// Reads what the operator edits, refusing anything a node would refuse. `network` replaces the file's text when a
    /// command is about to change it.
    pub fn check(&self, network: Option<&str>, revoked: Option<&str>) -> Result<Checked> {
        let read = |file: &str| read_text(&self.path(file));
        let network_text = match network {
            Some(text) => text.to_owned(),
            None => read(NETWORK)?.ok_or_else(|| {
                Error::config(self.at(NETWORK), "missing: a trust folder needs one; see `ztna pki init`")
            })?,
        };
        let network = Network::parse(&network_text, &self.at(NETWORK))?;
        self.check_trust_domain(&network, &network_text)?;
        let policy_text =
            read(POLICY)?.ok_or_else(|| Error::config(self.at(POLICY), "missing: an empty file allows nothing"))?;
        let policy = Policy::new(&policy_text, &network, &self.at(POLICY))?;
        let revoked_text = match revoked {
            Some(text) => text.to_owned(),
            None => read(REVOKED)?.ok_or_else(|| {
                Error::config(self.at(REVOKED), "missing: revocations must not be lost; restore it or make it empty")
            })?,
        };
        let revoked = Revocations::parse(&revoked_text, &self.at(REVOKED))?;
        Ok(Checked { network, policy_text, policy, revoked_text, revoked })
    }

    /// `agent/alice` for `alice` or `agent/alice`, among the nodes that were issued.
    pub fn resolve(&self, name: &str) -> Result<String> {
        let known: BTreeSet<&str> = self.state.certificates.iter().map(|c| c.name.as_str()).collect();
        let matching: Vec<&str> =
            known.iter().copied().filter(|k| *k == name || k.split_once('/').is_some_and(|(_, n)| n == name)).collect();
        match matching.as_slice() {
            [one] => Ok((*one).to_owned()),
            [] => {
                let list = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.into_iter().take(20).collect::<Vec<_>>().join(", ")
                };
                Err(Error::config(
                    format!("node `{}`", name.escape_debug()),
                    format!("was never issued here; issued: {list}"),
                ))
            }
            several => {
                Err(Error::config(format!("node `{name}`"), format!("is ambiguous: say {}", several.join(" or "))))
            }
        }
    }

    /// Forgets certificates of a node that are over, as it gets another one. The one that lies in `out` stays known: should
    /// writing there fail, the folder is still this node's.
    pub fn forget_over(&mut self, name: &str, out: &Path, now: SystemTime) -> Result<()> {
        let held = self.node_of(out)?.map(|c| c.serial.clone());
        self.state.certificates.retain(|c| c.name != name || Some(&c.serial) == held.as_ref() || !c.is_over(now));
        Ok(())
    }

    /// The node whose certificate lies in `out`.
    pub fn node_of(&self, out: &Path) -> Result<Option<&Record>> {
        let Some(cert) = read_text(&out.join("cert.pem"))? else { return Ok(None) };
        let hash = crate::io::folder::sha256_hex(cert.as_bytes());
        Ok(self.state.certificates.iter().find(|c| c.sha256 == hash))
    }
}

/// Replaces a file in one step: a reader sees the old text or the new one, also after a power cut.
pub(super) fn write_atomic(path: &Path, text: &str, mode: u32) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = dir.join(format!(".{name}.{}.new", std::process::id()));
    let write = || -> std::io::Result<()> {
        // Left over from a killed process of the same number; `create_new` below then sets the mode afresh.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| file_error(path, &e))
}

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|e| file_error(path, &e))
}

/// Refuses a folder that has anything in it.
pub(super) fn require_empty(dir: &Path, remedy: &str) -> Result<()> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::config(dir.display().to_string(), format!("not empty: {remedy}"))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(file_error(dir, &e)),
    }
}

fn lock(ca: &Path) -> Result<File> {
    let path = ca.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(&path)
        .map_err(|e| file_error(&path, &e))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| file_error(&path, &e.into()))?;
    Ok(file)
}
