//! ContainerConfig.

use holdfast_cri::v1;
use holdfast_model::{Capabilities, ContainerConfig, ContainerMetadata, ContainerSecurity, Device, EnvVar};

use super::{
    Invalid, image_spec,
    invalid::{Within, each, not_windows, unix_id, unix_ids},
    mounts,
    namespace::{Scope, namespace_options_of, selinux, supplemental_groups_policy},
    profile, resources, signal_from_wire,
};

/// A container's configuration from the field `config` of CreateContainer.
pub fn container_config(config: v1::ContainerConfig) -> Result<ContainerConfig, Invalid> {
    convert(config).within("config")
}

/// A container's metadata. It needs a name.
pub fn container_metadata(metadata: Option<v1::ContainerMetadata>) -> Result<ContainerMetadata, Invalid> {
    let v1::ContainerMetadata { name, attempt } = metadata.ok_or_else(|| Invalid::missing("metadata"))?;
    if name.is_empty() {
        return Err(Invalid::missing("metadata.name"));
    }
    Ok(ContainerMetadata { name, attempt })
}

/// A container's metadata for an answer.
pub fn container_metadata_to_wire(metadata: &ContainerMetadata) -> v1::ContainerMetadata {
    v1::ContainerMetadata { name: metadata.name.clone(), attempt: metadata.attempt }
}

fn convert(config: v1::ContainerConfig) -> Result<ContainerConfig, Invalid> {
    not_windows(config.windows)?;
    let linux = config.linux.unwrap_or_default();
    Ok(ContainerConfig {
        metadata: container_metadata(config.metadata)?,
        image: image_spec(config.image).within("image")?,
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        envs: each("envs", config.envs, env_var)?,
        mounts: mounts(config.mounts)?,
        devices: each("devices", config.devices, device)?,
        cdi_devices: config.cdi_devices.into_iter().map(|device| device.name).collect(),
        labels: config.labels,
        annotations: config.annotations,
        log_path: config.log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: resources(linux.resources.unwrap_or_default()).within("linux.resources")?,
        security: security(linux.security_context.unwrap_or_default()).within("linux.security_context")?,
        stop_signal: signal_from_wire("stop_signal", config.stop_signal)?,
    })
}

/// The kernel's environment is `key=value` up to a NUL: what would read back as something else is refused.
fn env_var(env: v1::KeyValue) -> Result<EnvVar, Invalid> {
    if env.key.is_empty() {
        return Err(Invalid::missing("key"));
    }
    if env.key.contains(['=', '\0']) {
        return Err(Invalid::text("key", &env.key, "holds a '=' or a NUL byte"));
    }
    if env.value.contains(&0) {
        return Err(Invalid::text("value", &String::from_utf8_lossy(&env.value), "holds a NUL byte"));
    }
    Ok(EnvVar { key: env.key, value: env.value })
}

fn device(device: v1::Device) -> Result<Device, Invalid> {
    let v1::Device { container_path, host_path, permissions } = device;
    if host_path.is_empty() {
        return Err(Invalid::missing("host_path"));
    }
    if container_path.is_empty() {
        return Err(Invalid::missing("container_path"));
    }
    if permissions.contains(|c| !matches!(c, 'r' | 'w' | 'm')) {
        return Err(Invalid::text("permissions", &permissions, "holds other letters than r, w and m"));
    }
    Ok(Device { container_path, host_path, permissions })
}

