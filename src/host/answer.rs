//! What is answered to which request: the original's two routes, and what is ours beside it.
//!
//! | request | answer |
//! |---|---|
//! | `GET route` | the items; as the original's readers know them, or with all they have for those who accept that |
//! | `GET route`, accepting `text/event-stream` | the items as they come |
//! | `GET route`, accepting `text/html` | the page |
//! | `POST route` | takes lines |
//! | `DELETE route` | clears |
//! | `GET`, `POST`, `DELETE` of `route-state` | asks for a state, stops all mirrors, ends the stop |
//!
//! Not here: how bodies are written and read as JSON (`wire.rs`, `item.rs`).

use super::body::{Body, Events, collect};
use super::item::{MEDIA_TYPE, push_item};
use super::page;
use super::registry::{Stranger, status_of};
use super::server::{HostLimits, LineHostBuffer};
use super::wire::{Post, PostLimits, Refusal, push_array, push_plain_item};
use crate::line::{LineError, LineItem, Lines};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long a reader can ask to be kept waiting for news, in one request.
const LONGEST_POLL: Duration = Duration::from_secs(25);

/// What all connections of a service share.
#[derive(Debug)]
pub(super) struct Shared {
    buffer: LineHostBuffer,
    is_on_loopback: bool,
    in_flight: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    pub(super) news: watch::Receiver<u64>,
    pub(super) stopped: watch::Receiver<bool>,
}

/// A request that is refused: code and words.
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) why: String,
    /// The rest of the request was not read: the connection is of no more use.
    pub(super) closes: bool,
}

pub(super) fn refused(status: StatusCode, why: impl Into<String>) -> Refused {
    Refused {
        status,
        why: why.into(),
        closes: false,
    }
}

impl From<LineError> for Refused {
    fn from(error: LineError) -> Self {
        let status = StatusCode::from_u16(status_of(&error)).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        refused(status, error.to_string())
    }
}

impl Shared {
    pub(super) fn new(
        buffer: LineHostBuffer,
        address: SocketAddr,
        news: watch::Receiver<u64>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let permits = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Shared {
            in_flight: permits(buffer.options.limits.in_flight),
            followers: permits(buffer.options.limits.followers),
            is_on_loopback: address.ip().is_loopback(),
            buffer,
            news,
            stopped,
        }
    }

    pub(super) fn limits(&self) -> &HostLimits {
        &self.buffer.options.limits
    }

    /// Room for `len` more bytes on their way.
    pub(super) fn room(&self, len: usize) -> Result<OwnedSemaphorePermit, Refused> {
        // One answer that is larger than all the room must be possible too.
        let len = u32::try_from(len.min(self.limits().in_flight)).unwrap_or(u32::MAX);
        (self.in_flight.clone().try_acquire_many_owned(len)).map_err(|_| {
            refused(
                StatusCode::TOO_MANY_REQUESTS,
                "too many bytes are on their way; come back later",
            )
        })
    }

    /// A service on loopback without a token is not to be reached from a web page by a name that leads here.
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Refused> {
        if !self.is_on_loopback || self.buffer.options.token.is_some() {
            return Ok(());
        }
        let Some(host) = headers.get(HOST) else { return Ok(()) };
        let host = host.to_str().unwrap_or("").to_ascii_lowercase();
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host.as_str(),
        };
        let is_address = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok();
        let is_known = || self.buffer.options.hosts.iter().any(|known| known == name);
        match is_address || name == "localhost" || name.ends_with(".localhost") || is_known() {
            true => Ok(()),
            false => Err(refused(
                StatusCode::MISDIRECTED_REQUEST,
                format!("{name:?} is not a name of this service"),
            )),
        }
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let Some(token) = &self.buffer.options.token else {
            return Ok(());
        };
        let given = headers.get(AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        let given = match given.split_at_checked(7) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case(b"bearer ") => given.trim_ascii(),
            _ => b"",
        };
        match bool::from(token.as_bytes().ct_eq(given)) {
            true => Ok(()),
            false => Err(refused(
                StatusCode::UNAUTHORIZED,
                "a bearer token is needed, and the right one",
            )),
        }
    }
}

