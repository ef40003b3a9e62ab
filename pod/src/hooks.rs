//! When OCI hooks run (runtime-spec `config.md`, POSIX-platform hooks).

use serde::Deserialize;

/// When a hook runs; read by the name that the spec gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Moment {
    /// As `createRuntime`, which has taken its place.
    Prestart,
    /// The namespaces are made, the root is not changed: in the runtime's namespaces.
    CreateRuntime,
    /// The same, in the container's.
    CreateContainer,
    /// Before the command: in the container's namespaces and root.
    StartContainer,
    /// The command runs: in the runtime's namespaces.
    Poststart,
    /// It is over: in the runtime's namespaces.
    Poststop,
}

impl Moment {
    /// In the order in which they come.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// As the spec has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_by_its_name() {
        for moment in Moment::ALL {
            let name = serde_json::Value::from(moment.name());
            assert_eq!(serde_json::from_value::<Moment>(name).ok(), Some(moment));
        }
    }
}
