//! Which namespaces a container joins, and which are its own.

use holdfast_model::{IdMapping, NamespaceMode, NamespaceOptions, PodSandboxConfig, UserNamespace};
use holdfast_pod::launch::IdMap;

use crate::error::{SpecError, invalid};

const NEWNS: u64 = libc::CLONE_NEWNS as u64;
const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
const NEWPID: u64 = libc::CLONE_NEWPID as u64;
const NEWNET: u64 = libc::CLONE_NEWNET as u64;

/// Where a container's processes are numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PidNamespace {
    /// In a namespace of its own.
    Own,
    /// In the pod's.
    Pod,
    /// In the host's.
    Host,
    /// In that of the container with this id, which the caller has to look up.
    Target(String),
}

/// A container's namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Clone flags of the holder's that are joined.
    pub join: u64,
    /// Clone flags of its own.
    pub own: u64,
    /// Processes.
    pub pid: PidNamespace,
    /// uid map of the pod's user namespace; empty: none.
    pub uid_map: Vec<IdMap>,
    /// gid map.
    pub gid_map: Vec<IdMap>,
}

impl Namespaces {
    /// Whether the pod has a user namespace.
    pub fn has_user(&self) -> bool {
        !self.uid_map.is_empty()
    }

    /// Whether the container is on the host's IPC.
    pub fn host_ipc(&self) -> bool {
        self.join & NEWIPC == 0
    }
}

/// Clone flags of the namespaces that a pod's holder has.
pub fn of_holder(pod: &PodSandboxConfig) -> u64 {
    let options = &pod.security.namespaces;
    let mut flags = 0;
    if options.network != NamespaceMode::Node {
        // A pod on the host's network keeps the host's name as well.
        flags |= NEWNET | NEWUTS;
    }
    if options.ipc != NamespaceMode::Node {
        flags |= NEWIPC;
    }
    if options.pid == NamespaceMode::Pod {
        flags |= NEWPID;
    }
    if options.pod_user_namespace().is_some() {
        flags |= NEWUSER;
    }
    flags
}

/// Checks a pod's namespaces by themselves.
pub fn check_pod(options: &NamespaceOptions, field: &str) -> Result<(), SpecError> {
    use NamespaceMode::{Container, Node, Pod};
    for (name, mode, possible) in [
        ("network", options.network, [Pod, Node].as_slice()),
        ("ipc", options.ipc, &[Pod, Node]),
        ("pid", options.pid, &[Pod, Container, Node]),
    ] {
        if !possible.contains(&mode) {
            let words = possible.iter().map(|mode| format!("{mode:?}").to_uppercase()).collect::<Vec<_>>();
            let problem = format!("{mode:?} is not possible for a pod: use {}", words.join(" or "));
            return Err(invalid(format!("{field}.{name}"), problem));
        }
    }
    check_user_namespace(options, &format!("{field}.userns_options"))
}

/// The namespaces of a container with `options` in `pod`. The pod decides about network, IPC, host name and users;
/// a container that asks for more of the host than its pod has is refused.
/// Whether it has a cgroup namespace is asked of [`has_cgroup_namespace`].
pub fn of_container(
    options: &NamespaceOptions,
    pod: &PodSandboxConfig,
    cgroup_namespace: bool,
) -> Result<Namespaces, SpecError> {
    let field = |name: &str| format!("linux.security_context.namespace_options.{name}");
    let holder = of_holder(pod);
    for (name, mode, of_pod) in [("network", options.network, NEWNET), ("ipc", options.ipc, NEWIPC)] {
        match mode {
            NamespaceMode::Pod => {}
            NamespaceMode::Node if holder & of_pod == 0 => {}
            NamespaceMode::Node => {
                return Err(invalid(field(name), "is NODE, but the pod has its own: make the pod with NODE"));
            }
            mode => return Err(invalid(field(name), format!("{mode:?} is not possible: use POD or NODE"))),
        }
    }
    let user = user_namespace(options, pod, &field("userns_options"))?;
    let pid = pid_namespace(options, pod, &field("pid"), &field("target_id"))?;
    let mut own = NEWNS | if cgroup_namespace { NEWCGROUP } else { 0 };
    // Stage 2 has a copy of the holder's few mounts, with the pod's /dev/shm among them, and not of the host's table.
    let mut join = NEWNS | holder & !NEWPID;
    match pid {
        PidNamespace::Own => own |= NEWPID,
        PidNamespace::Pod => join |= NEWPID,
        PidNamespace::Host | PidNamespace::Target(_) => {}
    }
    let (uid_map, gid_map) =
        user.map_or_else(Default::default, |user| (id_map(&user.uids), id_map(&user.gids)));
    Ok(Namespaces { join, own, pid, uid_map, gid_map })
}

