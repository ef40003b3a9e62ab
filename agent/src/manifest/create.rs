//! A container as ContainerConfig, as a kubelet makes it (kubelet, kuberuntime_container.go and
//! pkg/securitycontext).

use std::collections::HashMap;

use holdfast_model::{
    ContainerConfig, ContainerMetadata, ContainerSecurity, EnvVar, Image, ImageSpec, Mount, PodSandboxConfig,
    SecurityProfile,
};

use super::{
    expand::expand,
    limits::{self, NodeLimits},
    sandbox::{pod_labels, supplemental_groups},
    types::{Container, EnvValue, Pod, PodField},
};

/// Hidden from containers (pkg/securitycontext/util.go); the node's sensors come on top.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only for containers.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Longest argument or variable that execve(2) takes (MAX_ARG_STRLEN), its zero byte included.
const MAX_STRING: usize = 128 << 10;
/// Most bytes of arguments and environment that execve(2) takes (three quarters of _STK_LIM).
const MAX_TOTAL: usize = 6 << 20;

/// A container that must not be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// `runAsNonRoot`, and nobody says who else.
    #[error("{path}.securityContext: runAsNonRoot is true, and image {image} runs as root: write runAsUser")]
    ImageIsRoot {
        /// The container.
        path: String,
        /// Its image.
        image: String,
    },
    /// `runAsNonRoot` with `runAsUser: 0`.
    #[error("{path}.securityContext: runAsNonRoot is true, and runAsUser is 0: change one of them")]
    UserIsRoot {
        /// The container.
        path: String,
    },
    /// A name in the image may be anybody's.
    #[error(
        "{path}.securityContext: runAsNonRoot is true, and image {image} runs as {user:?}, which may be root: write \
         the number as runAsUser"
    )]
    NameMayBeRoot {
        /// The container.
        path: String,
        /// Its image.
        image: String,
        /// The user of the image.
        user: String,
    },
    /// A text that the kernel would not take.
    #[error("{path}: it is longer than {limit} bytes once $(NAME) is replaced", limit = MAX_STRING - 1)]
    TooLong {
        /// Which text.
        path: String,
    },
    /// All texts together are more than the kernel would take.
    #[error("{path}: command, args and env are longer than {limit} bytes in all", limit = MAX_TOTAL)]
    TooMuch {
        /// The container.
        path: String,
    },
}

/// What a manifest does not say.
#[derive(Debug, Clone)]
pub struct ContainerFacts<'a> {
    /// What the pod was made with.
    pub sandbox: &'a PodSandboxConfig,
    /// The pod's addresses, the primary one first.
    pub ips: &'a [String],
    /// The container's image.
    pub image: &'a Image,
    /// How often the container has been made.
    pub attempt: u32,
    /// What is mounted in it.
    pub mounts: Vec<Mount>,
    /// The node.
    pub node: NodeLimits,
    /// Paths of the node that are hidden as well.
    pub masked: &'a [String],
}

/// Where the log of a container goes, below the pod's log directory.
pub fn log_path(container: &Container, attempt: u32) -> String {
    format!("{}/{attempt}.log", container.name)
}

/// What CreateContainer is asked for.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    facts: ContainerFacts<'_>,
) -> Result<ContainerConfig, CreateError> {
    let mut variables = Variables::of(pod, container, &facts)?;
    let command = variables.expand_all(&container.command, "command")?;
    let args = variables.expand_all(&container.args, "args")?;
    let uid = &facts.sandbox.metadata.uid;
    let mut labels: holdfast_model::Map = pod_labels(pod, uid).into();
    labels.insert("io.kubernetes.container.name".to_owned(), container.name.clone());
    let restarts = ("io.kubernetes.container.restartCount".to_owned(), facts.attempt.to_string());
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name: container.name.clone(), attempt: facts.attempt },
        image: ImageSpec {
            // Names can move to another image while the pod runs.
            image: facts.image.id.clone(),
            user_specified_image: container.image.clone(),
            ..ImageSpec::default()
        },
        command,
        args,
        working_dir: container.working_dir.clone(),
        envs: variables.into_list(),
        labels,
        annotations: [restarts].into(),
        log_path: log_path(container, facts.attempt),
        tty: container.tty,
        resources: limits::resources(limits::qos(pod), container, facts.node),
        security: security(pod, container, &facts)?,
        mounts: facts.mounts,
        ..ContainerConfig::default()
    })
}

