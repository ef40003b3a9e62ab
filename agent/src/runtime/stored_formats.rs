//! Records of pods and containers, kept launches, and names of files, against those that are stored (`formats/`).

use holdfast_cgroup::{Location, Made};
use holdfast_formats::Format;
use holdfast_model::{
    Capabilities, ContainerConfig, ContainerMetadata, ContainerSecurity, Device, DnsConfig, EnvVar,
    HugepageLimit, IdMapping, ImageSpec, Mount, MountPropagation, NamespaceMode, NamespaceOptions,
    PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol, Resources, SandboxSecurity, SecurityProfile,
    SelinuxOptions, SupplementalGroupsPolicy, UserNamespace,
};
use holdfast_pod::{
    oci_runtime::OciRuntime,
    protocol::{self, Created, ExitRecord, Phase, ResolvedUser},
};
use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    kept::{self, KeptLaunch},
    quarantine,
    record::{self, ContainerRecord, PodPhase, PodRecord, ProcessName, Record},
    recovery::load::{self, Fault},
};

const BOOT: &str = "0b0070ff-0000-4000-8000-00000000b007";

fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// 64 digits that are nobody's; the end-to-end tests put these records before an agent.
fn id(kind: char, number: u8) -> String {
    format!("{}{number:02x}", kind.to_string().repeat(62))
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> holdfast_model::Map {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

fn resources() -> Resources {
    Resources {
        cpu_period_us: 100_000,
        cpu_quota_us: 50_000,
        cpu_shares: 512,
        memory_limit_bytes: 268_435_456,
        memory_swap_limit_bytes: 268_435_456,
        oom_score_adj: 993,
        cpuset_cpus: "0-1".into(),
        cpuset_mems: "0".into(),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 2_097_152 }],
        unified: map([("memory.high", "200000000")]),
    }
}

fn namespaces(pid: NamespaceMode) -> NamespaceOptions {
    let ids = vec![IdMapping { host_id: 1_000_000, container_id: 0, length: 65_536 }];
    NamespaceOptions {
        network: NamespaceMode::Node,
        pid,
        ipc: NamespaceMode::Pod,
        target_id: id('c', 1),
        user: Some(UserNamespace { mode: NamespaceMode::Pod, uids: ids.clone(), gids: ids }),
    }
}

fn selinux() -> SelinuxOptions {
    let part = |text: &str| text.to_owned();
    SelinuxOptions {
        user: part("system_u"),
        role: part("system_r"),
        kind: part("container_t"),
        level: part("s0:c1,c2"),
    }
}

fn port(protocol: Protocol, container_port: u16) -> PortMapping {
    PortMapping { protocol, container_port, host_port: container_port + 8_000, host_ip: "127.0.0.1".into() }
}

fn pod_config(attempt: u32) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: "web".into(),
            uid: "uid-1".into(),
            namespace: "default".into(),
            attempt,
        },
        hostname: "web".into(),
        log_directory: "/var/log/pods/default_web_uid-1".into(),
        dns: DnsConfig {
            servers: texts(["10.96.0.10"]),
            searches: texts(["svc.cluster.local"]),
            options: texts(["ndots:5"]),
        },
        port_mappings: vec![port(Protocol::Tcp, 80), port(Protocol::Udp, 53), port(Protocol::Sctp, 90)],
        labels: map([("app", "web")]),
        annotations: map([("kubernetes.io/config.source", "api")]),
        cgroup_parent: "/holdfast-stored/pod1".into(),
        sysctls: map([("net.ipv4.ip_unprivileged_port_start", "80")]),
        overhead: Some(resources()),
        resources: Some(resources()),
        security: SandboxSecurity {
            namespaces: namespaces(NamespaceMode::Container),
            selinux: Some(selinux()),
            run_as_user: Some(1000),
            run_as_group: Some(1000),
            readonly_rootfs: true,
            supplemental_groups: vec![5],
            supplemental_groups_policy: SupplementalGroupsPolicy::Merge,
            privileged: true,
            seccomp: Some(SecurityProfile::RuntimeDefault),
            apparmor: Some(SecurityProfile::Localhost("web".into())),
        },
    }
}

