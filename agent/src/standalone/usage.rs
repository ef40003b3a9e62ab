//! Watches that emptyDirs stay within their `sizeLimit`.

use std::{path::PathBuf, time::Duration};

use tokio::time::sleep;

use super::{RunError, blocking};

/// As often as a kubelet looks.
const PAUSE: Duration = Duration::from_secs(10);

/// Waits until one of the directories holds more than it may: name, directory, bytes.
pub async fn overrun(limited: &[(String, PathBuf, u64)]) -> RunError {
    loop {
        for (volume, dir, limit) in limited {
            let dir = dir.clone();
            let used = blocking(move || holdfast_tree::usage(&dir).bytes).await;
            if used > *limit {
                return RunError::VolumeFull { volume: volume.clone(), used, limit: *limit };
            }
        }
        sleep(PAUSE).await;
    }
}
