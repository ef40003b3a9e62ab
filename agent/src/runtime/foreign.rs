//! What another OCI runtime may have left, for the case that nobody else gives it back: its shim is gone.

use std::{path::PathBuf, time::Duration};

use holdfast_pod::oci_runtime::OciRuntime;

use super::{
    Error, Runtime,
    blocking::{blocking, remove_tree},
    command::Command,
};

/// How long a runtime may take to delete a container.
const DELETE_LIMIT: Duration = Duration::from_secs(30);

impl Runtime {
    /// Lets the runtime give back what it keeps of a container whose processes are dead. Nothing is done if it keeps
    /// nothing, as after every orderly end. One that fails, or is not there any more, is no reason to keep the rest.
    pub(super) async fn delete_from_runtime(&self, runtime: &OciRuntime, id: &str) -> Result<(), Error> {
        let state = runtime.state_of(id);
        let known = state.clone();
        if !blocking(move || known.symlink_metadata().is_ok()).await {
            return Ok(());
        }
        // Without a log what it says comes to us.
        let mut args = runtime.arguments(&PathBuf::from("/dev/null"), ["delete", "--force"]);
        args.push(id.into());
        args.remove(0);
        let delete = Command { args, ..Command::new(&runtime.program, DELETE_LIMIT) };
        if let Err(error) = delete.succeed().await {
            tracing::warn!(container_id = id, %error, "an OCI runtime does not delete what it has of a container");
        }
        blocking(move || remove_tree(&state)).await
    }

    /// The same for a container whose record does not say which runtime it had.
    pub(super) async fn delete_from_all_runtimes(&self, id: &str) {
        for runtime in self.live.get().handlers.runtimes() {
            if let Err(error) = self.delete_from_runtime(runtime, id).await {
                tracing::warn!(container_id = id, error = %error.chain(), "what an OCI runtime has of a container");
            }
        }
    }
}
