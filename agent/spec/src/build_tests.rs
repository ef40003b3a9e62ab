//! Tests of whole specs: each field of a request shows where it should, and a bad one is named.

use holdfast_model::{Capabilities, NamespaceMode, Resources};
use serde_json::{Value, json};

use super::*;
use holdfast_model::SelinuxOptions;

/// A request that builds as it stands.
pub struct Case {
    pub pod: PodSandboxConfig,
    pub container: ContainerConfig,
    pub image: Image,
    pub volume_images: Vec<Option<Arc<Image>>>,
    pub cdi: ContainerEdits,
    pub host: HostFacts,
    pub rlimits: Vec<PosixRlimit>,
    pub id: ContainerId,
}

impl Default for Case {
    fn default() -> Self {
        let mut image = Image::default();
        image.config.cmd = vec!["sh".into()];
        let host = HostFacts {
            bounding: CapSet::all_up_to(40).without(caps::Cap::parse("SYS_RESOURCE").unwrap()),
            last_cap: 40,
            kernel: (6, 18),
            unified_cgroups: true,
            apparmor: false,
            apparmor_default: None,
            selinux: None,
            groups: u32::MAX,
            writable_sysctls: true,
            features: crate::Features { recursive_read_only_mounts: true, user_namespaces: true },
        };
        Self {
            pod: PodSandboxConfig::default(),
            container: ContainerConfig::default(),
            image,
            volume_images: Vec::new(),
            cdi: ContainerEdits::default(),
            host,
            rlimits: Vec::new(),
            id: "a".repeat(64).parse().unwrap(),
        }
    }
}

impl Case {
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            id: &self.id,
            pod: &self.pod,
            container: &self.container,
            image: &self.image,
            volume_images: &self.volume_images,
            cdi: &self.cdi,
            rootfs: Rootfs { layers: vec!["/layer".into()], upper: "/upper".into(), work: "/work".into() },
            files: PodFiles {
                hosts: "/pod/hosts".into(),
                resolv_conf: "/pod/resolv.conf".into(),
                hostname: "/pod/hostname".into(),
            },
            hostname: "web-0",
            cgroups_path: "/pod/aaa",
            host: &self.host,
            rlimits: &self.rlimits,
            device_ownership: false,
            selinux_level: "s0:c1,c2",
        }
    }

    fn built(&self) -> (Value, Built) {
        let built = build(&self.inputs()).unwrap();
        (json!(built.launch.spec), built)
    }

    fn refused(&self) -> SpecError {
        build(&self.inputs()).unwrap_err()
    }
}

fn case(change: impl FnOnce(&mut Case)) -> Case {
    let mut case = Case::default();
    change(&mut case);
    case
}

#[test]
fn a_request_that_says_nothing() {
    let (spec, built) = Case::default().built();
    assert_eq!(spec["ociVersion"], "1.3.0");
    let process = &spec["process"];
    assert_eq!(process["args"], json!(["sh"]));
    assert_eq!((&process["cwd"], &process["terminal"]), (&json!("/"), &json!(false)));
    assert_eq!(process["user"], json!({"uid": 0, "gid": 0}));
    assert_eq!((&process["noNewPrivileges"], &process["oomScoreAdj"]), (&json!(false), &json!(0)));
    assert_eq!(process["rlimits"], Value::Null);
    for set in ["ambient", "inheritable"] {
        assert_eq!(process["capabilities"][set], json!([]), "{set}");
    }
    assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": false}));
    assert_eq!(spec["hostname"], Value::Null);
    assert_eq!(spec["linux"]["cgroupsPath"], "/pod/aaa");
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!((built.stop_signal, built.seccomp), (15, SecurityProfile::Unconfined));
    assert_eq!(built.devices, DeviceRule::defaults());
    assert!(built.launch.raw_env.is_empty() && built.launch.volumes.is_empty());
    let net_ipc_uts = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // A pod that says nothing shares its pid namespace, and so does its container; the holder's mounts are copied.
    assert_eq!(built.launch.join, (libc::CLONE_NEWNS | net_ipc_uts | libc::CLONE_NEWPID) as u64);
    assert_eq!(built.launch.own, (libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP) as u64);
}

