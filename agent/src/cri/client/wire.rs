//! Whole configurations for the wire: only our own client sends them.

use holdfast_cri::v1::{self, security_profile::ProfileType};
use holdfast_model::{
    ContainerConfig, ContainerSecurity, PodSandboxConfig, Protocol, SandboxSecurity, SecurityProfile,
    SelinuxOptions, SupplementalGroupsPolicy,
};

use crate::cri::convert::{
    container_metadata_to_wire, image_spec_to_wire, mounts_to_wire, namespace_options_to_wire,
    pod_metadata_to_wire, resources_to_wire, signal_to_wire,
};

pub(super) fn pod_sandbox_config(config: &PodSandboxConfig) -> v1::PodSandboxConfig {
    let port_mapping = |mapping: &holdfast_model::PortMapping| v1::PortMapping {
        protocol: match mapping.protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
            Protocol::Sctp => v1::Protocol::Sctp,
        } as i32,
        container_port: i32::from(mapping.container_port),
        host_port: i32::from(mapping.host_port),
        host_ip: mapping.host_ip.clone(),
    };
    v1::PodSandboxConfig {
        metadata: Some(pod_metadata_to_wire(&config.metadata)),
        hostname: config.hostname.clone(),
        log_directory: config.log_directory.clone(),
        dns_config: Some(v1::DnsConfig {
            servers: config.dns.servers.clone(),
            searches: config.dns.searches.clone(),
            options: config.dns.options.clone(),
        }),
        port_mappings: config.port_mappings.iter().map(port_mapping).collect(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: config.cgroup_parent.clone(),
            security_context: Some(sandbox_security(&config.security)),
            sysctls: config.sysctls.clone(),
            overhead: config.overhead.as_ref().map(resources_to_wire),
            resources: config.resources.as_ref().map(resources_to_wire),
        }),
        windows: None,
    }
}

#[allow(deprecated, reason = "the deprecated fields stay empty")]
fn sandbox_security(security: &SandboxSecurity) -> v1::LinuxSandboxSecurityContext {
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options_to_wire(&security.namespaces)),
        selinux_options: security.selinux.as_ref().map(selinux),
        run_as_user: security.run_as_user.map(number),
        readonly_rootfs: security.readonly_rootfs,
        supplemental_groups: security.supplemental_groups.clone(),
        privileged: security.privileged,
        seccomp_profile_path: String::new(),
        run_as_group: security.run_as_group.map(number),
        seccomp: security.seccomp.as_ref().map(profile),
        apparmor: security.apparmor.as_ref().map(profile),
        supplemental_groups_policy: policy(security.supplemental_groups_policy),
    }
}

pub(super) fn container_config(config: &ContainerConfig) -> v1::ContainerConfig {
    let key_value =
        |env: &holdfast_model::EnvVar| v1::KeyValue { key: env.key.clone(), value: env.value.clone() };
    let device = |device: &holdfast_model::Device| v1::Device {
        container_path: device.container_path.clone(),
        host_path: device.host_path.clone(),
        permissions: device.permissions.clone(),
    };
    v1::ContainerConfig {
        metadata: Some(container_metadata_to_wire(&config.metadata)),
        image: Some(image_spec_to_wire(&config.image)),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_dir.clone(),
        envs: config.envs.iter().map(key_value).collect(),
        mounts: mounts_to_wire(&config.mounts, &[]),
        devices: config.devices.iter().map(device).collect(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        log_path: config.log_path.clone(),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources_to_wire(&config.resources)),
            security_context: Some(container_security(&config.security)),
        }),
        windows: None,
        cdi_devices: config.cdi_devices.iter().map(|name| v1::CdiDevice { name: name.clone() }).collect(),
        stop_signal: config.stop_signal.map_or(0, signal_to_wire),
    }
}

#[allow(deprecated, reason = "the deprecated fields stay empty")]
fn container_security(security: &ContainerSecurity) -> v1::LinuxContainerSecurityContext {
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: security.capabilities.add.clone(),
            drop_capabilities: security.capabilities.drop.clone(),
            add_ambient_capabilities: security.capabilities.add_ambient.clone(),
        }),
        privileged: security.privileged,
        namespace_options: Some(namespace_options_to_wire(&security.namespaces)),
        selinux_options: security.selinux.as_ref().map(selinux),
        run_as_user: security.run_as_user.map(number),
        run_as_username: security.run_as_username.clone(),
        readonly_rootfs: security.readonly_rootfs,
        supplemental_groups: security.supplemental_groups.clone(),
        apparmor_profile: String::new(),
        seccomp_profile_path: String::new(),
        no_new_privs: security.no_new_privs,
        run_as_group: security.run_as_group.map(number),
        masked_paths: security.masked_paths.clone(),
        readonly_paths: security.readonly_paths.clone(),
        seccomp: security.seccomp.as_ref().map(profile),
        apparmor: security.apparmor.as_ref().map(profile),
        supplemental_groups_policy: policy(security.supplemental_groups_policy),
    }
}

