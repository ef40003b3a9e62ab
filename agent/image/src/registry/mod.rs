//! The registry protocol: one session per pull.
//!
//! Types and error bodies are oci-client's. Its own transport is not used: it reads manifests, token answers and error
//! bodies of any size into memory, cannot carry hosts.toml's paths, headers and client certificates, and forgets why a
//! token was refused. Every read here has a limit in bytes and in time.

mod auth;
mod hosts;
mod http;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Mutex;

use self::auth::{Challenge, Secret, TokenResponse};
use self::hosts::{Host, Tls};
use self::http::{Body, Clients, Subject};
use crate::digest::Digest;
use crate::manifest;
use crate::reference::{Reference, Target};
use crate::{Error, ErrorKind};
use holdfast_model::Credentials;

const LARGEST_TOKEN: u64 = 1 << 20;
const ATTEMPTS: u32 = 4;

/// Opens sessions.
#[derive(Debug, Clone)]
pub(crate) struct Registries {
    directory: PathBuf,
    clients: Clients,
    timeout: Duration,
}

impl Registries {
    /// Blocking.
    pub(crate) fn new(directory: PathBuf, timeout: Duration) -> Result<Self, Error> {
        let clients = Clients::new(&Tls::default(), timeout)?;
        Ok(Self { directory, clients, timeout })
    }

    /// A session for one reference. Blocking: reads hosts.toml.
    pub(crate) fn session(&self, reference: &Reference, credentials: Option<&Credentials>) -> Result<Session, Error> {
        let mut endpoints = Vec::new();
        for host in hosts::load(&self.directory, &reference.registry)? {
            let clients =
                if host.tls == Tls::default() { self.clients.clone() } else { Clients::new(&host.tls, self.timeout)? };
            let secret = credentials
                .filter(|given| auth::are_for(&given.server_address, &reference.registry, &host.base, host.server))
                .map(Secret::of)
                .unwrap_or_default();
            endpoints.push(Endpoint::new(host, clients, secret, reference, self.timeout));
        }
        Ok(Session { reference: reference.clone(), endpoints })
    }
}

/// One pull's view of its registry: the mirrors, then the registry itself.
pub(crate) struct Session {
    reference: Reference,
    endpoints: Vec<Endpoint>,
}

/// One host of a session.
pub(crate) struct Endpoint {
    host: Host,
    name: String,
    clients: Clients,
    secret: Secret,
    repository: String,
    /// Query `ns`, which tells a mirror whose content is wanted.
    namespace: Option<String>,
    authorization: Mutex<Option<HeaderValue>>,
    timeout: Duration,
}

/// A manifest as it came.
pub(crate) struct Fetched {
    pub body: Vec<u8>,
    pub digest: Digest,
    pub content_type: Option<String>,
}

impl Session {
    /// The manifest of the session's reference.
    pub(crate) async fn resolve(&self) -> Result<Fetched, Error> {
        match &self.reference.target {
            Target::Digest(digest) => self.manifest(digest, None).await,
            Target::Tag(tag) => {
                let object = self.reference.to_string();
                self.first(|host| host.resolve, async |endpoint| endpoint.manifest(tag, &object).await).await
            }
        }
    }

    /// A manifest by digest.
    pub(crate) async fn manifest(&self, digest: &Digest, size: Option<u64>) -> Result<Fetched, Error> {
        let object = self.reference.at(digest).to_string();
        self.first(|host| host.pull, async |endpoint| {
            let fetched = endpoint.manifest(digest.as_str(), &object).await?;
            check_digest(&format!("manifest {object} from {}", endpoint.name), digest, &fetched.digest)?;
            if let Some(expected) = size.filter(|size| *size != fetched.body.len() as u64) {
                let object = format!("manifest {object} from {}", endpoint.name);
                return Err(Error::SizeMismatch { object, expected, actual: fetched.body.len() as u64 });
            }
            Ok(fetched)
        })
        .await
    }

