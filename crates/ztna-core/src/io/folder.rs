//! A node's folder: read as a whole or not at all, and watched for the next version.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::trust::{NodeFiles, Secret};

/// The file that says which versions of the others belong together. Written last.
pub const SNAPSHOT: &str = "snapshot.json";

/// Files every node has.
pub const REQUIRED: [&str; 4] = ["cert.pem", "key.pem", "ca.pem", "network.toml"];

/// Files relays and connectors have besides.
pub const OPTIONAL: [&str; 2] = ["policy.cedar", "revoked.toml"];

/// Largest file that is read, in bytes. 100,000 revoked serials or 40,000 agents fit.
const FILE_MAX: u64 = 4 << 20;

/// Pause before a folder that could not be read is tried again without its snapshot.json having changed: what is being
/// copied in another order completes within this.
const RETRY: Duration = Duration::from_millis(500);

/// How often a folder that can't be read is spoken of: policy and revocations may be out of date all the while.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// The content of snapshot.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Grows with every publication.
    pub version: u64,
    /// SHA-256 of each file, lower-case hexadecimal.
    pub hashes: BTreeMap<String, String>,
}

/// Reads a node's folder. Nothing of it is believed yet: that is `Snapshot::from_files`.
///
/// Errors: [`Error::Permission`] for a key.pem that others may read or a file we may not, [`Error::Config`] for what is
/// missing, too large, or does not match snapshot.json (half-written: keep the old snapshot and try again).
pub fn read_folder(dir: &Path) -> Result<NodeFiles> {
    read_whole(dir).map_err(Error::from)
}

/// Why a folder was not taken.
enum Fault {
    /// The system did not let us read it.
    Unreadable(PathBuf, std::io::Error),
    /// Absent, half-written or wrong.
    Content(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Content(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreadable(path, error) => file_error(&path, &error),
            Fault::Content(error) => error,
        }
    }
}

fn read_whole(dir: &Path) -> std::result::Result<NodeFiles, Fault> {
    let manifest = manifest_of(dir)?;
    let at = |file: &str| dir.join(file).display().to_string();
    if let Some(unknown) =
        manifest.hashes.keys().find(|f| !REQUIRED.contains(&f.as_str()) && !OPTIONAL.contains(&f.as_str()))
    {
        let why = format!("lists `{}`, which is no file of a node's folder", unknown.escape_debug());
        return Err(Error::config(at(SNAPSHOT), why).into());
    }
    check_key_mode(dir)?;
    let mut texts = BTreeMap::new();
    for file in REQUIRED.into_iter().chain(OPTIONAL) {
        match (manifest.hashes.get(file), text_of(&dir.join(file))?) {
            (None, None) if OPTIONAL.contains(&file) => {}
            (Some(hash), Some(text)) if *hash == sha256_hex(text.as_bytes()) => {
                texts.insert(file, text);
            }
            (Some(_), Some(_)) => {
                return Err(half_written(&at(file), "does not match its hash in snapshot.json").into());
            }
            (Some(_), None) => return Err(half_written(&at(file), "is listed in snapshot.json but missing").into()),
            (None, Some(_)) => return Err(half_written(&at(file), "is not listed in snapshot.json").into()),
            (None, None) => return Err(half_written(&at(file), "is missing, also from snapshot.json").into()),
        }
    }
    let mut take = |file: &str| texts.remove(file).ok_or_else(|| half_written(&at(file), "is missing"));
    Ok(NodeFiles {
        cert_pem: take("cert.pem")?,
        key_pem: Secret::new(take("key.pem")?),
        ca_pem: take("ca.pem")?,
        network_toml: take("network.toml")?,
        policy_cedar: take("policy.cedar").ok(),
        revoked_toml: take("revoked.toml").ok(),
        version: manifest.version,
        folder: Some(dir.display().to_string()),
    })
}

/// Reads snapshot.json alone.
pub fn read_manifest(dir: &Path) -> Result<Manifest> {
    manifest_of(dir).map_err(Error::from)
}

