//! Events of `tracing`: complete, with the spans around them, also from forked workers.

mod support;

use std::sync::Arc;
use support::{forked, minute};
use syncq::Wait;
use syncq::line::{Content, Level, LineLayer, LineProcBuffer, Value};
use tracing_subscriber::layer::SubscriberExt;

#[test]
fn events_of_forked_workers_arrive_with_level_values_and_spans() {
    let _watchdog = minute();
    let parent = LineProcBuffer::new(100).unwrap();
    let mirror = Arc::new(parent.mirror("worker").unwrap());
    let subscriber = tracing_subscriber::registry().with(LineLayer::new(mirror.clone()));
    tracing::subscriber::with_default(subscriber, || {
        let outer = tracing::info_span!("job", id = 7u64, done = tracing::field::Empty).entered();
        for n in 0..3 {
            let mirror = mirror.clone();
            let outer = &outer;
            forked(move || {
                let _inner = tracing::debug_span!("step", name = "one").entered();
                outer.record("done", n);
                tracing::warn!(target: "jobs", files = n, size = 1.5, what = ?Some(1), is = true, "half {}", "way");
                syncq::line::Mirror::close(&*mirror).unwrap();
                0
            })
            .must_succeed();
        }
    });
    drop(mirror);
    assert!(parent.wait(Wait::For(std::time::Duration::from_secs(50))).unwrap());
    let items = parent.read(None).unwrap();
    assert_eq!(items.len(), 3);
    for (n, item) in items.iter().enumerate() {
        let Content::Record(record) = &item.content else {
            panic!("{items:?}")
        };
        let field = |name: &str, value| (name.to_owned(), value);
        assert_eq!(
            (record.level, record.target.as_str(), record.message.as_str()),
            (Level::Warn, "jobs", "half way")
        );
        assert_eq!(
            record.fields,
            [
                field("files", Value::Int(n as i128)),
                field("size", Value::Float(1.5)),
                field("what", Value::Text("Some(1)".to_owned())),
                field("is", Value::Bool(true)),
            ]
        );
        assert_eq!(record.spans[0].0, "job");
        assert_eq!(
            record.spans[0].1,
            [field("id", Value::Int(7)), field("done", Value::Int(n as i128))]
        );
        assert_eq!(
            record.spans[1],
            ("step".to_owned(), vec![field("name", Value::Text("one".to_owned()))])
        );
        assert!(item.to_string().starts_with("WARN jobs: half way files="));
    }
}
