//! Log lines of the core for JavaScript's loggers. They wait here, one bell calls for all that wait, and JavaScript takes them by a
//! synchronous call: no crossing a line. Each JavaScript thread has lines of its own: those of the roles it started.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use napi::Status;
use napi::bindgen_prelude::Function;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::dto;
use crate::events::lock;
use ztna_core::error::Error;

/// Lines that wait for one logger; more are dropped and counted in the next batch.
const WAITING: usize = 1_024;

type Bell = ThreadsafeFunction<(), (), (), Status, false, true, 1>;

struct Sink {
    home: Home,
    rank: u8,
    bell: Arc<Bell>,
    /// It has been rung, and nobody has come yet.
    rung: bool,
    lines: Vec<Arc<str>>,
    dropped: u64,
}

static SINKS: Mutex<BTreeMap<u64, Sink>> = Mutex::new(BTreeMap::new());
/// The most that any sink wants: what nobody wants costs a comparison.
static LEVEL: AtomicU8 = AtomicU8::new(0);
static NEXT: AtomicU64 = AtomicU64::new(1);
static INSTALLED: OnceLock<bool> = OnceLock::new();

thread_local! {
    static HOME: Cell<Home> = const { Cell::new(Home(0)) };
}

/// The JavaScript thread that a thread works for. 0: none in particular, so that its lines go to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home(u64);

impl Home {
    /// Call on a JavaScript thread.
    pub fn here() -> Home {
        if HOME.get() == Home(0) {
            HOME.set(Home(NEXT.fetch_add(1, Ordering::Relaxed)));
        }
        HOME.get()
    }

    /// The calling thread works for this one from now on.
    pub fn enter(self) {
        HOME.set(self);
    }
}

/// A logger's lines. It ends with `close`, or with its JavaScript thread.
#[napi]
pub struct NativeLog {
    id: u64,
}

#[napi]
impl NativeLog {
    /// Collects lines of `level` and above. `on_lines` is called when there are some to [`take`](Self::take), and not again before
    /// they were taken; it does not keep the process alive.
    #[napi(catch_unwind, constructor)]
    pub fn new(level: String, on_lines: Function<'_, (), ()>) -> napi::Result<Self> {
        let rank = rank_named(&level)?;
        let bell = on_lines
            .build_threadsafe_function::<()>()
            .callee_handled::<false>()
            .weak::<true>()
            .max_queue_size::<1>()
            .build()?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (home, bell) = (Home::here(), Arc::new(bell));
        change(|sinks| {
            sinks.insert(id, Sink { home, rank, bell, rung: false, lines: Vec::new(), dropped: 0 });
            Ok(())
        })?;
        INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(Collector).is_ok());
        Ok(NativeLog { id })
    }

    #[napi(catch_unwind)]
    pub fn set_level(&self, level: String) -> napi::Result<()> {
        let rank = rank_named(&level)?;
        change(|sinks| {
            sinks.get_mut(&self.id).ok_or_else(closed)?.rank = rank;
            Ok(())
        })
    }

    /// All that waits: a JSON array of `{level, target, message, fields, time}`.
    #[napi(catch_unwind)]
    pub fn take(&self) -> napi::Result<String> {
        let (lines, dropped) = {
            let mut sinks = lock(&SINKS);
            let sink = sinks.get_mut(&self.id).ok_or_else(closed)?;
            sink.rung = false;
            (std::mem::take(&mut sink.lines), std::mem::take(&mut sink.dropped))
        };
        let lost = (dropped > 0).then(|| {
            let message = format!("{dropped} log lines were dropped: the program did not take them in time");
            line("warn", "ztna", &Line { message, fields: Map::new() })
        });
        let all: Vec<&str> = lines.iter().chain(&lost).map(|line| &**line).collect();
        Ok(format!("[{}]", all.join(",")))
    }

    /// Again is harmless.
    #[napi(catch_unwind)]
    pub fn close(&self) -> napi::Result<()> {
        change(|sinks| {
            sinks.remove(&self.id);
            Ok(())
        })
    }
}

impl Drop for NativeLog {
    fn drop(&mut self) {
        // It has no way to fail.
        let _ = self.close();
    }
}

fn closed() -> napi::Error {
    dto::throw(&Error::Closed("the log has been closed".into()))
}

/// Changes the sinks, and what is collected with them.
fn change(what: impl FnOnce(&mut BTreeMap<u64, Sink>) -> napi::Result<()>) -> napi::Result<()> {
    let mut sinks = lock(&SINKS);
    let result = what(&mut sinks);
    LEVEL.store(sinks.values().map(|sink| sink.rank).max().unwrap_or(0), Ordering::Relaxed);
    result
}

fn rank_named(level: &str) -> napi::Result<u8> {
    match level {
        "off" => Ok(0),
        "error" => Ok(1),
        "warn" => Ok(2),
        "info" => Ok(3),
        "debug" => Ok(4),
        "trace" => Ok(5),
        _ => Err(dto::throw(&Error::config("level", "it is none of trace, debug, info, warn, error and off"))),
    }
}

fn rank(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

fn line(level: &str, target: &str, said: &Line) -> Arc<str> {
    json!({
        "level": level, "target": target, "message": said.message, "fields": said.fields,
        "time": ztna_core::metrics::epoch_ms(SystemTime::now()),
    })
    .to_string()
    .into()
}

struct Collector;

impl Subscriber for Collector {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // The level may change while running.
        tracing::subscriber::Interest::sometimes()
    }
    fn enabled(&self, m: &Metadata<'_>) -> bool {
        m.is_event() && rank(m.level()) <= LEVEL.load(Ordering::Relaxed) && m.target().starts_with("ztna")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut said = Line::default();
        event.record(&mut said);
        let m = event.metadata();
        let text = line(&m.level().as_str().to_ascii_lowercase(), m.target(), &said);
        let (home, rank) = (HOME.get(), rank(m.level()));
        let mut bells = Vec::new();
        for sink in lock(&SINKS).values_mut() {
            if rank > sink.rank || (home != Home(0) && home != sink.home) {
                continue;
            }
            if sink.lines.len() >= WAITING {
                sink.dropped += 1;
                continue;
            }
            sink.lines.push(text.clone());
            if !sink.rung {
                sink.rung = true;
                bells.push(sink.bell.clone());
            }
        }
        for bell in bells {
            // A full queue means that one is on its way already.
            bell.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: Map<String, Value>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.insert(field.name().to_owned(), json!(format!("{value:?}")));
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name().to_owned(), json!(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.insert(field.name().to_owned(), json!(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.insert(field.name().to_owned(), json!(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.insert(field.name().to_owned(), json!(value));
    }
}
