//! A container's spec and launch, put together from its configuration, its pod, its image and the node.

use std::{path::PathBuf, sync::Arc};

use holdfast_model::{
    ContainerConfig, ContainerEdits, ContainerId, DeviceRule, Image, PodSandboxConfig, SecurityProfile,
};
use holdfast_pod::{
    launch::{Launch, Rootfs, UserRequest},
    protocol::ResolvedUser,
};
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, PosixRlimit, Process, Spec};

use crate::{
    HostFacts,
    caps::{self, CapSet, Granted},
    cdi, command,
    devices::{self, Owner},
    env,
    error::{SpecError, invalid, unsupported},
    mounts,
    namespaces::{self, Namespaces},
    oci, resources,
    selinux::{self, Labels},
    sysctl, text, user,
};

/// Longest host name in bytes (sethostname(2)).
const HOST_NAME_MAX: usize = 64;

/// The pod's files on the host that its containers see under /etc.
#[derive(Debug, Clone)]
pub struct PodFiles {
    /// /etc/hosts.
    pub hosts: PathBuf,
    /// /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// /etc/hostname.
    pub hostname: PathBuf,
}

/// Everything that a spec is made of.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The container's id.
    pub id: &'a ContainerId,
    /// The pod's configuration: that of RunPodSandbox.
    pub pod: &'a PodSandboxConfig,
    /// The container's configuration.
    pub container: &'a ContainerConfig,
    /// Its image.
    pub image: &'a Image,
    /// For each of the container's mounts the image that it names, if it names one that is there.
    pub volume_images: &'a [Option<Arc<Image>>],
    /// What its CDI devices change.
    pub cdi: &'a ContainerEdits,
    /// What its root is made of.
    pub rootfs: Rootfs,
    /// The pod's files.
    pub files: PodFiles,
    /// The host name that the container sees.
    pub hostname: &'a str,
    /// Its cgroup, as specs name it.
    pub cgroups_path: &'a str,
    /// The node.
    pub host: &'a HostFacts,
    /// The node's default limits of processes.
    pub rlimits: &'a [PosixRlimit],
    /// Whether device nodes belong to the user that the request names.
    pub device_ownership: bool,
    /// The pod's SELinux level (`s0:c1,c2`).
    pub selinux_level: &'a str,
}

/// What came of it.
#[derive(Debug)]
pub struct Built {
    /// For the shim.
    pub launch: Launch<Spec>,
    /// Which seccomp profile is to be loaded.
    pub seccomp: SecurityProfile,
    /// The bounding set, which a seccomp profile may depend on.
    pub capabilities: CapSet,
    /// Devices that its cgroup lets it use.
    pub devices: Vec<DeviceRule>,
    /// Number of the signal that asks it to end.
    pub stop_signal: i32,
}

/// Checks a pod's configuration by itself.
pub fn validate_pod(pod: &PodSandboxConfig) -> Result<(), SpecError> {
    let options = &pod.security.namespaces;
    namespaces::check_pod(options, "linux.security_context.namespace_options")?;
    text::plain("hostname", &pod.hostname)?;
    if pod.hostname.len() > HOST_NAME_MAX {
        return Err(invalid("hostname", format!("{:?} is longer than {HOST_NAME_MAX} bytes", pod.hostname)));
    }
    // A line's end in one of them would be a line of resolv.conf.
    for (name, words) in
        [("servers", &pod.dns.servers), ("searches", &pod.dns.searches), ("options", &pod.dns.options)]
    {
        for (index, word) in words.iter().enumerate() {
            text::plain(&format!("dns_config.{name}[{index}]"), word)?;
        }
    }
    let own = namespaces::of_holder(pod);
    sysctl::check(&pod.sysctls, own & libc::CLONE_NEWNET as u64 != 0, own & libc::CLONE_NEWIPC as u64 != 0)?;
    selinux::check(pod.security.selinux.as_ref())?;
    for limits in [&pod.overhead, &pod.resources].into_iter().flatten() {
        resources::check(limits)?;
    }
    Ok(())
}

