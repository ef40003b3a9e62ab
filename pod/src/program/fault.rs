//! What went wrong, without a heap.

use core::ffi::CStr;

use holdfast_bare::text::Text;
use holdfast_bare::{Errno, Fd, Result, net};

use crate::report::{MAX_REPORT, Report};

/// A stage that failed.
pub struct Fault<'a> {
    /// The errno; 0 if the failure was not the kernel's.
    pub errno: i32,
    /// What was tried.
    pub stage: &'a [u8],
    /// With what; may be empty.
    pub object: &'a [u8],
    /// What to change; may be empty.
    pub text: &'a [u8],
}

/// Names the stage that a call belongs to.
pub trait Stage<T> {
    /// For a stage without an object.
    fn stage(self, stage: &'static str) -> core::result::Result<T, Fault<'static>>;
    /// For a stage with one.
    fn stage_of(self, stage: &'static str, object: &'static CStr) -> core::result::Result<T, Fault<'static>>;
}

impl<T> Stage<T> for Result<T> {
    fn stage(self, stage: &'static str) -> core::result::Result<T, Fault<'static>> {
        self.stage_of(stage, c"")
    }

    fn stage_of(self, stage: &'static str, object: &'static CStr) -> core::result::Result<T, Fault<'static>> {
        let (stage, object) = (stage.as_bytes(), object.to_bytes());
        self.map_err(|Errno(errno)| Fault { errno, stage, object, text: b"" })
    }
}

/// Sends the record of what came of it, with the holder's pid and descriptor if there are any.
pub fn report(to: &Fd, done: &core::result::Result<(), Fault<'_>>, holder: Option<(i32, &Fd)>) -> Result<()> {
    let mut stage: Text<256> = Text::new();
    let (mut errno, mut text) = (0, &b""[..]);
    if let Err(fault) = done {
        stage.push(fault.stage);
        if !fault.object.is_empty() {
            stage.push(b" ");
            stage.push(fault.object);
        }
        (errno, text) = (fault.errno, fault.text);
    }
    let pid = holder.map_or(0, |(pid, _)| pid);
    let mut bytes = [0; MAX_REPORT];
    let length = Report { errno, pid, stage: stage.bytes(), text }.encode(&mut bytes);
    net::send(to, bytes.get(..length).unwrap_or_default(), holder.map(|(_, pidfd)| pidfd))
}