#[test]
fn every_field_shows() {
    let case = case(|case| {
        let container = &mut case.container;
        container.tty = true;
        container.working_dir = "/app".into();
        container.stop_signal = Some(3);
        container.resources =
            Resources { memory_limit_bytes: 1 << 20, oom_score_adj: 500, ..Resources::default() };
        let security = &mut container.security;
        security.no_new_privs = true;
        security.readonly_rootfs = true;
        security.run_as_user = Some(1000);
        security.run_as_group = Some(2000);
        security.supplemental_groups = vec![3000];
        security.masked_paths = vec!["/proc/kcore".into()];
        security.readonly_paths = vec!["/proc/sys".into()];
        security.seccomp = Some(SecurityProfile::RuntimeDefault);
        security.capabilities =
            Capabilities { add: vec!["NET_ADMIN".into()], drop: vec!["ALL".into()], ..Default::default() };
        case.rlimits =
            serde_json::from_value(json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}])).unwrap();
    });
    let (spec, built) = case.built();
    let process = &spec["process"];
    assert_eq!((&process["cwd"], &process["terminal"]), (&json!("/app"), &json!(true)));
    assert_eq!(process["user"], json!({"uid": 1000, "gid": 2000, "additionalGids": [3000]}));
    assert_eq!((&process["noNewPrivileges"], &process["oomScoreAdj"]), (&json!(true), &json!(500)));
    assert_eq!(process["rlimits"], json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}]));
    for set in ["bounding", "permitted", "effective"] {
        assert_eq!(process["capabilities"][set], json!(["CAP_NET_ADMIN"]), "{set}");
    }
    assert_eq!(spec["root"]["readonly"], true);
    assert_eq!(spec["linux"]["maskedPaths"], json!(["/proc/kcore"]));
    assert_eq!(spec["linux"]["readonlyPaths"], json!(["/proc/sys"]));
    assert_eq!(spec["linux"]["resources"]["memory"], json!({"limit": 1 << 20}));
    assert_eq!((built.stop_signal, built.seccomp), (3, SecurityProfile::RuntimeDefault));
    assert_eq!((built.launch.user.user.as_str(), built.launch.user.group), ("1000", Some(2000)));
}

#[test]
fn privileged_needs_a_privileged_pod_and_lifts_the_rest() {
    let mut case = case(|case| {
        case.container.security.privileged = true;
        case.container.security.seccomp = Some(SecurityProfile::RuntimeDefault);
        case.container.security.masked_paths = vec!["/proc/kcore".into()];
        case.container.security.capabilities.drop = vec!["ALL".into()];
    });
    assert!(case.refused().to_string().contains("linux.security_context.privileged"));
    case.pod.security.privileged = true;
    let (spec, built) = case.built();
    assert_eq!(built.seccomp, SecurityProfile::Unconfined);
    assert_eq!(built.devices, [DeviceRule::ALL]);
    assert_eq!(built.capabilities, case.host.bounding, "as much as we have ourselves");
    assert_eq!(spec["linux"]["maskedPaths"], Value::Null);
    assert!(spec["linux"]["devices"].as_array().is_some_and(|all| !all.is_empty()));
}

#[test]
fn a_user_namespace_counts_its_own_capabilities() {
    let user =
        namespaces::tests::user_of(NamespaceMode::Pod, &[(0, 1 << 16, 1 << 16)], &[(0, 1 << 17, 1 << 16)]);
    let case = case(|case| {
        case.pod.security.namespaces.user = Some(user.clone());
        case.container.security.namespaces.user = Some(user);
        case.container.security.capabilities.add = vec!["ALL".into()];
    });
    let (spec, built) = case.built();
    assert_eq!(built.capabilities, CapSet::all_up_to(40));
    assert_eq!(spec["linux"]["gidMappings"], json!([{"containerID": 0, "hostID": 1 << 17, "size": 1 << 16}]));
    assert_eq!(built.launch.uid_map.len(), 1);
}

#[test]
fn security_modules_that_the_node_has_or_lacks() {
    let localhost = Some(SecurityProfile::Localhost("mine".into()));
    let mut apparmor = case(|case| case.container.security.apparmor = localhost);
    assert_eq!(apparmor.refused().kind(), crate::ErrorKind::Precondition);
    apparmor.host.apparmor = true;
    assert_eq!(apparmor.built().0["process"]["apparmorProfile"], "mine");
    apparmor.container.security.apparmor = Some(SecurityProfile::RuntimeDefault);
    assert_eq!(apparmor.built().0["process"]["apparmorProfile"], Value::Null);
    apparmor.host.apparmor_default = Some("holdfast-default".into());
    assert_eq!(apparmor.built().0["process"]["apparmorProfile"], "holdfast-default");
    apparmor.container.security.apparmor = None;
    assert_eq!(apparmor.built().0["process"]["apparmorProfile"], "holdfast-default");
    apparmor.container.security.apparmor = Some(SecurityProfile::Unconfined);
    assert_eq!(apparmor.built().0["process"]["apparmorProfile"], Value::Null);
    (apparmor.pod.security.privileged, apparmor.container.security.privileged) = (true, true);
    apparmor.container.security.apparmor = None;
    assert_eq!(apparmor.built().0["process"]["apparmorProfile"], Value::Null);
    apparmor.container.security.apparmor = Some(SecurityProfile::Localhost("mine".into()));
    assert_eq!(apparmor.built().0["process"]["apparmorProfile"], "mine");

    let mut selinux = case(|case| {
        case.container.security.selinux =
            Some(SelinuxOptions { level: "s0:c1,c2".into(), ..Default::default() });
    });
    let spec = selinux.built().0;
    assert_eq!(
        (&spec["process"]["selinuxLabel"], &spec["linux"]["mountLabel"]),
        (&Value::Null, &Value::Null)
    );
    selinux.host.selinux = Some(crate::selinux::Contexts::default());
    let spec = selinux.built().0;
    assert_eq!(spec["process"]["selinuxLabel"], "system_u:system_r:container_t:s0:c1,c2");
    assert_eq!(spec["linux"]["mountLabel"], "system_u:object_r:container_file_t:s0:c1,c2");
    selinux.container.security.selinux = Some(SelinuxOptions { kind: "a:b".into(), ..Default::default() });
    assert!(selinux.refused().to_string().contains("colon"));
}

