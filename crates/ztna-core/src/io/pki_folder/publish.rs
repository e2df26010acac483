//! One node's folder: what goes into it, and the order in which it is written.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::id::Role;
use crate::io::folder::{Manifest, SNAPSHOT, file_error, read_manifest, read_text, sha256_hex};
use crate::io::pki_folder::edit;
use crate::io::pki_folder::store::{Checked, PRIVATE, PUBLIC, Store, make_dir, write_atomic};
use crate::trust::Secret;

/// A folder whose content is complete but not yet on disk.
pub(super) struct Prepared<'a> {
    out: &'a Path,
    /// In the order of writing; with mode.
    files: Vec<(&'static str, Secret, u32)>,
    /// What an earlier role or version may have left and must not stay.
    surplus: &'static [&'static str],
}

impl Prepared<'_> {
    /// The files that writing it would change. Errors: a file there can't be read.
    pub(super) fn stale(&self) -> Result<Vec<&'static str>> {
        let mut stale = Vec::new();
        for (file, text, _) in &self.files {
            if read_text(&self.out.join(file))?.as_deref() != Some(text.expose()) {
                stale.push(*file);
            }
        }
        for file in self.surplus {
            if read_text(&self.out.join(file))?.is_some() {
                stale.push(*file);
            }
        }
        Ok(stale)
    }
}

/// Puts together what the node `name` (`agent/alice`) gets. `key` replaces certificate and key, else those in `out` stay.
pub(super) fn prepare<'a>(
    store: &Store,
    checked: &Checked,
    name: &str,
    out: &'a Path,
    key: Option<(&str, &Secret)>,
) -> Result<Prepared<'a>> {
    let (role, node) = name.split_once('/').ok_or_else(|| Error::Internal(format!("`{name}` is no node's name")))?;
    let own = |file: &str| {
        let path = out.join(file);
        read_text(&path)?.map(Secret::new).ok_or_else(|| {
            Error::config(
                path.display().to_string(),
                format!("missing: `ztna pki renew DIR {name} --out OUT` makes a new one"),
            )
        })
    };
    let (cert, key) = match key {
        Some((cert, key)) => (Secret::new(cert.to_owned()), key.clone()),
        None => (own("cert.pem")?, own("key.pem")?),
    };
    let mut files = vec![
        ("key.pem", key, PRIVATE),
        ("cert.pem", cert, PUBLIC),
        ("ca.pem", Secret::new(store.ca_bundle()?), PUBLIC),
    ];
    let surplus: &[&str] = match role.parse::<Role>()? {
        Role::Agent => {
            files.push(("network.toml", Secret::new(edit::render(&checked.network, Some(node))), PUBLIC));
            &["policy.cedar", "revoked.toml"]
        }
        Role::Connector | Role::Relay => {
            files.push(("network.toml", Secret::new(edit::render(&checked.network, None)), PUBLIC));
            files.push(("policy.cedar", Secret::new(checked.policy_text.clone()), PUBLIC));
            files.push(("revoked.toml", Secret::new(checked.revoked_text.clone()), PUBLIC));
            &[]
        }
    };
    Ok(Prepared { out, files, surplus })
}

/// A version above everything published so far, also by an older copy of the trust folder.
pub(super) fn next_version<'a>(store: &Store, outs: impl Iterator<Item = &'a Path>) -> u64 {
    let found = outs.filter_map(|out| read_manifest(out).ok()).map(|m| m.version);
    // No count of ours ends there: a file that says so was not written here.
    let newest = found.filter(|version| *version < u64::MAX).max().unwrap_or(0);
    store.state.version.max(newest) + 1
}

/// Writes the folder; snapshot.json last, so that a node reads all of it or keeps what it has.
pub(super) fn write(prepared: &Prepared<'_>, version: u64) -> Result<()> {
    make_dir(prepared.out, 0o755)?;
    let mut hashes = BTreeMap::new();
    for (file, text, mode) in &prepared.files {
        hashes.insert((*file).to_owned(), sha256_hex(text.expose().as_bytes()));
        write_atomic(&prepared.out.join(file), text.expose(), *mode)?;
    }
    for file in prepared.surplus {
        let path = prepared.out.join(file);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(file_error(&path, &e)),
        }
    }
    let manifest =
        serde_json::to_string_pretty(&Manifest { version, hashes }).map_err(|e| Error::Internal(e.to_string()))?;
    write_atomic(&prepared.out.join(SNAPSHOT), &format!("{manifest}\n"), PUBLIC)
}
