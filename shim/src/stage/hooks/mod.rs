//! OCI hooks (runtime-spec `config.md`, POSIX-platform hooks) of a container that our own stages start.
//!
//! Three kinds of process run them: stage 2 those of the container's namespaces ([`inside`]), a child of the shim that
//! stands ready beside stage 1 those of the runtime's namespaces before the root is changed ([`runner`]), and a child of
//! the shim those that come later ([`later`]). A container with hooks is built in a copy of the host's mounts with its
//! root at `<bundle>/rootfs`, where hooks look for it; one without has none of all this.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{Hook, Hooks};
use serde::Serialize;

use super::launch::Launch;

pub mod inside;
pub mod later;
pub mod one;
pub mod runner;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }

    /// The hooks of a moment.
    pub fn of(self, hooks: &Hooks) -> &[Hook] {
        let list = match self {
            #[allow(deprecated, reason = "hooks of old configurations")]
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

/// What a hook reads from its stdin (runtime-spec `runtime.md`, State).
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    annotations: HashMap<String, String>,
}

impl<'a> State<'a> {
    /// Of a container at a moment; `pid` as the hook's pid namespace numbers it.
    pub fn at(moment: Moment, spec: &'a oci_spec::runtime::Spec, id: &'a str, bundle: &'a Path) -> Self {
        Self {
            oci_version: spec.version(),
            id,
            status: moment.status(),
            pid: None,
            bundle,
            annotations: spec.annotations().clone().unwrap_or_default(),
        }
    }

    /// With its init.
    #[must_use]
    pub fn with_pid(self, pid: i32) -> Self {
        Self { pid: Some(pid), ..self }
    }
}

/// The launch's hooks of a moment.
pub fn of(launch: &Launch, moment: Moment) -> &[Hook] {
    launch.spec.hooks().as_ref().map_or(&[][..], |hooks| moment.of(hooks))
}