/// Whether a container of the pod gets a cgroup namespace, which hides all groups but its own. As in containerd and in
/// KEP-2254 there is none on cgroup v1 and for privileged containers: these look after the node's groups. In a user
/// namespace nobody may mount the node's groups, so that there a privileged one has its own as well.
pub fn has_cgroup_namespace(unified_cgroups: bool, privileged: bool, pod: &PodSandboxConfig) -> bool {
    unified_cgroups && (!privileged || pod.security.namespaces.pod_user_namespace().is_some())
}

fn pid_namespace(
    options: &NamespaceOptions,
    pod: &PodSandboxConfig,
    field: &str,
    target_field: &str,
) -> Result<PidNamespace, SpecError> {
    let of_pod = pod.security.namespaces.pid;
    match (options.pid, of_pod) {
        (NamespaceMode::Target, _) if options.target_id.is_empty() => {
            Err(invalid(target_field, "is empty: name the container whose processes are to be seen"))
        }
        (NamespaceMode::Target, _) => Ok(PidNamespace::Target(options.target_id.clone())),
        // POD is also what a request without the field says: in a pod that shares nothing it means its own.
        (NamespaceMode::Container, _)
        | (NamespaceMode::Pod, NamespaceMode::Container | NamespaceMode::Target) => Ok(PidNamespace::Own),
        (NamespaceMode::Pod, NamespaceMode::Pod) => Ok(PidNamespace::Pod),
        (NamespaceMode::Pod | NamespaceMode::Node, NamespaceMode::Node) => Ok(PidNamespace::Host),
        (NamespaceMode::Node, _) => {
            Err(invalid(field, "is NODE, but the pod's is not: make the pod with NODE"))
        }
    }
}

fn user_namespace<'a>(
    options: &'a NamespaceOptions,
    pod: &PodSandboxConfig,
    field: &str,
) -> Result<Option<&'a UserNamespace>, SpecError> {
    check_user_namespace(options, field)?;
    let (own, of_pod) = (options.pod_user_namespace(), pod.security.namespaces.pod_user_namespace());
    if own != of_pod {
        return Err(invalid(field, "differs from the pod's: give the container the pod's mode and mappings"));
    }
    Ok(own)
}

/// Checks a user namespace as the kubelet may ask for it (KEP-127): POD with one mapping for uids and one for gids that
/// hold id 0, or NODE without any.
pub fn check_user_namespace(options: &NamespaceOptions, field: &str) -> Result<(), SpecError> {
    let Some(user) = &options.user else { return Ok(()) };
    match user.mode {
        NamespaceMode::Node if user.uids.is_empty() && user.gids.is_empty() => return Ok(()),
        NamespaceMode::Node => {
            return Err(invalid(field, "mode NODE has mappings: take them out, or use mode POD"));
        }
        NamespaceMode::Pod => {}
        mode => {
            return Err(invalid(
                format!("{field}.mode"),
                format!("{mode:?} is not possible: use POD or NODE"),
            ));
        }
    }
    for (name, maps) in [("uids", &user.uids), ("gids", &user.gids)] {
        let field = format!("{field}.{name}");
        let [map] = maps.as_slice() else {
            return Err(invalid(field, format!("has {} mappings: mode POD needs exactly one", maps.len())));
        };
        if map.container_id != 0 {
            return Err(invalid(field, "container id 0 is not mapped: let container_id be 0"));
        }
        check_mapping(*map, &field)?;
    }
    if user.uids[0].length != user.gids[0].length {
        return Err(invalid(
            field,
            "uids and gids are mapped in different numbers: let the lengths be equal",
        ));
    }
    if options.pid == NamespaceMode::Node || options.ipc == NamespaceMode::Node {
        let problem =
            "a pod with a user namespace cannot use the host's processes or IPC: let pid and ipc not be NODE";
        return Err(invalid(field, problem));
    }
    Ok(())
}

