//! StartContainer: open the gate.

use std::{sync::Arc, time::Duration};

use holdfast_pod::protocol::{Answer, Phase, Request};

use super::{Error, Runtime, error::phase_name, object::Container, shim::ShimError};

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
        let wrong_state = |phase| Error::WrongState {
            id: container.id.to_string(),
            state: phase_name(phase),
            operation: "StartContainer",
            wanted: "created",
        };
        let phase = container.phase();
        let Some(shim) = container.shim().filter(|_| phase == Phase::Created) else {
            return Err(wrong_state(phase));
        };
        match shim.call(Request::Start, &[], START_LIMIT).await {
            Ok(Answer::Started { started_at_ns }) => {
                let learned = container
                    .record
                    .learn(|record| {
                        record.started_at_ns = started_at_ns;
                        // A command that is over already has its exit recorded, which stays.
                        if record.phase == Phase::Created {
                            record.phase = Phase::Running;
                        }
                    })
                    .await;
                if let Err(error) = learned {
                    // It runs all the same, and a restarted agent hears so from the shim.
                    tracing::warn!(container_id = %container.id, %error, "container runs, but its record does not say so");
                }
                Ok(())
            }
            Ok(_) => Err(start_error(container, ShimError::Unexpected { request: "Start" })),
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
