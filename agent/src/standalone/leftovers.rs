//! What runs left behind that were killed: their pods and directories are removed before a new run begins.

use std::{fs, io, path::Path};

use holdfast_model::{PodId, chain};
use serde_json::Value;

use super::{
    RunError,
    cri::Cri,
    place::{Place, Record},
    steps::Steps,
};
use crate::{cri::client::ClientError, runtime::RECORD_FILE};

/// Removes what is left. A failure is told and does not keep a run from its own pod; the next run tries again.
pub async fn remove(cri: &impl Cri, root: &Path, steps: &Steps) {
    let leftovers = match Place::leftovers(root) {
        Ok(leftovers) => leftovers,
        Err(error) => return steps.note(&format!("look for what earlier runs left: {}", chain(&error))),
    };
    for place in leftovers {
        let dir = place.dir().display().to_string();
        let step = steps.begin();
        match remove_one(cri, place).await {
            Ok(()) => step.done(&format!("what a run left that was killed is removed ({dir})")),
            Err(error) => steps.note(&format!("{dir} stays: {}", chain(&error))),
        }
    }
}

async fn remove_one(cri: &impl Cri, place: Place) -> Result<(), RunError> {
    if let Some(record) = place.read()? {
        remove_pod(cri, &record).await?;
    }
    Ok(place.remove()?)
}

/// Removes the pod that a record names. One that was asked for and whose id nobody knows is asked for once more: the
/// agent answers with the one that is there.
pub async fn remove_pod(cri: &impl Cri, record: &Record) -> Result<(), RunError> {
    let id = match (&record.sandbox, &record.config) {
        (Some(id), _) => id.clone(),
        (None, Some(config)) => cri.run_pod_sandbox(config).await?,
        (None, None) => return Ok(()),
    };
    cri.stop_pod_sandbox(&id).await?;
    cri.remove_pod_sandbox(&id).await?;
    Ok(())
}

/// Number of pods below a root that no run has made: an agent's. Blocking.
///
/// # Errors
/// A directory or a record that cannot be read: what it is of is not known.
pub fn pods_of_an_agent(root: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(root.join("pods")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut count = 0;
    for entry in entries {
        let entry = entry?;
        // Half made, or set aside: neither is a pod that goes on.
        if entry.file_name().to_str().is_none_or(|name| name.parse::<PodId>().is_err()) {
            continue;
        }
        let record = match fs::read(entry.path().join(RECORD_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read?,
        };
        // Of any version: the uid is where it always was, or it is nobody's that is known here.
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        let uid = record["config"]["metadata"]["uid"].as_str().unwrap_or_default();
        count += usize::from(!Place::is_of_a_run(root, uid));
    }
    Ok(count)
}

/// Whether an error says that nothing was done. An agent that went away, or that was not waited for, may have done it.
pub fn is_certain(error: &ClientError) -> bool {
    // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, UNAVAILABLE (grpc/doc/statuscodes.md).
    const UNCERTAIN: [i32; 4] = [1, 2, 4, 14];
    !matches!(error, ClientError::Refused { code, .. } if UNCERTAIN.contains(&i32::from(*code)))
}
