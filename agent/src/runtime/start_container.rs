//! StartContainer: open the gate.

use std::{sync::Arc, time::Duration};

use holdfast_pod::protocol::{Answer, FaultKind, Phase, Request};

use super::{Error, Runtime, error::phase_name, follow::follow_start, object::Container, shim::ShimError};

/// Longest wait for the command to run: hooks and other OCI runtimes take their time.
const START_LIMIT: Duration = Duration::from_secs(100);
/// Longest wait for the exit record of a container whose command could not be started.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Starts a created container. If its command cannot be run, the container is EXITED with code 128 and reason
    /// StartError, and the error says why.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let runtime = self.clone();
        self.detached(async move { runtime.open_gate(&container).await }).await
    }

    async fn open_gate(&self, container: &Arc<Container>) -> Result<(), Error> {
        let _life = container.life.lock().await;
        match container.phase() {
            Phase::Created => {}
            // A client whose first call timed out asks again. What it asked for is so; an error would count as a failed start and
            // cost a container that runs. containerd refuses it, and no kubelet depends on that: it starts a container once.
            Phase::Running => return Ok(()),
            phase => {
                return Err(Error::WrongState {
                    id: container.id.to_string(),
                    state: phase_name(phase),
                    operation: "StartContainer",
                    wanted: "created",
                });
            }
        }
        let shim = container.reach_shim("StartContainer").await?;
        match shim.call(Request::Start, &[], START_LIMIT).await {
            Ok(Answer::Started { started_at_ns }) => {
                // It runs, whatever the disk says, and a restarted agent hears so from the shim.
                container
                    .record
                    .note(|record| {
                        record.started_at_ns = started_at_ns;
                        // A command that is over already has its exit recorded, which stays.
                        if record.phase == Phase::Created {
                            record.phase = Phase::Running;
                        }
                    })
                    .await;
                Ok(())
            }
            Ok(_) => Err(start_error(container, ShimError::Unexpected { request: "Start" })),
            // An agent before us has called it already.
            Err(ShimError::Failed(failure)) if failure.kind == FaultKind::Precondition => {
                follow_start(container.clone(), shim).await;
                if container.phase() == Phase::Running {
                    Ok(())
                } else {
                    Err(start_error(container, failure.into()))
                }
            }
            Err(source) => {
                // The kubelet looks at the status next: it must say EXITED by then.
                let _ = tokio::time::timeout(EXIT_LIMIT, container.wait_exited()).await;
                Err(start_error(container, source))
            }
        }
    }
}

fn start_error(container: &Container, source: ShimError) -> Error {
    Error::Shim { operation: "start", id: container.id.to_string(), source }
}
