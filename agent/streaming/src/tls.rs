//! A certificate from PEM files.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Tls;
use crate::error::Error;

/// Reads the files, at start and blocking. ALPN offers HTTP/1.1 alone: HTTP/2 has no upgrade to SPDY.
pub(crate) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, Error> {
    let pem = |path: &std::path::Path, source| Error::Pem { path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| pem(&tls.cert, source))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| pem(&tls.key, source))?;
    let fault = |source| Error::Certificate { cert: tls.cert.clone(), source };
    // The provider is named: whether the process has a default one is for others to decide.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(fault)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(fault)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
