//! Capabilities by name and as bits.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::error::{CallError, Result};

/// A set of capabilities, one bit each.
pub type Set = CapabilitySet;

/// The set of one capability, by its name with or without `CAP_`.
pub fn named(name: &str) -> Option<Set> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    Set::from_name(&name.to_ascii_uppercase())
}

fn each(set: Set) -> impl Iterator<Item = Set> {
    (0..64).map(|bit| Set::from_bits_retain(1 << bit)).filter(move |one| set.contains(*one))
}

/// Capabilities that a process may ever have. To be read once: it takes a call for each capability.
#[derive(Debug, Clone, Copy)]
pub struct Bounding {
    /// Our bounding set.
    pub ours: Set,
    /// All that the kernel knows: the bounding set of who joins a user namespace.
    pub known: Set,
}

impl Bounding {
    /// Reads it.
    pub fn read() -> Self {
        let (mut ours, mut known) = (Set::empty(), Set::empty());
        // The kernel answers EINVAL for the first number that it does not know.
        for one in each(Set::from_bits_retain(u64::MAX)) {
            match capability_is_in_bounding_set(one) {
                Ok(true) => ours |= one,
                Ok(false) => {}
                Err(_) => break,
            }
            known |= one;
        }
        Self { ours, known }
    }

    /// The set of a child of ours that has, or has not, joined another user namespace.
    pub fn of_child(self, in_user_namespace: bool) -> Set {
        if in_user_namespace { self.known } else { self.ours }
    }
}

/// Takes everything but `kept` out of the bounding set, whose present value is `now`.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn limit_bounding(now: Set, kept: Set) -> Result<()> {
    for one in each(now.difference(kept)) {
        remove_capability_from_bounding_set(one)
            .map_err(|e| CallError::new(format!("prctl(PR_CAPBSET_DROP, {:#x})", one.bits()), e))?;
    }
    Ok(())
}

/// What we may use now.
pub fn permitted() -> Result<Set> {
    rustix::thread::capabilities(None).map(|sets| sets.permitted).map_err(|e| CallError::new("capget()", e))
}

/// capset(2).
///
/// # Errors
/// EPERM for a permitted capability that we do not have.
pub fn set(effective: Set, permitted: Set, inheritable: Set) -> Result<()> {
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable }).map_err(|e| {
        CallError::new(
            format!("capset({:#x}, {:#x}, {:#x})", effective.bits(), permitted.bits(), inheritable.bits()),
            e,
        )
    })
}

/// Makes `set` the ambient set; each must be permitted and inheritable.
pub fn set_ambient(set: Set) -> Result<()> {
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(e) => return Err(CallError::new("prctl(PR_CAP_AMBIENT_CLEAR_ALL)", e)),
    }
    for one in each(set) {
        configure_capability_in_ambient_set(one, true)
            .map_err(|e| CallError::new(format!("prctl(PR_CAP_AMBIENT_RAISE, {:#x})", one.bits()), e))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbers() {
        assert_eq!(named("CAP_CHOWN"), Some(Set::CHOWN));
        assert_eq!(named("SYS_ADMIN"), Some(Set::SYS_ADMIN));
        assert_eq!(named("CAP_CHECKPOINT_RESTORE"), Some(Set::CHECKPOINT_RESTORE));
        assert_eq!(named("sys_ptrace"), Some(Set::SYS_PTRACE));
        for nothing in ["ALL", "", "CAP_", "CHOWN|KILL"] {
            assert_eq!(named(nothing), None, "{nothing:?}");
        }
        // Up to CAP_CHECKPOINT_RESTORE each number has a name, which is its own.
        for bit in 0..=40 {
            let one = Set::from_bits_retain(1 << bit);
            let names: Vec<_> = one.iter_names().collect();
            assert_eq!(names.len(), 1, "{bit}");
            assert_eq!(named(names[0].0), Some(one));
        }
    }

    #[test]
    fn our_own_bounding_set_is_the_one_in_proc() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        assert_eq!(Bounding::read().ours.bits(), u64::from_str_radix(line.trim(), 16).unwrap());
    }
}