pub(super) async fn answer(
    shared: Arc<Shared>,
    stranger: Arc<Mutex<Stranger>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let response = match respond(&shared, &stranger, request).await {
        Ok(response) => response,
        Err(Refused { status, why, closes }) => {
            let mut out = br#"{"message":"#.to_vec();
            super::text::push_json(&mut out, why.as_bytes(), super::text::Reading::Python);
            out.extend_from_slice(b"}\n");
            let mut response = json(status, out);
            let headers = response.headers_mut();
            match status {
                StatusCode::UNAUTHORIZED => put(headers, WWW_AUTHENTICATE, "Bearer"),
                StatusCode::TOO_MANY_REQUESTS => put(headers, RETRY_AFTER, "1"),
                StatusCode::METHOD_NOT_ALLOWED => put(headers, ALLOW, METHODS),
                _ => {}
            }
            if closes {
                put(headers, CONNECTION, "close");
            }
            response
        }
    };
    Ok(response)
}

const METHODS: &str = "GET, HEAD, POST, DELETE, OPTIONS";

fn put(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    full(status, "application/json", Body::of(body))
}

fn full(status: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    put(headers, CONTENT_TYPE, media_type);
    put(headers, CACHE_CONTROL, "no-store");
    put(headers, X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn success(status: StatusCode) -> Response<Body> {
    json(status, b"{\"message\":\"success\"}\n".to_vec())
}

async fn respond(
    shared: &Arc<Shared>,
    stranger: &Mutex<Stranger>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    shared.check_host(request.headers())?;
    let route = shared.buffer.route();
    let is_state = match request.uri().path().strip_prefix(route) {
        Some("") => false,
        Some("-state") => true,
        _ => {
            return Err(refused(
                StatusCode::NOT_FOUND,
                format!("nothing here; the lines are at {route}"),
            ));
        }
    };
    let accepts = |media_type: &str| {
        request
            .headers()
            .get_all(ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.contains(media_type))
    };
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_get && !is_state && accepts("text/html") {
        return Ok(page::response(full));
    }
    shared.check_token(request.headers())?;
    match (request.method().clone(), is_state) {
        (Method::GET | Method::HEAD, false) if accepts("text/event-stream") => follow(shared, &request),
        (Method::GET | Method::HEAD, false) if accepts(MEDIA_TYPE) => read_items(shared, &request).await,
        (Method::GET | Method::HEAD, false) => read(shared, &request),
        (Method::POST, false) => post(shared, stranger, request).await,
        (Method::DELETE, false) => {
            shared.buffer.lines.clear()?;
            Ok(success(StatusCode::OK))
        }
        (Method::GET | Method::HEAD, true) => state(shared, &request),
        (Method::POST, true) => set_state(shared, request).await,
        (Method::DELETE, true) => {
            shared.buffer.lines.reset_states()?;
            Ok(success(StatusCode::OK))
        }
        (Method::OPTIONS, _) => {
            let mut response = full(StatusCode::OK, "application/json", Body::of(Vec::new()));
            put(response.headers_mut(), ALLOW, METHODS);
            Ok(response)
        }
        (method, _) => Err(refused(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} means nothing here"),
        )),
    }
}

/// A value of the query. The last one counts; numbers and plain words need no decoding, but blanks are passed over as Python does.
fn query<'r>(request: &'r Request<Incoming>, name: &str) -> Option<&'r str> {
    let mut pairs = request
        .uri()
        .query()?
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let value = pairs.rfind(|(known, _)| *known == name)?.1;
    let mut value = value;
    while let Some(rest) = value.strip_prefix("%20").or_else(|| value.strip_prefix('+')) {
        value = rest;
    }
    while let Some(rest) = value.strip_suffix("%20").or_else(|| value.strip_suffix('+')) {
        value = rest;
    }
    Some(value)
}