    /// A small blob, whole: the configuration.
    pub(crate) async fn small_blob(&self, descriptor: &manifest::Descriptor) -> Result<Vec<u8>, Error> {
        self.first(|host| host.pull, async |endpoint| {
            let object = format!("{} blob {}", self.reference, descriptor.digest);
            let subject = endpoint.subject(&object);
            let path = format!("blobs/{}", descriptor.digest);
            let response = endpoint.get(&path, &HeaderMap::new(), &subject).await?;
            let named = format!("blob {} from {}", descriptor.digest, endpoint.name);
            let length = response.content_length();
            let Some(body) = Body::new(response, &subject).collect(descriptor.size).await? else {
                let actual = length.unwrap_or(descriptor.size + 1);
                return Err(Error::SizeMismatch { object: named, expected: descriptor.size, actual });
            };
            if body.len() as u64 != descriptor.size {
                return Err(Error::SizeMismatch { object: named, expected: descriptor.size, actual: body.len() as u64 });
            }
            check_digest(&named, &descriptor.digest, &Digest::of(&body))?;
            Ok(body)
        })
        .await
    }

    /// Runs `work` with one host after the other until one succeeds.
    pub(crate) async fn first_that_pulls<T>(
        &self,
        work: impl AsyncFn(&Endpoint) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.first(|host| host.pull, work).await
    }

    async fn first<T>(
        &self,
        able: impl Fn(&Host) -> bool,
        work: impl AsyncFn(&Endpoint) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut worst: Option<Error> = None;
        for endpoint in self.endpoints.iter().filter(|endpoint| able(&endpoint.host)) {
            match work(endpoint).await {
                Ok(done) => return Ok(done),
                Err(error) if error.kind() == ErrorKind::Cancelled || error.kind() == ErrorKind::Io => return Err(error),
                Err(error) => {
                    if self.endpoints.len() > 1 {
                        tracing::debug!(host = endpoint.name, %error, "host of the registry failed");
                    }
                    // What a host knows weighs more than that another cannot be reached.
                    if worst.as_ref().is_none_or(|known| weight(&error) > weight(known)) {
                        worst = Some(error);
                    }
                }
            }
        }
        Err(worst.unwrap_or_else(|| Error::Config {
            path: format!("hosts.toml of {}", self.reference.registry),
            reason: "no host has the capability".into(),
        }))
    }
}

fn weight(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::NotFound => 3,
        ErrorKind::Unavailable => 0,
        ErrorKind::DeadlineExceeded => 1,
        _ => 2,
    }
}

pub(crate) fn check_digest(object: &str, expected: &Digest, actual: &Digest) -> Result<(), Error> {
    if expected == actual {
        return Ok(());
    }
    let (expected, actual) = (expected.to_string(), actual.to_string());
    Err(Error::DigestMismatch { object: object.to_owned(), expected, actual })
}

