//! Bodies: those that come, taken in with a limit and a timer, and those that go, whole or as they come about.
//!
//! Not here: what is in them.

use super::answer::{Collected, Refused, Shared, refused};
use super::item::push_item;
use crate::line::{Content, LineBuffer, LineItem};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::{Request, StatusCode};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

/// A body over the limit is read and thrown away up to this many times the limit before it is refused: closing while the other side still
/// sends would take the refusal back before it is heard.
const PATIENCE: usize = 4;

/// How often followers hear something, so that proxies and browsers see that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Events go out when they come to this many bytes.
const MOST_EVENTS: usize = 256 << 10;

/// Takes in the body of a request.
pub(super) async fn collect(shared: &Shared, request: Request<Incoming>) -> Result<Collected, Refused> {
    let limits = shared.limits();
    let mut body = request.into_body();
    let (mut bytes, mut len) = (Vec::new(), 0usize);
    let mut room: Option<OwnedSemaphorePermit> = None;
    let mut refusal: Option<Refused> = None;
    loop {
        let frame = match timeout(limits.stall, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(closing(
                    StatusCode::BAD_REQUEST,
                    format!("the body ended early: {error}"),
                ));
            }
            Err(_) => {
                return Err(closing(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body did not come in time".into(),
                ));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        len += data.len();
        if len > limits.body {
            let limit = limits.body;
            refusal = Some(refused(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is over {limit} bytes"),
            ));
            (bytes, room) = (Vec::new(), None);
            if len > limit.saturating_mul(PATIENCE) {
                return Err(closing(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the body is over {limit} bytes"),
                ));
            }
        } else if refusal.is_none() {
            match shared.room(data.len()) {
                Ok(permit) => {
                    // One permit for all: there may be as many chunks as bytes.
                    match &mut room {
                        Some(room) => room.merge(permit),
                        None => room = Some(permit),
                    }
                    bytes.extend_from_slice(&data);
                }
                Err(full) => {
                    refusal = Some(full);
                    (bytes, room) = (Vec::new(), None);
                }
            }
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok(Collected {
            bytes: bytes.into(),
            _room: room,
        }),
    }
}

fn closing(status: StatusCode, why: String) -> Refused {
    Refused {
        status,
        why,
        closes: true,
    }
}

type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Events)>> + Send>>;

/// The body of an answer.
pub(super) enum Body {
    Whole {
        bytes: Option<Bytes>,
        _room: Option<OwnedSemaphorePermit>,
    },
    Following(Next),
}

impl Body {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Body::Whole {
            bytes: Some(bytes.into()),
            _room: None,
        }
    }

    pub(super) fn with_room(bytes: Vec<u8>, room: OwnedSemaphorePermit) -> Self {
        Body::Whole {
            bytes: Some(bytes.into()),
            _room: Some(room),
        }
    }

    pub(super) fn following(events: Events) -> Self {
        Body::Following(Box::pin(events.next()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Whole { bytes, .. } => {
                Poll::Ready(bytes.take().filter(|b| !b.is_empty()).map(|b| Ok(Frame::data(b))))
            }
            Body::Following(next) => match next.as_mut().poll(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some((bytes, events))) => {
                    *next = Box::pin(events.next());
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole { bytes, .. } if bytes.as_ref().is_none_or(|b| b.is_empty()))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole { bytes, .. } => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Following(_) => SizeHint::default(),
        }
    }
}

/// The items as they come, as server-sent events. They are fetched when the connection has room for more, so a slow follower costs nothing; what
/// was rotated out before it came is said to be dropped.
pub(super) struct Events {
    pub(super) lines: LineBuffer,
    pub(super) next: u64,
    pub(super) news: watch::Receiver<u64>,
    pub(super) stopped: watch::Receiver<bool>,
    pub(super) _place: OwnedSemaphorePermit,
    pub(super) is_greeted: bool,
}

impl Events {
    async fn next(mut self) -> Option<(Bytes, Events)> {
        if !self.is_greeted {
            // The head goes out with it: who follows an empty buffer learns that it is connected.
            self.is_greeted = true;
            return Some((Bytes::from_static(b": syncq\n\n"), self));
        }
        loop {
            self.news.mark_unchanged();
            let out = self.fetch()?;
            if !out.is_empty() {
                return Some((out.into(), self));
            }
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                _ = self.stopped.changed() => return None,
                () = tokio::time::sleep(HEARTBEAT) => return Some((Bytes::from_static(b": still here\n\n"), self)),
            }
        }
    }

    /// `None` where the buffer was closed.
    fn fetch(&mut self) -> Option<Vec<u8>> {
        use crate::line::Lines;
        let mut out = Vec::new();
        while out.len() < MOST_EVENTS {
            let Some(item) = self.lines.read_since(self.next, 1).ok()?.pop() else {
                break;
            };
            if item.seq > self.next {
                let mut note: LineItem = item.clone();
                (note.seq, note.origin) = (item.seq - 1, None);
                note.content = Content::Dropped(item.seq - self.next);
                push_event(&mut out, &note);
            }
            self.next = item.seq + 1;
            push_event(&mut out, &item);
        }
        Some(out)
    }
}

fn push_event(out: &mut Vec<u8>, item: &LineItem) {
    out.extend_from_slice(format!("id: {}\ndata: ", item.seq).as_bytes());
    // In ASCII, without line breaks.
    push_item(out, item);
    out.extend_from_slice(b"\n\n");
}
