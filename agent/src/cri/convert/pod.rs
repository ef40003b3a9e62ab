//! PodSandboxConfig.

use holdfast_cri::v1;
use holdfast_model::{DnsConfig, PodSandboxConfig, PortMapping, Protocol, SandboxSecurity};

use super::{
    Invalid,
    invalid::{Within, each, in_range, not_windows, unix_id, unix_ids},
    namespace::{Scope, namespace_options_of, selinux, supplemental_groups_policy},
    pod_metadata, profile, resources,
};

/// A pod's configuration from the field `config` of a request.
pub fn pod_sandbox_config(config: v1::PodSandboxConfig) -> Result<PodSandboxConfig, Invalid> {
    pod_sandbox_config_at("config", config)
}

/// A pod's configuration from another field, such as CreateContainer's `sandbox_config`.
pub fn pod_sandbox_config_at(field: &str, config: v1::PodSandboxConfig) -> Result<PodSandboxConfig, Invalid> {
    convert(config).within(field)
}

fn convert(config: v1::PodSandboxConfig) -> Result<PodSandboxConfig, Invalid> {
    not_windows(config.windows)?;
    let v1::DnsConfig { servers, searches, options } = config.dns_config.unwrap_or_default();
    let v1::LinuxPodSandboxConfig { cgroup_parent, security_context, sysctls, overhead, resources: sum } =
        config.linux.unwrap_or_default();
    Ok(PodSandboxConfig {
        metadata: pod_metadata(config.metadata)?,
        hostname: config.hostname,
        log_directory: absolute("log_directory", config.log_directory)?,
        dns: DnsConfig { servers, searches, options },
        port_mappings: each("port_mappings", config.port_mappings, port_mapping)?,
        labels: config.labels,
        annotations: config.annotations,
        cgroup_parent,
        sysctls,
        overhead: overhead.map(resources).transpose().within("linux.overhead")?,
        resources: sum.map(resources).transpose().within("linux.resources")?,
        security: security(security_context.unwrap_or_default()).within("linux.security_context")?,
    })
}

fn absolute(field: &str, path: String) -> Result<String, Invalid> {
    if path.is_empty() || path.starts_with('/') {
        Ok(path)
    } else {
        Err(Invalid::text(field, &path, "is not an absolute path"))
    }
}

fn port_mapping(mapping: v1::PortMapping) -> Result<PortMapping, Invalid> {
    let protocol = match v1::Protocol::try_from(mapping.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => return Err(Invalid::choice("protocol", mapping.protocol, "TCP, UDP, SCTP")),
    };
    let host_port = port("host_port", mapping.host_port, 0)?;
    // A mapping without a host port asks for nothing; only one that does needs somewhere to lead to.
    let container_port = port("container_port", mapping.container_port, i64::from(host_port != 0))?;
    if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(Invalid::text("host_ip", &mapping.host_ip, "is not an IP address"));
    }
    Ok(PortMapping { protocol, container_port, host_port, host_ip: mapping.host_ip })
}

fn port(field: &str, port: i32, min: i64) -> Result<u16, Invalid> {
    in_range(field, i64::from(port), min, i64::from(u16::MAX)).map(|port| port as u16)
}

