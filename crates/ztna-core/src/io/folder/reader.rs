//! The thread that reads a role's folder and builds snapshots, so that no packet waits for a disk or a parser.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::watch::{FolderWatch, STALE, TELL_AGAIN};
use crate::error::{Error, Result};
use crate::io::handle::lock;
use crate::trust::Snapshot;

/// How often the folder is looked at: a change must act within a second.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A look that takes this long counts as a folder that can't be read: the largest one accepted takes some seconds, so that a disk
/// or a mount does not answer.
const OVERDUE: Duration = Duration::from_secs(10);

/// What an overdue look gets on top: a process that was stopped, or a machine that was, goes on without an alarm.
const GRACE: Duration = Duration::from_secs(1);

/// Reloads that may wait for the look that answers them all. The embedding program asks for them.
const RELOADS: usize = 64;

/// Snapshots that were replaced and are still in use by a loop. One that a loop lets go last would be torn down there, which takes
/// milliseconds for thousands of policies.
const RETIRED: usize = 8;

/// The answer to a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reloaded {
    pub version: u64,
    /// `false`: it was in use already.
    pub changed: bool,
}

/// Uses a snapshot, or refuses it. `true`: its version is another one than that in use.
type Take = Box<dyn FnMut(Arc<Snapshot>) -> Result<bool> + Send>;
/// Hears why the folder is not taken.
type Tell = Box<dyn FnMut(Error) + Send>;
type Reply = Box<dyn FnOnce(Result<Reloaded>) + Send>;

struct Work {
    used: Arc<Snapshot>,
    take: Take,
    tell: Tell,
}

/// A reader whose thread waits for its work. Dropped, it ends.
pub struct IdleReader {
    reader: FolderReader,
    work: Sender<Work>,
}

impl IdleReader {
    /// Starts the thread, which does not look yet. Errors: [`Error::Limit`] where the system gives none.
    pub fn spawn(watch: FolderWatch) -> Result<IdleReader> {
        let shared = Arc::new(Shared { dir: watch.dir().to_owned(), state: Mutex::default(), news: Condvar::new() });
        let (work, works) = channel();
        let body = {
            let shared = shared.clone();
            move || run(&shared, watch, &works)
        };
        // Never joined: it may hang in a read for ever, and the role must be able to end.
        std::thread::Builder::new()
            .name("ztna-folder".into())
            .spawn(body)
            .map_err(|e| Error::Limit(format!("no thread to read the trust folder with: {e}")))?;
        Ok(IdleReader { reader: FolderReader { shared }, work })
    }

    /// Looks from now on. `take` gets each new snapshot, built on what has not changed since `used`; `tell` hears why one is not
    /// taken, once for each bad state, and at once and every 10 s while the folder can't be read. Both run on the reader's thread.
    pub fn begin(
        self,
        used: Arc<Snapshot>,
        take: impl FnMut(Arc<Snapshot>) -> Result<bool> + Send + 'static,
        tell: impl FnMut(Error) + Send + 'static,
    ) -> FolderReader {
        // Fails only where the thread has died: no look is ever done, which counts as overdue.
        let _ = self.work.send(Work { used, take: Box::new(take), tell: Box::new(tell) });
        lock(&self.reader.shared.state).began = Some(Moment::now());
        self.reader
    }
}

/// A running reader, from outside. Clones are the same one. It ends by [`end`](Self::end).
#[derive(Clone)]
pub struct FolderReader {
    shared: Arc<Shared>,
}

impl FolderReader {
    /// Reads the folder whether it has changed or not. `reply` is called once: on the reader's thread, or on another one with
    /// [`Error::Timeout`] where a look takes more than 10 s, [`Error::Closed`] at the end, [`Error::Limit`] when too many wait.
    pub fn reload(&self, reply: impl FnOnce(Result<Reloaded>) + Send + 'static) {
        let refused = {
            let mut state = lock(&self.shared.state);
            if state.ended {
                Error::Closed("the role has ended".into())
            } else if state.waiting.len() >= RELOADS {
                Error::Limit(format!("{RELOADS} reloads wait already"))
            } else {
                state.waiting.push(Box::new(reply));
                self.shared.news.notify_all();
                return;
            }
        };
        reply(Err(refused));
    }

    /// Since when the folder could not be read, or a look has not come to its end.
    pub fn unreadable_since(&self, now: Instant) -> Option<SystemTime> {
        let state = lock(&self.shared.state);
        let overdue = state.began.filter(|b| now.saturating_duration_since(b.at) >= OVERDUE).map(|b| b.wall);
        [state.unreadable.map(|b| b.wall), overdue].into_iter().flatten().min()
    }

