//! Becoming the user: limits, ids, capabilities, no_new_privs, seccomp.

use holdfast_pod::protocol::ResolvedUser;
use holdfast_sys::caps::{self, Set};
use holdfast_sys::process::{Filter, load_seccomp, reset_signals};
use oci_spec::runtime::{Capabilities, PosixRlimit, PosixRlimitType, Process};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    Gid, Uid, set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use crate::fault::{OrFail, Result};

const STAGE: &str = "become user";

/// What a process shall be.
pub struct Identity<'a> {
    process: &'a Process,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    wanted: Wanted,
    /// seccomp is loaded with CAP_SYS_ADMIN, for want of no_new_privs.
    admin_for_seccomp: bool,
}

/// Capabilities that are asked for, as far as we have them to give.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    ours: Set,
    bounding: Set,
    effective: Set,
    permitted: Set,
    inheritable: Set,
    ambient: Set,
}

impl<'a> Identity<'a> {
    /// Reads it from the spec's process; ids come from `user`. `bounding` is our present bounding set.
    pub fn of(process: &'a Process, user: &ResolvedUser, seccomp: bool, bounding: Set) -> Result<Self> {
        let no_new_privs = process.no_new_privileges().unwrap_or(false);
        Ok(Self {
            process,
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
            groups: user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
            wanted: Wanted::of(process, bounding),
            admin_for_seccomp: seccomp && !no_new_privs,
        })
    }

    /// All that needs no seccomp. Keeps what [`Identity::last_steps`] takes. Returns what a log should say.
    pub fn become_user(&mut self) -> Result<Vec<String>> {
        let limits = self.process.rlimits().iter().flatten();
        let lowered = limits.map(set_limit).collect::<Result<Vec<_>>>()?;
        reset_signals();
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(self.process.user().umask().unwrap_or(0o022)));
        self.limit_bounding()?;
        self.change_ids()?;
        self.keep_capabilities()?;
        if self.process.no_new_privileges().unwrap_or(false) {
            set_no_new_privs(true).or_fail("set no_new_privs")?;
        }
        Ok(lowered.into_iter().flatten().collect())
    }

    fn limit_bounding(&self) -> Result<()> {
        // Before the ids change: it takes CAP_SETPCAP.
        caps::limit_bounding(self.wanted.ours, self.wanted.bounding).or_fail("limit the bounding set")
    }

    fn change_ids(&self) -> Result<()> {
        // Without this a change away from uid 0 drops every capability, those of the spec too.
        set_keep_capabilities(true).or_fail(STAGE)?;
        set_thread_groups(&self.groups).or_fail("set supplemental groups")?;
        set_thread_res_gid(self.gid, self.gid, self.gid).or_fail("set gid")?;
        set_thread_res_uid(self.uid, self.uid, self.uid).or_fail("set uid")?;
        set_keep_capabilities(false).or_fail(STAGE)
    }

    /// Everything but the last step: what seccomp needs is still there.
    fn keep_capabilities(&self) -> Result<()> {
        let extra = if self.admin_for_seccomp { Set::SYS_ADMIN & self.wanted.ours } else { Set::empty() };
        let Wanted { effective, permitted, inheritable, ambient, .. } = self.wanted;
        caps::set(effective | extra, permitted | extra, inheritable).or_fail("set capabilities")?;
        caps::set_ambient(ambient).or_fail("set ambient capabilities")
    }

    /// What stands behind the gate. Without no_new_privs a filter is loaded with CAP_SYS_ADMIN, so capset comes last;
    /// with it the filter comes last, and needs to allow nothing but execve.
    pub fn last_steps(&self, filter: Option<&Filter>) -> Result<()> {
        let load = || filter.map_or(Ok(()), load_seccomp).or_fail("load seccomp");
        if self.admin_for_seccomp {
            load()?;
            let Wanted { effective, permitted, inheritable, .. } = self.wanted;
            return caps::set(effective, permitted, inheritable).or_fail("set capabilities");
        }
        load()
    }
}