/// Checks one mapping by itself: not empty, no overflow, and id -1 on neither side.
pub fn check_mapping(map: IdMapping, field: &str) -> Result<(), SpecError> {
    let fits = |first: u32| first.checked_add(map.length).is_some();
    if map.length == 0 || !fits(map.host_id) || !fits(map.container_id) {
        return Err(invalid(field, format!("{} ids from {} on is no range of ids", map.length, map.host_id)));
    }
    Ok(())
}

/// Mappings of a request as lines of an id map.
pub fn id_map(maps: &[IdMapping]) -> Vec<IdMap> {
    let line = |map: &IdMapping| IdMap { inside: map.container_id, outside: map.host_id, count: map.length };
    maps.iter().map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;
    use NamespaceMode::{Container, Node, Pod, Target};

    pub fn pod_with(namespaces: NamespaceOptions) -> PodSandboxConfig {
        let mut pod = PodSandboxConfig::default();
        pod.security.namespaces = namespaces;
        pod
    }

    pub fn user_of(mode: NamespaceMode, uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)]) -> UserNamespace {
        let maps = |all: &[(u32, u32, u32)]| {
            let map = |(container_id, host_id, length): &_| IdMapping {
                host_id: *host_id,
                container_id: *container_id,
                length: *length,
            };
            all.iter().map(map).collect()
        };
        UserNamespace { mode, uids: maps(uids), gids: maps(gids) }
    }

    fn options(network: NamespaceMode, pid: NamespaceMode, ipc: NamespaceMode) -> NamespaceOptions {
        NamespaceOptions { network, pid, ipc, ..NamespaceOptions::default() }
    }

    #[test]
    fn pid_modes() {
        for (of_pod, of_container, expected) in [
            (Pod, Pod, Some(PidNamespace::Pod)),
            (Container, Container, Some(PidNamespace::Own)),
            (Container, Pod, Some(PidNamespace::Own)),
            (Pod, Container, Some(PidNamespace::Own)),
            (Node, Node, Some(PidNamespace::Host)),
            (Node, Pod, Some(PidNamespace::Host)),
            (Node, Container, Some(PidNamespace::Own)),
            (Pod, Node, None),
            (Container, Node, None),
            (Container, Target, Some(PidNamespace::Target("t".into()))),
        ] {
            let asked = NamespaceOptions { target_id: "t".into(), ..options(Pod, of_container, Pod) };
            let found = of_container_in(&asked, options(Pod, of_pod, Pod));
            assert_eq!(
                found.as_ref().ok().map(|n| n.pid.clone()),
                expected,
                "{of_container:?} in {of_pod:?}"
            );
            if let Ok(found) = found {
                assert_eq!(found.own & NEWPID != 0, found.pid == PidNamespace::Own);
                assert_eq!(found.join & NEWPID != 0, found.pid == PidNamespace::Pod);
            }
        }
        let nameless = of_container_in(&options(Pod, Target, Pod), options(Pod, Container, Pod));
        assert!(nameless.unwrap_err().to_string().contains("target_id"));
    }

    fn of_container_in(asked: &NamespaceOptions, pod: NamespaceOptions) -> Result<Namespaces, SpecError> {
        of_container(asked, &pod_with(pod), true)
    }

    #[test]
    fn the_pod_decides_about_network_ipc_and_name() {
        let all = of_container_in(&options(Pod, Container, Pod), options(Pod, Container, Pod)).unwrap();
        assert_eq!(all.join, NEWNS | NEWNET | NEWIPC | NEWUTS);
        assert_eq!(all.own, NEWNS | NEWCGROUP | NEWPID);
        for container in [Pod, Node] {
            let host =
                of_container_in(&options(container, Container, container), options(Node, Container, Node));
            assert_eq!(host.unwrap().join, NEWNS);
        }
        for (asked, part) in [
            (options(Node, Pod, Pod), "network"),
            (options(Pod, Pod, Node), "ipc"),
            (options(Container, Pod, Pod), "network"),
            (options(Pod, Pod, Target), "ipc"),
        ] {
            let error = of_container_in(&asked, options(Pod, Pod, Pod)).unwrap_err().to_string();
            assert!(error.contains(&format!("namespace_options.{part}")), "{error}");
        }
    }

    #[test]
    fn cgroup_namespaces() {
        let plain = pod_with(options(Pod, Container, Pod));
        let one = (0, 65536, 65536);
        let user = user_of(Pod, &[one], &[one]);
        let mapped = pod_with(NamespaceOptions { user: Some(user), ..options(Pod, Container, Pod) });
        for (unified, privileged, expected) in
            [(true, false, true), (true, true, false), (false, false, false), (false, true, false)]
        {
            assert_eq!(has_cgroup_namespace(unified, privileged, &plain), expected);
            assert_eq!(has_cgroup_namespace(unified, privileged, &mapped), unified);
        }
        let without = of_container(&options(Pod, Container, Pod), &plain, false).unwrap();
        assert_eq!(without.own, NEWNS | NEWPID);
    }

    #[test]
    fn user_namespaces() {
        let good = user_of(Pod, &[(0, 65536, 65536)], &[(0, 131_072, 65536)]);
        let with = |user: &UserNamespace| NamespaceOptions {
            user: Some(user.clone()),
            ..options(Pod, Container, Pod)
        };
        let found = of_container_in(&with(&good), with(&good)).unwrap();
        assert!(found.join & NEWUSER != 0 && found.has_user());
        assert_eq!(found.gid_map, [IdMap { inside: 0, outside: 131_072, count: 65536 }]);

        let node = user_of(Node, &[], &[]);
        assert!(!of_container_in(&with(&node), options(Pod, Container, Pod)).unwrap().has_user());
        assert!(!of_container_in(&options(Pod, Container, Pod), with(&node)).unwrap().has_user());

        let other = user_of(Pod, &[(0, 65536, 65536)], &[(0, 65536, 65536)]);
        for asked in [with(&other), with(&node), options(Pod, Container, Pod)] {
            assert!(of_container_in(&asked, with(&good)).unwrap_err().to_string().contains("differs"));
        }
    }

    #[test]
    fn user_namespaces_that_cannot_be() {
        let one = (0, 65536, 65536);
        for (user, part) in [
            (user_of(Pod, &[one, (65536, 1, 1)], &[one]), "2 mappings"),
            (user_of(Pod, &[one], &[]), "gids: has 0"),
            (user_of(Pod, &[(1, 65536, 65536)], &[one]), "id 0 is not mapped"),
            (user_of(Pod, &[(0, 65536, 0)], &[one]), "no range"),
            (user_of(Pod, &[(0, u32::MAX, 2)], &[one]), "no range"),
            (user_of(Pod, &[(0, 65536, 1)], &[one]), "different numbers"),
            (user_of(Node, &[one], &[]), "NODE has mappings"),
            (user_of(Container, &[one], &[one]), "mode"),
            (user_of(Target, &[one], &[one]), "mode"),
        ] {
            let options = NamespaceOptions { user: Some(user), ..NamespaceOptions::default() };
            let error = check_user_namespace(&options, "userns_options").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let host_pid =
            NamespaceOptions { user: Some(user_of(Pod, &[one], &[one])), ..options(Pod, Node, Pod) };
        assert!(check_user_namespace(&host_pid, "u").is_err());
    }
}