    /// What there is to say of a look that has not come to its end: after 11 s and every 10 s from then on. Reloads are answered with
    /// it. Somebody else than the reader has to ask.
    pub fn overdue(&self, now: Instant) -> Option<Error> {
        let (error, replies) = {
            let mut state = lock(&self.shared.state);
            let age = now.saturating_duration_since(state.began?.at);
            if state.ended || age < OVERDUE || now < *state.tell_at.get_or_insert(now + GRACE) {
                return None;
            }
            state.tell_at = Some(now + TELL_AGAIN);
            let text = format!(
                "the trust folder has been unreadable for {} s: {}: reading it has not come to an end since then; {STALE}",
                age.as_secs(),
                self.shared.dir.display()
            );
            (Error::Timeout(text), state.replies())
        };
        replies.into_iter().for_each(|reply| reply(Err(error.clone())));
        Some(error)
    }

    /// Stops looking. A read under way is left to itself, and nothing comes of it.
    pub fn end(&self) {
        let replies = {
            let mut state = lock(&self.shared.state);
            state.ended = true;
            state.replies()
        };
        self.shared.news.notify_all();
        replies.into_iter().for_each(|reply| reply(Err(Error::Closed("the role has ended".into()))));
    }
}

struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
    /// A reload waits, or the end has come.
    news: Condvar,
}

#[derive(Default)]
struct State {
    ended: bool,
    /// Reloads that the next look answers.
    waiting: Vec<Reply>,
    /// Reloads that the present look answers.
    reading: Vec<Reply>,
    /// When the last look began: the next one is to follow soon, whatever became of this one.
    began: Option<Moment>,
    /// Since when looks have found the folder unreadable.
    unreadable: Option<Moment>,
    /// When an overdue look is to be spoken of again.
    tell_at: Option<Instant>,
}

impl State {
    fn replies(&mut self) -> Vec<Reply> {
        self.reading.drain(..).chain(self.waiting.drain(..)).collect()
    }
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Moment {
        Moment { at: Instant::now(), wall: SystemTime::now() }
    }
}

impl Shared {
    /// Waits for the next look and begins it. `Some(true)`: the folder is to be read whether it has changed or not. `None`: the end.
    fn next(&self) -> Option<bool> {
        let state = lock(&self.state);
        let idle = |s: &mut State| !s.ended && s.waiting.is_empty();
        let mut state = match self.news.wait_timeout_while(state, LOOK_EVERY, idle) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        };
        if state.ended {
            return None;
        }
        state.reading = std::mem::take(&mut state.waiting);
        (state.began, state.tell_at) = (Some(Moment::now()), None);
        Some(!state.reading.is_empty())
    }

    fn has_ended(&self) -> bool {
        lock(&self.state).ended
    }

    /// The reloads that the look answers.
    fn finish(&self, unreadable: Option<Instant>) -> Vec<Reply> {
        let mut state = lock(&self.state);
        state.unreadable = unreadable.map(|at| match state.unreadable {
            Some(known) if known.at == at => known,
            Some(_) | None => {
                Moment { at, wall: SystemTime::now().checked_sub(at.elapsed()).unwrap_or(SystemTime::now()) }
            }
        });
        std::mem::take(&mut state.reading)
    }
}