impl Wanted {
    /// Asking for what our own bounding set has not is no error: nested set-ups lack some.
    fn of(process: &Process, ours: Set) -> Self {
        let bits = |set: &Option<Capabilities>| {
            let named = set.iter().flatten().filter_map(|one| caps::named(&one.to_string()));
            named.fold(Set::empty(), |all, one| all | one) & ours
        };
        let Some(spec) = process.capabilities() else {
            let none = Set::empty();
            let (bounding, effective, permitted) = (none, none, none);
            return Self { ours, bounding, effective, permitted, inheritable: none, ambient: none };
        };
        let permitted = bits(spec.permitted());
        let ambient = bits(spec.ambient()) & permitted;
        Self {
            ours,
            bounding: bits(spec.bounding()),
            effective: bits(spec.effective()) & permitted,
            permitted,
            // The kernel wants ambient ones to be inheritable.
            inheritable: bits(spec.inheritable()) | ambient,
            ambient,
        }
    }
}

fn finite(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

/// Raises the hard limits that shall be higher than ours, as long as we are in the initial user namespace: in another one
/// CAP_SYS_RESOURCE counts for nothing here. The limits themselves come with the user, for some of them would be in our own
/// way until then.
pub fn raise_limits(process: &Process) {
    for limit in process.rlimits().iter().flatten() {
        let (resource, hard) = (resource(limit.typ()), finite(limit.hard()));
        let now = getrlimit(resource);
        if lower(hard, now.maximum) != hard {
            // Refused, it is lowered later, and somebody is told.
            let _ = setrlimit(resource, Rlimit { maximum: hard, ..now });
        }
    }
}

/// Sets a limit, or the highest that we may: raising a hard limit takes CAP_SYS_RESOURCE. Returns what a log should say.
fn set_limit(limit: &PosixRlimit) -> Result<Option<String>> {
    let stage = format!("set limit {}", limit.typ());
    let resource = resource(limit.typ());
    let (soft, hard) = (finite(limit.soft()), finite(limit.hard()));
    match setrlimit(resource, Rlimit { current: soft, maximum: hard }) {
        Err(rustix::io::Errno::PERM) => {
            let highest = getrlimit(resource).maximum;
            let hard = lower(hard, highest);
            let nearest = Rlimit { current: lower(soft, hard), maximum: hard };
            setrlimit(resource, nearest).or_fail(&stage)?;
            let text = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
            let (now, wanted) = (text(hard), text(finite(limit.hard())));
            Ok(Some(format!(
                "{} is {now} instead of {wanted}: raising it takes CAP_SYS_RESOURCE",
                limit.typ()
            )))
        }
        other => other.map(|()| None).or_invalid(&stage, "the soft limit may not be above the hard one"),
    }
}

/// `None` is no limit at all.
fn lower(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// As the kernel numbers it.
pub fn resource(kind: PosixRlimitType) -> Resource {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => Resource::Cpu,
        T::RlimitFsize => Resource::Fsize,
        T::RlimitData => Resource::Data,
        T::RlimitStack => Resource::Stack,
        T::RlimitCore => Resource::Core,
        T::RlimitRss => Resource::Rss,
        T::RlimitNproc => Resource::Nproc,
        T::RlimitNofile => Resource::Nofile,
        T::RlimitMemlock => Resource::Memlock,
        T::RlimitAs => Resource::As,
        T::RlimitLocks => Resource::Locks,
        T::RlimitSigpending => Resource::Sigpending,
        T::RlimitMsgqueue => Resource::Msgqueue,
        T::RlimitNice => Resource::Nice,
        T::RlimitRtprio => Resource::Rtprio,
        T::RlimitRttime => Resource::Rttime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_above_every_limit() {
        assert_eq!(lower(None, Some(3)), Some(3));
        assert_eq!(lower(Some(2), Some(3)), Some(2));
        assert_eq!(lower(Some(2), None), Some(2));
        assert_eq!(lower(None, None), None);
    }
}