/// Text of a request or an image is never taken for control input (CRI-O CVE-2022-0811, CVE-2022-4318).
#[test]
fn hostile_text_changes_nothing_else() {
    let plain = Case::default().built().1.launch.spec;
    for text in ["io.katacontainers.config", "run.oci.hooks=/x", "a\nb", "${PATH}", "..", "\u{202e}x"] {
        let (_, built) = case(|case| {
            case.container.labels.insert(text.into(), text.into());
            case.container.annotations.insert(text.into(), text.into());
            case.pod.labels.insert(text.into(), text.into());
            case.pod.annotations.insert(text.into(), text.into());
        })
        .built();
        assert_eq!(built.launch.spec, plain, "{text:?}");
    }
}

#[test]
fn pods_are_checked_by_themselves() {
    type Change = fn(&mut PodSandboxConfig);
    let table: [(Change, &str); 9] = [
        (|pod| pod.dns.servers = vec!["10.0.0.1\nsearch evil".into()], "dns_config.servers[0]"),
        (|pod| pod.dns.searches = vec!["a".into(), "b\0".into()], "dns_config.searches[1]"),
        (|pod| pod.dns.options = vec!["ndots:5\r".into()], "dns_config.options[0]"),
        (|pod| pod.hostname = "x".repeat(65), "hostname"),
        (|pod| pod.hostname = "a\nb".into(), "hostname"),
        (|pod| pod.security.namespaces.network = NamespaceMode::Container, "namespace_options.network"),
        (|pod| pod.security.namespaces.pid = NamespaceMode::Target, "namespace_options.pid"),
        (|pod| pod.sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into(), "kernel.panic"),
        (|pod| pod.overhead = Some(Resources { cpu_shares: -1, ..Resources::default() }), "cpu_shares"),
    ];
    for (change, part) in table {
        let mut pod = PodSandboxConfig::default();
        change(&mut pod);
        let error = validate_pod(&pod).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let named = PodSandboxConfig { hostname: "web-0".into(), ..PodSandboxConfig::default() };
    assert!(validate_pod(&named).is_ok());
}

#[test]
fn an_exec_is_the_containers_process_with_another_command() {
    let (_, built) = case(|case| case.container.working_dir = "/app".into()).built();
    let container = built.launch.spec.process().as_ref().unwrap();
    let user = ResolvedUser { uid: 7, gid: 8, groups: vec![8, 9], home: "/home/x".into() };
    let process = exec_process(container, &user, &["ls".into(), "-l".into()], true).unwrap();
    let process = json!(process);
    assert_eq!(process["args"], json!(["ls", "-l"]));
    assert_eq!(process["user"], json!({"uid": 7, "gid": 8, "additionalGids": [8, 9]}));
    assert_eq!((&process["cwd"], &process["terminal"]), (&json!("/app"), &json!(true)));
    assert!(process["env"].as_array().unwrap().contains(&json!("TERM=xterm")));
    for bad in [&[][..], &[String::new()], &["a".to_owned(), "b\0".to_owned()]] {
        assert_eq!(
            exec_process(container, &user, bad, false).unwrap_err().kind(),
            crate::ErrorKind::InvalidArgument
        );
    }
}

proptest::proptest! {
    /// Whatever numbers and names come in: a spec or an error that names a field, and never a panic.
    #[test]
    fn any_numbers_are_a_spec_or_a_named_error(
        user: Option<i64>, group: Option<i64>, name in "[a-z0-9:\n]{0,12}", memory: i64, shares: i64, score: i64,
        working_dir in "(/|[a-z.\n])[a-z./]{0,12}",
    ) {
        let case = case(|case| {
            case.container.security.run_as_user = user;
            case.container.security.run_as_group = group;
            case.container.security.run_as_username = name;
            case.container.working_dir = working_dir;
            case.container.resources = Resources {
                memory_limit_bytes: memory, cpu_shares: shares, oom_score_adj: score, ..Resources::default()
            };
        });
        if let Err(error) = build(&case.inputs()) {
            let text = error.to_string();
            proptest::prop_assert!(text.contains(": ") && !text.starts_with(':'), "{}", text);
        }
    }
}
