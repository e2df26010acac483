//! Notices new versions of a folder.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Fault, OPTIONAL, REQUIRED, SNAPSHOT, read_whole};
use crate::error::{Error, Result};
use crate::trust::NodeFiles;

/// Pause before a folder that could not be read is tried again without its snapshot.json having changed: what is being
/// copied in another order completes within this.
const RETRY: Duration = Duration::from_millis(500);

/// How often a folder that can't be read is spoken of: policy and revocations may be out of date all the while.
pub(super) const TELL_AGAIN: Duration = Duration::from_secs(10);

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
    /// Since when the folder could not be read: it is gone, or the system does not let us.
    unreadable: Option<Instant>,
    /// When that is to be said again.
    tell_at: Option<Instant>,
    /// Given up to read the folder when the process has no descriptor left: a revocation must not wait for one.
    spare: Option<File>,
}

/// What it means.
pub(super) const STALE: &str = "changes of policy and revocations do not reach this node until it can be read";

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

    /// Since when the folder could not be read: what is in use may be out of date. `None`: it can be read.
    pub fn unreadable_since(&self) -> Option<Instant> {
        self.unreadable
    }

    /// A `stat` of each file, and a read when snapshot.json is another one. Call it at most every 200 ms.
    ///
    /// `Some(Err)` is given once per change: the old snapshot stays in use and the folder is tried again quietly until it
    /// can be read (`Some(Ok)`) or changes again. A file that changes without snapshot.json is such a change too. A folder or a
    /// snapshot.json that is gone, or that the system does not let us read, is told at once and every 10 s while that lasts; when it
    /// is back it is read, whether it has changed or not.
    pub fn poll(&mut self, now: Instant) -> Option<Result<NodeFiles>> {
        if self.spare.is_none() {
            self.spare = spare();
        }
        let stamp = match self.look(now) {
            Ok(stamp) => stamp,
            Err(e) => return self.cannot_read(now, &self.dir.join(SNAPSHOT), &e),
        };
        let published = self.seen != Some(stamp);
        let settled = self.settle_at.is_some_and(|at| now >= at);
        if published || settled {
            self.settle_at = None;
        }
        let changed = published || settled;
        let again = self.retry_at.map_or(self.unreadable.is_some(), |at| now >= at);
        if !changed && !again {
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

    /// Reads the folder whether it has changed or not. What is said here, [`poll`](Self::poll) does not say again.
    pub fn read_now(&mut self, now: Instant) -> Result<NodeFiles> {
        let stamp = self.look(now);
        (self.seen, self.settle_at) = (stamp.ok(), None);
        match self.read() {
            Ok(files) => {
                (self.retry_at, self.unreadable, self.tell_at) = (None, None, None);
                Ok(files)
            }
            Err(fault) => {
                self.retry_at = Some(now + RETRY);
                if let Fault::Unreadable(..) = fault {
                    self.unreadable.get_or_insert(now);
                    self.tell_at = Some(now + TELL_AGAIN);
                } else {
                    (self.unreadable, self.tell_at) = (None, None);
                }
                Err(fault.into())
            }
        }
    }

    /// What snapshot.json is now; notes whether the others have changed.
    fn look(&mut self, now: Instant) -> io::Result<Stamp> {
        let stamp = stamp(&self.dir, SNAPSHOT)?.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "is missing"))?;
        let others = others(&self.dir);
        if others != self.others {
            self.others = others;
            self.settle_at = Some(now + SETTLE);
        }
        Ok(stamp)
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

    fn cannot_read(&mut self, now: Instant, path: &Path, error: &io::Error) -> Option<Result<NodeFiles>> {
        let since = *self.unreadable.get_or_insert(now);
        if self.tell_at.is_some_and(|at| now < at) {
            return None;
        }
        self.tell_at = Some(now + TELL_AGAIN);
        let whole =
            format!("the trust folder has been unreadable for {} s", now.saturating_duration_since(since).as_secs());
        let path = path.display();
        Some(Err(match error.kind() {
            _ if is_starved(error) => Error::Limit(format!("{whole}: {path}: {error}; {STALE}")),
            ErrorKind::NotFound | ErrorKind::InvalidInput => {
                Error::config(path.to_string(), format!("{error}; {whole}; {STALE}"))
            }
            _ => Error::Permission(format!("{whole}: {path}: {error}; {STALE}")),
        }))
    }
}

/// Whether the process or the system has no descriptor left.
fn is_starved(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// A descriptor of something that is always there.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn others(dir: &Path) -> Vec<Option<Stamp>> {
    // Reading them says why one can't be looked at.
    REQUIRED.into_iter().chain(OPTIONAL).map(|file| stamp(dir, file).ok().flatten()).collect()
}

