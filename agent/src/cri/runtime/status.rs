//! Status, RuntimeConfig, UpdateRuntimeConfig.

use holdfast_cgroup::Driver;
use holdfast_cri::v1;
use holdfast_model::Map;
use serde_json::json;
use tonic::Status;

use crate::runtime::Runtime;

pub fn status(runtime: &Runtime, request: v1::StatusRequest) -> v1::StatusResponse {
    let network = runtime.network().status();
    let condition = |kind: &str, status, reason, message| v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason,
        message,
    };
    let features = &runtime.host().features;
    let info =
        if request.verbose { [("config".to_owned(), config_info(runtime))].into() } else { Map::new() };
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![
                condition("RuntimeReady", true, String::new(), String::new()),
                condition("NetworkReady", network.ready, network.reason, network.message),
            ],
        }),
        info,
        runtime_handlers: vec![v1::RuntimeHandler {
            name: String::new(),
            features: Some(v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: features.recursive_read_only_mounts,
                user_namespaces: features.user_namespaces,
            }),
        }],
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: features.user_namespaces,
            mount_options: false,
        }),
    }
}

fn config_info(runtime: &Runtime) -> String {
    let config = runtime.config();
    json!({
        "stateDir": config.state,
        "rootDir": config.root,
        "cgroupDriver": match runtime.cgroups().driver() { Driver::Systemd => "systemd", Driver::Cgroupfs => "cgroupfs" },
        "cgroupMode": format!("{:?}", runtime.cgroups().mode()).to_lowercase(),
    })
    .to_string()
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
            tracing::error!(rpc = "UpdateRuntimeConfig", %error, "request refused");
            Status::invalid_argument(format!("runtime_config.network_config.pod_cidr: {error}"))
        })?;
    }
    Ok(v1::UpdateRuntimeConfigResponse {})
}