/// Makes the spec of a container. Looks at devices and at nothing else on the node: that a mount source is there, and
/// who is in the image, is found out by the stages that use them. Blocks.
///
/// # Errors
/// What containerd's CreateContainer refuses too, by the CRI path of the field.
pub fn build(inputs: &Inputs<'_>) -> Result<Built, SpecError> {
    let config = inputs.container;
    let security = &config.security;
    if security.privileged && !inputs.pod.security.privileged {
        let problem = "is set, but the pod is not privileged: make the pod with privileged";
        return Err(invalid("linux.security_context.privileged", problem));
    }
    resources::check(&config.resources)?;
    let cgroup_namespace =
        namespaces::has_cgroup_namespace(inputs.host.unified_cgroups, security.privileged, inputs.pod);
    let namespaces = namespaces::of_container(&security.namespaces, inputs.pod, cgroup_namespace)?;
    cdi::check(inputs.cdi)?;
    let owner = if inputs.device_ownership { Owner::of(security) } else { Owner::default() };
    let mut devices = devices::devices(&config.devices, security.privileged, "/dev".as_ref(), owner)?;
    let mounts = mounts::mounts(inputs, &namespaces)?;
    let limit = limit_of(inputs.host, &namespaces);
    let granted = caps::grant(&security.capabilities, security.privileged, limit)?;
    let environment = env::environment(config, &inputs.image.config, inputs.hostname, &inputs.cdi.env)?;
    let mut user = user::request(security, &inputs.image.config)?;
    cdi::add_groups(inputs.cdi, &mut user.supplemental_groups);
    cdi::add_devices(inputs.cdi, &mut devices, user::known_ids(&user), security.privileged)?;
    let labels = selinux::labels(
        security.selinux.as_ref(),
        inputs.pod.security.selinux.as_ref(),
        inputs.selinux_level,
        security.privileged,
        inputs.host.selinux.as_ref(),
    )?;
    let process = process(inputs, &granted, &user, environment.text, &labels)?;

    let mut linux = linux(inputs, &namespaces);
    linux.set_resources(Some(resources::to_oci(&config.resources, &devices.rules)));
    linux.set_devices((!devices.nodes.is_empty()).then_some(devices.nodes));
    linux.set_rootfs_propagation(mounts.root_propagation.map(str::to_owned));
    linux.set_mount_label(labels.mount);
    let mut spec = oci::spec();
    spec.set_process(Some(process))
        .set_root(Some(oci::root(security.readonly_rootfs)))
        .set_mounts(Some(mounts.list))
        .set_hooks(cdi::hooks(inputs.cdi)?)
        .set_linux(Some(linux));
    Ok(Built {
        launch: Launch {
            spec,
            rootfs: inputs.rootfs.clone(),
            volumes: mounts.volumes,
            image_volumes: mounts.image_volumes,
            user,
            join: namespaces.join,
            own: namespaces.own,
            pod_shm: mounts.pod_shm,
            uid_map: namespaces.uid_map,
            gid_map: namespaces.gid_map,
            raw_env: environment.raw,
            relabel: mounts.relabel,
            make_sources: mounts.make_sources,
            seccomp_flags: 0,
        },
        seccomp: seccomp(inputs),
        capabilities: granted.bounding,
        devices: devices.rules,
        stop_signal: command::stop_signal(config, &inputs.image.config)?,
    })
}

/// A container can have what we have ourselves; in a user namespace, all, for they count only in there.
fn limit_of(host: &HostFacts, namespaces: &Namespaces) -> CapSet {
    if namespaces.has_user() { CapSet::all_up_to(host.last_cap) } else { host.bounding }
}

/// A privileged container has no filter, nor has one that asks for none: as containerd does. A kubelet says
/// RuntimeDefault where it is meant.
fn seccomp(inputs: &Inputs<'_>) -> SecurityProfile {
    let security = &inputs.container.security;
    match &security.seccomp {
        Some(profile) if !security.privileged => profile.clone(),
        _ => SecurityProfile::Unconfined,
    }
}

