//! Requests to registries: limits on every read, redirects without secrets, errors without secrets.

use std::time::Duration;

use oci_client::errors::OciEnvelope;
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Response, StatusCode, Url};
use tokio::time::Instant;

use super::clients::Clients;
use crate::Error;

const MOST_REDIRECTS: usize = 5;
const LARGEST_ERROR: u64 = 16 << 10;
/// A body that brings fewer bytes than this within the time-out makes no progress.
const LEAST_PROGRESS: u64 = 1024;

/// Who is asked for what, for messages.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// Host and port.
    pub registry: String,
    /// Reference or digest.
    pub object: String,
    /// No answer for so long is an error.
    pub timeout: Duration,
}

impl Subject {
    pub(super) fn stalled(&self, stage: &str) -> Error {
        let object = format!("registry {}: {}", self.registry, self.object);
        Error::Stalled { object, stage: stage.to_owned(), timeout: self.timeout }
    }

    pub(super) fn unavailable(&self, operation: &str, reason: String) -> Error {
        let operation = format!("{operation} {}", self.object);
        Error::Unavailable { registry: self.registry.clone(), operation, reason }
    }
}

/// GET with redirects. `headers` go to the first host only, and so does `authorization`.
pub(super) async fn get(
    clients: &Clients,
    mut url: Url,
    headers: &HeaderMap,
    common: &HeaderMap,
    subject: &Subject,
) -> Result<Response, Error> {
    let first = origin(&url);
    for _ in 0..=MOST_REDIRECTS {
        let mut request = clients.to(&url).get(url.clone()).headers(common.clone());
        // A secret never crosses to another host, and never from https to http on the same one.
        if origin(&url) == first {
            request = request.headers(headers.clone());
        }
        let response = send(request, subject).await?;
        if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|location| url.join(location).ok());
        url = next
            .filter(|next| matches!(next.scheme(), "http" | "https"))
            .ok_or_else(|| subject.unavailable("get", "a redirect to nowhere".into()))?;
    }
    Err(subject.unavailable("get", format!("more than {MOST_REDIRECTS} redirects")))
}

fn origin(url: &Url) -> (String, String, Option<u16>) {
    (url.scheme().to_owned(), url.host_str().unwrap_or_default().to_owned(), url.port_or_known_default())
}

/// Sends a request and waits for the head of its answer.
pub(super) async fn send(request: reqwest::RequestBuilder, subject: &Subject) -> Result<Response, Error> {
    match tokio::time::timeout(subject.timeout, request.send()).await {
        Err(_) => Err(subject.stalled("the answer")),
        Ok(Err(error)) => Err(subject.unavailable("get", cause(&error))),
        Ok(Ok(response)) => Ok(response),
    }
}

/// A body with a deadline that moves on only with progress.
pub(super) struct Body<'a> {
    response: Response,
    subject: &'a Subject,
    deadline: Instant,
    since: u64,
}

impl<'a> Body<'a> {
    pub(super) fn new(response: Response, subject: &'a Subject) -> Self {
        Self { response, subject, deadline: Instant::now() + subject.timeout, since: 0 }
    }

    /// The next bytes, or nothing at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + Send + use<>>, Error> {
        match tokio::time::timeout_at(self.deadline, self.response.chunk()).await {
            Err(_) => Err(self.subject.stalled("data")),
            Ok(Err(error)) => Err(self.subject.unavailable("read", cause(&error))),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(chunk))) => {
                self.since += chunk.len() as u64;
                if self.since >= LEAST_PROGRESS {
                    self.resume();
                }
                Ok(Some(chunk))
            }
        }
    }

    /// Begins a new window: there was progress.
    fn resume(&mut self) {
        self.since = 0;
        self.deadline = Instant::now() + self.subject.timeout;
    }

    /// Time that we were busy ourselves is not held against the registry.
    pub(super) fn excuse(&mut self, pause: Duration) {
        self.deadline += pause;
    }

    /// All of it, if it is not more than `limit` bytes; `None` if it is.
    pub(super) async fn collect(mut self, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        if self.response.content_length().is_some_and(|length| length > limit) {
            return Ok(None);
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            let chunk = chunk.as_ref();
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Ok(None);
            }
            body.extend_from_slice(chunk);
        }
        Ok(Some(body))
    }
}

/// The error that a status stands for. `secret_sent`: whether credentials went with the request.
pub(super) async fn refused(response: Response, subject: &Subject, secret_sent: bool) -> Error {
    let status = response.status();
    let said = match Body::new(response, subject).collect(LARGEST_ERROR).await {
        Ok(Some(body)) => message(&body),
        _ => String::new(),
    };
    let (registry, object) = (subject.registry.clone(), subject.object.clone());
    let with = |hint: &str| {
        let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
        format!("{hint}{said}")
    };
    match status {
        StatusCode::UNAUTHORIZED => {
            let hint = if secret_sent { "the credentials are wrong" } else { "credentials are missing" };
            Error::Unauthenticated { object, registry, reason: with(hint) }
        }
        StatusCode::FORBIDDEN => {
            let hint = if secret_sent {
                "the credentials lack the right to pull"
            } else {
                "credentials are missing"
            };
            Error::Denied { object, registry, reason: with(hint) }
        }
        StatusCode::NOT_FOUND => Error::NotFound { object, registry, reason: with("status 404") },
        other => subject.unavailable("get", with(&format!("status {}", other.as_u16()))),
    }
}

/// The registry's own explanation of its refusal, without control characters; empty: it gave none.
pub(super) fn message(body: &[u8]) -> String {
    let Ok(envelope) = serde_json::from_slice::<OciEnvelope>(body) else { return String::new() };
    let text: Vec<String> = envelope.errors.iter().take(3).map(|error| error.message.clone()).collect();
    let text: String = text.join("; ").chars().filter(|char| !char.is_control()).take(200).collect();
    text.trim().to_owned()
}

/// The innermost cause of a failed request; the layers around it repeat the URL, whose query may be a signature.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    let mut depth = 0;
    while let Some(source) = innermost.source() {
        innermost = source;
        depth += 1;
    }
    if depth == 0 { "the request failed".to_owned() } else { innermost.to_string() }
}

/// `Authorization` in a map of its own.
pub(super) fn with_authorization(
    headers: &HeaderMap,
    value: Option<&reqwest::header::HeaderValue>,
) -> HeaderMap {
    let mut headers = headers.clone();
    if let Some(value) = value {
        headers.insert(AUTHORIZATION, value.clone());
    }
    headers
}