fn security(
    pod: &Pod,
    container: &Container,
    facts: &ContainerFacts<'_>,
) -> Result<ContainerSecurity, CreateError> {
    let own = &container.security;
    let (common, of_pod) = (&own.common, &pod.security.common);
    let (run_as_user, run_as_username) = user(pod, container, facts.image)?;
    let paths = |paths: Vec<&str>| {
        if own.unmasked_proc { Vec::new() } else { paths.into_iter().map(str::to_owned).collect() }
    };
    let default = if own.privileged { SecurityProfile::Unconfined } else { SecurityProfile::RuntimeDefault };
    Ok(ContainerSecurity {
        capabilities: own.capabilities.clone(),
        privileged: own.privileged,
        namespaces: facts.sandbox.security.namespaces.clone(),
        selinux: common.selinux.clone().or_else(|| of_pod.selinux.clone()),
        run_as_user,
        run_as_group: common.run_as_group.or(of_pod.run_as_group),
        run_as_username,
        readonly_rootfs: own.read_only_root,
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: pod.security.supplemental_groups_policy,
        seccomp: Some(common.seccomp.clone().or_else(|| of_pod.seccomp.clone()).unwrap_or(default)),
        apparmor: common.apparmor.clone().or_else(|| of_pod.apparmor.clone()),
        no_new_privs: own.no_new_privs,
        masked_paths: paths(
            MASKED_PATHS.into_iter().chain(facts.masked.iter().map(String::as_str)).collect(),
        ),
        readonly_paths: paths(READONLY_PATHS.to_vec()),
    })
}

/// Who runs the container, as number or name; neither: whom the image says.
fn user(pod: &Pod, container: &Container, image: &Image) -> Result<(Option<i64>, String), CreateError> {
    let (common, of_pod) = (&container.security.common, &pod.security.common);
    let asked = common.run_as_user.or(of_pod.run_as_user);
    let of_image = image.config.user.as_str();
    if common.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        let (path, name) = (container.path.clone(), container.image.clone());
        match (asked, of_image.parse::<u32>()) {
            (Some(0), _) => return Err(CreateError::UserIsRoot { path }),
            (None, Ok(0)) => return Err(CreateError::ImageIsRoot { path, image: name }),
            (Some(_), _) | (None, Ok(_)) => {}
            (None, Err(_)) if of_image.is_empty() => {
                return Err(CreateError::ImageIsRoot { path, image: name });
            }
            (None, Err(_)) => {
                return Err(CreateError::NameMayBeRoot { path, image: name, user: of_image.to_owned() });
            }
        }
    }
    let needs_user = common.run_as_group.or(of_pod.run_as_group).is_some();
    Ok(match (asked, needs_user) {
        (Some(user), _) => (Some(user), String::new()),
        (None, false) => (None, String::new()),
        // CRI has no group without a user.
        (None, true) => match of_image.parse::<u32>() {
            Ok(uid) => (Some(i64::from(uid)), String::new()),
            Err(_) if of_image.is_empty() => (Some(0), String::new()),
            Err(_) => (None, of_image.to_owned()),
        },
    })
}

/// The environment, in which later variables can name earlier ones.
#[derive(Debug)]
struct Variables<'a> {
    container: &'a Container,
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
    /// Bytes of everything that was expanded.
    total: usize,
}

impl<'a> Variables<'a> {
    fn of(pod: &Pod, container: &'a Container, facts: &ContainerFacts<'_>) -> Result<Self, CreateError> {
        let mut variables = Self { container, list: Vec::new(), index: HashMap::new(), total: 0 };
        for (index, variable) in container.env.iter().enumerate() {
            let value = match &variable.value {
                EnvValue::Text(text) => variables.expand(text, || format!("env[{index}].value"))?,
                EnvValue::Field(field) => field_value(pod, field, facts),
            };
            variables.set(variable.name.clone(), value);
        }
        Ok(variables)
    }

    fn set(&mut self, name: String, value: String) {
        if let Some(at) = self.index.get(&name) {
            self.list[*at].1 = value;
        } else {
            self.index.insert(name.clone(), self.list.len());
            self.list.push((name, value));
        }
    }

    fn expand(&mut self, text: &str, field: impl FnOnce() -> String) -> Result<String, CreateError> {
        let value_of = |name: &str| self.index.get(name).map(|at| self.list[*at].1.as_str());
        let path = &self.container.path;
        let expanded = expand(text, MAX_STRING - 1, value_of)
            .ok_or_else(|| CreateError::TooLong { path: format!("{path}.{}", field()) })?;
        self.total += expanded.len();
        if self.total > MAX_TOTAL {
            return Err(CreateError::TooMuch { path: path.clone() });
        }
        Ok(expanded)
    }

    fn expand_all(&mut self, texts: &[String], field: &str) -> Result<Vec<String>, CreateError> {
        texts.iter().enumerate().map(|(at, text)| self.expand(text, || format!("{field}[{at}]"))).collect()
    }

    fn into_list(self) -> Vec<EnvVar> {
        self.list.into_iter().map(|(key, value)| EnvVar { key, value: value.into_bytes() }).collect()
    }
}

fn field_value(pod: &Pod, field: &PodField, facts: &ContainerFacts<'_>) -> String {
    match field {
        PodField::Name => pod.name.clone(),
        PodField::Namespace => pod.namespace.clone(),
        PodField::Uid => facts.sandbox.metadata.uid.clone(),
        PodField::Label(key) => pod.labels.get(key).cloned().unwrap_or_default(),
        PodField::Annotation(key) => pod.annotations.get(key).cloned().unwrap_or_default(),
        PodField::PodIp => facts.ips.first().cloned().unwrap_or_default(),
        PodField::PodIps => facts.ips.join(","),
    }
}
