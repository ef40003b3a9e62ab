//! Exec, Attach and PortForward: each checks, and answers with a URL of the streaming server.

use holdfast_cri::v1;
use holdfast_streaming::{
    Error, Kind, Server,
    session::{AttachRequest, ExecRequest, Wanted},
};
use tonic::Status;

use crate::{cri::status::status as failed, runtime::Runtime};

pub async fn exec(
    runtime: &Runtime,
    server: Option<&Server>,
    request: v1::ExecRequest,
) -> Result<v1::ExecResponse, Status> {
    const RPC: &str = "Exec";
    let server = present(RPC, server)?;
    let v1::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr } = request;
    let wanted = Wanted { stdin, stdout, stderr, tty };
    runtime.check_running(&container_id, RPC).await.map_err(|error| failed(RPC, &error))?;
    let request = ExecRequest { container_id, command, wanted };
    let url = server.exec_url(request).map_err(|error| refused(RPC, &error))?;
    Ok(v1::ExecResponse { url })
}

pub async fn attach(
    runtime: &Runtime,
    server: Option<&Server>,
    request: v1::AttachRequest,
) -> Result<v1::AttachResponse, Status> {
    const RPC: &str = "Attach";
    let server = present(RPC, server)?;
    let v1::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    runtime.check_running(&container_id, RPC).await.map_err(|error| failed(RPC, &error))?;
    let request = AttachRequest { container_id, wanted: Wanted { stdin, stdout, stderr, tty } };
    let url = server.attach_url(request).map_err(|error| refused(RPC, &error))?;
    Ok(v1::AttachResponse { url })
}

pub fn port_forward(
    runtime: &Runtime,
    server: Option<&Server>,
    request: &v1::PortForwardRequest,
) -> Result<v1::PortForwardResponse, Status> {
    const RPC: &str = "PortForward";
    let server = present(RPC, server)?;
    runtime.check_ready(&request.pod_sandbox_id).map_err(|error| failed(RPC, &error))?;
    let url = server.port_forward_url(&request.pod_sandbox_id, &request.port);
    Ok(v1::PortForwardResponse { url: url.map_err(|error| refused(RPC, &error))? })
}

fn present<'a>(rpc: &str, server: Option<&'a Server>) -> Result<&'a Server, Status> {
    let text = || {
        format!(
            "{rpc}: this agent lives for one `holdfast run` only and streams nothing: use `holdfast serve`"
        )
    };
    server.ok_or_else(|| Status::unimplemented(text()))
}

fn refused(rpc: &'static str, error: &Error) -> Status {
    let text = holdfast_model::chain(error);
    let status = match error.kind() {
        Kind::Invalid => Status::invalid_argument(text),
        Kind::Exhausted => Status::resource_exhausted(text),
        Kind::Internal => Status::internal(text),
    };
    super::super::status::log(rpc, &status);
    status
}