/// A number of the query; below 0 is 0, and more than there can be is all.
fn number(request: &Request<Incoming>, name: &str) -> Result<Option<u64>, Refused> {
    let Some(value) = query(request, name) else {
        return Ok(None);
    };
    let digits = value.strip_prefix('-').unwrap_or(value);
    if digits.is_empty() || digits.len() > 100 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refused(StatusCode::BAD_REQUEST, format!("{name} is a whole number")));
    }
    Ok(Some(if value.starts_with('-') {
        0
    } else {
        digits.parse().unwrap_or(u64::MAX)
    }))
}

fn count(n: Option<u64>) -> Option<usize> {
    n.map(|n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// `GET route`, as the original's readers know it.
fn read(shared: &Shared, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let items = shared.buffer.lines.read(count(number(request, "n")?))?;
    let mut out = br#"{"data":"#.to_vec();
    push_array(&mut out, &items, push_plain_item);
    out.extend_from_slice(b",\"message\":\"success\"}\n");
    let room = shared.room(out.len())?;
    let mut response = full(StatusCode::OK, "application/json", Body::with_room(out, room));
    put(response.headers_mut(), VARY, "Accept");
    Ok(response)
}

/// `GET route` of our reader: from a number on, if one is said, and after waiting for it for as long as is said.
async fn read_items(shared: &Shared, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let lines = &shared.buffer.lines;
    let n = count(number(request, "n")?);
    let items: Vec<LineItem> = match number(request, "since")? {
        None => lines.read(n)?,
        Some(since) => {
            let patience = Duration::from_millis(number(request, "wait")?.unwrap_or(0)).min(LONGEST_POLL);
            wait_for(shared, since, patience).await?;
            lines.read_since(since, n.unwrap_or(usize::MAX))?
        }
    };
    let mut out = br#"{"items":"#.to_vec();
    push_array(&mut out, &items, push_item);
    let (closed, maxlen, next_seq) = (lines.is_stopped(), lines.maxlen(), lines.next_seq()?);
    let rest = format!(",\"closed\":{closed},\"maxlen\":{maxlen},\"next_seq\":{next_seq},\"message\":\"success\"}}\n");
    out.extend_from_slice(rest.as_bytes());
    let room = shared.room(out.len())?;
    Ok(full(StatusCode::OK, MEDIA_TYPE, Body::with_room(out, room)))
}

async fn wait_for(shared: &Shared, since: u64, patience: Duration) -> Result<(), Refused> {
    let (mut news, mut stopped) = (shared.news.clone(), shared.stopped.clone());
    let deadline = tokio::time::Instant::now() + patience;
    while shared.buffer.lines.next_seq()? <= since && !*stopped.borrow() {
        tokio::select! {
            changed = news.changed() => if changed.is_err() { break },
            _ = stopped.changed() => break,
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    Ok(())
}

/// The items as they come, from the first that is there, or after the one that was seen last.
fn follow(shared: &Arc<Shared>, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let seen = request
        .headers()
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .and_then(|id| id.trim().parse().ok());
    let from = match (seen, number(request, "since")?) {
        (Some(seen), _) => u64::saturating_add(seen, 1),
        (None, Some(since)) => since,
        (None, None) => shared.buffer.lines.read_since(0, 1)?.first().map_or(0, |item| item.seq),
    };
    let place = (shared.followers.clone().try_acquire_owned()).map_err(|_| {
        refused(
            StatusCode::TOO_MANY_REQUESTS,
            "too many follow already; come back later",
        )
    })?;
    let events = Events {
        lines: shared.buffer.lines.clone(),
        next: from,
        news: shared.news.clone(),
        stopped: shared.stopped.clone(),
        _place: place,
        is_greeted: false,
    };
    let mut response = full(StatusCode::OK, "text/event-stream", Body::following(events));
    put(response.headers_mut(), VARY, "Accept");
    Ok(response)
}

/// JSON is asked for by name: a web page elsewhere can send that here only after asking, which it is not allowed.
fn check_json(headers: &HeaderMap) -> Result<(), Refused> {
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("")
        .to_ascii_lowercase();
    let given = given.split(';').next().unwrap_or("").trim();
    match given == "application/json" || (given.starts_with("application/") && given.ends_with("+json")) {
        true => Ok(()),
        false => Err(refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the Content-Type is to be application/json",
        )),
    }
}

async fn post(
    shared: &Shared,
    stranger: &Mutex<Stranger>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refused> {
    let is_json = check_json(request.headers());
    let body = collect(shared, request).await?;
    is_json?;
    let limits = PostLimits {
        line: shared.limits().line,
        items: shared.limits().items,
    };
    let post = Post::read(&body.bytes, &limits).map_err(|refusal| match refusal {
        Refusal::Malformed(why) => refused(StatusCode::BAD_REQUEST, why),
        Refusal::TooMuch(why) => refused(StatusCode::PAYLOAD_TOO_LARGE, why),
    })?;
    drop(body);
    let buffer = &shared.buffer;
    let mut registry = buffer.registry.lock().unwrap_or_else(PoisonError::into_inner);
    match post.extra {
        None => {
            let mut stranger = stranger.lock().unwrap_or_else(PoisonError::into_inner);
            registry.take(&mut stranger, post.event)?;
            Ok(success(StatusCode::CREATED))
        }
        Some(extra) => {
            registry.take_ours(extra, post.event)?;
            let closed = buffer.lines.is_stopped();
            let body = format!("{{\"closed\":{closed},\"message\":\"success\",\"syncq\":1}}\n");
            Ok(json(StatusCode::CREATED, body.into_bytes()))
        }
    }
}

/// `GET route-state?state=NAME`. Who adds `syncq` to the query is told that this is not the original.
fn state(shared: &Shared, request: &Request<Incoming>) -> Result<Response<Body>, Refused> {
    let lines = &shared.buffer.lines;
    let value = match query(request, "state") {
        Some("closed") => lines.is_stopped().to_string(),
        Some("maxlen") => lines.maxlen().to_string(),
        Some("curlen") => lines.len()?.to_string(),
        Some("next_seq") => lines.next_seq()?.to_string(),
        Some(_) => "null".into(),
        None => {
            return Err(refused(
                StatusCode::BAD_REQUEST,
                "which state? state=closed, maxlen, curlen or next_seq",
            ));
        }
    };
    let ours = if query(request, "syncq").is_some() {
        ",\"syncq\":1"
    } else {
        ""
    };
    let body = format!("{{\"data\":{value},\"message\":\"success\"{ours}}}\n");
    Ok(json(StatusCode::OK, body.into_bytes()))
}

/// `POST route-state`: only `closed` has an effect.
async fn set_state(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    struct Setting {
        state: String,
        #[serde(default)]
        value: serde_json::Value,
    }
    let is_json = check_json(request.headers());
    let body = collect(shared, request).await?;
    is_json?;
    let setting: Setting = serde_json::from_slice(&body.bytes)
        .map_err(|e| refused(StatusCode::BAD_REQUEST, format!("the body is not a state: {e}")))?;
    if setting.state == "closed" {
        let is_true = match &setting.value {
            serde_json::Value::Bool(value) => *value,
            serde_json::Value::String(value) => value.trim().eq_ignore_ascii_case("true"),
            _ => false,
        };
        match is_true {
            true => shared.buffer.lines.stop_all_mirrors()?,
            false => shared.buffer.lines.reset_states()?,
        }
    }
    Ok(success(StatusCode::CREATED))
}

/// The bytes of a body, and their room.
pub(super) struct Collected {
    pub(super) bytes: Bytes,
    pub(super) _room: Option<OwnedSemaphorePermit>,
}
