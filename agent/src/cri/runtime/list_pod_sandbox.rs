//! ListPodSandbox.

use holdfast_cri::v1;
use holdfast_model::Map;

use crate::{
    cri::convert::pod_metadata_to_wire,
    runtime::{PodView, Runtime},
};

pub fn list(runtime: &Runtime, filter: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
    let filter = filter.unwrap_or_default();
    runtime.list_pods().iter().filter(|view| wanted(view, &filter)).map(to_wire).collect()
}

fn wanted(view: &PodView, filter: &v1::PodSandboxFilter) -> bool {
    let by_state = filter.state.as_ref().is_none_or(|wanted| wanted.state == i32::from(state(view)));
    view.record.id.as_str().starts_with(&filter.id)
        && by_state
        && has_labels(&view.record.config.labels, &filter.label_selector)
}

/// Every label of the selector, with its value.
pub fn has_labels(labels: &Map, selector: &Map) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// READY or NOTREADY.
pub fn state(view: &PodView) -> v1::PodSandboxState {
    if view.ready { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }
}

fn to_wire(view: &PodView) -> v1::PodSandbox {
    let record = &view.record;
    v1::PodSandbox {
        id: record.id.to_string(),
        metadata: Some(pod_metadata_to_wire(&record.config.metadata)),
        state: state(view).into(),
        created_at: record.created_at_ns,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}
