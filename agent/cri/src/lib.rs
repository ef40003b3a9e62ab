//! Generated CRI v1 bindings (level 1.37) and their descriptors, and those of Holdfast's own image service. Nothing
//! hand-written lives beside them but the `Debug` of the messages that carry secrets, which must never print one.

use std::fmt;

/// Package `runtime.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// Package `holdfast.v1`: what CRI has no call for.
#[allow(clippy::all, clippy::pedantic, missing_docs, clippy::unwrap_used)]
pub mod holdfast {
    tonic::include_proto!("holdfast.v1");
}

/// The encoded `FileDescriptorSet` of `api.proto`, with all options.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api.bin"));

/// The same of `holdfast.proto`.
pub const OWN_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/holdfast.bin"));

impl fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

impl fmt::Debug for holdfast::Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{holdfast, v1};

    const SECRETS: [&str; 5] = ["some-user", "hunter2", "dXNlcjpodW50ZXIy", "idtoken-x", "regtoken-y"];

    fn auth() -> v1::AuthConfig {
        v1::AuthConfig {
            username: SECRETS[0].into(),
            password: SECRETS[1].into(),
            auth: SECRETS[2].into(),
            server_address: "registry.example".into(),
            identity_token: SECRETS[3].into(),
            registry_token: SECRETS[4].into(),
        }
    }

    #[test]
    fn no_debug_output_shows_a_secret() {
        let pull = v1::PullImageRequest { auth: Some(auth()), ..Default::default() };
        let credentials = holdfast::Credentials { username: SECRETS[0].into(), password: SECRETS[1].into() };
        let own = holdfast::PullRequest { reference: "a:1".into(), credentials: Some(credentials.clone()) };
        let printed = [
            format!("{:?}", auth()),
            format!("{:#?}", auth()),
            format!("{pull:?}"),
            format!("{pull:#?}"),
            format!("{credentials:?}"),
            format!("{own:#?}"),
            format!("{:?}", tonic::Request::new(pull)),
        ];
        for text in printed {
            assert!(text.contains("AuthConfig") || text.contains("Credentials"), "{text}");
            for secret in SECRETS {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}
