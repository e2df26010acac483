//! Log lines of the core for JavaScript's logger: batches behind one coalesced doorbell, not one crossing a line.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
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

/// Lines that wait for JavaScript; more are dropped and counted in the next batch.
const WAITING: usize = 1_024;

type Bell = ThreadsafeFunction<String, (), String, Status, false, true, 16>;

#[derive(Default)]
struct Sink {
    bell: Option<Arc<Bell>>,
    lines: Vec<Value>,
    dropped: u64,
}

static SINK: Mutex<Sink> = Mutex::new(Sink { bell: None, lines: Vec::new(), dropped: 0 });
static LEVEL: AtomicU8 = AtomicU8::new(0);
static INSTALLED: OnceLock<bool> = OnceLock::new();

/// Sends log lines of `level` and above to `callback`: a JSON array of `{level, target, message, fields, time}` a call.
/// `null` or level `off` stops it.
#[napi(catch_unwind)]
pub fn set_log_sink(level: String, callback: Option<Function<'_, String, ()>>) -> napi::Result<()> {
    let rank = match level.as_str() {
        "off" => 0,
        "error" => 1,
        "warn" => 2,
        "info" => 3,
        "debug" => 4,
        "trace" => 5,
        other => {
            return Err(dto::throw(&Error::config(
                "logLevel",
                format!("`{other}` must be trace, debug, info, warn, error or off"),
            )));
        }
    };
    let bell = match callback {
        Some(c) => Some(Arc::new(
            c.build_threadsafe_function().callee_handled::<false>().weak::<true>().max_queue_size::<16>().build()?,
        )),
        None => None,
    };
    LEVEL.store(if bell.is_some() { rank } else { 0 }, Ordering::Relaxed);
    lock(&SINK).bell = bell;
    INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(Collector).is_ok());
    Ok(())
}

struct Collector;

fn rank(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

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
        let mut line = Line::default();
        event.record(&mut line);
        let m = event.metadata();
        let value = json!({
            "level": m.level().as_str().to_ascii_lowercase(), "target": m.target(), "message": line.message, "fields": line.fields,
            "time": ztna_core::metrics::epoch_ms(SystemTime::now()),
        });
        let mut sink = lock(&SINK);
        if sink.lines.len() >= WAITING {
            sink.dropped += 1;
            return;
        }
        sink.lines.push(value);
        if let Some(bell) = sink.bell.clone() {
            let lines = std::mem::take(&mut sink.lines);
            let dropped = std::mem::take(&mut sink.dropped);
            drop(sink);
            let mut batch = lines;
            if dropped > 0 {
                batch.push(json!({ "level": "warn", "target": "ztna", "message": format!("{dropped} log lines were dropped"), "fields": {}, "time": 0 }));
            }
            let text = Value::Array(batch).to_string();
            if bell.call(text.clone(), ThreadsafeFunctionCallMode::NonBlocking) == Status::QueueFull
                && let Ok(Value::Array(lines)) = serde_json::from_str(&text)
            {
                // JavaScript is busy: they go with the next line.
                let mut sink = lock(&SINK);
                let mut lines = lines;
                lines.append(&mut sink.lines);
                lines.truncate(WAITING);
                sink.lines = lines;
            }
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
