//! The registry protocol: one session per pull.
//!
//! Types and error bodies are oci-client's. Its own transport is not used: it reads manifests, token answers and error
//! bodies of any size into memory, cannot carry hosts.toml's paths, headers and client certificates, and forgets why a
//! token was refused. Every read here has a limit in bytes and in time.

mod auth;
mod clients;
mod endpoint;
mod hosts;
mod http;
mod sent;
mod token;
mod transfer;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use holdfast_model::Credentials;

use self::auth::Secret;
use self::clients::Clients;
pub(crate) use self::endpoint::Endpoint;
use self::hosts::{Host, Tls};

pub(crate) use self::transfer::{Piece, Sink};
use crate::digest::Digest;
use crate::error::within;
use crate::manifest::Descriptor;
use crate::reference::{Reference, Target};
use crate::{Error, ErrorKind};

/// Opens sessions.
#[derive(Debug)]
pub(crate) struct Registries {
    directory: PathBuf,
    timeout: Duration,
    /// Made by the first pull: an agent that never pulls reads no certificates.
    clients: OnceLock<Clients>,
}

impl Registries {
    /// `directory`: where the hosts.toml files are; `timeout`: no progress for so long is an error.
    pub(crate) fn new(directory: PathBuf, timeout: Duration) -> Self {
        Self { directory, timeout, clients: OnceLock::new() }
    }

    /// A session for one reference. Blocking: reads hosts.toml and, the first time, the system's certificates.
    pub(crate) fn session(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Session, Error> {
        let mut endpoints = Vec::new();
        for host in hosts::load(&self.directory, &reference.registry)? {
            let clients = if host.tls == Tls::default() {
                self.clients()?
            } else {
                Clients::new(&host.tls, self.timeout)?
            };
            let secret = credentials
                .filter(|given| {
                    auth::are_for(&given.server_address, &reference.registry, &host.base, host.server)
                })
                .map(Secret::of)
                .unwrap_or_default();
            endpoints.push(Endpoint::new(host, clients, secret, reference, self.timeout));
        }
        Ok(Session { reference: reference.clone(), endpoints })
    }

    fn clients(&self) -> Result<Clients, Error> {
        if let Some(clients) = self.clients.get() {
            return Ok(clients.clone());
        }
        let clients = Clients::new(&Tls::default(), self.timeout)?;
        // Certificates that are installed later are found by the next pull.
        Ok(if clients.trusts_nobody() { clients } else { self.clients.get_or_init(|| clients).clone() })
    }
}

/// One pull's view of its registry: the mirrors, then the registry itself.
pub(crate) struct Session {
    reference: Reference,
    endpoints: Vec<Endpoint>,
}

/// A manifest as it came.
pub(crate) struct Fetched {
    pub body: Vec<u8>,
    pub digest: Digest,
}

impl Session {
    /// The manifest of the session's reference.
    pub(crate) async fn resolve(&self) -> Result<Fetched, Error> {
        match &self.reference.target {
            Target::Digest(digest) => self.manifest(digest, None).await,
            Target::Tag(tag) => {
                let object = self.reference.to_string();
                let mut hosts = self.hosts(|host| host.resolve);
                while let Some(endpoint) = hosts.next() {
                    if let Some(fetched) = hosts.judge(endpoint, endpoint.manifest(tag, &object).await)? {
                        return Ok(fetched);
                    }
                }
                Err(hosts.verdict())
            }
        }
    }

    /// A manifest by digest.
    pub(crate) async fn manifest(&self, digest: &Digest, size: Option<u64>) -> Result<Fetched, Error> {
        let object = self.reference.at(digest).to_string();
        let mut hosts = self.hosts_that_pull();
        while let Some(endpoint) = hosts.next() {
            if let Some(fetched) = hosts.judge(endpoint, checked(endpoint, digest, size, &object).await)? {
                return Ok(fetched);
            }
        }
        Err(hosts.verdict())
    }