fn pod(number: u8, phase: PodPhase) -> PodRecord {
    let slice = json!({"path": "/holdfast-stored/pod1", "pod": true,
        "unit": {"name": "holdfast-stored-pod1.slice", "slice": "holdfast-stored.slice"}});
    PodRecord {
        version: record::VERSION,
        boot_id: BOOT.into(),
        id: id('b', number).parse().unwrap(),
        config: pod_config(number.into()),
        runtime_handler: "crun".into(),
        created_at_ns: 1_764_576_000_000_000_001,
        phase,
        holder: Some(ProcessName { pid: 4_194_303, start_time: 123_456 }),
        cgroup: of::<Location>(slice),
        cgroup_made: Made {
            dirs: vec!["/sys/fs/cgroup/holdfast-stored/pod1".into()],
            missing: vec!["/sys/fs/cgroup/holdfast-stored".into()],
            units: texts(["holdfast-stored-pod1.slice"]),
        },
        selinux_level: "s0:c1,c2".into(),
    }
}

/// The one that no option is said of.
fn bare_pod(number: u8) -> PodRecord {
    PodRecord {
        config: PodSandboxConfig {
            metadata: PodSandboxMetadata { name: "bare".into(), ..pod_config(0).metadata },
            ..PodSandboxConfig::default()
        },
        runtime_handler: String::new(),
        holder: None,
        cgroup: of(json!({"path": "/holdfast-stored/pod2", "pod": true})),
        cgroup_made: Made::default(),
        selinux_level: String::new(),
        ..pod(number, PodPhase::NotReady)
    }
}

#[test]
fn stored_format_of_pods() {
    let samples = [
        ("creating", pod(1, PodPhase::Creating)),
        ("ready", pod(2, PodPhase::Ready)),
        ("not_ready", pod(3, PodPhase::NotReady)),
        ("removing", pod(4, PodPhase::Removing)),
        ("bare", bare_pod(5)),
    ];
    format("pod").check(&samples);
    all_are_records::<PodRecord>("pod");
}

fn image_spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.into(),
        annotations: map([("a", "b")]),
        user_specified_image: "web:1".into(),
        runtime_handler: "crun".into(),
        image_ref: format!("sha256:{}", "1".repeat(64)),
    }
}

fn mount(propagation: MountPropagation, image: Option<ImageSpec>) -> Mount {
    let ids = vec![IdMapping { host_id: 1_000_000, container_id: 0, length: 65_536 }];
    Mount {
        container_path: "/data".into(),
        host_path: "/srv/data".into(),
        readonly: true,
        recursive_read_only: true,
        selinux_relabel: true,
        propagation,
        uid_mappings: ids.clone(),
        gid_mappings: ids,
        image,
        image_sub_path: "models".into(),
        mount_options: texts(["noexec"]),
    }
}

fn container_security() -> ContainerSecurity {
    ContainerSecurity {
        capabilities: Capabilities {
            add: texts(["NET_ADMIN"]),
            drop: texts(["ALL"]),
            add_ambient: texts(["CHOWN"]),
        },
        privileged: true,
        namespaces: namespaces(NamespaceMode::Target),
        selinux: Some(selinux()),
        run_as_user: Some(1000),
        run_as_group: Some(1000),
        run_as_username: "web".into(),
        readonly_rootfs: true,
        supplemental_groups: vec![5],
        supplemental_groups_policy: SupplementalGroupsPolicy::Strict,
        seccomp: Some(SecurityProfile::Localhost("/profiles/web.json".into())),
        apparmor: Some(SecurityProfile::Unconfined),
        no_new_privs: true,
        masked_paths: texts(["/proc/kcore"]),
        readonly_paths: texts(["/proc/sys"]),
    }
}

