//! Records that cannot be read: set aside as `<id>.unreadable`, for a person to look at, and never fatal.
//!
//! What such a record named cannot be adopted, and nobody could ask for it to be removed, so it is ended. A directory's
//! name is the id, and by that everything can be found: shim and holder, cgroups, network and image lease.

use std::path::{Path, PathBuf};

use holdfast_model::{ContainerId, PodId};
use holdfast_pod::{holder::Holder, protocol::Request};
use tokio::sync::mpsc;

use super::{
    Runtime,
    blocking::{blocking, remove_tree},
    record,
    shim::Shim,
    stop_pod_sandbox::HOLDER_LIMIT,
};

/// Ending of what was set aside.
const ASIDE: &str = "unreadable";

impl Runtime {
    /// For a container. Its image lease goes when the stores are settled: no known container has it.
    pub(super) async fn set_container_aside(&self, dir: PathBuf, reason: String) {
        if let Some(id) = id_of::<ContainerId>(&dir) {
            let (sender, _notices) = mpsc::unbounded_channel();
            if let Ok(shim) = Shim::connect(&self.run_dir(&id), sender) {
                let _ = shim.order(Request::Shutdown).await;
            }
            self.delete_from_all_runtimes(id.as_str()).await;
            self.remove_groups_of(id.as_str()).await;
        }
        blocking(move || set_aside(&dir, &reason)).await;
    }

    /// For a pod. Its network goes when the stores are settled, and its containers as those of an unknown pod.
    pub(super) async fn set_pod_aside(&self, dir: PathBuf, reason: String) {
        if let Some(id) = id_of::<PodId>(&dir) {
            let (program, pod) = (self.pod_program.clone(), id.clone());
            blocking(move || {
                for holder in Holder::search(&program, pod.as_str()) {
                    if let Err(error) = holder.kill_and_wait(HOLDER_LIMIT) {
                        tracing::warn!(pod_sandbox_id = %pod, %error, "holder of a pod whose record cannot be read");
                    }
                }
            })
            .await;
            self.remove_groups_of(id.as_str()).await;
        }
        blocking(move || set_aside(&dir, &reason)).await;
    }

    async fn remove_groups_of(&self, id: &str) {
        if let Err(error) = self.cgroups.remove_named(id).await {
            tracing::warn!(id, %error, "cgroups of an object whose record cannot be read");
        }
    }
}

fn id_of<T: std::str::FromStr>(dir: &Path) -> Option<T> {
    dir.file_name()?.to_str()?.parse().ok()
}

/// Renames `<dir>` to `<dir>.unreadable`. What has been set aside stays so. A directory without a record is of somebody who
/// was killed before the record, and so before anything that it would have named.
fn set_aside(dir: &Path, reason: &str) {
    if dir.extension().is_some_and(|ending| ending == ASIDE) {
        return;
    }
    if !dir.join(record::FILE).exists() {
        if let Err(error) = remove_tree(dir) {
            tracing::warn!(?dir, error = %error.chain(), "remove a directory without a record");
        }
        return;
    }
    tracing::warn!(?dir, reason, "a record cannot be read and is set aside");
    let mut aside = dir.as_os_str().to_owned();
    aside.push(".");
    aside.push(ASIDE);
    if let Err(error) = std::fs::rename(dir, PathBuf::from(aside)) {
        tracing::warn!(?dir, %error, "set aside");
    }
}
