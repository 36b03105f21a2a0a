//! Events of the `tracing` crate as items of a line buffer (feature `tracing`).

use super::item::{Level, Record, Value};
use super::mirror::Mirror;
use super::sink::Sink;
use std::fmt::Debug;
use std::sync::Arc;
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id};
use tracing_core::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Sends the events of the `tracing` crate to a mirror, with level, target, time, place in the source, named values, and the spans around
/// them with theirs.
///
/// A layer for [`tracing_subscriber`]: put it on a registry, with any filter. What is said of [`LineLog`](super::LineLog) about forks, failures and
/// loops holds here too.
///
/// ```
/// use std::sync::Arc;
/// use syncq::line::{LineBuffer, LineLayer};
/// use tracing_subscriber::layer::SubscriberExt;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let buffer = LineBuffer::new(20)?;
/// let subscriber = tracing_subscriber::registry().with(LineLayer::new(Arc::new(buffer.clone())));
/// tracing::subscriber::with_default(subscriber, || {
///     let _span = tracing::info_span!("job", id = 7).entered();
///     tracing::warn!(target: "jobs", files = 3, "half way");
/// });
/// assert_eq!(buffer.read(1)?[0].to_string(), "WARN jobs: half way files=3 {job id=7}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LineLayer {
    sink: Sink,
}

impl LineLayer {
    /// A layer that sends everything to `mirror`.
    pub fn new(mirror: Arc<dyn Mirror>) -> Self {
        LineLayer {
            sink: Sink::new(mirror),
        }
    }

    /// How many events the mirror has refused.
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }
}

/// The named values of a span, kept with it.
struct OfSpan(Fields);

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for LineLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(OfSpan(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &tracing_core::span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<OfSpan>()
        {
            values.record(&mut fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !self.sink.hears() {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root());
        let spans = spans
            .map(|span| {
                let extensions = span.extensions();
                let fields = extensions.get::<OfSpan>().map(|of| of.0.named.clone());
                (span.name().to_owned(), fields.unwrap_or_default())
            })
            .collect();
        let metadata = event.metadata();
        self.sink.send(&Record {
            level: match *metadata.level() {
                tracing_core::Level::ERROR => Level::Error,
                tracing_core::Level::WARN => Level::Warn,
                tracing_core::Level::INFO => Level::Info,
                tracing_core::Level::DEBUG => Level::Debug,
                tracing_core::Level::TRACE => Level::Trace,
            },
            target: metadata.target().to_owned(),
            message: fields.message,
            fields: fields.named,
            spans,
            source: metadata
                .file()
                .map(|file| (file.to_owned(), metadata.line().unwrap_or(0))),
        });
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    named: Vec<(String, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        // A span may be told a value again.
        match self.named.iter_mut().find(|(name, _)| name == field.name()) {
            Some((_, before)) => *before = value,
            None => self.named.push((field.name().to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Int(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Int(value.into()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(field, Value::Int(value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(
            field,
            i128::try_from(value).map_or_else(|_| Value::Text(value.to_string()), Value::Int),
        );
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::Float(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ => self.put(field, Value::Text(value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.put(field, Value::Text(format!("{value:?}"))),
        }
    }
}
