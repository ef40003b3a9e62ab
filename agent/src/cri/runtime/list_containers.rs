//! ListContainers.

use holdfast_cri::v1;
use holdfast_pod::protocol::Phase;

use super::list_pod_sandbox::has_labels;
use crate::{
    cri::convert::{container_metadata_to_wire, image_spec_to_wire},
    runtime::{ContainerView, Runtime},
};

pub fn list(runtime: &Runtime, filter: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
    let filter = filter.unwrap_or_default();
    runtime.list_containers().iter().filter(|view| wanted(view, &filter)).map(to_wire).collect()
}

fn wanted(view: &ContainerView, filter: &v1::ContainerFilter) -> bool {
    let record = &view.record;
    record.id.as_str().starts_with(&filter.id)
        && record.pod_id.as_str().starts_with(&filter.pod_sandbox_id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state == i32::from(state(view)))
        && has_labels(&record.config.labels, &filter.label_selector)
}

/// CREATED, RUNNING or EXITED. UNKNOWN is not for shims that do not answer: a kubelet kills such containers.
pub fn state(view: &ContainerView) -> v1::ContainerState {
    match view.record.phase {
        Phase::Creating | Phase::Created => v1::ContainerState::ContainerCreated,
        Phase::Running => v1::ContainerState::ContainerRunning,
        Phase::Exited => v1::ContainerState::ContainerExited,
    }
}

fn to_wire(view: &ContainerView) -> v1::Container {
    let record = &view.record;
    v1::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.pod_id.to_string(),
        metadata: Some(container_metadata_to_wire(&record.config.metadata)),
        image: Some(image_spec_to_wire(&record.config.image)),
        image_ref: record.image_id.clone(),
        image_id: record.image_id.clone(),
        state: state(view).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    }
}