fn manifest_of(dir: &Path) -> std::result::Result<Manifest, Fault> {
    let path = dir.join(SNAPSHOT);
    let at = path.display().to_string();
    let text = text_of(&path)?.ok_or_else(|| {
        Error::config(&at, "missing: this is not a node's folder; `ztna pki issue` or `ztna pki publish` writes one")
    })?;
    serde_json::from_str(&text).map_err(|e| {
        Error::config(format!("{at}:{}", e.line()), format!("not a snapshot's description: {e}; publish again")).into()
    })
}

/// How long the other files may differ from snapshot.json before that is reported: a publication writes them first.
const SETTLE: Duration = Duration::from_secs(2);

/// Notices new versions of a folder by the identity of its snapshot.json, and files that no snapshot.json belongs to.
pub struct FolderWatch {
    dir: PathBuf,
    /// The snapshot.json that was last read, well or badly.
    seen: Option<Stamp>,
    /// The other files, as they were when last looked at.
    others: Vec<Option<Stamp>>,
    /// Set while they have changed and snapshot.json has not.
    settle_at: Option<Instant>,
    /// Set while the last read failed.
    retry_at: Option<Instant>,
    /// Since when the system has not let us read the folder.
    unreadable: Option<Instant>,
    /// When that is to be said again.
    tell_at: Option<Instant>,
    /// Given up to read the folder when the process has no descriptor left: a revocation must not wait for one.
    spare: Option<File>,
}

#[derive(PartialEq, Eq, Clone, Copy)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    len: u64,
}

impl FolderWatch {
    /// Starts from the folder's present state: the first `poll` reports nothing unless something has changed since.
    /// Make the watch before the first [`read_folder`], so that no change falls between the two.
    pub fn new(dir: &Path) -> FolderWatch {
        FolderWatch {
            dir: dir.to_owned(),
            seen: stamp(dir, SNAPSHOT).ok().flatten(),
            others: others(dir),
            settle_at: None,
            retry_at: None,
            unreadable: None,
            tell_at: None,
            spare: spare(),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How long the system has not let us read the folder: what is in use may be out of date. `None`: it can be read.
    pub fn unreadable_for(&self, now: Instant) -> Option<Duration> {
        self.unreadable.map(|since| now.saturating_duration_since(since))
    }

    /// A `stat` of each file, and a read when snapshot.json is another one. Call it at most every 200 ms.
    ///
    /// `Some(Err)` is given once per change: the old snapshot stays in use and the folder is tried again quietly until it
    /// can be read (`Some(Ok)`) or changes again. A file that changes without snapshot.json is such a change too. A folder that
    /// vanishes is no news. One that the system does not let us read is told at once and every 10 s while that lasts.
    pub fn poll(&mut self, now: Instant) -> Option<Result<NodeFiles>> {
        if self.spare.is_none() {
            self.spare = spare();
        }
        let stamp = match stamp(&self.dir, SNAPSHOT) {
            Ok(stamp) => stamp?,
            Err(e) => return self.cannot_read(now, &self.dir.join(SNAPSHOT), &e),
        };
        let others = others(&self.dir);
        if others != self.others {
            self.others = others;
            self.settle_at = Some(now + SETTLE);
        }
        let published = self.seen != Some(stamp);
        let settled = self.settle_at.is_some_and(|at| now >= at);
        if published || settled {
            self.settle_at = None;
        }
        let changed = published || settled;
        if !changed && self.retry_at.is_none_or(|at| now < at) {
            return None;
        }
        self.seen = Some(stamp);
        match self.read() {
            Ok(files) => {
                (self.retry_at, self.unreadable, self.tell_at) = (None, None, None);
                Some(Ok(files))
            }
            Err(Fault::Unreadable(path, error)) => {
                self.retry_at = Some(now + RETRY);
                self.cannot_read(now, &path, &error)
            }
            Err(Fault::Content(error)) => {
                // What was unreadable before is told as what it is now.
                let changed = changed || self.unreadable.is_some();
                (self.unreadable, self.tell_at) = (None, None);
                self.retry_at = Some(now + RETRY);
                changed.then_some(Err(error))
            }
        }
    }

    /// One file is open at a time, so that one spare descriptor is enough.
    fn read(&mut self) -> std::result::Result<NodeFiles, Fault> {
        match read_whole(&self.dir) {
            Err(Fault::Unreadable(_, error)) if is_starved(&error) && self.spare.take().is_some() => {
                let again = read_whole(&self.dir);
                self.spare = spare();
                again
            }
            other => other,
        }
    }

    fn cannot_read(&mut self, now: Instant, path: &Path, error: &std::io::Error) -> Option<Result<NodeFiles>> {
        let since = *self.unreadable.get_or_insert(now);
        if self.tell_at.is_some_and(|at| now < at) {
            return None;
        }
        self.tell_at = Some(now + TELL_AGAIN);
        let text = format!(
            "the trust folder has been unreadable for {} s: {}: {error}; changes of policy and revocations do not reach this node until it can be read",
            now.saturating_duration_since(since).as_secs(),
            path.display()
        );
        Some(Err(if is_starved(error) { Error::Limit(text) } else { Error::Permission(text) }))
    }
}

/// Whether the process or the system has no descriptor left.
fn is_starved(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// A descriptor of something that is always there.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    crate::trust::plain_hex(&Sha256::digest(bytes))
}

/// A file's text; `None` when there is no such file.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>> {
    text_of(path).map_err(Error::from)
}

fn text_of(path: &Path) -> std::result::Result<Option<String>, Fault> {
    let unreadable = |e| Fault::Unreadable(path.to_owned(), e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::config(path.display().to_string(), format!("larger than {FILE_MAX} bytes")).into());
    }
    let text = String::from_utf8(bytes).map_err(|_| Error::config(path.display().to_string(), "not UTF-8 text"))?;
    Ok(Some(text))
}

