//! What the streaming server asks for: the ends of an exec, of a container's own streams, and of a connection into a pod.
//!
//! Descriptors only: bytes go from them to the client without passing a shim, but for the copy of the output that an
//! attach gets.

mod attach;
mod exec;
mod forward;
mod terminal;

use holdfast_streaming::session::{
    AttachRequest, Backend, Duplex, ExecRequest, Failure, Session, Task, Wanted,
};

use super::{Error, Runtime};

pub use forward::Forwards;

/// Whoever reads this looks at a terminal.
fn failure(error: &Error) -> Failure {
    Failure { text: error.chain() }
}

impl Backend for Runtime {
    fn exec(&self, request: ExecRequest) -> Task<Result<Session, Failure>> {
        let runtime = self.clone();
        Box::pin(async move {
            let ExecRequest { container_id, command, wanted } = request;
            runtime.open_exec(&container_id, &command, wanted).await.map_err(|error| failure(&error))
        })
    }

    fn attach(&self, request: AttachRequest) -> Task<Result<Session, Failure>> {
        let runtime = self.clone();
        Box::pin(async move {
            let AttachRequest { container_id, wanted } = request;
            runtime.open_attach(&container_id, wanted).await.map_err(|error| failure(&error))
        })
    }

    fn port_forward(&self, pod_sandbox_id: &str, port: u16) -> Task<Result<Box<dyn Duplex>, Failure>> {
        let (runtime, id) = (self.clone(), pod_sandbox_id.to_owned());
        Box::pin(async move {
            let connected = runtime.dial(&id, port).await.map_err(|error| failure(&error))?;
            Ok(Box::new(connected) as Box<dyn Duplex>)
        })
    }
}

impl Runtime {
    /// Whether Exec and Attach may hand out a URL.
    pub async fn check_running(&self, id: &str, operation: &'static str) -> Result<(), Error> {
        self.container(id)?.running_shim(operation).await.map(drop)
    }

    /// Whether PortForward may hand out a URL.
    pub fn check_ready(&self, id: &str) -> Result<(), Error> {
        let pod = self.pod(id)?;
        if pod.is_ready() { Ok(()) } else { Err(Error::PodNotReady { id: pod.id.to_string() }) }
    }
}
