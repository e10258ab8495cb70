//! An operator at the REST interface, who tells an answer from silence.
//!
//! Silence says nothing about what the server did: it may have been killed before or after. Only an answer is a
//! promise.

use super::promises::Promises;
use crate::{Answer, Connection, Server, Tls, Versions};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::Value;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// As many items as the server gives at once.
const PAGE: &str = "1000";

/// No answer came, or none that could be read.
#[derive(Clone, Debug)]
pub(super) struct Silence(pub(super) String);

/// One operator with one kept connection.
#[derive(Debug)]
pub(super) struct Admin {
    tls: Tls,
    base: String,
    bearer: String,
    kept: Option<Connection>,
}

impl Admin {
    /// The operator of `server`, wherever it comes back under the same address.
    pub(super) fn of(server: &Server) -> Self {
        let token = server.site().credential()["token"].as_str().expect("a credential").to_owned();
        Self {
            tls: Tls::build(server.site(), None, Versions::Tls13),
            base: server.endpoints().admin.trim_end_matches('/').to_owned(),
            bearer: format!("Bearer {token}"),
            kept: None,
        }
    }

    /// The same operator on another connection.
    pub(super) fn another(&self) -> Self {
        Self { tls: self.tls.clone(), base: self.base.clone(), bearer: self.bearer.clone(), kept: None }
    }

    /// What `path` is.
    pub(super) async fn get(&mut self, path: &str) -> Result<Answer, Silence> {
        let had_connection = self.kept.is_some();
        match self.send(Method::GET, path, None).await {
            // The server may have let go of a kept connection at any time.
            Err(_) if had_connection => self.send(Method::GET, path, None).await,
            answered => answered,
        }
    }

    /// What `path` is, as JSON.
    pub(super) async fn json(&mut self, path: &str) -> Result<Value, Silence> {
        let answer = self.get(path).await?;
        let text = || format!("{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        if answer.status != 200 {
            return Err(Silence(text()));
        }
        serde_json::from_slice(&answer.body).map_err(|_| Silence(text()))
    }

    /// Every item of the list at `path`.
    pub(super) async fn all(&mut self, path: &str) -> Result<Vec<Value>, Silence> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut page = self.json(&format!("{path}?limit={PAGE}{cursor}")).await?;
            if let Some(more) = page["items"].as_array_mut() {
                items.append(more);
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Does something; a connection of its own, so that silence is never that of a kept connection.
    pub(super) async fn post(&mut self, path: &str, body: &Value) -> Result<Answer, Silence> {
        self.kept = None;
        self.send(Method::POST, path, Some(body).filter(|body| !body.is_null())).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, Silence> {
        let asked = format!("{method} {path}");
        let answered = tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await;
        let silent = |why: String| Silence(format!("{asked}: {why}"));
        let answer = answered.map_err(|_| silent("no answer in time".into()))?;
        if answer.is_err() {
            self.kept = None;
        }
        answer.map_err(silent)
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let mut connection = match self.kept.take() {
            Some(kept) => kept,
            None => self.tls.connect(&self.base).await.map_err(|failure| format!("{failure:?}"))?,
        };
        let mut request = Request::builder().method(method).uri(path).header("authorization", &self.bearer);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(bytes).map_err(|cause| cause.to_string())?;
        let answer = connection.send(request).await.map_err(|failure| format!("{failure:?}"))?;
        self.kept = Some(connection);
        Ok(answer)
    }
}

/// Something that an operator does.
#[derive(Clone, Debug)]
pub(super) struct Act {
    /// Where.
    pub(super) path: String,
    /// With what; null where nothing may be sent.
    pub(super) body: Value,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server promised.
    Promised,
    /// The server said no.
    Refused(u16),
    /// Nobody knows.
    Unknown,
}

impl Act {
    /// Does it, and notes in `promises` what the answer promises, or that nobody knows.
    pub(super) async fn carry_out(
        &self,
        admin: &mut Admin,
        promises: &mut Promises,
        at: Duration,
    ) -> Outcome {
        let answered = admin.post(&self.path, &self.body).await;
        self.note(answered, promises, at)
    }

    /// What `answered` means for `promises`.
    pub(super) fn note(
        &self,
        answered: Result<Answer, Silence>,
        promises: &mut Promises,
        at: Duration,
    ) -> Outcome {
        match answered {
            Ok(answer) if answer.status.is_success() => {
                promises.made(&self.path, &answer.json(), at);
                Outcome::Promised
            }
            // A server that says that it cannot has done nothing.
            Ok(answer) if answer.status.as_u16() < 500 || answer.status == 503 => {
                Outcome::Refused(answer.status.as_u16())
            }
            Ok(_) | Err(_) => {
                promises.unknown(&self.path);
                Outcome::Unknown
            }
        }
    }
}
