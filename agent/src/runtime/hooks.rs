//! The hooks of a container, out of the directories of the configuration.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use holdfast_model::{ContainerConfig, ContainerId, NamespaceMode, PodSandboxConfig};
use holdfast_pod::{oci_runtime::OciRuntime, protocol::Phase};
use holdfast_spec::{Built, caps::may_trace, hooks};

use super::{
    Error, Runtime,
    blocking::blocking,
    command::Command,
    object::{Container, Pod},
};

/// How long the hooks of an end may take; a shim has the same.
const POSTSTOP_LIMIT: Duration = Duration::from_secs(20);

/// Owner of the pid namespace that a container is in.
#[derive(Debug, PartialEq, Eq)]
enum Pids {
    OfPod,
    OfHost,
    /// That of a container, which may be the one itself.
    Of(String),
}

impl Runtime {
    /// Adds the hooks that the node's files give a container, after those that it has already.
    pub(super) async fn add_hooks(
        &self,
        built: &mut Built,
        pod: &PodSandboxConfig,
        container: &ContainerConfig,
        foreign: bool,
    ) -> Result<(), Error> {
        let spec = &mut built.launch.spec;
        let mut annotations = pod.annotations.clone();
        annotations.extend(container.annotations.clone());
        let dirs = self.live.get().runtime.hooks_dirs.clone();
        if !dirs.is_empty() {
            let command = spec.process().as_ref().and_then(|process| process.args().clone());
            let command = command.and_then(|args| args.into_iter().next()).unwrap_or_default();
            let (known, has_bind_mounts) = (annotations.clone(), !container.mounts.is_empty());
            let found = blocking(move || {
                let facts = hooks::Facts { annotations: &known, command: &command, has_bind_mounts };
                hooks::hooks(&dirs, &facts)
            })
            .await
            .map_err(|source| Error::Hooks { source })?;
            if let Some(found) = found {
                let mut all = spec.hooks().clone();
                hooks::append(&mut all, found);
                spec.set_hooks(all);
            }
        }
        // Hooks read them in the state. Not for other runtimes, which take orders from some (`org.systemd.property.`).
        if !foreign && hooks::is_some(spec.hooks().as_ref()) {
            spec.set_annotations(Some(annotations.into_iter().collect()));
        }
        Ok(())
    }

    /// Another runtime runs hooks inside the container's pid namespace with the host's mounts around them. Who may trace
    /// in there would get the host's files for as long as they take, which our own start does not let happen. A
    /// privileged container has them anyway, as has one among the host's processes; in a user namespace SYS_PTRACE
    /// counts for nothing outside of it.
    pub(super) fn refuse_hooks_in_sight(
        &self,
        pod: &Pod,
        id: &ContainerId,
        config: &ContainerConfig,
        built: &Built,
        runtime: &OciRuntime,
    ) -> Result<(), Error> {
        let pids = self.pids_of(id, config);
        let has_hooks = hooks::has_early(built.launch.spec.hooks().as_ref());
        if !has_hooks || !built.launch.uid_map.is_empty() || pids == Pids::OfHost {
            return Ok(());
        }
        let sees = |other: &Arc<Container>| {
            let config = &other.record.get().config;
            let security = &config.security;
            other.phase() != Phase::Exited
                && !security.privileged
                && may_trace(&security.capabilities, false)
                && self.pids_of(&other.id, config) == pids
        };
        let Some(neighbour) = self.containers_of(&pod.id).into_iter().find(sees) else { return Ok(()) };
        Err(Error::HooksInSight { neighbour: neighbour.id.to_string(), program: runtime.program.clone() })
    }

    fn pids_of(&self, id: &ContainerId, config: &ContainerConfig) -> Pids {
        let namespaces = &config.security.namespaces;
        match namespaces.pid {
            NamespaceMode::Pod => Pids::OfPod,
            NamespaceMode::Node => Pids::OfHost,
            NamespaceMode::Container => Pids::Of(id.to_string()),
            NamespaceMode::Target => match self.container(&namespaces.target_id) {
                Ok(target) => self.pids_of(&target.id, &target.record.get().config),
                Err(_) => Pids::Of(namespaces.target_id.clone()),
            },
        }
    }

    /// Runs the poststop hooks of a container whose shim has gone without doing it. What fails is a warning, as there.
    pub(super) async fn poststop_hooks(&self, container: &Container) {
        // Another runtime runs them when it deletes the container.
        if container.record.get().runtime.is_some() {
            return;
        }
        let run_dir = self.run_dir(&container.id);
        let config = run_dir.join("config.json");
        if !blocking(move || config.exists()).await {
            return;
        }
        let args = vec!["--id".into(), container.id.as_str().into(), "--poststop".into()];
        let shim = Command::new(&self.shim_program, POSTSTOP_LIMIT);
        let shim = Command { args, directory: Some(&run_dir), ..shim };
        let said = match shim.run().await {
            Ok(output) if output.success => return,
            // A line for each hook that fails.
            Ok(output) => output.said(),
            Err(error) => vec![holdfast_model::chain(&error)],
        };
        for line in said {
            tracing::warn!(container_id = %container.id, "{line}");
        }
    }

    /// A container's root that is nobody to the host has to reach its bundle by path: the state directory then lets
    /// everybody pass, and nobody look. What lies in it has modes of its own.
    pub(super) async fn open_way_to_bundle(&self, built: &Built, foreign: bool) -> Result<(), Error> {
        let launch = &built.launch;
        let has_bundle = foreign || hooks::is_some(launch.spec.hooks().as_ref());
        if !has_bundle || launch.uid_map.is_empty() {
            return Ok(());
        }
        let path = self.config.state.clone();
        blocking(move || match fs::set_permissions(&path, fs::Permissions::from_mode(0o711)) {
            Ok(()) => Ok(()),
            Err(source) => Err(Error::Io { operation: "set mode of", path, source }),
        })
        .await
    }
}