fn stamp(dir: &Path, file: &str) -> io::Result<Option<Stamp>> {
    match fs::metadata(dir.join(file)) {
        Ok(meta) => Ok(Some(Stamp { inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()), len: meta.len() })),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::super::tests::{folder, write_folder};
    use super::*;

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
        assert_eq!(watch.unreadable_since(), Some(now));
        fs::remove_dir(dir.path().join(SNAPSHOT)).unwrap();
        write_folder(dir.path(), 2);
        assert_eq!(watch.poll(now + TELL_AGAIN * 2).unwrap().ok().unwrap().version, 2);
        assert_eq!(watch.unreadable_since(), None);
    }

    #[test]
    fn a_snapshot_json_or_a_folder_that_is_gone_is_told_at_once_and_every_ten_seconds_until_it_is_back() {
        let dir = folder(1);
        let node = dir.path().join("node");
        fs::create_dir(&node).unwrap();
        write_folder(&node, 1);
        let (mut watch, now) = (FolderWatch::new(&node), Instant::now());
        let mut at = now;
        for away in [SNAPSHOT, ""] {
            let (from, to) = (node.join(away), dir.path().join("away"));
            fs::rename(&from, &to).unwrap();
            let gone = at;
            let error = watch.poll(gone).unwrap().err().unwrap();
            assert!(matches!(error, Error::Config { .. }), "{error}");
            assert!(
                error.to_string().contains("snapshot.json: is missing; the trust folder has been unreadable for 0 s")
            );
            assert!(watch.poll(gone + RETRY).is_none());
            assert!(watch.poll(gone + TELL_AGAIN).unwrap().err().unwrap().to_string().contains("for 10 s"));
            assert_eq!(watch.unreadable_since(), Some(gone));
            at = gone + TELL_AGAIN * 2;
            fs::rename(&to, &from).unwrap();
            assert_eq!(watch.poll(at).unwrap().unwrap().version, 1);
            assert_eq!(watch.unreadable_since(), None);
            assert!(watch.poll(at + TELL_AGAIN).is_none());
            at += TELL_AGAIN * 2;
        }
    }

    #[test]
    fn a_folder_that_can_be_read_again_and_has_not_changed_is_not_called_unreadable() {
        let dir = folder(1);
        let (mut watch, now) = (FolderWatch::new(dir.path()), Instant::now());
        let (snapshot, away) = (dir.path().join(SNAPSHOT), dir.path().join("away"));
        // A link to itself stands for a folder without permissions, which the superuser reads.
        fs::rename(&snapshot, &away).unwrap();
        symlink(SNAPSHOT, &snapshot).unwrap();
        assert!(matches!(watch.poll(now).unwrap().err().unwrap(), Error::Permission(_)));
        fs::rename(&away, &snapshot).unwrap();
        assert_eq!(watch.poll(now + RETRY).unwrap().unwrap().version, 1);
        assert_eq!(watch.unreadable_since(), None);
        assert!(watch.poll(now + TELL_AGAIN).is_none());
    }

    #[test]
    fn a_fifo_among_the_files_does_not_stop_the_watch() {
        let dir = folder(1);
        let (mut watch, now) = (FolderWatch::new(dir.path()), Instant::now());
        let network = dir.path().join("network.toml");
        fs::remove_file(&network).unwrap();
        mknodat(CWD, &network, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(watch.poll(now).is_none());
        let error = watch.poll(now + SETTLE).unwrap().err().unwrap().to_string();
        assert!(error.contains("network.toml: is a FIFO") && error.contains("unreadable for 0 s"), "{error}");
        fs::remove_file(&network).unwrap();
        fs::write(&network, "network.toml 1").unwrap();
        assert_eq!(watch.poll(now + SETTLE + RETRY).unwrap().unwrap().version, 1);
        assert_eq!(watch.unreadable_since(), None);
    }

    #[test]
    fn what_was_read_on_demand_is_not_reported_again() {
        let dir = folder(1);
        let (mut watch, now) = (FolderWatch::new(dir.path()), Instant::now());
        write_folder(dir.path(), 2);
        assert_eq!(watch.read_now(now).unwrap().version, 2);
        assert!(watch.poll(now + TELL_AGAIN).is_none());
        fs::write(dir.path().join("ca.pem"), "other").unwrap();
        assert!(watch.read_now(now).is_err());
        assert!(watch.poll(now + TELL_AGAIN).is_none());
        fs::remove_file(dir.path().join(SNAPSHOT)).unwrap();
        assert!(watch.read_now(now).is_err());
    }
}
