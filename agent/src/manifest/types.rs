//! A Pod as far as `holdfast run` acts on it: every field that is here is acted upon, every other one is refused.

use std::collections::BTreeMap;

use holdfast_model::{
    Capabilities, DnsConfig, Map, MountPropagation, PortMapping, SecurityProfile, SelinuxOptions,
    SupplementalGroupsPolicy,
};

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`; `None`: one is made for each run.
    pub uid: Option<String>,
    /// `metadata.labels`.
    pub labels: Map,
    /// `metadata.annotations`.
    pub annotations: Map,
    /// `spec.initContainers`, in their order.
    pub init_containers: Vec<Container>,
    /// `spec.containers`; at least one.
    pub containers: Vec<Container>,
    /// `spec.volumes`.
    pub volumes: Vec<Volume>,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.hostPID`.
    pub host_pid: bool,
    /// `spec.hostIPC`.
    pub host_ipc: bool,
    /// `spec.hostUsers`; `false` asks for a user namespace.
    pub host_users: bool,
    /// `spec.shareProcessNamespace`.
    pub share_process_namespace: bool,
    /// `spec.hostname`.
    pub hostname: Option<String>,
    /// `spec.hostAliases`.
    pub host_aliases: Vec<HostAlias>,
    /// `spec.dnsPolicy` is None: what the node says does not count.
    pub own_dns_only: bool,
    /// `spec.dnsConfig`.
    pub dns: DnsConfig,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace_s: u32,
    /// `spec.activeDeadlineSeconds`.
    pub deadline_s: Option<u32>,
    /// `spec.securityContext`.
    pub security: PodSecurity,
}

impl Pod {
    /// All containers, those of the start first.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }
}

/// When an ended container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// However it ended.
    Always,
    /// If it failed.
    OnFailure,
    /// Never.
    Never,
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    /// Address.
    pub ip: String,
    /// Its names.
    pub hostnames: Vec<String>,
}

/// A PodSecurityContext. What containers say for themselves counts more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSecurity {
    /// What containers can say as well.
    pub common: CommonSecurity,
    /// `fsGroup`.
    pub fs_group: Option<i64>,
    /// `supplementalGroups`.
    pub supplemental_groups: Vec<i64>,
    /// `supplementalGroupsPolicy`.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// `sysctls`.
    pub sysctls: Map,
}

/// What the security contexts of a pod and of a container have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommonSecurity {
    /// `runAsUser`.
    pub run_as_user: Option<i64>,
    /// `runAsGroup`.
    pub run_as_group: Option<i64>,
    /// `runAsNonRoot`.
    pub run_as_non_root: Option<bool>,
    /// `seccompProfile`.
    pub seccomp: Option<SecurityProfile>,
    /// `appArmorProfile`.
    pub apparmor: Option<SecurityProfile>,
    /// `seLinuxOptions`.
    pub selinux: Option<SelinuxOptions>,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// `spec.containers[0]`: where it stands, for errors that come later.
    pub path: String,
    /// `name`.
    pub name: String,
    /// `image`.
    pub image: String,
    /// `imagePullPolicy`.
    pub pull_policy: PullPolicy,
    /// `command`.
    pub command: Vec<String>,
    /// `args`.
    pub args: Vec<String>,
    /// `workingDir`.
    pub working_dir: String,
    /// `env`.
    pub env: Vec<EnvVar>,
    /// `ports` that lead from the host.
    pub ports: Vec<PortMapping>,
    /// `resources`.
    pub resources: Resources,
    /// `securityContext`.
    pub security: ContainerSecurity,
    /// `volumeMounts`.
    pub mounts: Vec<VolumeMount>,
    /// `tty`.
    pub tty: bool,
    /// `terminationMessagePath`.
    pub message_path: String,
    /// An init container with `restartPolicy: Always`: it goes on beside the others.
    pub sidecar: bool,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At the start of each run.
    Always,
    /// If it is not there.
    IfNotPresent,
    /// It has to be there.
    Never,
}

/// A variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// `name`.
    pub name: String,
    /// Where the value comes from.
    pub value: EnvValue,
}

/// Where the value of a variable comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvValue {
    /// `value`, in which `$(NAME)` is replaced.
    Text(String),
    /// `valueFrom.fieldRef`.
    Field(PodField),
}

/// A field of the pod that a variable can show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodField {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// `metadata.uid`.
    Uid,
    /// `metadata.labels['...']`.
    Label(String),
    /// `metadata.annotations['...']`.
    Annotation(String),
    /// `status.podIP`.
    PodIp,
    /// `status.podIPs`.
    PodIps,
}

/// What a container asks for and may have at most. A request that is not said is the limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu` in thousandths.
    pub cpu_request_m: Option<u64>,
    /// `limits.cpu` in thousandths.
    pub cpu_limit_m: Option<u64>,
    /// `requests.memory`.
    pub memory_request_bytes: Option<u64>,
    /// `limits.memory`.
    pub memory_limit_bytes: Option<u64>,
    /// `limits.hugepages-*`: page size and limit in bytes.
    pub hugepages: BTreeMap<u64, u64>,
}

/// A container's SecurityContext.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSecurity {
    /// What pods can say as well.
    pub common: CommonSecurity,
    /// `privileged`.
    pub privileged: bool,
    /// `readOnlyRootFilesystem`.
    pub read_only_root: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privs: bool,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
    /// `capabilities`.
    pub capabilities: Capabilities,
}

/// Where a volume shows in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    /// `spec.containers[0].volumeMounts[0]`.
    pub path: String,
    /// `name`.
    pub volume: String,
    /// `mountPath`.
    pub target: String,
    /// `subPath`; empty: the whole volume.
    pub sub_path: String,
    /// `readOnly`.
    pub read_only: bool,
    /// `recursiveReadOnly`.
    pub recursive_read_only: RecursiveReadOnly,
    /// `mountPropagation`.
    pub propagation: MountPropagation,
}

/// Whether what is mounted below a read-only volume is read-only as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RecursiveReadOnly {
    /// It is as it is.
    #[default]
    Disabled,
    /// It is, where the kernel can do that.
    IfPossible,
    /// It must be.
    Enabled,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// `spec.volumes[0]`.
    pub path: String,
    /// `name`.
    pub name: String,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory that lives as long as the pod.
    EmptyDir {
        /// `sizeLimit` in bytes.
        size_limit_bytes: Option<u64>,
    },
    /// Something of the host.
    HostPath {
        /// `path`.
        path: String,
        /// `type`.
        kind: HostPathKind,
    },
    /// The content of an image, read-only.
    Image {
        /// `reference`.
        reference: String,
        /// `pullPolicy`.
        pull_policy: PullPolicy,
    },
}

/// What a host path has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostPathKind {
    /// Anything that is there.
    #[default]
    Any,
    /// A directory, made if there is nothing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file, made if there is nothing.
    FileOrCreate,
    /// A file.
    File,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}