/// What the operating system said about a file, as the error an operator can act on.
pub(crate) fn file_error(path: &Path, error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return Error::Permission(format!("{}: {error}; run as the user who owns it", path.display()));
    }
    Error::config(path.display().to_string(), error.to_string())
}

fn check_key_mode(dir: &Path) -> std::result::Result<(), Fault> {
    let path = dir.join("key.pem");
    match fs::metadata(&path) {
        Ok(meta) if meta.permissions().mode() & 0o077 == 0 => Ok(()),
        Ok(meta) => {
            let why = format!(
                "{} has mode {:04o}, so others may read the key; run `chmod 600 {}`, and renew the certificate if anyone may have",
                path.display(),
                meta.permissions().mode() & 0o7777,
                path.display()
            );
            Err(Error::Permission(why).into())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Fault::Unreadable(path, e)),
    }
}

fn half_written(at: &str, why: &str) -> Error {
    Error::config(at, format!("{why}: half-written or edited by hand; publish again"))
}

fn others(dir: &Path) -> Vec<Option<Stamp>> {
    // Reading them says why one can't be looked at.
    REQUIRED.into_iter().chain(OPTIONAL).map(|file| stamp(dir, file).ok().flatten()).collect()
}

fn stamp(dir: &Path, file: &str) -> std::io::Result<Option<Stamp>> {
    match fs::metadata(dir.join(file)) {
        Ok(meta) => Ok(Some(Stamp { inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()), len: meta.len() })),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_folder_is_read() {
        let dir = folder(7);
        let files = read_folder(dir.path()).unwrap();
        assert_eq!((files.version, files.ca_pem.as_str(), files.policy_cedar), (7, "ca.pem 7", None));
        assert_eq!(files.key_pem.expose(), "key.pem 7");
    }

    #[test]
    fn any_file_that_does_not_match_its_hash_refuses_the_folder() {
        for file in REQUIRED {
            let dir = folder(1);
            fs::write(dir.path().join(file), "other").unwrap();
            let error = read_folder(dir.path()).err().unwrap().to_string();
            assert!(error.contains(&format!("{file}: does not match")) && error.contains("publish again"), "{error}");
            fs::remove_file(dir.path().join(file)).unwrap();
            assert!(read_folder(dir.path()).err().unwrap().to_string().contains("missing"));
        }
        let dir = folder(1);
        fs::write(dir.path().join("policy.cedar"), "").unwrap();
        assert!(read_folder(dir.path()).err().unwrap().to_string().contains("is not listed in snapshot.json"));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o660] {
            let dir = folder(1);
            let key = dir.path().join("key.pem");
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_folder(dir.path()).err().unwrap();
            assert_eq!(error.code(), "ERR_ZTNA_PERMISSION");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_folder_without_a_snapshot_is_not_a_nodes_folder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_folder(dir.path()).err().unwrap().to_string().contains("not a node's folder"));
        fs::write(dir.path().join(SNAPSHOT), "{\n\"version\": true}").unwrap();
        assert!(read_folder(dir.path()).err().unwrap().to_string().contains("snapshot.json:2"));
    }

    #[test]
    fn a_watch_reports_each_new_version_once() {
        let dir = folder(1);
        let (mut watch, now) = (FolderWatch::new(dir.path()), Instant::now());
        assert!(watch.poll(now).is_none());
        write_folder(dir.path(), 2);
        assert_eq!(watch.poll(now).unwrap().ok().unwrap().version, 2);
        assert!(watch.poll(now).is_none());
        assert!(watch.poll(now + RETRY * 4).is_none());
    }

    #[test]
    fn a_half_written_folder_is_reported_once_and_read_when_complete() {
        let dir = folder(1);
        let (mut watch, now) = (FolderWatch::new(dir.path()), Instant::now());
        write_folder(dir.path(), 2);
        fs::write(dir.path().join("ca.pem"), "ca.p").unwrap();
        assert!(watch.poll(now).unwrap().is_err());
        assert!(watch.poll(now + RETRY / 2).is_none());
        assert!(watch.poll(now + RETRY * 2).is_none());
        fs::write(dir.path().join("ca.pem"), "ca.pem 2").unwrap();
        assert_eq!(watch.poll(now + RETRY * 4).unwrap().ok().unwrap().version, 2);
    }

    #[test]
    fn a_file_that_changes_without_a_publication_is_reported_once_it_has_settled() {
        let dir = folder(1);
        let (mut watch, now) = (FolderWatch::new(dir.path()), Instant::now());
        fs::write(dir.path().join("policy.cedar"), "forbid").unwrap();
        assert!(watch.poll(now).is_none());
        assert!(watch.poll(now + SETTLE / 2).is_none());
        let error = watch.poll(now + SETTLE).unwrap().err().unwrap().to_string();
        assert!(error.contains("policy.cedar"), "{error}");
        assert!(watch.poll(now + SETTLE * 2).is_none());
    }

    #[test]
    fn a_folder_that_the_system_refuses_to_read_is_told_at_once_and_every_ten_seconds() {
        let dir = folder(1);
        let (mut watch, now) = (FolderWatch::new(dir.path()), Instant::now());
        // The superuser reads what has no mode; a directory in a file's place nobody reads.
        fs::remove_file(dir.path().join(SNAPSHOT)).unwrap();
        fs::create_dir(dir.path().join(SNAPSHOT)).unwrap();
        let told = |at: Instant, watch: &mut FolderWatch| watch.poll(at).map(|r| r.err().unwrap().to_string());
        assert!(told(now, &mut watch).unwrap().contains("unreadable for 0 s"));
        assert_eq!(told(now + TELL_AGAIN / 2, &mut watch), None);
        assert!(told(now + TELL_AGAIN, &mut watch).unwrap().contains("unreadable for 10 s"));
        assert_eq!(told(now + TELL_AGAIN + RETRY, &mut watch), None);
        assert_eq!(watch.unreadable_for(now + TELL_AGAIN), Some(TELL_AGAIN));
        fs::remove_dir(dir.path().join(SNAPSHOT)).unwrap();
        write_folder(dir.path(), 2);
        assert_eq!(watch.poll(now + TELL_AGAIN * 2).unwrap().ok().unwrap().version, 2);
        assert_eq!(watch.unreadable_for(now + TELL_AGAIN * 2), None);
    }

    fn folder(version: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), version);
        dir
    }

    fn write_folder(dir: &Path, version: u64) {
        let mut hashes = BTreeMap::new();
        for file in REQUIRED {
            let text = format!("{file} {version}");
            fs::write(dir.join(file), &text).unwrap();
            hashes.insert(file.to_owned(), sha256_hex(text.as_bytes()));
        }
        fs::set_permissions(dir.join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        let text = serde_json::to_string(&Manifest { version, hashes }).unwrap();
        fs::write(dir.join("new"), text).unwrap();
        fs::rename(dir.join("new"), dir.join(SNAPSHOT)).unwrap();
    }
}
