//! Whole manifests: what is read, and what CRI is asked for.

mod damage;
mod refusals;

use std::{fs, path::Path};

use holdfast_model::{
    Capabilities, DnsConfig, EnvVar, Image, ImageConfig, MountPropagation, NamespaceMode, PodSandboxConfig,
    PortMapping, Protocol, SecurityProfile, SupplementalGroupsPolicy,
};

use super::*;

const SMALL: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: main\n    image: a:1\n";

/// `SMALL` with more below `spec`.
fn with_spec(more: &str) -> String {
    format!("{SMALL}{more}")
}

/// `SMALL` with more in its container.
fn with_container(more: &str) -> String {
    format!("{SMALL}    {}\n", more.replace('\n', "\n    "))
}

fn pod(text: &str) -> Pod {
    read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refusal(text: &str) -> String {
    match read(text.as_bytes()) {
        Ok(pod) => panic!("not refused: {pod:#?}\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn capabilities_are_taken_in_any_case() {
    let text = with_container(
        "securityContext: {capabilities: {add: [net_admin, Cap_Chown], drop: [all, CAP_ALL]}}",
    );
    let capabilities = &pod(&text).containers[0].security.capabilities;
    assert_eq!(capabilities.add, ["net_admin", "Cap_Chown"]);
    assert_eq!(capabilities.drop, ["all", "CAP_ALL"]);
    assert!(
        pod(&with_container("securityContext: {capabilities: {add: [All]}}")).containers[0]
            .security
            .capabilities
            .add
            == ["All"]
    );
}

const FULL: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: full
  namespace: shop
  uid: 0b3f
  labels: {app: full}
  annotations: {note: "5"}
  creationTimestamp: null
spec:
  initContainers:
  - {name: first, image: "a:1", command: [init]}
  - {name: side, image: "a:1", restartPolicy: Always}
  containers:
  - name: main
    image: registry.test/a:1
    imagePullPolicy: Never
    command: ["$(WHO)", "$$(WHO)"]
    args: [-c, $(LATER) $(NOBODY)]
    workingDir: /work
    env:
    - {name: WHO, value: me}
    - {name: LATER, value: "$(WHO) at $(IP)"}
    - {name: IP, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.podIP}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: EMPTY}
    - {name: WHO, value: $(WHO) again}
    ports:
    - {containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1, name: http}
    - {containerPort: 53, protocol: UDP}
    resources:
      limits: {cpu: 500m, memory: 64Mi, hugepages-2Mi: 4Mi}
      requests: {cpu: 0.25, hugepages-2Mi: 4Mi}
    securityContext:
      runAsUser: 1000
      runAsNonRoot: true
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {add: [NET_ADMIN], drop: [ALL]}
      seccompProfile: {type: Localhost, localhostProfile: profiles/a.json}
      procMount: Default
    tty: true
    stdin: false
    terminationMessagePath: /dev/last-words
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
    - {name: host, mountPath: /host, readOnly: true, recursiveReadOnly: IfPossible}
    - {name: empty, mountPath: /empty, subPath: a/b}
  volumes:
  - {name: host, hostPath: {path: /srv, type: Directory}}
  - {name: empty, emptyDir: {sizeLimit: 1Gi}}
  - name: bare
    emptyDir:
  - {name: data, image: {reference: "data:1", pullPolicy: Never}}
  - {name: more, image: {reference: "more:latest"}}
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 5
  activeDeadlineSeconds: 60
  shareProcessNamespace: true
  hostname: box
  dnsPolicy: None
  dnsConfig:
    nameservers: [10.0.0.1]
    searches: [a.test]
    options: [{name: ndots, value: "5"}, {name: edns0}]
  hostAliases:
  - {ip: 10.0.0.9, hostnames: [db, db.test]}
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    runAsUser: 7
    runAsGroup: 8
    fsGroup: 2000
    fsGroupChangePolicy: OnRootMismatch
    supplementalGroups: [3000]
    supplementalGroupsPolicy: Strict
    sysctls: [{name: net.ipv4.ip_forward, value: "1"}]
    seccompProfile: {type: RuntimeDefault}
status: {}
"#;

fn sandbox(pod: &Pod) -> PodSandboxConfig {
    let dns = pod.dns.clone();
    sandbox_config(pod, SandboxFacts { uid: "0b3f", log_dir: Path::new("/logs"), dns, users: None })
}

fn image(user: &str) -> Image {
    let config = ImageConfig { user: user.to_owned(), ..ImageConfig::default() };
    Image { id: "sha256:00".to_owned(), config, ..Image::default() }
}

const NODE: NodeLimits = NodeLimits { memory_bytes: 1 << 30, limits_swap: true };

fn created(pod: &Pod, at: usize, user: &str) -> Result<holdfast_model::ContainerConfig, CreateError> {
    let facts = ContainerFacts {
        sandbox: &sandbox(pod),
        ips: &["10.1.0.2".to_owned(), "fd00::2".to_owned()],
        image: &image(user),
        attempt: 3,
        mounts: Vec::new(),
        node: NODE,
        masked: &["/sys/hot".to_owned()],
    };
    container_config(pod, &pod.containers[at], facts)
}

fn container(pod: &Pod) -> holdfast_model::ContainerConfig {
    created(pod, 0, "").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_field_is_read() {
    let pod = pod(FULL);
    assert_eq!(
        (pod.name.as_str(), pod.namespace.as_str(), pod.uid.as_deref()),
        ("full", "shop", Some("0b3f"))
    );
    assert_eq!((pod.labels["app"].as_str(), pod.annotations["note"].as_str()), ("full", "5"));
    assert_eq!((pod.init_containers.len(), pod.init_containers[1].sidecar), (2, true));
    assert_eq!((pod.restart_policy, pod.grace_s, pod.deadline_s), (RestartPolicy::OnFailure, 5, Some(60)));
    let aliases = vec![HostAlias { ip: "10.0.0.9".into(), hostnames: vec!["db".into(), "db.test".into()] }];
    assert_eq!(pod.host_aliases, aliases);
    let dns = DnsConfig {
        servers: vec!["10.0.0.1".into()],
        searches: vec!["a.test".into()],
        options: vec!["ndots:5".into(), "edns0".into()],
    };
    assert_eq!((&pod.dns, pod.own_dns_only), (&dns, true));
    let sources: Vec<_> = pod.volumes.iter().map(|volume| &volume.source).collect();
    assert_eq!(
        sources,
        [
            &VolumeSource::HostPath { path: "/srv".into(), kind: HostPathKind::Directory },
            &VolumeSource::EmptyDir { size_limit_bytes: Some(1 << 30) },
            &VolumeSource::EmptyDir { size_limit_bytes: None },
            &VolumeSource::Image { reference: "data:1".into(), pull_policy: PullPolicy::Never },
            &VolumeSource::Image { reference: "more:latest".into(), pull_policy: PullPolicy::Always },
        ]
    );
    let names: Vec<_> = pod.images().map(|image| (image.path, image.name)).skip(3).collect();
    assert_eq!(names, [("spec.volumes[3]", "data:1"), ("spec.volumes[4]", "more:latest")]);
    let main = &pod.containers[0];
    assert_eq!((main.pull_policy, main.message_path.as_str()), (PullPolicy::Never, "/dev/last-words"));
    assert_eq!(main.resources.cpu_request_m, Some(250));
    assert_eq!(main.resources.memory_request_bytes, Some(64 << 20), "a limit is a request as well");
    assert_eq!(main.resources.hugepages, [(2 << 20, 4 << 20)].into());
    assert_eq!(main.mounts[0].recursive_read_only, RecursiveReadOnly::IfPossible);
    assert_eq!(
        (main.mounts[1].sub_path.as_str(), main.mounts[1].propagation),
        ("a/b", MountPropagation::Private)
    );
}

#[test]
fn what_run_pod_sandbox_is_asked_for() {
    let config = sandbox(&pod(FULL));
    assert_eq!((config.metadata.name.as_str(), config.metadata.namespace.as_str()), ("full", "shop"));
    assert_eq!((config.hostname.as_str(), config.log_directory.as_str()), ("box", "/logs"));
    let port = PortMapping {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port: 8080,
        host_ip: "127.0.0.1".into(),
    };
    assert_eq!(config.port_mappings, [port]);
    assert_eq!(config.labels["io.kubernetes.pod.uid"], "0b3f");
    assert_eq!(config.labels["app"], "full");
    assert_eq!(config.sysctls["net.ipv4.ip_forward"], "1");
    let security = config.security;
    assert_eq!((security.run_as_user, security.run_as_group), (Some(7), Some(8)));
    assert_eq!(security.supplemental_groups, [2000, 3000]);
    assert_eq!(security.supplemental_groups_policy, SupplementalGroupsPolicy::Strict);
    assert_eq!(security.namespaces.pid, NamespaceMode::Pod);
    assert!(!security.privileged);
}

#[test]
fn what_create_container_is_asked_for() {
    let pod = pod(FULL);
    let config = container(&pod);
    assert_eq!((config.metadata.name.as_str(), config.metadata.attempt), ("main", 3));
    assert_eq!(
        (config.image.image.as_str(), config.image.user_specified_image.as_str()),
        ("sha256:00", "registry.test/a:1")
    );
    assert_eq!(config.command, ["me again", "$(WHO)"]);
    assert_eq!(config.args, ["-c", "me at $(IP) $(NOBODY)"]);
    let env = |key: &str, value: &str| EnvVar { key: key.into(), value: value.into() };
    assert_eq!(
        config.envs,
        [
            env("WHO", "me again"),
            env("LATER", "me at $(IP)"),
            env("IP", "10.1.0.2"),
            env("APP", "full"),
            env("EMPTY", ""),
        ]
    );
    assert_eq!(
        (config.working_dir.as_str(), config.log_path.as_str(), config.tty),
        ("/work", "main/3.log", true)
    );
    assert_eq!(config.labels["io.kubernetes.container.name"], "main");
    let resources = &config.resources;
    assert_eq!(
        (resources.cpu_period_us, resources.cpu_quota_us, resources.cpu_shares),
        (100_000, 50_000, 256)
    );
    assert_eq!((resources.memory_limit_bytes, resources.memory_swap_limit_bytes), (64 << 20, 64 << 20));
    assert_eq!(resources.oom_score_adj, 1000 - 62);
    assert_eq!(resources.hugepage_limits[0].page_size, "2MB");
    let security = &config.security;
    assert_eq!((security.run_as_user, security.run_as_group), (Some(1000), Some(8)));
    assert!(security.readonly_rootfs && security.no_new_privs && !security.privileged);
    let capabilities =
        Capabilities { add: vec!["NET_ADMIN".into()], drop: vec!["ALL".into()], ..Capabilities::default() };
    assert_eq!(security.capabilities, capabilities);
    assert_eq!(security.seccomp, Some(SecurityProfile::Localhost("profiles/a.json".into())));
    assert!(security.masked_paths.iter().any(|path| path == "/proc/kcore"));
    assert_eq!(security.masked_paths.last().map(String::as_str), Some("/sys/hot"));
    assert_eq!(security.namespaces.pid, NamespaceMode::Pod);
}

#[test]
fn a_small_pod_has_safe_defaults() {
    let pod = pod(SMALL);
    let (sandbox, config) = (sandbox(&pod), container(&pod));
    assert_eq!((pod.restart_policy, pod.grace_s), (RestartPolicy::Always, 30));
    assert_eq!((sandbox.hostname.as_str(), sandbox.metadata.namespace.as_str()), ("web", "default"));
    assert_eq!(sandbox.security.namespaces.pid, NamespaceMode::Container);
    assert_eq!(config.security.seccomp, Some(SecurityProfile::RuntimeDefault));
    assert!(!config.security.readonly_paths.is_empty());
    assert_eq!((config.resources.cpu_shares, config.resources.cpu_quota_us), (2, 0));
    assert_eq!((config.resources.oom_score_adj, config.resources.memory_limit_bytes), (1000, 0));
    assert_eq!((config.security.run_as_user, config.security.run_as_group), (None, None));
}

#[test]
fn host_names_fit() {
    let name = format!("{}-{}", "a".repeat(62), "b".repeat(20));
    let long = pod(&SMALL.replace("name: web", &format!("name: {name}")));
    assert_eq!(hostname(&long), "a".repeat(62));
    assert_eq!(hostname(&pod(&with_spec("  hostNetwork: true\n"))), "");
}

#[test]
fn privileged_and_unmasked() {
    let privileged = pod(&with_container("securityContext: {privileged: true}"));
    assert!(sandbox(&privileged).security.privileged);
    assert_eq!(container(&privileged).security.seccomp, Some(SecurityProfile::Unconfined));
    let unmasked =
        pod(&format!("{}  hostUsers: false\n", with_container("securityContext: {procMount: Unmasked}")));
    let security = container(&unmasked).security;
    assert!(security.masked_paths.is_empty() && security.readonly_paths.is_empty());
}

#[test]
fn who_runs_a_container() {
    let group = pod(&with_spec("  securityContext: {runAsGroup: 9}\n"));
    let user = |image: &str| {
        let security = created(&group, 0, image).unwrap().security;
        (security.run_as_user, security.run_as_username, security.run_as_group)
    };
    assert_eq!(user(""), (Some(0), String::new(), Some(9)));
    assert_eq!(user("5"), (Some(5), String::new(), Some(9)));
    assert_eq!(user("www"), (None, "www".to_owned(), Some(9)));
    assert_eq!(sandbox(&group).security.run_as_group, None, "CRI has no group without a user");

    let not_root = pod(&with_spec("  securityContext: {runAsNonRoot: true}\n"));
    assert!(created(&not_root, 0, "5").is_ok());
    for (user, word) in [("", "runs as root"), ("0", "runs as root"), ("www", "\"www\", which may be root")] {
        let error = created(&not_root, 0, user).unwrap_err().to_string();
        assert!(error.starts_with("spec.containers[0].securityContext") && error.contains(word), "{error}");
    }
    let zero = pod(&with_spec("  securityContext: {runAsNonRoot: true, runAsUser: 0}\n"));
    assert_eq!(
        created(&zero, 0, "5").unwrap_err(),
        CreateError::UserIsRoot { path: "spec.containers[0]".into() }
    );
    let own = "    securityContext: {runAsNonRoot: false}\n  securityContext: {runAsNonRoot: true}\n";
    assert!(created(&pod(&with_spec(own)), 0, "").is_ok(), "the container's word counts more");
}

#[test]
fn classes_of_service() {
    let class = |resources: &str| {
        let pod = pod(&with_container(&format!("resources: {resources}")));
        container(&pod).resources.oom_score_adj
    };
    assert_eq!(class("{}"), 1000);
    assert_eq!(class("{limits: {cpu: 1, memory: 1Mi}}"), -997);
    assert_eq!(class("{limits: {cpu: 1}}"), 999);
    assert_eq!(class("{requests: {memory: 512Mi}}"), 500);
    assert_eq!(class("{requests: {memory: 100Gi}}"), 3);
}

#[test]
fn variables_do_not_grow_without_end() {
    use std::fmt::Write;
    let mut doubling = with_container("env:\n- {name: A0, value: xxxxxxxxxxxxxxxx}");
    for level in 1..40 {
        let before = level - 1;
        let _ = writeln!(doubling, "    - {{name: A{level}, value: $(A{before})$(A{before})}}");
    }
    let error = created(&pod(&doubling), 0, "").unwrap_err();
    assert_eq!(error, CreateError::TooLong { path: "spec.containers[0].env[13].value".into() });
    let mut many = with_container(&format!("env:\n- {{name: A, value: {}}}", "x".repeat(100_000)));
    for _ in 0..70 {
        many.push_str("    - {name: B, value: $(A)}\n");
    }
    let error = created(&pod(&many), 0, "").unwrap_err();
    assert_eq!(error, CreateError::TooMuch { path: "spec.containers[0]".into() });
}

#[test]
fn what_kubectl_writes_is_read() {
    // kubectl run web --image=nginx --port=80 --dry-run=client -o yaml
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  creationTimestamp: null\n  labels:\n    run: web\n  name: web\n\
                spec:\n  containers:\n  - image: nginx\n    name: web\n    ports:\n    - containerPort: 80\n    \
                resources: {}\n  dnsPolicy: ClusterFirst\n  restartPolicy: Always\nstatus: {}\n";
    assert_eq!(pod(text).containers[0].pull_policy, PullPolicy::Always);
}

#[test]
fn the_pods_that_we_ship_are_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let mut pods = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let text = if path.extension().is_some_and(|ext| ext == "yaml") {
            fs::read(&path).unwrap()
        } else {
            continue;
        };
        if String::from_utf8_lossy(&text).lines().any(|line| line == "kind: Pod") {
            read(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            pods += 1;
        }
    }
    assert!(pods > 0, "there is a sample");
}
