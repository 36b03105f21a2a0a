//! Requests to a line service, ours or the original's: what mirrors and readers have in common.
//!
//! Not here: when to try again (`sender.rs`), and what is in the bodies.

use crate::line::{LineError, Result};
use serde::Deserialize;
use std::time::Duration;

/// Bytes of an answer that are taken at most: more than a buffer with default bounds can hold.
const MOST_ANSWER: u64 = 512 << 20;

/// What came of a request that was not a success.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing came back, or not all.
    Lost(String),
    /// It was refused, with this code.
    Refused(u16, String),
}

impl Failure {
    pub(super) fn words(&self) -> String {
        match self {
            Failure::Lost(why) => why.clone(),
            Failure::Refused(code, why) => format!("{code}: {why}"),
        }
    }

    pub(super) fn into_error(self, doing: &str, url: &str) -> LineError {
        LineError::Remote {
            doing: format!("{doing} {url}"),
            why: self.words(),
        }
    }
}

/// An answer with a code below 400.
pub(super) struct Reply {
    pub(super) media_type: String,
    pub(super) body: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    address: String,
    authorization: Option<String>,
}

/// Choices of mirrors and readers for their requests.
#[derive(Clone)]
pub(super) struct ClientOptions {
    pub(super) timeout: Duration,
    pub(super) token: Option<String>,
}

impl ClientOptions {
    pub(super) const DEFAULT: ClientOptions = ClientOptions {
        timeout: Duration::from_secs(10),
        token: None,
    };

    pub(super) fn client(&self, address: &str) -> Result<Client> {
        let wrong = |option, why: &str| {
            Err(LineError::InvalidOption {
                option,
                why: why.into(),
            })
        };
        if address.starts_with("https:") {
            return wrong(
                "address",
                "TLS is not spoken here: reach the service through a local tunnel, at http://127.0.0.1:...",
            );
        }
        let uri: hyper::Uri = match address.parse() {
            Ok(uri) => uri,
            Err(_) => return wrong("address", "it is not like http://127.0.0.1:5000/sync-stream"),
        };
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) || address.contains(['?', '#']) {
            return wrong("address", "it is not like http://127.0.0.1:5000/sync-stream");
        }
        if self.timeout.is_zero() {
            return wrong("timeout", "it is longer than nothing");
        }
        if self
            .token
            .as_ref()
            .is_some_and(|t| t.is_empty() || !t.chars().all(|c| c.is_ascii_graphic()))
        {
            return wrong("token", "it has at least one character, all of them visible ASCII");
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("syncq/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(self.timeout))
            .max_idle_age(Duration::from_secs(10))
            .build();
        Ok(Client {
            agent: config.into(),
            address: address.to_owned(),
            authorization: self.token.as_ref().map(|token| format!("Bearer {token}")),
        })
    }
}

impl Client {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn state_url(&self, name: &str) -> String {
        format!("{}-state?state={name}", self.address)
    }

    pub(super) fn get(&self, url: &str, accept: &str, patience: Option<Duration>) -> Result<Reply, Failure> {
        let mut request = self.agent.get(url).header("accept", accept);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = match patience {
            Some(patience) => request.config().timeout_global(Some(patience)).build(),
            None => request,
        };
        read(request.call())
    }

    pub(super) fn delete(&self, url: &str) -> Result<Reply, Failure> {
        let mut request = self.agent.delete(url).header("accept", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        read(request.call())
    }

    pub(super) fn post(&self, url: &str, body: &[u8]) -> Result<Reply, Failure> {
        let mut request = self
            .agent
            .post(url)
            .header("accept", "application/json")
            .header("content-type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        read(request.send(body))
    }
}

#[derive(Deserialize)]
struct Said {
    message: String,
}

fn read(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Reply, Failure> {
    let lost = |error: ureq::Error| Failure::Lost(error.to_string());
    let mut response = answer.map_err(lost)?;
    let status = response.status().as_u16();
    let media_type = response
        .headers()
        .get("content-type")
        .and_then(|v| v.to_str().ok())
        .unwrap_or("")
        .to_owned();
    let body = response
        .body_mut()
        .with_config()
        .limit(MOST_ANSWER)
        .read_to_vec()
        .map_err(lost)?;
    if (200..300).contains(&status) {
        return Ok(Reply { media_type, body });
    }
    // The original's own faults are pages in HTML.
    let why = serde_json::from_slice::<Said>(&body).map_or_else(
        |_| response.status().canonical_reason().unwrap_or("refused").to_owned(),
        |said| said.message,
    );
    Err(Failure::Refused(status, why))
}

/// The value of a state, and whether the other side is ours.
#[derive(Deserialize)]
pub(super) struct StateReply {
    #[serde(default)]
    pub(super) data: serde_json::Value,
    #[serde(default)]
    syncq: u8,
}

impl StateReply {
    pub(super) fn is_ours(&self) -> bool {
        self.syncq == 1
    }
}

/// Asks for a state.
pub(super) fn ask_state(client: &Client, name: &str) -> Result<StateReply, Failure> {
    let reply = client.get(&format!("{}&syncq=1", client.state_url(name)), "application/json", None)?;
    serde_json::from_slice(&reply.body).map_err(|_| Failure::Lost("the answer is not that of a line service".into()))
}