fn container_config(attempt: u32) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: "main".into(), attempt },
        image: image_spec("registry.example/web:1"),
        command: texts(["sh"]),
        args: texts(["-c", "true"]),
        working_dir: "/work".into(),
        envs: vec![EnvVar { key: "A".into(), value: vec![98, 255] }],
        mounts: vec![
            mount(MountPropagation::Private, None),
            mount(MountPropagation::HostToContainer, None),
            mount(MountPropagation::Bidirectional, Some(image_spec("registry.example/data:1"))),
        ],
        devices: vec![Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            permissions: "rw".into(),
        }],
        cdi_devices: texts(["vendor.example/gpu=0"]),
        labels: map([("part", "main")]),
        annotations: map([("a", "b")]),
        log_path: "main/0.log".into(),
        stdin: true,
        stdin_once: true,
        tty: true,
        resources: resources(),
        security: container_security(),
        stop_signal: Some(10),
    }
}

fn exit(unfinished: bool) -> ExitRecord {
    ExitRecord {
        exit_code: 137,
        signal: 9,
        oom_killed: true,
        started_at_ns: 1_764_576_000_000_000_001,
        finished_at_ns: 1_764_576_001_000_000_002,
        reason: "OOMKilled".into(),
        message: "out of memory".into(),
        log_lines_dropped: 3,
        unfinished,
    }
}

fn container(number: u8, phase: Phase) -> ContainerRecord {
    let id = id('c', number);
    let scope = json!({"path": format!("/holdfast-stored/pod1/cri-holdfast-{id}.scope"), "pod": false,
        "unit": {"name": format!("cri-holdfast-{id}.scope"), "slice": "holdfast-stored-pod1.slice"}});
    ContainerRecord {
        version: record::VERSION,
        boot_id: BOOT.into(),
        id: id.parse().unwrap(),
        pod_id: self::id('b', 2).parse().unwrap(),
        config: container_config(number.into()),
        image_id: format!("sha256:{}", "1".repeat(64)),
        image_tag: "registry.example/web:1".into(),
        image_digest: format!("registry.example/web@sha256:{}", "2".repeat(64)),
        volume_images: vec![format!("sha256:{}", "3".repeat(64))],
        created_at_ns: 1_764_576_000_000_000_001,
        phase,
        removing: false,
        shim: Some(ProcessName { pid: 4_194_302, start_time: 123_457 }),
        init: Created {
            pid: 4_194_301,
            start_time: 123_458,
            user: ResolvedUser { uid: 1000, gid: 1000, groups: vec![5, 1000], home: "/home/web".into() },
        },
        cgroup: of::<Location>(scope),
        stop_signal: 15,
        log_path: "/var/log/pods/default_web_uid-1/main/0.log".into(),
        resources: resources(),
        started_at_ns: 1_764_576_000_500_000_000,
        exit: None,
        runtime: None,
    }
}

/// Of another OCI runtime, with the cgroupfs driver, and of no options.
fn bare_container(number: u8) -> ContainerRecord {
    let id = id('c', number);
    ContainerRecord {
        config: ContainerConfig {
            metadata: ContainerMetadata { name: "bare".into(), attempt: 0 },
            image: ImageSpec { image: "registry.example/web:1".into(), ..ImageSpec::default() },
            ..ContainerConfig::default()
        },
        pod_id: self::id('b', 5).parse().unwrap(),
        image_tag: String::new(),
        image_digest: String::new(),
        volume_images: vec![],
        shim: None,
        cgroup: of(json!({"path": format!("/holdfast-stored/pod2/{id}")})),
        log_path: "".into(),
        runtime: Some(OciRuntime {
            program: "/usr/bin/crun".into(),
            root: "/run/holdfast/runtimes/crun".into(),
            options: texts(["--debug"]),
            oci_version: "1.3.0".into(),
            systemd_cgroup: true,
        }),
        exit: Some(exit(false)),
        ..container(number, Phase::Exited)
    }
}

#[test]
fn stored_format_of_containers() {
    let samples = [
        ("creating", container(1, Phase::Creating)),
        ("created", container(2, Phase::Created)),
        ("running", container(3, Phase::Running)),
        ("exited", ContainerRecord { exit: Some(exit(false)), ..container(4, Phase::Exited) }),
        ("unfinished", ContainerRecord { exit: Some(exit(true)), ..container(5, Phase::Exited) }),
        ("removing", ContainerRecord { removing: true, ..container(6, Phase::Running) }),
        ("bare", bare_container(7)),
    ];
    format("container").check(&samples);
    all_are_records::<ContainerRecord>("container");
}

