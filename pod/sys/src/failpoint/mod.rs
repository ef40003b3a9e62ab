//! Failpoints: named places before an effect, at which a test makes the program fail, stall or die.
//!
//! Compiled in with the cargo feature `failpoints` alone; without it [`at`] is an empty function. The programs that
//! users install are built without it.
//!
//! A test makes a [`Board`], a file that agent, shim and stages map into their memory: a mapping outlives fork, closed
//! descriptors and changed roots. The path is in the environment variable [`VARIABLE`], which [`crate::spawn`] hands on. The board
//! says which fault is wanted at which hit of which failpoint, and collects the names of all that were hit: so a test
//! first learns the failpoints of an operation, and then goes through them one by one.

#[cfg(feature = "failpoints")]
mod board;

#[cfg(feature = "failpoints")]
pub(crate) use board::environment;
#[cfg(feature = "failpoints")]
pub use board::{Board, Fault, VARIABLE, at};

/// As [`at`], for a kernel call.
pub(crate) fn call(name: &'static str) -> crate::error::Result<()> {
    at(name).map_err(|errno| crate::error::CallError::new(name, errno))
}

/// The failpoint `name`: passes, since this program is built without failpoints.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing of it may be left in the program")]
pub const fn at(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}
