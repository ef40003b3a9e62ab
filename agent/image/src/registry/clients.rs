//! HTTP clients: what of TLS a host needs, and no proxy for loopback.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity, Url};

use super::hosts::{Tls, is_loopback};
use super::http::cause;
use crate::Error;

const LONGEST_CONNECT: Duration = Duration::from_secs(30);

/// A connection is for the next request of the same pull, not for the next pull.
const LONGEST_IDLE: Duration = Duration::from_secs(3);

/// Two clients: one for the world, one for loopback that knows no proxy.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    world: Client,
    loopback: Client,
    trusts_nobody: bool,
}

impl Clients {
    /// Blocking: reads the system's certificates.
    pub(super) fn new(tls: &Tls, timeout: Duration) -> Result<Self, Error> {
        let fault = |reason| Error::Config { path: "TLS set-up".into(), reason };
        match Self::build(tls, timeout, true).map_err(fault)? {
            Ok(clients) => Ok(clients),
            // A machine without certificates can still pull by plain HTTP from a registry of its own network.
            Err(reason) if tls.ca.is_empty() => {
                tracing::warn!(%reason, "no certificate authority is known: https registries cannot be used");
                Self::build(tls, timeout, false).map_err(fault)?.map_err(fault)
            }
            Err(reason) => Err(fault(reason)),
        }
    }

    /// Whether no authority was found, so that the next pull should look again.
    pub(super) fn trusts_nobody(&self) -> bool {
        self.trusts_nobody
    }

    /// The client for this URL.
    pub(super) fn to(&self, url: &Url) -> &Client {
        if url.host_str().is_some_and(is_loopback) { &self.loopback } else { &self.world }
    }

    /// Outer error: the operator's files; inner: the system's certificates.
    fn build(tls: &Tls, timeout: Duration, system: bool) -> Result<Result<Self, String>, String> {
        // An error says that the process has one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut clients = Vec::new();
        for proxy in [true, false] {
            let mut builder = with_files(Client::builder(), tls)?
                .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(timeout.min(LONGEST_CONNECT))
                .pool_idle_timeout(LONGEST_IDLE)
                .tls_danger_accept_invalid_certs(tls.skip_verify);
            if !proxy {
                builder = builder.no_proxy();
            }
            if !system {
                builder = builder.tls_certs_only([]);
            }
            match builder.build() {
                Ok(client) => clients.push(client),
                Err(error) => return Ok(Err(cause(&error))),
            }
        }
        let [world, loopback] = <[Client; 2]>::try_from(clients).map_err(|_| "clients are missing")?;
        Ok(Ok(Self { world, loopback, trusts_nobody: !system }))
    }
}

fn with_files(mut builder: ClientBuilder, tls: &Tls) -> Result<ClientBuilder, String> {
    let mut authorities = Vec::new();
    for path in &tls.ca {
        let fault = |error: String| format!("ca {}: {error}", path.display());
        let pem = read(path).map_err(fault)?;
        authorities.extend(Certificate::from_pem_bundle(&pem).map_err(|error| fault(error.to_string()))?);
    }
    if !authorities.is_empty() {
        builder = builder.tls_certs_merge(authorities);
    }
    for (certificate, key) in &tls.client {
        let mut pem = Vec::new();
        for path in [Some(certificate), key.as_ref()].into_iter().flatten() {
            pem.extend(read(path).map_err(|error| format!("client {}: {error}", path.display()))?);
        }
        // The cause of a bad key is not shown: it might quote the key.
        let identity = Identity::from_pem(&pem).map_err(|_| {
            format!("client {}: not a certificate with its key in PEM", certificate.display())
        })?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    const LARGEST: u64 = 4 << 20;
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    Ok(pem)
}
