//! One host that serves the repository of a pull.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Mutex;

use super::auth::{Challenge, Secret};
use super::clients::Clients;
use super::hosts::Host;
use super::http::{self, Body, Subject};
use super::sent::Sent;
use super::{Fetched, check_digest};
use crate::digest::Digest;
use crate::manifest::{self, Descriptor, Document};
use crate::reference::Reference;
use crate::{Error, ErrorKind};

const ATTEMPTS: u32 = 4;

/// One host of a session.
pub(crate) struct Endpoint {
    host: Host,
    pub(super) name: String,
    pub(super) clients: Clients,
    pub(super) secret: Secret,
    pub(super) repository: String,
    /// Query `ns`, which tells a mirror whose content is wanted.
    namespace: Option<String>,
    pub(super) authorization: Mutex<Option<HeaderValue>>,
    timeout: Duration,
}

impl Endpoint {
    pub(super) fn new(
        host: Host,
        clients: Clients,
        secret: Secret,
        reference: &Reference,
        timeout: Duration,
    ) -> Self {
        let address = host.base.host_str().unwrap_or_default();
        let name = host.base.port().map_or_else(|| address.to_owned(), |port| format!("{address}:{port}"));
        let is_hub = reference.registry == "docker.io" && address == "registry-1.docker.io";
        let namespace = (name != reference.registry && !is_hub).then(|| reference.registry.clone());
        // Basic or bearer secrets are not sent before the host asks, which says whether it wants a token instead.
        Self {
            host,
            name,
            clients,
            secret,
            repository: reference.repository.clone(),
            namespace,
            authorization: Mutex::new(None),
            timeout,
        }
    }

    /// Host and port, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn subject(&self, object: &str) -> Subject {
        Subject { registry: self.name.clone(), object: object.to_owned(), timeout: self.timeout }
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// A manifest by tag or digest, with retries.
    pub(super) async fn manifest(&self, reference: &str, object: &str) -> Result<Fetched, Error> {
        let subject = self.subject(object);
        let mut tries = Tries::default();
        loop {
            let answer = self.manifest_once(reference, &subject).await;
            if let Some(done) = tries.judge(answer).await {
                return done;
            }
        }
    }

    /// A body that is no manifest is this host's failure, whatever status came with it: the next host may do
    /// better.
    async fn manifest_once(&self, reference: &str, subject: &Subject) -> Result<Fetched, Error> {
        let mut common = HeaderMap::new();
        common.insert(ACCEPT, HeaderValue::from_static(accept()));
        let response = self.get(&format!("manifests/{reference}"), &common, subject).await?;
        let sent = Sent::of(&response);
        let announced = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let announced = announced.and_then(|announced| announced.parse::<Digest>().ok());
        let limit = manifest::LARGEST_MANIFEST;
        let body = Body::new(response, subject).collect(limit).await?;
        let named = format!("manifest {} from {}", subject.object, self.name);
        let body = body.ok_or_else(|| Error::TooLarge { object: named.clone(), limit, unit: "bytes" })?;
        Document::read(&named, &body).map_err(|error| match error {
            Error::Corrupt { object, reason } => Error::corrupt(object, sent.blame(&reason, &body)),
            other => other,
        })?;
        let digest = Digest::of(&body);
        if let Some(announced) = announced {
            check_digest(&named, &announced, &digest)?;
        }
        Ok(Fetched { body, digest })
    }

    /// A blob that fits into memory, with retries; checked.
    pub(super) async fn small_blob(&self, blob: &Descriptor, object: &str) -> Result<Vec<u8>, Error> {
        let subject = self.subject(object);
        let mut tries = Tries::default();
        loop {
            let answer = self.small_blob_once(blob, &subject).await;
            if let Some(done) = tries.judge(answer).await {
                return done;
            }
        }
    }

    async fn small_blob_once(&self, blob: &Descriptor, subject: &Subject) -> Result<Vec<u8>, Error> {
        let response = self.blob(&blob.digest, 0, subject).await?;
        let object = format!("{} from {}{}", subject.object, self.name, Sent::of(&response).hint());
        let announced = response.content_length();
        let wrong_size = |actual| Error::SizeMismatch { object: object.clone(), expected: blob.size, actual };
        let body = match Body::new(response, subject).collect(blob.size).await? {
            Some(body) if body.len() as u64 == blob.size => body,
            Some(body) => return Err(wrong_size(body.len() as u64)),
            None => return Err(wrong_size(announced.unwrap_or(blob.size + 1))),
        };
        check_digest(&object, &blob.digest, &Digest::of(&body))?;
        Ok(body)
    }

    /// GET below the repository, with a token when the host asks for one.
    async fn get(&self, path: &str, common: &HeaderMap, subject: &Subject) -> Result<Response, Error> {
        let url = self.url(path);
        let before = self.authorization.lock().await.clone();
        let headers = http::with_authorization(&self.host.headers, before.as_ref());
        let response = http::get(&self.clients, url.clone(), &headers, common, subject).await?;
        if response.status() != StatusCode::UNAUTHORIZED || response.url().host_str() != url.host_str() {
            return self.accepted(response, subject).await;
        }
        let Some(challenge) = Challenge::of(response.headers()) else {
            return Err(http::refused(response, subject, before.is_some() && !self.secret.is_none()).await);
        };
        // A registry token that was given is sent as it is.
        if matches!(self.secret, Secret::None) && challenge == Challenge::Basic {
            return Err(http::refused(response, subject, false).await);
        }
        drop(response);
        let value = self.authorize(before.as_ref(), challenge, subject).await?;
        let headers = http::with_authorization(&self.host.headers, Some(&value));
        let response = http::get(&self.clients, url, &headers, common, subject).await?;
        self.accepted(response, subject).await
    }

    async fn accepted(&self, response: Response, subject: &Subject) -> Result<Response, Error> {
        if matches!(response.status(), StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Ok(response);
        }
        Err(http::refused(response, subject, !self.secret.is_none()).await)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.host.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{}/{path}", self.repository));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// A blob from `offset` on.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        offset: u64,
        subject: &Subject,
    ) -> Result<Response, Error> {
        let mut common = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::try_from(format!("bytes={offset}-"));
            common.insert(RANGE, range.unwrap_or(HeaderValue::from_static("bytes=0-")));
        }
        self.get(&format!("blobs/{digest}"), &common, subject).await
    }
}

/// Counts how often a registry that is in trouble has been asked.
#[derive(Debug, Default)]
struct Tries(u32);

impl Tries {
    /// What is to be returned; `None`, after a pause: ask again.
    async fn judge<T>(&mut self, answer: Result<T, Error>) -> Option<Result<T, Error>> {
        self.0 += 1;
        match answer {
            Err(error) if error.kind() == ErrorKind::Unavailable && self.0 < ATTEMPTS => {
                tracing::debug!(%error, attempt = self.0, "trying again");
                tokio::time::sleep(backoff(self.0)).await;
                None
            }
            done => Some(done),
        }
    }
}

fn accept() -> &'static str {
    static ACCEPT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ACCEPT.get_or_init(|| manifest::ACCEPT.join(", "))
}

/// 0.1, 0.4, 1.6, 3 s, ...
pub(super) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis((25 * 4_u64.saturating_pow(attempt)).min(3000))
}
