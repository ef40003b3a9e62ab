//! ReopenContainerLog: the kubelet has renamed the file; the shim opens the path anew.

use holdfast_pod::protocol::Request;

use super::{Error, Runtime};

impl Runtime {
    /// Reopens the log of a running container; any other is an error, as the kubelet expects.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let shim = container.running_shim("ReopenContainerLog").await?;
        shim.order(Request::ReopenLog).await.map_err(|source| Error::Shim {
            operation: "reopen the log of",
            id: container.id.to_string(),
            source,
        })
    }
}