fn security(context: v1::LinuxContainerSecurityContext) -> Result<ContainerSecurity, Invalid> {
    #[allow(deprecated, reason = "kubelets of some versions still send them")]
    let (seccomp_path, apparmor_path) = (context.seccomp_profile_path, context.apparmor_profile);
    let run_as_user = context.run_as_user.map(|id| unix_id("run_as_user", id.value)).transpose()?;
    let run_as_group = context.run_as_group.map(|id| unix_id("run_as_group", id.value)).transpose()?;
    if run_as_group.is_some() && run_as_user.is_none() && context.run_as_username.is_empty() {
        return Err(Invalid::conflict("run_as_group", "is set without run_as_user or run_as_username"));
    }
    let capabilities = context.capabilities.unwrap_or_default();
    Ok(ContainerSecurity {
        capabilities: Capabilities {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        privileged: context.privileged,
        namespaces: namespace_options_of(context.namespace_options.unwrap_or_default(), Scope::Container)
            .within("namespace_options")?,
        selinux: selinux(context.selinux_options),
        run_as_user,
        run_as_group,
        run_as_username: context.run_as_username,
        readonly_rootfs: context.readonly_rootfs,
        supplemental_groups: unix_ids("supplemental_groups", context.supplemental_groups)?,
        supplemental_groups_policy: supplemental_groups_policy(context.supplemental_groups_policy)?,
        seccomp: profile::effective(context.seccomp, "seccomp", &seccomp_path, "seccomp_profile_path")?,
        apparmor: profile::effective(context.apparmor, "apparmor", &apparmor_path, "apparmor_profile")?,
        no_new_privs: context.no_new_privs,
        masked_paths: context.masked_paths,
        readonly_paths: context.readonly_paths,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use holdfast_model::{NamespaceMode, SecurityProfile};

    fn named() -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 2 }),
            image: Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn with_context(change: impl FnOnce(&mut v1::LinuxContainerSecurityContext)) -> v1::ContainerConfig {
        let mut context = v1::LinuxContainerSecurityContext::default();
        change(&mut context);
        let linux = v1::LinuxContainerConfig { security_context: Some(context), resources: None };
        v1::ContainerConfig { linux: Some(linux), ..named() }
    }

    fn with_env(key: &str, value: &[u8]) -> v1::ContainerConfig {
        v1::ContainerConfig { envs: vec![v1::KeyValue { key: key.into(), value: value.into() }], ..named() }
    }

    #[test]
    fn every_field_arrives() {
        let mut wire = with_context(|context| {
            context.capabilities = Some(v1::Capability {
                add_capabilities: vec!["NET_ADMIN".into()],
                drop_capabilities: vec!["ALL".into()],
                add_ambient_capabilities: vec!["CHOWN".into()],
            });
            context.privileged = true;
            context.namespace_options = Some(v1::NamespaceOption {
                pid: v1::NamespaceMode::Target as i32,
                target_id: "t".into(),
                ..Default::default()
            });
            context.run_as_username = "www".into();
            context.run_as_group = Some(v1::Int64Value { value: 33 });
            context.readonly_rootfs = true;
            context.supplemental_groups = vec![4];
            context.no_new_privs = true;
            context.masked_paths = vec!["/proc/kcore".into()];
            context.readonly_paths = vec!["/proc/sys".into()];
        });
        wire.command = vec!["sh".into()];
        wire.args = vec!["-c".into()];
        wire.working_dir = "/srv".into();
        wire.envs = vec![v1::KeyValue { key: "BYTES".into(), value: vec![0xff, 0xfe] }];
        wire.devices = vec![v1::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            permissions: "rw".into(),
        }];
        wire.cdi_devices = vec![v1::CdiDevice { name: "v.com/gpu=0".into() }];
        wire.labels.insert("l".into(), "1".into());
        wire.annotations.insert("a".into(), "2".into());
        wire.log_path = "app/0.log".into();
        (wire.stdin, wire.stdin_once, wire.tty) = (true, true, true);
        wire.linux.as_mut().unwrap().resources =
            Some(v1::LinuxContainerResources { cpu_quota: 5000, ..Default::default() });
        wire.stop_signal = v1::Signal::Sigusr1 as i32;

        let container = container_config(wire).unwrap();
        assert_eq!(container.metadata, ContainerMetadata { name: "app".into(), attempt: 2 });
        assert_eq!(container.image.image, "busybox");
        assert_eq!((container.command, container.args), (vec!["sh".into()], vec!["-c".to_owned()]));
        assert_eq!(container.working_dir, "/srv");
        assert_eq!(container.envs, [EnvVar { key: "BYTES".into(), value: vec![0xff, 0xfe] }]);
        assert_eq!(container.devices[0].permissions, "rw");
        assert_eq!(container.cdi_devices, ["v.com/gpu=0"]);
        assert_eq!((container.labels["l"].as_str(), container.annotations["a"].as_str()), ("1", "2"));
        assert_eq!(container.log_path, "app/0.log");
        assert!(container.stdin && container.stdin_once && container.tty);
        assert_eq!(container.resources.cpu_quota_us, 5000);
        assert_eq!(container.stop_signal, Some(10));
        let security = container.security;
        assert_eq!(security.capabilities.add, ["NET_ADMIN"]);
        assert_eq!(security.capabilities.drop, ["ALL"]);
        assert_eq!(security.capabilities.add_ambient, ["CHOWN"]);
        assert!(security.privileged && security.readonly_rootfs && security.no_new_privs);
        assert_eq!(security.namespaces.pid, NamespaceMode::Target);
        assert_eq!(security.namespaces.target_id, "t");
        assert_eq!((security.run_as_user, security.run_as_group), (None, Some(33)));
        assert_eq!((security.run_as_username.as_str(), security.supplemental_groups), ("www", vec![4]));
        assert_eq!(security.masked_paths, ["/proc/kcore"]);
        assert_eq!(security.readonly_paths, ["/proc/sys"]);
    }

    #[test]
    #[allow(deprecated)]
    fn the_old_profile_fields_count_where_the_new_ones_say_nothing() {
        let container = container_config(with_context(|context| {
            context.seccomp_profile_path = "localhost/strict.json".into();
            context.apparmor_profile = "runtime/default".into();
            context.apparmor = Some(v1::SecurityProfile { profile_type: 1, localhost_ref: String::new() });
        }))
        .unwrap();
        assert_eq!(container.security.seccomp, Some(SecurityProfile::Localhost("strict.json".into())));
        assert_eq!(container.security.apparmor, Some(SecurityProfile::Unconfined));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let cases = [
            (v1::ContainerConfig { metadata: None, ..named() }, "config.metadata is missing"),
            (v1::ContainerConfig { image: None, ..named() }, "config.image is missing"),
            (
                v1::ContainerConfig { image: Some(v1::ImageSpec::default()), ..named() },
                "config.image.image is missing",
            ),
            (
                v1::ContainerConfig {
                    windows: Some(v1::WindowsContainerConfig {
                        resources: Some(v1::WindowsContainerResources::default()),
                        ..Default::default()
                    }),
                    ..named()
                },
                "config.windows is set, but this node runs Linux",
            ),
            (with_env("", b"x"), "config.envs[0].key is missing"),
            (with_env("a=b", b"x"), "config.envs[0].key: \"a=b\" holds a '=' or a NUL byte"),
            (with_env("a", b"x\0y"), "config.envs[0].value: \"x\\0y\" holds a NUL byte"),
            (
                v1::ContainerConfig { stop_signal: 999, ..named() },
                "config.stop_signal: 999 is not one of the values of Signal",
            ),
            (
                v1::ContainerConfig { devices: vec![v1::Device::default()], ..named() },
                "config.devices[0].host_path is missing",
            ),
            (
                with_context(|context| context.run_as_group = Some(v1::Int64Value { value: 1 })),
                "config.linux.security_context.run_as_group is set without run_as_user or run_as_username",
            ),
            (
                with_context(|context| {
                    context.namespace_options = Some(v1::NamespaceOption { pid: 3, ..Default::default() });
                }),
                "config.linux.security_context.namespace_options.target_id is missing",
            ),
        ];
        for (wire, expected) in cases {
            assert_eq!(container_config(wire).unwrap_err().to_string(), expected);
        }
    }
}