fn number(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

fn profile(profile: &SecurityProfile) -> v1::SecurityProfile {
    let (profile_type, localhost_ref) = match profile {
        SecurityProfile::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        SecurityProfile::Unconfined => (ProfileType::Unconfined, String::new()),
        SecurityProfile::Localhost(name) => (ProfileType::Localhost, name.clone()),
    };
    v1::SecurityProfile { profile_type: profile_type as i32, localhost_ref }
}

fn selinux(options: &SelinuxOptions) -> v1::SeLinuxOption {
    let SelinuxOptions { user, role, kind, level } = options.clone();
    v1::SeLinuxOption { user, role, r#type: kind, level }
}

fn policy(policy: SupplementalGroupsPolicy) -> i32 {
    match policy {
        SupplementalGroupsPolicy::Merge => v1::SupplementalGroupsPolicy::Merge as i32,
        SupplementalGroupsPolicy::Strict => v1::SupplementalGroupsPolicy::Strict as i32,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use holdfast_model::{
        Capabilities, ContainerMetadata, Device, DnsConfig, EnvVar, HugepageLimit, IdMapping, ImageSpec, Map,
        Mount, NamespaceMode, NamespaceOptions, PodSandboxMetadata, PortMapping, Resources, UserNamespace,
    };

    use super::*;
    use crate::cri::convert;

    fn map(key: &str) -> Map {
        [(key.to_owned(), "v".to_owned())].into()
    }

    fn namespaces() -> NamespaceOptions {
        let ids = vec![IdMapping { host_id: 65536, container_id: 0, length: 65536 }];
        NamespaceOptions {
            network: NamespaceMode::Node,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Node,
            target_id: String::new(),
            user: Some(UserNamespace { mode: NamespaceMode::Pod, uids: ids.clone(), gids: ids }),
        }
    }

    fn label() -> SelinuxOptions {
        SelinuxOptions { user: "u".into(), role: "r".into(), kind: "t".into(), level: "l".into() }
    }

    fn resources() -> Resources {
        Resources {
            cpu_period_us: 100_000,
            cpu_quota_us: 50_000,
            cpu_shares: 512,
            memory_limit_bytes: 1 << 20,
            memory_swap_limit_bytes: 1 << 21,
            oom_score_adj: 5,
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }],
            unified: map("memory.high"),
        }
    }

    /// A pod of which no field has its default.
    fn pod() -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: "n".into(),
                uid: "u".into(),
                namespace: "ns".into(),
                attempt: 4,
            },
            hostname: "h".into(),
            log_directory: "/l".into(),
            dns: DnsConfig {
                servers: vec!["s".into()],
                searches: vec!["d".into()],
                options: vec!["o".into()],
            },
            port_mappings: vec![PortMapping {
                protocol: Protocol::Sctp,
                container_port: 1,
                host_port: 2,
                host_ip: "127.0.0.1".into(),
            }],
            labels: map("l"),
            annotations: map("a"),
            cgroup_parent: "/p".into(),
            sysctls: map("s"),
            overhead: Some(resources()),
            resources: Some(resources()),
            security: SandboxSecurity {
                namespaces: namespaces(),
                selinux: Some(label()),
                run_as_user: Some(1),
                run_as_group: Some(2),
                readonly_rootfs: true,
                supplemental_groups: vec![3],
                supplemental_groups_policy: SupplementalGroupsPolicy::Strict,
                privileged: true,
                seccomp: Some(SecurityProfile::Unconfined),
                apparmor: Some(SecurityProfile::Localhost("x".into())),
            },
        }
    }

    /// A container of which no field has its default.
    fn container() -> ContainerConfig {
        ContainerConfig {
            metadata: ContainerMetadata { name: "c".into(), attempt: 1 },
            image: ImageSpec { image: "i:1".into(), ..ImageSpec::default() },
            command: vec!["c".into()],
            args: vec!["a".into()],
            working_dir: "/w".into(),
            envs: vec![EnvVar { key: "K".into(), value: vec![0xff] }],
            mounts: vec![Mount { container_path: "/m".into(), host_path: "/h".into(), ..Mount::default() }],
            devices: vec![Device {
                container_path: "/dev/a".into(),
                host_path: "/dev/b".into(),
                permissions: "r".into(),
            }],
            cdi_devices: vec!["v/c=d".into()],
            labels: map("l"),
            annotations: map("a"),
            log_path: "c.log".into(),
            stdin: true,
            stdin_once: true,
            tty: true,
            resources: resources(),
            security: ContainerSecurity {
                capabilities: Capabilities {
                    add: vec!["A".into()],
                    drop: vec!["B".into()],
                    add_ambient: vec!["C".into()],
                },
                privileged: true,
                namespaces: namespaces(),
                selinux: Some(label()),
                run_as_user: Some(1),
                run_as_group: Some(2),
                run_as_username: "w".into(),
                readonly_rootfs: true,
                supplemental_groups: vec![5],
                supplemental_groups_policy: SupplementalGroupsPolicy::Strict,
                seccomp: Some(SecurityProfile::RuntimeDefault),
                apparmor: Some(SecurityProfile::Unconfined),
                no_new_privs: true,
                masked_paths: vec!["/a".into()],
                readonly_paths: vec!["/b".into()],
            },
            stop_signal: Some(10),
        }
    }

    #[test]
    fn there_and_back_nothing_is_lost() {
        assert_eq!(convert::pod_sandbox_config(pod_sandbox_config(&pod())).unwrap(), pod());
        assert_eq!(convert::container_config(container_config(&container())).unwrap(), container());
    }
}
