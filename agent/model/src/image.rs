//! What the runtime has to know of an image to start a container from it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The part of an image's configuration that shapes its containers (OCI image-spec, config.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `User`: `user`, `uid`, `user:group`, ... as the image says.
    pub user: String,
    /// `Env`: `KEY=VALUE`.
    pub env: Vec<String>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `StopSignal`: name or number.
    pub stop_signal: String,
    /// `Volumes`: paths.
    pub volumes: Vec<String>,
}

/// An image of the store, ready to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// `sha256:` and the digest of the image's configuration.
    pub id: String,
    /// `registry/name:tag`.
    pub repo_tags: Vec<String>,
    /// `registry/name@sha256:...`.
    pub repo_digests: Vec<String>,
    /// Bytes of the unpacked layers and the blobs that are kept.
    pub size_bytes: u64,
    /// Never removed by garbage collection.
    pub pinned: bool,
    /// Configuration.
    pub config: ImageConfig,
    /// Unpacked layers, lowest first; absolute paths of directories that hold the layer's files.
    pub layers: Vec<PathBuf>,
}

/// Credentials of one pull. Never logged: `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base64 of `user:password`.
    pub auth: String,
    /// For which registry; empty: the image's.
    pub server_address: String,
    /// OAuth refresh token.
    pub identity_token: String,
    /// Bearer token.
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}
