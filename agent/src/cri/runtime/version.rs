//! Version.

use holdfast_cri::v1;

/// The kubelet's own version of the API that carries this call, which it compares.
const KUBE_API_VERSION: &str = "0.1.0";

pub fn version(_: &v1::VersionRequest) -> v1::VersionResponse {
    v1::VersionResponse {
        version: KUBE_API_VERSION.to_owned(),
        runtime_name: "holdfast".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}
