//! Status, RuntimeConfig, UpdateRuntimeConfig.

use holdfast_cgroup::Driver;
use holdfast_cri::v1;
use holdfast_model::Map;
use serde_json::json;
use tonic::Status;

use crate::{
    config::BUILT_IN,
    runtime::{HandlerView, Runtime},
};

pub async fn status(runtime: &Runtime, request: v1::StatusRequest) -> v1::StatusResponse {
    let (network, readiness) = (runtime.network().status().await, runtime.readiness());
    let condition = |kind: &str, status, reason, message| v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason,
        message,
    };
    let features = &runtime.host().features;
    let handlers = runtime.handlers();
    let info = if request.verbose {
        [
            ("config".to_owned(), config_info(runtime, &handlers)),
            ("network".to_owned(), network_info(runtime)),
        ]
        .into()
    } else {
        Map::new()
    };
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", readiness.ready, readiness.reason, readiness.message),
                condition("NetworkReady", network.ready, network.reason, network.message),
            ],
        }),
        info,
        runtime_handlers: handlers.into_iter().map(handler_to_wire).collect(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: features.user_namespaces,
            mount_options: false,
        }),
    }
}

fn handler_to_wire(handler: HandlerView) -> v1::RuntimeHandler {
    v1::RuntimeHandler {
        name: handler.name,
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.features.recursive_read_only_mounts,
            user_namespaces: handler.features.user_namespaces,
        }),
    }
}

fn config_info(runtime: &Runtime, handlers: &[HandlerView]) -> String {
    let config = runtime.config();
    let handlers: Map = handlers
        .iter()
        .map(|handler| {
            let runtime = handler.runtime.as_ref().map(|runtime| runtime.program.display().to_string());
            (handler.name.clone(), runtime.unwrap_or_else(|| BUILT_IN.to_owned()))
        })
        .collect();
    json!({
        "stateDir": config.state,
        "rootDir": config.root,
        "cgroupDriver": match runtime.cgroups().driver() { Driver::Systemd => "systemd", Driver::Cgroupfs => "cgroupfs" },
        "runtimeHandlers": handlers,
        "cgroupMode": format!("{:?}", runtime.cgroups().mode()).to_lowercase(),
    })
    .to_string()
}

/// The network's mode, and networks of removed pods that could not be taken back yet.
fn network_info(runtime: &Runtime) -> String {
    let owed = runtime.network().owed().into_iter().map(|owed| {
        json!({
            "podSandboxId": owed.pod,
            "name": owed.name,
            "namespace": owed.namespace,
            "since": owed.since_s,
            "tries": owed.tries,
            "error": owed.error,
            "hostPorts": owed.host_ports,
        })
    });
    json!({ "mode": runtime.network().mode(), "owedDels": owed.collect::<Vec<_>>() }).to_string()
}

pub fn runtime_config(runtime: &Runtime) -> v1::RuntimeConfigResponse {
    let driver = match runtime.cgroups().driver() {
        Driver::Systemd => v1::CgroupDriver::Systemd,
        Driver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
    };
    v1::RuntimeConfigResponse { linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) }
}

pub fn update_runtime_config(
    runtime: &Runtime,
    request: v1::UpdateRuntimeConfigRequest,
) -> Result<v1::UpdateRuntimeConfigResponse, Status> {
    let cidr =
        request.runtime_config.and_then(|config| config.network_config).map(|network| network.pod_cidr);
    if let Some(cidr) = cidr.filter(|cidr| !cidr.is_empty()) {
        runtime.network().set_pod_cidr(&cidr).map_err(|error| {
            let status = Status::invalid_argument(format!("runtime_config.network_config.pod_cidr: {error}"));
            super::super::status::log("UpdateRuntimeConfig", &status);
            status
        })?;
    }
    Ok(v1::UpdateRuntimeConfigResponse {})
}
