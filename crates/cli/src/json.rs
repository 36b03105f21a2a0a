//! What is listed, for programs: one JSON object a line, with the same keys in every command.

use crate::sample::{Sample, role_name};
use crate::show;
use serde_json::{Map, Value, json};
use syncq::{MemberInfo, Message};

/// Counters, options and state of a queue; `before` for the rate.
pub(crate) fn queue(name: &str, sample: &Sample, before: Option<&Sample>) -> Map<String, Value> {
    let stats = &sample.stats;
    let slowest = sample
        .slowest()
        .map(|m| json!({"member": m.id.to_string(), "name": m.name, "pid": m.pid, "lag": m.lag}));
    object(json!({
        "queue": name,
        "state": sample.state().name(),
        "capacity": stats.capacity,
        "used": sample.used(),
        "free": stats.free,
        "history": stats.history,
        "slots": stats.slots,
        "members": sample.members.len(),
        "dead": sample.dead().count(),
        "slowest": slowest,
        "appended": stats.appended,
        "position": stats.position,
        "rate": before.and_then(|before| sample.rate(before)),
        "byte_rate": before.and_then(|before| sample.byte_rate(before)),
        "refused": stats.refused,
        "missed": stats.missed,
        "takeovers": stats.takeovers,
        "reaped": stats.reaped,
        "evicted": stats.evicted,
        "writing": stats.writing,
        "lossy": stats.is_lossy,
        "single_writer": stats.is_single_writer,
        "timestamps": stats.has_timestamps,
        "unlink_on_last_leave": stats.unlinks_on_last_leave,
        "created": show::time(stats.created),
        "creator": stats.creator,
        "instance": format!("{:032x}", stats.instance),
    }))
}

/// A queue that could not be looked into.
pub(crate) fn unreadable(name: &str, error: &syncq::Error) -> Map<String, Value> {
    object(json!({"queue": name, "state": "unreadable", "error": error.to_string()}))
}

pub(crate) fn member(member: &MemberInfo) -> Value {
    json!({
        "id": member.id.to_string(),
        "slot": member.id.slot(),
        "name": member.name,
        "role": role_name(member.role),
        "pid": member.pid,
        "command": member.command(),
        "alive": member.is_alive,
        "evicted": member.is_evicted,
        "joined": show::time(member.joined),
        "lag": member.lag,
        "appended": member.appended,
        "appended_bytes": member.appended_bytes,
        "popped": member.popped,
        "popped_bytes": member.popped_bytes,
        "screened": member.screened,
        "missed": member.missed,
        "refused": member.refused,
        "screen": member.screen,
    })
}

/// A message. The body is text under `body` where it is UTF-8, and base64 under `body_base64` where it is not.
pub(crate) fn message(message: &Message<'_>) -> Value {
    let mut object = object(json!({
        "sequence": message.sequence(),
        "position": message.position(),
        "sender": message.sender(),
        "member": message.member().to_string(),
        "kind": message.kind(),
    }));
    if let Some(time) = message.timestamp() {
        object.insert("time".to_owned(), show::time(time).into());
    }
    match message.text() {
        Ok(text) => object.insert("body".to_owned(), text.into()),
        Err(_) => {
            use base64::Engine;
            let text = base64::engine::general_purpose::STANDARD.encode(message.body());
            object.insert("body_base64".to_owned(), text.into())
        }
    };
    Value::Object(object)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}
