//! Values of the configuration that have a type of their own.

use std::{fmt, str::FromStr};

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use serde::{Deserialize, Serialize};

/// What is logged: this and what is worse.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// A caller's request failed.
    Error,
    /// Odd, but handled.
    Warn,
    /// Rare changes of state.
    #[default]
    Info,
    /// What a developer wants to see.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A resource limit of a container's processes (setrlimit(2)), written `nofile=1024:4096`, `core=unlimited`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ulimit {
    /// Of what.
    pub resource: PosixRlimitType,
    /// Soft limit; `u64::MAX`: none.
    pub soft: u64,
    /// Hard limit; `u64::MAX`: none.
    pub hard: u64,
}

/// What is wrong with the text of a [`Ulimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUlimit {
    /// Not of the form.
    #[error("{0:?} is not of the form nofile=1024:4096 or nofile=unlimited")]
    Form(String),
    /// No such limit.
    #[error("{0:?} is not a resource limit of setrlimit(2), such as nofile, nproc, core, memlock or stack")]
    Name(String),
    /// Soft above hard.
    #[error("{0:?}: the soft limit is above the hard limit")]
    Order(String),
}

impl Ulimit {
    /// As the OCI runtime spec has it.
    pub fn to_oci(&self) -> PosixRlimit {
        let limit = PosixRlimitBuilder::default().typ(self.resource).soft(self.soft).hard(self.hard);
        limit.build().expect("every field has a default")
    }
}

impl FromStr for Ulimit {
    type Err = BadUlimit;

    fn from_str(text: &str) -> Result<Self, BadUlimit> {
        let form = || BadUlimit::Form(text.to_owned());
        let (name, limits) = text.split_once('=').ok_or_else(form)?;
        let unknown = || BadUlimit::Name(name.to_owned());
        if name.contains(|c: char| !c.is_ascii_lowercase()) {
            return Err(unknown());
        }
        let resource = format!("RLIMIT_{}", name.to_ascii_uppercase()).parse().map_err(|_| unknown())?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let number = |text: &str| match text {
            "unlimited" => Ok(u64::MAX),
            _ => text.parse().map_err(|_| form()),
        };
        let (soft, hard) = (number(soft)?, number(hard)?);
        if soft > hard {
            return Err(BadUlimit::Order(text.to_owned()));
        }
        Ok(Self { resource, soft, hard })
    }
}

impl TryFrom<String> for Ulimit {
    type Error = BadUlimit;

    fn try_from(text: String) -> Result<Self, BadUlimit> {
        text.parse()
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
        let name = self.resource.to_string().trim_start_matches("RLIMIT_").to_ascii_lowercase();
        write!(f, "{name}={}:{}", text(self.soft), text(self.hard))
    }
}

impl From<Ulimit> for String {
    fn from(ulimit: Ulimit) -> Self {
        ulimit.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ulimits() {
        let ulimit: Ulimit = "nofile=1024:unlimited".parse().unwrap();
        assert_eq!(ulimit, Ulimit { resource: PosixRlimitType::RlimitNofile, soft: 1024, hard: u64::MAX });
        assert_eq!(ulimit.to_string(), "nofile=1024:unlimited");
        let oci = ulimit.to_oci();
        assert_eq!((oci.typ(), oci.soft(), oci.hard()), (PosixRlimitType::RlimitNofile, 1024, u64::MAX));
        assert_eq!("core=0".parse::<Ulimit>().unwrap().to_string(), "core=0:0");
        for bad in ["", "nofile", "files=1", "nofile=x", "nofile=1:", "nofile=-1", "nofile=2:1", "NOFILE=1"] {
            assert!(bad.parse::<Ulimit>().is_err(), "{bad:?}");
        }
    }
}
