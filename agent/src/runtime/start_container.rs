//! StartContainer: open the gate.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use holdfast_pod::protocol::{Answer, ExitRecord, FaultKind, Phase, Request, START_ERROR_REASON};

use super::{
    Error, Runtime, blocking::now_ns, error::phase_name, follow::follow_start, object::Container,
    shim::ShimError,
};

/// Longest wait for the command to run: hooks and other OCI runtimes take their time.
const START_LIMIT: Duration = Duration::from_secs(100);
/// Time after a container's start in which a StartContainer may be a repeated one: a kubelet gives up a call after 2 minutes.
const REPEAT_LIMIT: Duration = Duration::from_mins(2);
/// Longest wait for the exit record of a container whose command could not be started.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Starts a created container. If its command cannot be run, the container is EXITED with code 128 and reason
    /// StartError, and the error says why.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let (runtime, started) = (self.clone(), container.clone());
        self.detached(async move { runtime.open_gate(&started).await }).await?;
        // Not if the client has gone meanwhile: then this future has been dropped.
        container.start_is_told.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn open_gate(&self, container: &Arc<Container>) -> Result<(), Error> {
        let _life = container.life.lock().await;
        match container.phase() {
            Phase::Created => {}
            // A client whose first call timed out asks again. What it asked for is so; an error would count as a failed start and
            // cost a container that runs. containerd refuses it, and no kubelet depends on that: it starts a container once.
            Phase::Running => return Ok(()),
            // So it is with one that is over by now.
            Phase::Exited if is_repeated(container) => return Ok(()),
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
                if container.phase() == Phase::Running || is_repeated(container) {
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

/// Whether an exited container was started by a call whose answer no client has had.
fn is_repeated(container: &Container) -> bool {
    let told = container.start_is_told.load(Ordering::Relaxed);
    !told && was_started_within(container.record.get().exit.as_ref(), now_ns(), REPEAT_LIMIT)
}

fn was_started_within(exit: Option<&ExitRecord>, now_ns: i64, limit: Duration) -> bool {
    let exit = exit.filter(|exit| exit.started_at_ns > 0 && exit.reason != START_ERROR_REASON);
    exit.is_some_and(|exit| u128::from(now_ns.abs_diff(exit.started_at_ns)) < limit.as_nanos())
}

fn start_error(container: &Container, source: ShimError) -> Error {
    Error::Shim { operation: "start", id: container.id.to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_repeated_if_it_was_one_and_not_long_ago() {
        let exit = |started_at_ns, reason: &str| {
            Some(ExitRecord { started_at_ns, reason: reason.to_owned(), ..ExitRecord::default() })
        };
        let second = 1_000_000_000;
        for (exit, expected) in [
            (None, false),
            (exit(0, ""), false),
            (exit(100 * second, "Error"), true),
            (exit(100 * second, START_ERROR_REASON), false),
            (exit(200 * second, "ShimDied"), true),
            (exit(79 * second, ""), false),
        ] {
            assert_eq!(was_started_within(exit.as_ref(), 200 * second, REPEAT_LIMIT), expected, "{exit:?}");
        }
    }
}
