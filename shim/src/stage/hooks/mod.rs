//! OCI hooks (runtime-spec `config.md`, POSIX-platform hooks) of a container that our own stages start.
//!
//! Until the root is changed processes outside of the pod's pid namespace run them, where no neighbour can look at the
//! host's mounts: a child of the shim those of the runtime's namespaces ([`runner`]), a child of stage 1 those of the
//! container's ([`beside`]). Each has a copy of the host's mounts with the root at `<bundle>/rootfs`, where hooks look
//! for it. startContainer hooks are run by stage 2 ([`inside`]), later ones by a child of the shim ([`later`]). A
//! container without hooks has none of all this.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{Hook, Spec};
use serde::Serialize;

pub use holdfast_pod::hooks::Moment;

pub mod beside;
pub mod inside;
pub mod later;
pub mod one;
pub mod runner;

/// The container's status at a moment, as its hooks are told it.
fn status(moment: Moment) -> &'static str {
    match moment {
        Moment::Prestart | Moment::CreateRuntime | Moment::CreateContainer => "creating",
        Moment::StartContainer => "created",
        Moment::Poststart => "running",
        Moment::Poststop => "stopped",
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
    pub fn at(moment: Moment, spec: &'a Spec, id: &'a str, bundle: &'a Path) -> Self {
        Self {
            oci_version: spec.version(),
            id,
            status: status(moment),
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

/// A spec's hooks of a moment.
pub fn of(spec: &Spec, moment: Moment) -> &[Hook] {
    let Some(hooks) = spec.hooks() else { return &[] };
    let list = match moment {
        #[allow(deprecated, reason = "hooks of old configurations")]
        Moment::Prestart => hooks.prestart(),
        Moment::CreateRuntime => hooks.create_runtime(),
        Moment::CreateContainer => hooks.create_container(),
        Moment::StartContainer => hooks.start_container(),
        Moment::Poststart => hooks.poststart(),
        Moment::Poststop => hooks.poststop(),
    };
    list.as_deref().unwrap_or_default()
}