fn format(name: &'static str) -> Format {
    Format { name, version: record::VERSION }
}

/// As a start reads them; and a newer program's, of which some value is not known, or the version.
fn all_are_records<R: Record>(name: &'static str) {
    for (name, stored) in format(name).stored() {
        let id = stored["id"].as_str().unwrap().to_owned();
        let parse = |value: &Value| load::parse::<R>(&serde_json::to_vec(value).unwrap(), &id);
        assert_eq!(parse(&stored).unwrap().id(), id, "{name}");
        let newer = |key: &str, value: Value| {
            let mut newer = stored.clone();
            newer[key] = value;
            parse(&newer).err().unwrap()
        };
        let fault = newer("phase", "of_a_newer_program".into());
        assert!(matches!(fault, Fault::Strange { .. }), "{name}: {fault}");
        let fault = newer("version", (record::VERSION + 1).into());
        assert_eq!(fault, Fault::Newer { version: record::VERSION + 1 }, "{name}");
    }
}

/// The launch of a container as it is kept for execs, with each kind of profile.
#[test]
fn stored_format_of_kept_launches() {
    let launch = json!({
        "spec": holdfast_formats::oci_spec(),
        "rootfs": {"layers": ["/l/1/fs"], "upper": "/c/upper", "work": "/c/work"},
        "volumes": ["/cache"],
        "image_volumes": [{"mount": 1, "image": "data:1", "layers": ["/l/2/fs"], "sub_path": "models"}],
        "user": {"user": "web", "group": 1000, "supplemental_groups": [5], "strict_groups": true},
        "join": 0x4c00_0000, "own": 0x2202_0000, "pod_shm": true,
        "uid_map": [{"inside": 0, "outside": 1_000_000, "count": 65_536}],
        "gid_map": [{"inside": 0, "outside": 1_000_000, "count": 65_536}],
        "raw_env": [[65, 61, 255]], "relabel": ["/srv/data"], "make_sources": ["/srv/data"], "seccomp_flags": 2,
    });
    let sample = |seccomp| -> KeptLaunch {
        KeptLaunch {
            launch: of::<holdfast_pod::launch::Launch<Spec>>(launch.clone()),
            seccomp,
            capabilities: 0xa80_425fb,
        }
    };
    let samples = [
        ("default", sample(SecurityProfile::RuntimeDefault)),
        ("unconfined", sample(SecurityProfile::Unconfined)),
        ("file", sample(SecurityProfile::Localhost("/profiles/web.json".into()))),
    ];
    Format { name: "kept-launch", version: protocol::VERSION }.check(&samples);
}

/// Files and directories by whose names programs of all versions find what others have left.
#[test]
fn stored_format_of_names() {
    let kinds = quarantine::ObjectKind::ALL.map(quarantine::ObjectKind::directory);
    let names = json!({
        "directories": kinds,
        "record": record::FILE,
        "kept launch": kept::LAUNCH_FILE,
        "kept seccomp program": kept::PROGRAM_FILE,
        "exit record": protocol::EXIT_RECORD_NAME,
        "shim's socket": protocol::SOCKET_NAME,
        "scope": holdfast_cgroup::SCOPE_PREFIX,
        "unfinished file": holdfast_record::UNFINISHED,
        "set aside": format!("{}{}", id('c', 1), quarantine::ENDING),
        "holder": ["--pod", id('b', 1)],
        "shim": ["--id", id('c', 1)],
    });
    Format { name: "names", version: 1 }.check(&[("names", names)]);
    for (name, stored) in (Format { name: "names", version: 1 }).stored() {
        let aside = stored["set aside"].as_str().unwrap();
        assert_eq!(quarantine::split(aside), Some((id('c', 1).as_str(), true)), "{name}");
    }
}
