//! The watch over a role's folder, and since when a loop has been unable to read it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use ztna_core::io::Watch;
use ztna_core::io::folder::FolderWatch;
use ztna_core::trust::Snapshot;

use crate::events::lock;
use crate::running::Adopt;

/// Loops that can't read the folder, and since when.
#[derive(Debug, Default)]
pub struct Unreadable(Mutex<BTreeMap<usize, SystemTime>>);

impl Unreadable {
    /// `None`: every loop reads it.
    pub fn since(&self) -> Option<SystemTime> {
        lock(&self.0).values().min().copied()
    }
}

/// For the loop `index`. All loops of a role read the same folder: the first one says what is wrong with what is in it, each that
/// it can't be read.
pub fn watch(index: usize, folder: &Path, adopt: &Adopt, unreadable: &Arc<Unreadable>) -> Watch {
    let mut watch = FolderWatch::new(folder);
    let (adopt, unreadable) = (adopt.clone(), unreadable.clone());
    let mut failing = false;
    Box::new(move |wall| {
        let now = Instant::now();
        let read = watch.poll(now);
        let cannot_read = watch.unreadable_for(now);
        if failing != cannot_read.is_some() {
            failing = cannot_read.is_some();
            let mut all = lock(&unreadable.0);
            match cannot_read {
                Some(age) => all.insert(index, wall.checked_sub(age).unwrap_or(wall)),
                None => all.remove(&index),
            };
        }
        let taken = read?.and_then(|files| {
            let snapshot = Arc::new(Snapshot::from_files(&files, wall)?);
            adopt(snapshot.clone())?;
            Ok(snapshot)
        });
        (taken.is_ok() || index == 0 || failing).then_some(taken)
    })
}
