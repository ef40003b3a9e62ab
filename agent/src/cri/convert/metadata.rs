//! PodSandboxMetadata.

use holdfast_cri::v1;
use holdfast_model::PodSandboxMetadata;

use super::Invalid;

/// A pod's metadata. It needs a name; namespace and uid may be empty, as some hand-written pods have none.
pub fn pod_metadata(metadata: Option<v1::PodSandboxMetadata>) -> Result<PodSandboxMetadata, Invalid> {
    let v1::PodSandboxMetadata { name, uid, namespace, attempt } =
        metadata.ok_or_else(|| Invalid::missing("metadata"))?;
    if name.is_empty() {
        return Err(Invalid::missing("metadata.name"));
    }
    Ok(PodSandboxMetadata { name, uid, namespace, attempt })
}

/// A pod's metadata for an answer.
pub fn pod_metadata_to_wire(metadata: &PodSandboxMetadata) -> v1::PodSandboxMetadata {
    let PodSandboxMetadata { name, uid, namespace, attempt } = metadata.clone();
    v1::PodSandboxMetadata { name, uid, namespace, attempt }
}
