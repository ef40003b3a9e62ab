//! `holdfast version`.

use std::io;

use super::{args::VersionOutput, print};

/// The level of CRI v1 that this program speaks: Kubernetes' minor version.
pub const CRI_LEVEL: &str = "1.37";

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = env!("HOLDFAST_COMMIT");

pub(super) fn show(output: VersionOutput) -> io::Result<()> {
    print(&match output {
        VersionOutput::Text => format!("holdfast {VERSION} (commit {COMMIT}, CRI v1 at level {CRI_LEVEL})\n"),
        VersionOutput::Json => {
            format!(
                "{}\n",
                serde_json::json!({ "version": VERSION, "commit": COMMIT, "criLevel": CRI_LEVEL })
            )
        }
    })
}
