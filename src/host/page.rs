//! The page for people at the route: `page.html` with its style and script in it, and nothing from elsewhere.
//!
//! The page holds no line: it fetches them as they come, with the token if one is needed. What they say gets in as text, never as HTML, and the
//! policy sent with the page lets no other script run than its own.

use super::body::Body;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, VARY};
use hyper::{Response, StatusCode};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub(super) fn response(full: impl Fn(StatusCode, &'static str, Body) -> Response<Body>) -> Response<Body> {
    // New for each page, and not to be guessed: a script that somebody smuggled in does not know it.
    let random = RandomState::new();
    let nonce = format!("{:016x}{:016x}", random.hash_one(1u8), random.hash_one(2u8));
    let page = HTML
        .replace("<style>{{style}}", &format!("<style nonce=\"{nonce}\">{STYLE}"))
        .replace("<script>{{script}}", &format!("<script nonce=\"{nonce}\">{SCRIPT}"));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = full(StatusCode::OK, "text/html; charset=utf-8", Body::of(page.into_bytes()));
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    response
}
