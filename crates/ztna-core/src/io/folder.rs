//! A node's folder: read as a whole or not at all, and watched for the next version.

mod reader;
mod watch;

pub use reader::{FolderReader, IdleReader, Reloaded};
pub use watch::FolderWatch;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
    Unreadable(PathBuf, io::Error),
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
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
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

/// Opens what ends. A FIFO would keep the caller waiting for somebody who writes into it, a device may never run dry.
fn open_regular(path: &Path) -> io::Result<File> {
    refuse_special(fs::metadata(path)?.file_type())?;
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    // It may be another one by now.
    refuse_special(file.metadata()?.file_type())?;
    Ok(file)
}

/// Errors: `InvalidInput` for what is no regular file.
fn refuse_special(kind: fs::FileType) -> io::Result<()> {
    let what = match kind {
        k if k.is_file() => return Ok(()),
        k if k.is_dir() => "a directory",
        k if k.is_fifo() => "a FIFO",
        k if k.is_socket() => "a socket",
        k if k.is_char_device() => "a character device",
        _ => "a block device",
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("is {what}, and only a regular file is accepted")))
}

/// What the operating system said about a file, as the error an operator can act on.
pub(crate) fn file_error(path: &Path, error: &io::Error) -> Error {
    if error.kind() == ErrorKind::PermissionDenied {
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
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Fault::Unreadable(path, e)),
    }
}

fn half_written(at: &str, why: &str) -> Error {
    Error::config(at, format!("{why}: half-written or edited by hand; publish again"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

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
    fn what_is_no_regular_file_is_refused_at_once_with_what_it_is() {
        let dir = folder(1);
        let path = dir.path().join("network.toml");
        let refused = |what: &str| {
            let error = read_folder(dir.path()).err().unwrap();
            let text = error.to_string();
            assert!(matches!(error, Error::Config { .. }) && text.contains("network.toml"), "{text}");
            assert!(text.contains(what) && text.contains("only a regular file is accepted"), "{text}");
            fs::remove_file(&path).unwrap();
        };
        fs::remove_file(&path).unwrap();
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        refused("a FIFO");
        symlink("/dev/zero", &path).unwrap();
        refused("a character device");
        let _socket = UnixListener::bind(&path).unwrap();
        refused("a socket");
        fs::write(dir.path().join("elsewhere"), "network.toml 1").unwrap();
        symlink("elsewhere", &path).unwrap();
        assert_eq!(read_folder(dir.path()).unwrap().network_toml, "network.toml 1");
    }

    pub(super) fn folder(version: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_folder(dir.path(), version);
        dir
    }

    pub(super) fn write_folder(dir: &Path, version: u64) {
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
