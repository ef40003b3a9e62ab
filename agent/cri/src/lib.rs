//! Generated CRI v1 bindings (level 1.37) and their descriptors. Nothing hand-written lives beside them but
//! the `Debug` of [`v1::AuthConfig`], which must never print a secret.

/// Package `runtime.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The encoded `FileDescriptorSet` of `api.proto`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}