    /// A small blob, whole: the configuration.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>, Error> {
        let object = format!("{} blob {}", self.reference, blob.digest);
        let mut hosts = self.hosts_that_pull();
        while let Some(endpoint) = hosts.next() {
            if let Some(bytes) = hosts.judge(endpoint, endpoint.small_blob(blob, &object).await)? {
                return Ok(bytes);
            }
        }
        Err(hosts.verdict())
    }

    /// The hosts that blobs and manifests can be had from, in their order.
    pub(crate) fn hosts_that_pull(&self) -> Hosts<'_> {
        self.hosts(|host| host.pull)
    }

    fn hosts(&self, able: fn(&Host) -> bool) -> Hosts<'_> {
        Hosts { session: self, next: 0, able, failures: Vec::new() }
    }
}

/// One host after the other, until one delivers. A loop of the caller's and no closure: a closure that borrows what it
/// awaits with cannot be sent to another thread.
pub(crate) struct Hosts<'a> {
    session: &'a Session,
    next: usize,
    able: fn(&Host) -> bool,
    failures: Vec<Failure>,
}

/// The failure of one host.
struct Failure {
    host: String,
    weight: u8,
    error: Error,
}

impl<'a> Hosts<'a> {
    /// The next one to ask.
    pub(crate) fn next(&mut self) -> Option<&'a Endpoint> {
        loop {
            let endpoint = self.session.endpoints.get(self.next)?;
            self.next += 1;
            if (self.able)(endpoint.host()) {
                return Some(endpoint);
            }
        }
    }

    /// What a host answered; `None`: ask the next one.
    pub(crate) fn judge<T>(
        &mut self,
        endpoint: &Endpoint,
        answer: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match answer {
            Ok(done) => Ok(Some(done)),
            // Not the host's fault: the next one would do no better.
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Io) => Err(error),
            Err(error) => {
                if self.session.endpoints.len() > 1 {
                    tracing::debug!(host = endpoint.name(), %error, "host of the registry failed");
                }
                let weight = weight(&error, endpoint.host().server);
                self.failures.push(Failure { host: endpoint.name().to_owned(), weight, error });
                Ok(None)
            }
        }
    }

    /// The error when no host delivered: the failure that says most, and after it those of the other hosts.
    pub(crate) fn verdict(mut self) -> Error {
        // The first of those that weigh as much.
        let worst = (0..self.failures.len()).rev().max_by_key(|at| self.failures[*at].weight);
        let Some(worst) = worst.map(|at| self.failures.remove(at).error) else {
            return Error::Config {
                path: format!("hosts.toml of {}", self.session.reference.registry),
                reason: "no host has the capability".into(),
            };
        };
        if self.failures.is_empty() {
            return worst;
        }
        let other = |failure: &Failure| {
            format!("{}: {}", failure.host, within(&failure.error.to_string(), LONGEST_FAILURE))
        };
        let others: Vec<String> = self.failures.iter().map(other).collect();
        Error::Hosts { worst: Box::new(worst), others: others.join("; ") }
    }
}

/// Characters of one host's failure beside others': a reference by digest takes a hundred of them, and the part that the
/// host sent comes last.
const LONGEST_FAILURE: usize = 400;

/// A manifest of a host, compared with the digest and size that were asked for.
async fn checked(
    endpoint: &Endpoint,
    digest: &Digest,
    size: Option<u64>,
    object: &str,
) -> Result<Fetched, Error> {
    let fetched = endpoint.manifest(digest.as_str(), object).await?;
    let object = format!("manifest {object} from {}", endpoint.name());
    check_digest(&object, digest, &fetched.digest)?;
    match size.filter(|size| *size != fetched.body.len() as u64) {
        Some(expected) => Err(Error::SizeMismatch { object, expected, actual: fetched.body.len() as u64 }),
        None => Ok(fetched),
    }
}

/// Which of several failures is told: what the registry itself knows, then what a mirror knows, then that one cannot be
/// reached.
fn weight(error: &Error, server: bool) -> u8 {
    match error.kind() {
        ErrorKind::Unavailable => 0,
        ErrorKind::DeadlineExceeded => 1,
        _ if server => 3,
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
