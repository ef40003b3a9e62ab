//! ExecSync.

use holdfast_cri::v1;
use tonic::Status;

use crate::{cri::status::status as failed, runtime::Runtime};

pub async fn exec_sync(
    runtime: &Runtime,
    request: v1::ExecSyncRequest,
) -> Result<v1::ExecSyncResponse, Status> {
    if request.timeout < 0 {
        return Err(Status::invalid_argument(format!(
            "timeout: {} is negative; 0 means no limit",
            request.timeout
        )));
    }
    let output = runtime
        .exec_sync(&request.container_id, request.cmd, request.timeout)
        .await
        .map_err(|error| failed("ExecSync", &error))?;
    Ok(v1::ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
}