fn run(shared: &Shared, mut watch: FolderWatch, works: &Receiver<Work>) {
    let Ok(Work { mut used, mut take, mut tell }) = works.recv() else { return };
    let mut retired: Vec<Arc<Snapshot>> = Vec::new();
    while let Some(asked) = shared.next() {
        retired.retain(|s| Arc::strong_count(s) > 1);
        let now = Instant::now();
        let read = if asked { Some(watch.read_now(now)) } else { watch.poll(now) };
        let taken = read.map(|files| {
            let snapshot = Arc::new(used.next(&files?, SystemTime::now())?);
            if shared.has_ended() {
                return Err(Error::Closed("the role has ended".into()));
            }
            let changed = take(snapshot.clone())?;
            let version = snapshot.version;
            retired.push(std::mem::replace(&mut used, snapshot));
            if retired.len() > RETIRED {
                retired.remove(0);
            }
            Ok(Reloaded { version, changed })
        });
        let replies = shared.finish(watch.unreadable_since());
        match taken {
            Some(answer) if asked => replies.into_iter().for_each(|reply| reply(answer.clone())),
            Some(Err(e)) if !shared.has_ended() => tell(e),
            Some(Ok(_) | Err(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use serde_json::json;

    use super::*;
    use crate::io::folder::read_folder;
    use crate::io::pki_folder;

    /// Longer than any look takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_publication_is_taken_and_a_policy_that_has_not_changed_is_kept() {
        let lab = Lab::new();
        let (reader, taken, _) = lab.read();
        lab.publish("");
        let next = taken.recv_timeout(PATIENCE).unwrap();
        assert!(next.version > lab.first.version);
        assert!(Arc::ptr_eq(&next.network, &lab.first.network));
        assert!(Arc::ptr_eq(next.policy.as_ref().unwrap(), lab.first.policy.as_ref().unwrap()));
        lab.publish("permit(principal, action, resource);");
        let changed = taken.recv_timeout(PATIENCE).unwrap();
        assert!(!Arc::ptr_eq(changed.policy.as_ref().unwrap(), next.policy.as_ref().unwrap()));
        reader.end();
    }

    #[test]
    fn what_is_not_taken_is_told_and_the_next_one_is_taken() {
        let lab = Lab::new();
        let (reader, taken, told) = lab.read();
        fs::write(lab.node().join("policy.cedar"), "forbid").unwrap();
        assert!(told.recv_timeout(PATIENCE).unwrap().to_string().contains("policy.cedar"));
        lab.publish("");
        assert!(taken.recv_timeout(PATIENCE).unwrap().version > lab.first.version);
        reader.end();
    }

    #[test]
    fn a_reload_says_whether_anything_changed_and_what_is_wrong() {
        let lab = Lab::new();
        let (reader, _taken, _told) = lab.read();
        let version = lab.first.version;
        assert_eq!(reload(&reader).recv_timeout(PATIENCE).unwrap().unwrap(), Reloaded { version, changed: false });
        fs::remove_file(lab.node().join("ca.pem")).unwrap();
        assert!(reload(&reader).recv_timeout(PATIENCE).unwrap().is_err());
        reader.end();
        assert!(matches!(reload(&reader).recv_timeout(PATIENCE).unwrap(), Err(Error::Closed(_))));
    }

    #[test]
    fn a_look_that_does_not_end_counts_as_unreadable_and_is_forgotten_at_the_end() {
        let lab = Lab::new();
        let idle = IdleReader::spawn(FolderWatch::new(&lab.node())).unwrap();
        let (entered, enters) = channel();
        let (release, released) = channel::<()>();
        let take = move |_: Arc<Snapshot>| {
            entered.send(()).unwrap();
            // As a disk that does not answer.
            released.recv().ok();
            Ok(true)
        };
        let (told, tells) = channel();
        let reader = idle.begin(lab.first.clone(), take, move |e| told.send(e).unwrap());
        lab.publish("");
        enters.recv_timeout(PATIENCE).unwrap();
        let waiting = reload(&reader);
        let now = Instant::now();
        assert!(reader.overdue(now).is_none() && reader.unreadable_since(now).is_none());
        let late = now + OVERDUE;
        assert!(reader.unreadable_since(late).is_some());
        assert!(reader.overdue(late).is_none());
        let text = reader.overdue(late + GRACE).unwrap().to_string();
        assert!(text.contains("unreadable for 1") && text.contains("has not come to an end"), "{text}");
        assert!(matches!(waiting.recv_timeout(PATIENCE).unwrap(), Err(Error::Timeout(_))));
        assert!(reader.overdue(late + GRACE * 2).is_none());
        assert!(reader.overdue(late + GRACE + TELL_AGAIN).is_some());
        let asked = reload(&reader);
        reader.end();
        assert!(matches!(asked.recv_timeout(PATIENCE).unwrap(), Err(Error::Closed(_))));
        drop(release);
        // The thread is gone, and has said nothing.
        assert!(tells.recv_timeout(PATIENCE).is_err());
    }

    fn reload(reader: &FolderReader) -> Receiver<Result<Reloaded>> {
        let (reply, replies) = channel();
        reader.reload(move |answer| reply.send(answer).unwrap());
        replies
    }

    fn into<T: Send + 'static>(to: Sender<T>) -> impl FnMut(T) + Send + 'static {
        move |value| to.send(value).unwrap()
    }

    /// A trust folder and the folder of connector c1.
    struct Lab {
        root: tempfile::TempDir,
        first: Arc<Snapshot>,
    }

    impl Lab {
        fn new() -> Lab {
            let root = tempfile::tempdir().unwrap();
            pki(&root, "init", json!({ "trustDomain": "example.test" }));
            let node = root.path().join("c1");
            pki(&root, "issue", json!({ "role": "connector", "name": "c1", "out": node }));
            let first = Snapshot::from_files(&read_folder(&node).unwrap(), SystemTime::now()).unwrap();
            Lab { root, first: Arc::new(first) }
        }
        fn node(&self) -> PathBuf {
            self.root.path().join("c1")
        }
        fn publish(&self, policy: &str) {
            if !policy.is_empty() {
                fs::write(self.root.path().join("trust/policy.cedar"), policy).unwrap();
            }
            pki(&self.root, "publish", json!({ "outs": [self.node()] }));
        }
        fn read(&self) -> (FolderReader, Receiver<Arc<Snapshot>>, Receiver<Error>) {
            let ((taken, takes), (told, tells)) = (channel(), channel());
            let (mut used, mut taken) = (self.first.version, into(taken));
            let take = move |s: Arc<Snapshot>| {
                let changed = std::mem::replace(&mut used, s.version) != s.version;
                taken(s);
                Ok(changed)
            };
            let idle = IdleReader::spawn(FolderWatch::new(&self.node())).unwrap();
            (idle.begin(self.first.clone(), take, into(told)), takes, tells)
        }
    }

    fn pki(root: &tempfile::TempDir, command: &str, mut options: serde_json::Value) {
        options["dir"] = json!(root.path().join("trust"));
        pki_folder::run(command, &options.to_string(), SystemTime::now()).unwrap();
    }
}
