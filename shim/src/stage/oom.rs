//! The OOM killer's preference.

use std::fs;

use oci_spec::runtime::Process;
use rustix::io::Errno;

use crate::fault::{OrFail, Result};

const PATH: &str = "/proc/self/oom_score_adj";

/// Sets the spec's oom_score_adj, or the nearest that we may: lowering takes CAP_SYS_RESOURCE, which nested
/// set-ups do not have. Returns what a log should say.
pub fn adjust(process: &Process) -> Result<Vec<String>> {
    let Some(wanted) = process.oom_score_adj() else { return Ok(Vec::new()) };
    match fs::write(PATH, wanted.to_string()) {
        Ok(()) => Ok(Vec::new()),
        Err(e) if e.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
            // What we have is the lowest that is known to be allowed.
            let now = fs::read_to_string(PATH).or_fail("read oom_score_adj")?;
            let now = now.trim();
            Ok(vec![format!(
                "oom_score_adj is {now} instead of {wanted}: lowering it takes CAP_SYS_RESOURCE"
            )])
        }
        other => other.or_fail("set oom_score_adj").map(|()| Vec::new()),
    }
}
