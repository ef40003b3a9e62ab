//! What went wrong, without a heap.

use core::ffi::CStr;

use holdfast_bare::text::Text;
use holdfast_bare::{Errno, Result};

use crate::report::{MAX_REPORT, Report};

/// A stage that failed.
pub struct Fault {
    errno: i32,
    stage: Text<256>,
    text: &'static str,
}

impl Fault {
    /// A stage, its object, the errno, and what to change.
    pub fn new(stage: &str, object: &[u8], errno: i32, text: &'static str) -> Self {
        let mut named = Text::new();
        named.push(stage.as_bytes());
        if !object.is_empty() {
            named.push(b" ");
            named.push(object);
        }
        Self { errno, stage: named, text }
    }

    /// As a record.
    pub fn report(&self, pid: i32) -> Report<'_> {
        Report { errno: self.errno, pid, stage: self.stage.bytes(), text: self.text.as_bytes() }
    }
}

/// Names the stage that a call belongs to.
pub trait Stage<T> {
    /// For a stage without an object.
    fn stage(self, stage: &'static str) -> core::result::Result<T, Fault>;
    /// For a stage with one.
    fn stage_of(self, stage: &'static str, object: &CStr) -> core::result::Result<T, Fault>;
}

impl<T> Stage<T> for Result<T> {
    fn stage(self, stage: &'static str) -> core::result::Result<T, Fault> {
        self.map_err(|Errno(errno)| Fault::new(stage, b"", errno, ""))
    }

    fn stage_of(self, stage: &'static str, object: &CStr) -> core::result::Result<T, Fault> {
        self.map_err(|Errno(errno)| Fault::new(stage, object.to_bytes(), errno, ""))
    }
}

/// A record's bytes.
pub fn with_bytes<T>(report: &Report<'_>, act: impl FnOnce(&[u8]) -> T) -> T {
    let mut bytes = [0; MAX_REPORT];
    let length = report.encode(&mut bytes);
    act(bytes.get(..length).unwrap_or_default())
}
