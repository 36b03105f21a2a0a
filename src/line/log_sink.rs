//! Records of the `log` crate as items of a line buffer (feature `log`).

use super::item::{Level, Record, Value};
use super::mirror::Mirror;
use super::sink::Sink;
use log::kv::{Key, VisitSource};
use log::{LevelFilter, Metadata, SetLoggerError};
use std::sync::Arc;

/// Sends the records of the `log` crate to a mirror, with level, target, time, place in the source, and named values.
///
/// Set it up once, before forking if the mirror is a [`LineProcMirror`](super::LineProcMirror): each forked child logs for itself, and no lock of the
/// parent stands in its way. Logging never fails and never loops: what the mirror refuses is counted, and a warning says how much as soon as
/// there is a way again. Records that this thread makes while lines are being sent are passed over ([`quiet`](super::quiet)).
///
/// ```
/// use std::sync::Arc;
/// use syncq::line::{Content, LineBuffer, LineLog};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let buffer = LineBuffer::new(20)?;
/// LineLog::new(Arc::new(buffer.clone())).level(log::LevelFilter::Info).install()?;
/// log::info!(target: "jobs", files = 3; "half way");
/// log::debug!("not this");
/// let items = buffer.read(None)?;
/// let Content::Record(record) = &items[0].content else { panic!("a record") };
/// assert_eq!((record.target.as_str(), record.message.as_str()), ("jobs", "half way"));
/// assert_eq!(items[0].to_string(), "INFO jobs: half way files=3");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LineLog {
    sink: Sink,
    level: LevelFilter,
}

impl LineLog {
    /// A logger that sends everything to `mirror`.
    pub fn new(mirror: Arc<dyn Mirror>) -> Self {
        LineLog {
            sink: Sink::new(mirror),
            level: LevelFilter::Trace,
        }
    }

    /// Sends only records of this level and above. Default: all.
    pub fn level(mut self, level: LevelFilter) -> Self {
        self.level = level;
        self
    }

    /// Makes it the logger of this process.
    ///
    /// # Errors
    ///
    /// [`SetLoggerError`] if there is one already.
    pub fn install(self) -> Result<(), SetLoggerError> {
        let level = self.level;
        log::set_boxed_logger(Box::new(self))?;
        log::set_max_level(level);
        Ok(())
    }

    /// How many records the mirror has refused.
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }
}

impl log::Log for LineLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.level && self.sink.hears()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut fields = Fields(Vec::new());
        // This visitor never stops.
        let _ = record.key_values().visit(&mut fields);
        self.sink.send(&Record {
            level: match record.level() {
                log::Level::Error => Level::Error,
                log::Level::Warn => Level::Warn,
                log::Level::Info => Level::Info,
                log::Level::Debug => Level::Debug,
                log::Level::Trace => Level::Trace,
            },
            target: record.target().to_owned(),
            message: record.args().to_string(),
            fields: fields.0,
            spans: Vec::new(),
            source: record.file().map(|file| (file.to_owned(), record.line().unwrap_or(0))),
        });
    }

    fn flush(&self) {
        self.sink.flush();
    }
}

struct Fields(Vec<(String, Value)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
        let value = if let Some(value) = value.to_bool() {
            Value::Bool(value)
        } else if let Some(value) = value.to_i128() {
            Value::Int(value)
        } else if let Some(value) = value.to_f64() {
            Value::Float(value)
        } else {
            Value::Text(value.to_string())
        };
        self.0.push((key.to_string(), value));
        Ok(())
    }
}
