//! The log of a run: one JSON object a line, with the time since the run began.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// An open log.
#[derive(Debug)]
pub struct Events {
    /// Where it lies.
    pub path: PathBuf,
    file: Mutex<BufWriter<File>>,
    begin: Instant,
}

impl Events {
    /// Makes the file anew.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(BufWriter::new(file)), begin: Instant::now() })
    }

    /// Adds a line. `who` did or met `what`; a log that cannot be written ends no run.
    pub fn add(&self, who: &str, what: &str, more: &Value) {
        let ms = self.elapsed().as_secs_f64() * 1000.0;
        let line = json!({"ms": (ms * 1000.0).round() / 1000.0, "who": who, "what": what, "more": more});
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{line}");
    }

    /// Since the run began.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Writes what is still in memory.
    pub fn flush(&self) {
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.flush();
    }
}