fn process(
    inputs: &Inputs<'_>,
    granted: &Granted,
    user: &UserRequest,
    env: Vec<String>,
    labels: &Labels,
) -> Result<Process, SpecError> {
    let config = inputs.container;
    let mut process = oci::process(&command::working_dir(config, &inputs.image.config)?);
    process
        .set_terminal(Some(config.tty))
        .set_args(Some(command::arguments(config, &inputs.image.config)?))
        .set_env(Some(env))
        .set_no_new_privileges(Some(config.security.no_new_privs))
        .set_oom_score_adj(Some(resources::oom_score_adj(&config.resources)?));
    if !inputs.rlimits.is_empty() {
        process.set_rlimits(Some(inputs.rlimits.to_vec()));
    }
    // What is known before the image's files have been read; `Launch::user` is what counts.
    let (uid, gid) = user::known_ids(user);
    let groups = Some(user.supplemental_groups.clone()).filter(|groups| !groups.is_empty());
    process.set_user(oci::user(uid, gid, groups));
    let mut capabilities = oci::capabilities();
    let set = |set: CapSet| Some(set.to_oci());
    capabilities
        .set_bounding(set(granted.bounding))
        .set_ambient(set(granted.ambient))
        .set_inheritable(set(granted.ambient));
    // The kernel takes them from whoever is not root at execve(2), but for the ambient ones; who becomes root again by
    // a setuid program gets the bounding set.
    capabilities.set_effective(set(granted.bounding)).set_permitted(set(granted.bounding));
    process.set_capabilities(Some(capabilities));
    process.set_apparmor_profile(apparmor(inputs)?);
    process.set_selinux_label(labels.process.clone());
    Ok(process)
}

/// As containerd: a container that says nothing has the default, a privileged one only what it names.
fn apparmor(inputs: &Inputs<'_>) -> Result<Option<String>, SpecError> {
    const FIELD: &str = "linux.security_context.apparmor";
    let security = &inputs.container.security;
    match &security.apparmor {
        Some(SecurityProfile::Unconfined) => Ok(None),
        None | Some(SecurityProfile::RuntimeDefault) if security.privileged => Ok(None),
        None | Some(SecurityProfile::RuntimeDefault) => Ok(inputs.host.apparmor_default.clone()),
        Some(SecurityProfile::Localhost(name)) => {
            text::plain(FIELD, name)?;
            if !inputs.host.apparmor {
                return Err(unsupported(FIELD, format!("profile {name:?}: this node has no AppArmor")));
            }
            Ok(Some(name.clone()))
        }
    }
}

fn linux(inputs: &Inputs<'_>, namespaces: &Namespaces) -> Linux {
    let security = &inputs.container.security;
    let mut linux = oci::linux();
    // Those that are joined have no path that would outlive the holder: `Launch::join` names them.
    linux.set_namespaces(Some(own_namespaces(namespaces))).set_cgroups_path(Some(inputs.cgroups_path.into()));
    if namespaces.has_user() {
        linux
            .set_uid_mappings(Some(oci::mappings(&namespaces.uid_map)))
            .set_gid_mappings(Some(oci::mappings(&namespaces.gid_map)));
    }
    // An empty list hides nothing: that is how a kubelet asks for procMount Unmasked.
    if !security.privileged {
        linux
            .set_masked_paths(Some(security.masked_paths.clone()))
            .set_readonly_paths(Some(security.readonly_paths.clone()));
    }
    linux
}

fn own_namespaces(namespaces: &Namespaces) -> Vec<LinuxNamespace> {
    let table = [
        (libc::CLONE_NEWNS, LinuxNamespaceType::Mount),
        (libc::CLONE_NEWPID, LinuxNamespaceType::Pid),
        (libc::CLONE_NEWCGROUP, LinuxNamespaceType::Cgroup),
    ];
    let own = table.into_iter().filter(|(flag, _)| namespaces.own & *flag as u64 != 0);
    own.map(|(_, kind)| oci::namespace(kind)).collect()
}

/// The process of an exec: the container's with another command, and its user as it was found in the image.
pub fn exec_process(
    container: &Process,
    user: &ResolvedUser,
    command: &[String],
    tty: bool,
) -> Result<Process, SpecError> {
    if command.first().is_none_or(String::is_empty) {
        return Err(invalid("cmd", "the command is empty: name a program"));
    }
    for (index, part) in command.iter().enumerate() {
        text::no_zero(&format!("cmd[{index}]"), part.as_bytes())?;
    }
    let mut process = container.clone();
    process.set_args(Some(command.to_vec())).set_terminal(Some(tty)).set_console_size(None);
    process.set_user(oci::user(user.uid, user.gid, Some(user.groups.clone())));
    if tty
        && let Some(env) = process.env_mut()
        && !env.iter().any(|pair| pair.starts_with("TERM="))
    {
        env.push("TERM=xterm".to_owned());
    }
    Ok(process)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "build_tests.rs"]
pub mod tests;
