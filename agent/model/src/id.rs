//! Ids: 64 lower-case hexadecimal digits, as containerd and CRI-O give them.

use std::{fmt, fs::File, io::Read, str::FromStr};

use serde::{Deserialize, Serialize};

/// What is wrong with a text that should be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} id {text:?} is not 64 lower-case hexadecimal digits")]
pub struct BadId {
    kind: &'static str,
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new id from the kernel's random numbers.
            pub fn random() -> std::io::Result<Self> {
                random_hex().map(Self)
            }

            /// The 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 13 digits, which are what people read in tables and logs.
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                if is_id(&text) { Ok(Self(text)) } else { Err(BadId { kind: $kind, text }) }
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::try_from(text.to_owned())
            }
        }
    };
}

id!(
    /// A pod sandbox's id.
    PodId,
    "pod sandbox"
);
id!(
    /// A container's id.
    ContainerId,
    "container"
);

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn random_hex() -> std::io::Result<String> {
    use fmt::Write;
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let (a, b) = (PodId::random().unwrap(), PodId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<PodId>().unwrap(), a);
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for bad in ["", "abc", &"A".repeat(64), &"0".repeat(63), &"../".repeat(22)] {
            assert!(bad.parse::<ContainerId>().unwrap_err().to_string().contains("container id"));
        }
    }
}
