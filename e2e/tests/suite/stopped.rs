//! Processes that do not run for a while, as on a sick node.

use std::fs;

use anyhow::{Context, Result};
use holdfast_e2e::{Scene, process};
use serde_json::Value;

/// A process that is stopped; it goes on at the latest when this is dropped.
pub struct Stopped {
    pid: String,
}

impl Stopped {
    /// The shim of a container.
    pub fn shim(scene: &Scene, id: &str) -> Result<Self> {
        let root = scene.agent.as_ref().context("an agent")?.settings.root();
        let record = fs::read_to_string(root.join(format!("containers/{id}/record.json")))?;
        let record: Value = serde_json::from_str(&record)?;
        let pid = record["shim"]["pid"].as_u64().context("no shim")?.to_string();
        process::stdout("kill", ["-STOP", &pid])?;
        Ok(Self { pid })
    }

    /// Lets it go on.
    pub fn go_on(self) -> Result<()> {
        process::stdout("kill", ["-CONT", &self.pid]).map(drop)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may be dead by now.
        let _ = process::stdout("kill", ["-CONT", &self.pid]);
    }
}
