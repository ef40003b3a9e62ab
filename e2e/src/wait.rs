//! Waiting for a condition, always with a bound.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::place;

/// The usual bound.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Asks until `probe` gives a value; `what` names it in the error.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = limit * place::slowness();
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() > deadline {
            match last {
                Some(error) => return Err(error.context(format!("wait {} s for {what}", limit.as_secs()))),
                None => bail!("{what}: not within {} s", limit.as_secs()),
            }
        }
        // Between two looks, not instead of one.
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Asks until `probe` says yes.
pub fn until_true(what: &str, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, LIMIT, || Ok(probe()?.then_some(())))
}