impl Endpoint {
    fn new(host: Host, clients: Clients, secret: Secret, reference: &Reference, timeout: Duration) -> Self {
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

    fn subject(&self, object: &str) -> Subject {
        Subject { registry: self.name.clone(), object: object.to_owned(), timeout: self.timeout }
    }

    async fn manifest(&self, reference: &str, object: &str) -> Result<Fetched, Error> {
        let subject = self.subject(object);
        let mut common = HeaderMap::new();
        common.insert(ACCEPT, HeaderValue::from_static(accept()));
        let response = self.get(&format!("manifests/{reference}"), &common, &subject).await?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header(CONTENT_TYPE.as_str()).map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
        let announced = header("docker-content-digest");
        let limit = manifest::LARGEST_MANIFEST;
        let body = Body::new(response, &subject).collect(limit).await?;
        let named = format!("manifest {object} from {}", self.name);
        let body = body.ok_or_else(|| Error::TooLarge { object: named.clone(), limit, unit: "bytes" })?;
        let digest = Digest::of(&body);
        if let Some(announced) = announced.and_then(|announced| announced.parse::<Digest>().ok()) {
            check_digest(&named, &announced, &digest)?;
        }
        Ok(Fetched { body, digest, content_type })
    }

    /// GET below the repository, with retries while the registry is in trouble, and with a token when it asks.
    async fn get(&self, path: &str, common: &HeaderMap, subject: &Subject) -> Result<Response, Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.get_once(path, common, subject).await {
                Err(error) if attempt < ATTEMPTS && error.kind() == ErrorKind::Unavailable => {
                    tokio::time::sleep(backoff(attempt)).await;
                }
                other => return other,
            }
        }
    }

    async fn get_once(&self, path: &str, common: &HeaderMap, subject: &Subject) -> Result<Response, Error> {
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

    /// A new `Authorization` after a 401. Layers ask at the same time: one fetches the token, the others use it.
    async fn authorize(
        &self,
        before: Option<&HeaderValue>,
        challenge: Challenge,
        subject: &Subject,
    ) -> Result<HeaderValue, Error> {
        let mut current = self.authorization.lock().await;
        if let Some(value) = current.as_ref().filter(|value| Some(*value) != before) {
            return Ok(value.clone());
        }
        let value = match (&self.secret, challenge) {
            (Secret::Bearer(_), _) | (_, Challenge::Basic) => {
                self.secret.header().ok_or_else(|| self.unauthenticated(subject, "it takes no token for an answer"))?
            }
            (_, Challenge::Bearer { realm, service, scope }) => {
                self.token(&realm, service.as_deref(), scope.as_deref(), subject).await?
            }
        };
        *current = Some(value.clone());
        Ok(value)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        subject: &Subject,
    ) -> Result<HeaderValue, Error> {
        let mut url = Url::parse(realm)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| self.unauthenticated(subject, "its token server is not a URL"))?;
        if !self.secret.is_none() && url.scheme() == "http" && self.host.base.scheme() == "https" {
            return Err(self.unauthenticated(subject, "its token server would get the credentials without encryption"));
        }
        let default_scope = format!("repository:{}:pull", self.repository);
        let scope = scope.unwrap_or(&default_scope);
        let client = self.clients.to(&url);
        let request = if let Secret::Refresh(token) = &self.secret {
            let mut form = Url::parse("http://form/").unwrap_or_else(|_| url.clone());
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token)
                .append_pair("service", service.unwrap_or_default())
                .append_pair("scope", scope)
                .append_pair("client_id", "holdfast");
            let body = form.query().unwrap_or_default().to_owned();
            client.post(url.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
        } else {
            if let Some(service) = service {
                url.query_pairs_mut().append_pair("service", service);
            }
            url.query_pairs_mut().append_pair("scope", scope);
            let request = client.get(url.clone());
            match self.secret.header() {
                Some(value) => request.header(AUTHORIZATION, value),
                None => request,
            }
        };
        let host = url.host_str().unwrap_or_default().to_owned();
        let asked = Subject { object: format!("a token for {} from {host}", subject.object), ..subject.clone() };
        let response = http::send(request, &asked).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let hint = if self.secret.is_none() { "credentials are missing" } else { "the credentials are wrong" };
                return Err(self.unauthenticated(subject, &format!("{hint}: its token server {host} gives no token")));
            }
            _ => return Err(http::refused(response, &asked, !self.secret.is_none()).await),
        }
        let body = Body::new(response, &asked).collect(LARGEST_TOKEN).await?;
        let body = body.ok_or_else(|| Error::TooLarge { object: asked.object.clone(), limit: LARGEST_TOKEN, unit: "bytes" })?;
        serde_json::from_slice::<TokenResponse>(&body)
            .ok()
            .and_then(|token| token.header())
            .ok_or_else(|| self.unauthenticated(subject, "its token server answers without a token"))
    }

    fn unauthenticated(&self, subject: &Subject, reason: &str) -> Error {
        Error::Unauthenticated { object: subject.object.clone(), registry: self.name.clone(), reason: reason.to_owned() }
    }

    /// A blob from `offset` on.
    async fn blob(&self, digest: &Digest, offset: u64, subject: &Subject) -> Result<Response, Error> {
        let mut common = HeaderMap::new();
        if offset > 0 {
            let range = HeaderValue::try_from(format!("bytes={offset}-"));
            common.insert(RANGE, range.unwrap_or(HeaderValue::from_static("bytes=0-")));
        }
        self.get(&format!("blobs/{digest}"), &common, subject).await
    }
}

fn accept() -> &'static str {
    static ACCEPT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ACCEPT.get_or_init(|| manifest::ACCEPT.join(", "))
}

/// 0.1, 0.4, 1.6, 3 s, ...
fn backoff(attempt: u32) -> Duration {
    Duration::from_millis((25 * 4_u64.saturating_pow(attempt)).min(3000))
}

/// A session that several tasks use.
pub(crate) type SharedSession = Arc<Session>;
