//! What CRI 1.37, which is ours, has and CRI 1.32, which is that of k8s-cri 0.11, has not. A test proves that these
//! lists are neither too long nor too short.

use prost_reflect::FieldDescriptor;

/// Fields that an older client does not know and leaves out.
pub const NEWER_FIELDS: [&str; 11] = [
    "runtime.v1.ContainerConfig.stop_signal",
    "runtime.v1.ContainerStats.io",
    "runtime.v1.ContainerStatus.stop_signal",
    "runtime.v1.CpuUsage.psi",
    "runtime.v1.ImageSpec.image_ref",
    "runtime.v1.LinuxPodSandboxStats.io",
    "runtime.v1.MemoryUsage.psi",
    "runtime.v1.Mount.image_sub_path",
    "runtime.v1.Mount.mount_options",
    "runtime.v1.RuntimeFeatures.mount_options",
    "runtime.v1.RuntimeFeatures.user_namespaces_host_network",
];

/// Calls that an older client does not make.
pub const NEWER_CALLS: [&str; 9] = [
    "CheckpointPod",
    "RestorePod",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "UpdatePodSandboxResources",
];

/// Was `string` and became `bytes`: the same on the wire as long as it is UTF-8.
pub const ONCE_A_STRING: &str = "runtime.v1.KeyValue.value";

/// Whether an older client leaves this field out.
pub fn is_newer(field: &FieldDescriptor) -> bool {
    NEWER_FIELDS.contains(&field.full_name())
}