fn security(context: v1::LinuxSandboxSecurityContext) -> Result<SandboxSecurity, Invalid> {
    #[allow(deprecated, reason = "kubelets of some versions still send it")]
    let seccomp_path = context.seccomp_profile_path;
    let run_as_user = context.run_as_user.map(|id| unix_id("run_as_user", id.value)).transpose()?;
    let run_as_group = context.run_as_group.map(|id| unix_id("run_as_group", id.value)).transpose()?;
    if run_as_group.is_some() && run_as_user.is_none() {
        return Err(Invalid::conflict("run_as_group", "is set without run_as_user"));
    }
    Ok(SandboxSecurity {
        namespaces: namespace_options_of(context.namespace_options.unwrap_or_default(), Scope::Pod)
            .within("namespace_options")?,
        selinux: selinux(context.selinux_options),
        run_as_user,
        run_as_group,
        readonly_rootfs: context.readonly_rootfs,
        supplemental_groups: unix_ids("supplemental_groups", context.supplemental_groups)?,
        supplemental_groups_policy: supplemental_groups_policy(context.supplemental_groups_policy)?,
        privileged: context.privileged,
        seccomp: profile::effective(context.seccomp, "seccomp", &seccomp_path, "seccomp_profile_path")?,
        apparmor: profile::effective(context.apparmor, "apparmor", "", "apparmor_profile")?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use holdfast_model::{NamespaceMode, SecurityProfile, SupplementalGroupsPolicy};

    fn named() -> v1::PodSandboxConfig {
        let metadata = v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "shop".into(),
            attempt: 3,
        };
        v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }
    }

    fn with_context(change: impl FnOnce(&mut v1::LinuxSandboxSecurityContext)) -> v1::PodSandboxConfig {
        let mut context = v1::LinuxSandboxSecurityContext::default();
        change(&mut context);
        let linux = v1::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        v1::PodSandboxConfig { linux: Some(linux), ..named() }
    }

    #[test]
    fn every_field_arrives() {
        let mut wire = with_context(|context| {
            context.run_as_user = Some(v1::Int64Value { value: 7 });
            context.run_as_group = Some(v1::Int64Value { value: 8 });
            context.readonly_rootfs = true;
            context.supplemental_groups = vec![9, 10];
            context.supplemental_groups_policy = v1::SupplementalGroupsPolicy::Strict as i32;
            context.privileged = true;
            context.seccomp = Some(v1::SecurityProfile { profile_type: 1, localhost_ref: String::new() });
            context.apparmor = Some(v1::SecurityProfile { profile_type: 2, localhost_ref: "web".into() });
            context.selinux_options =
                Some(v1::SeLinuxOption { r#type: "spc_t".into(), ..Default::default() });
            context.namespace_options = Some(v1::NamespaceOption {
                network: v1::NamespaceMode::Node as i32,
                pid: v1::NamespaceMode::Container as i32,
                ..Default::default()
            });
        });
        wire.hostname = "web-0".into();
        wire.log_directory = "/var/log/pods/web".into();
        wire.dns_config = Some(v1::DnsConfig {
            servers: vec!["10.0.0.10".into()],
            searches: vec!["svc".into()],
            options: vec!["ndots:5".into()],
        });
        wire.port_mappings = vec![v1::PortMapping {
            protocol: v1::Protocol::Udp as i32,
            container_port: 53,
            host_port: 5353,
            host_ip: "::1".into(),
        }];
        wire.labels.insert("app".into(), "web".into());
        wire.annotations.insert("note".into(), "x".into());
        let linux = wire.linux.as_mut().unwrap();
        linux.cgroup_parent = "/kubepods/pod1".into();
        linux.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
        linux.overhead = Some(v1::LinuxContainerResources { cpu_shares: 10, ..Default::default() });
        linux.resources = Some(v1::LinuxContainerResources { cpu_shares: 20, ..Default::default() });

        let pod = pod_sandbox_config(wire).unwrap();
        assert_eq!((pod.metadata.name.as_str(), pod.metadata.attempt), ("web", 3));
        assert_eq!((pod.metadata.namespace.as_str(), pod.metadata.uid.as_str()), ("shop", "u-1"));
        assert_eq!((pod.hostname.as_str(), pod.log_directory.as_str()), ("web-0", "/var/log/pods/web"));
        assert_eq!(pod.dns.options, ["ndots:5"]);
        let port = PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: "::1".into(),
        };
        assert_eq!(pod.port_mappings, [port]);
        assert_eq!((pod.labels["app"].as_str(), pod.annotations["note"].as_str()), ("web", "x"));
        assert_eq!(pod.cgroup_parent, "/kubepods/pod1");
        assert_eq!(pod.sysctls["net.ipv4.ip_forward"], "1");
        assert_eq!((pod.overhead.unwrap().cpu_shares, pod.resources.unwrap().cpu_shares), (10, 20));
        let security = pod.security;
        assert_eq!((security.run_as_user, security.run_as_group), (Some(7), Some(8)));
        assert!(security.readonly_rootfs && security.privileged);
        assert_eq!(security.supplemental_groups, [9, 10]);
        assert_eq!(security.supplemental_groups_policy, SupplementalGroupsPolicy::Strict);
        assert_eq!(security.seccomp, Some(SecurityProfile::Unconfined));
        assert_eq!(security.apparmor, Some(SecurityProfile::Localhost("web".into())));
        assert_eq!(security.selinux.unwrap().kind, "spc_t");
        assert_eq!(security.namespaces.network, NamespaceMode::Node);
        assert_eq!(security.namespaces.pid, NamespaceMode::Container);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let port = |container_port, host_port| v1::PodSandboxConfig {
            port_mappings: vec![
                v1::PortMapping::default(),
                v1::PortMapping { container_port, host_port, ..Default::default() },
            ],
            ..named()
        };
        let cases = [
            (v1::PodSandboxConfig::default(), "config.metadata is missing"),
            (
                v1::PodSandboxConfig { metadata: Some(v1::PodSandboxMetadata::default()), ..named() },
                "config.metadata.name is missing",
            ),
            (
                v1::PodSandboxConfig { log_directory: "logs".into(), ..named() },
                "config.log_directory: \"logs\" is not an absolute path",
            ),
            (
                v1::PodSandboxConfig {
                    windows: Some(v1::WindowsPodSandboxConfig {
                        security_context: Some(v1::WindowsSandboxSecurityContext::default()),
                    }),
                    ..named()
                },
                "config.windows is set, but this node runs Linux",
            ),
            (port(80, 70_000), "config.port_mappings[1].host_port: 70000 is not between 0 and 65535"),
            (port(0, 80), "config.port_mappings[1].container_port: 0 is not between 1 and 65535"),
            (
                with_context(|context| context.run_as_user = Some(v1::Int64Value { value: -1 })),
                "config.linux.security_context.run_as_user: -1 is not between 0 and 4294967294",
            ),
            (
                with_context(|context| context.run_as_group = Some(v1::Int64Value { value: 1 })),
                "config.linux.security_context.run_as_group is set without run_as_user",
            ),
            (
                with_context(|context| context.supplemental_groups = vec![1, -5]),
                "config.linux.security_context.supplemental_groups[1]: -5 is not between 0 and 4294967294",
            ),
            (
                with_context(|context| context.supplemental_groups_policy = 9),
                "config.linux.security_context.supplemental_groups_policy: 9 is not one of Merge, Strict",
            ),
        ];
        for (wire, expected) in cases {
            assert_eq!(pod_sandbox_config(wire).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn the_status_is_invalid_argument() {
        let status = tonic::Status::from(
            pod_sandbox_config_at("sandbox_config", v1::PodSandboxConfig::default()).unwrap_err(),
        );
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(status.message(), "sandbox_config.metadata is missing");
    }
}
