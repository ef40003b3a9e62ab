//! Capability sets: names, defaults, and what a container's add and drop lists make of them.

use std::fmt;

use holdfast_model::Capabilities;
use oci_spec::runtime::Capability;

use crate::error::{SpecError, invalid};

/// A capability by its number (linux/capability.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cap(u8);

/// Names without `CAP_` and the OCI words, by number.
const NAMES: [(&str, Capability); 41] = [
    ("CHOWN", Capability::Chown),
    ("DAC_OVERRIDE", Capability::DacOverride),
    ("DAC_READ_SEARCH", Capability::DacReadSearch),
    ("FOWNER", Capability::Fowner),
    ("FSETID", Capability::Fsetid),
    ("KILL", Capability::Kill),
    ("SETGID", Capability::Setgid),
    ("SETUID", Capability::Setuid),
    ("SETPCAP", Capability::Setpcap),
    ("LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("NET_BIND_SERVICE", Capability::NetBindService),
    ("NET_BROADCAST", Capability::NetBroadcast),
    ("NET_ADMIN", Capability::NetAdmin),
    ("NET_RAW", Capability::NetRaw),
    ("IPC_LOCK", Capability::IpcLock),
    ("IPC_OWNER", Capability::IpcOwner),
    ("SYS_MODULE", Capability::SysModule),
    ("SYS_RAWIO", Capability::SysRawio),
    ("SYS_CHROOT", Capability::SysChroot),
    ("SYS_PTRACE", Capability::SysPtrace),
    ("SYS_PACCT", Capability::SysPacct),
    ("SYS_ADMIN", Capability::SysAdmin),
    ("SYS_BOOT", Capability::SysBoot),
    ("SYS_NICE", Capability::SysNice),
    ("SYS_RESOURCE", Capability::SysResource),
    ("SYS_TIME", Capability::SysTime),
    ("SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("MKNOD", Capability::Mknod),
    ("LEASE", Capability::Lease),
    ("AUDIT_WRITE", Capability::AuditWrite),
    ("AUDIT_CONTROL", Capability::AuditControl),
    ("SETFCAP", Capability::Setfcap),
    ("MAC_OVERRIDE", Capability::MacOverride),
    ("MAC_ADMIN", Capability::MacAdmin),
    ("SYSLOG", Capability::Syslog),
    ("WAKE_ALARM", Capability::WakeAlarm),
    ("BLOCK_SUSPEND", Capability::BlockSuspend),
    ("AUDIT_READ", Capability::AuditRead),
    ("PERFMON", Capability::Perfmon),
    ("BPF", Capability::Bpf),
    ("CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

#[allow(missing_docs, reason = "the names of capabilities(7)")]
impl Cap {
    pub const CHOWN: Self = Self(0);
    pub const DAC_OVERRIDE: Self = Self(1);
    pub const DAC_READ_SEARCH: Self = Self(2);
    pub const FOWNER: Self = Self(3);
    pub const FSETID: Self = Self(4);
    pub const KILL: Self = Self(5);
    pub const SETGID: Self = Self(6);
    pub const SETUID: Self = Self(7);
    pub const SETPCAP: Self = Self(8);
    pub const NET_BIND_SERVICE: Self = Self(10);
    pub const NET_RAW: Self = Self(13);
    pub const SYS_MODULE: Self = Self(16);
    pub const SYS_RAWIO: Self = Self(17);
    pub const SYS_CHROOT: Self = Self(18);
    pub const SYS_PTRACE: Self = Self(19);
    pub const SYS_PACCT: Self = Self(20);
    pub const SYS_ADMIN: Self = Self(21);
    pub const SYS_BOOT: Self = Self(22);
    pub const SYS_NICE: Self = Self(23);
    pub const SYS_RESOURCE: Self = Self(24);
    pub const SYS_TIME: Self = Self(25);
    pub const SYS_TTY_CONFIG: Self = Self(26);
    pub const MKNOD: Self = Self(27);
    pub const AUDIT_WRITE: Self = Self(29);
    pub const SETFCAP: Self = Self(31);
    pub const SYSLOG: Self = Self(34);
    pub const PERFMON: Self = Self(38);
    pub const BPF: Self = Self(39);

    /// From a name with or without `CAP_`, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|(known, _)| *known == bare)?;
        u8::try_from(number).ok().map(Self)
    }
}

/// A set of capabilities, as the kernel's masks write it: bit n is capability n.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapSet(u64);

impl CapSet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// What a container has that asks for nothing (moby's and containerd's fourteen).
    pub const DEFAULT: Self = Self::EMPTY
        .with(Cap::CHOWN)
        .with(Cap::DAC_OVERRIDE)
        .with(Cap::FSETID)
        .with(Cap::FOWNER)
        .with(Cap::MKNOD)
        .with(Cap::NET_RAW)
        .with(Cap::SETGID)
        .with(Cap::SETUID)
        .with(Cap::SETFCAP)
        .with(Cap::SETPCAP)
        .with(Cap::NET_BIND_SERVICE)
        .with(Cap::SYS_CHROOT)
        .with(Cap::KILL)
        .with(Cap::AUDIT_WRITE);

    /// From a mask as /proc/PID/status shows it.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The kernel's mask.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// All up to the kernel's cap_last_cap, as far as they have names here.
    pub fn all_up_to(last: u8) -> Self {
        let count = (usize::from(last) + 1).min(NAMES.len());
        Self((1 << count) - 1)
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, cap: Cap) -> Self {
        Self(self.0 | 1 << cap.0)
    }

    /// Without one.
    #[must_use]
    pub const fn without(self, cap: Cap) -> Self {
        Self(self.0 & !(1 << cap.0))
    }

    /// In either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// In both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it holds `cap`.
    pub const fn has(self, cap: Cap) -> bool {
        self.0 & 1 << cap.0 != 0
    }

    /// Whether it holds none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The OCI words.
    pub fn to_oci(self) -> std::collections::HashSet<Capability> {
        self.numbers().map(|number| NAMES[number].1).collect()
    }

    fn numbers(self) -> impl Iterator<Item = usize> {
        (0..NAMES.len()).filter(move |number| self.0 & 1 << number != 0)
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.numbers().map(|number| NAMES[number].0)).finish()
    }
}

/// A container's sets (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Bounding, permitted and effective.
    pub bounding: CapSet,
    /// Ambient and, as the kernel asks for it, inheritable. Empty unless the request names some, since an inheritable
    /// set would let file capabilities raise what was dropped (CVE-2022-24769).
    pub ambient: CapSet,
}

/// Applies add and drop lists to the default set, or to all for a privileged container, and leaves out what is not in
/// `limit`: capset(2) fails for what our own bounding set lacks, as in nested set-ups.
///
/// `ALL` in add comes first, then `ALL` in drop, then single names, so that `add: [ALL], drop: [CHOWN]` and
/// `drop: [ALL], add: [CHOWN]` mean what they say.
pub(crate) fn grant(asked: &Capabilities, privileged: bool, limit: CapSet) -> Result<Granted, SpecError> {
    let field = |list: &str| format!("linux.security_context.capabilities.{list}");
    let (add_all, add) = parse_list(&asked.add, &field("add_capabilities"))?;
    let (drop_all, drop) = parse_list(&asked.drop, &field("drop_capabilities"))?;
    let (ambient_all, ambient) = parse_list(&asked.add_ambient, &field("add_ambient_capabilities"))?;
    let ambient = if ambient_all { limit } else { ambient };
    if privileged {
        return Ok(Granted { bounding: limit, ambient: ambient.and(limit) });
    }
    let start = match (add_all, drop_all) {
        (_, true) => CapSet::EMPTY,
        (true, false) => limit,
        (false, false) => CapSet::DEFAULT,
    };
    let bounding = CapSet(start.or(add).or(ambient).0 & !drop.0).and(limit);
    Ok(Granted { bounding, ambient: ambient.and(bounding) })
}

/// Whether the request gives a container SYS_PTRACE, by which it may look into all processes of its pid namespace: their
/// memory, their files, the mounts that they see.
pub fn may_trace(asked: &Capabilities, privileged: bool) -> bool {
    let granted = grant(asked, privileged, CapSet::all_up_to(u8::MAX));
    granted.is_ok_and(|granted| granted.bounding.has(Cap::SYS_PTRACE))
}

/// Whether a name stands for all capabilities: `ALL`, with or without `CAP_`, in any case.
pub fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

/// Whether the list holds `ALL`, and the other names in it.
fn parse_list(names: &[String], field: &str) -> Result<(bool, CapSet), SpecError> {
    let (mut all, mut set) = (false, CapSet::EMPTY);
    for name in names {
        if is_all(name) {
            all = true;
        } else {
            let cap = Cap::parse(name).ok_or_else(|| {
                invalid(field, format!("{name:?} is no capability: use a name of capabilities(7) or ALL"))
            })?;
            set = set.with(cap);
        }
    }
    Ok((all, set))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: u8 = 40;

    fn lists(add: &[&str], drop: &[&str], ambient: &[&str]) -> Capabilities {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Capabilities { add: owned(add), drop: owned(drop), add_ambient: owned(ambient) }
    }

    #[test]
    fn who_may_trace() {
        for (add, drop, privileged, expected) in [
            (&[][..], &[][..], false, false),
            (&["CAP_SYS_PTRACE"], &[], false, true),
            (&["ALL"], &[], false, true),
            (&["ALL"], &["SYS_PTRACE"], false, false),
            (&[], &["ALL"], true, true),
        ] {
            assert_eq!(may_trace(&lists(add, drop, &[]), privileged), expected, "{add:?} {drop:?}");
        }
    }

    #[test]
    fn numbers_are_the_kernels() {
        // linux/capability.h: spot checks across the table.
        for (name, number) in [
            ("CAP_CHOWN", 0),
            ("setpcap", 8),
            ("SYS_ADMIN", 21),
            ("CAP_SYS_RESOURCE", 24),
            ("AUDIT_WRITE", 29),
            ("SYSLOG", 34),
            ("CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(Cap::parse(name), Some(Cap(number)), "{name}");
        }
        for (name, word) in NAMES {
            assert_eq!(serde_json::to_value(word).unwrap(), format!("CAP_{name}"));
        }
        assert_eq!(Cap::BPF, Cap::parse("BPF").unwrap());
        assert_eq!(Cap::PERFMON, Cap::parse("PERFMON").unwrap());
        assert_eq!(CapSet::DEFAULT.numbers().count(), 14);
        assert_eq!(CapSet::DEFAULT.bits(), 0xa804_25fb, "docker's well known CapBnd");
    }

    #[test]
    fn add_and_drop() {
        let limit = CapSet::all_up_to(ALL);
        let default = CapSet::DEFAULT;
        let chown = CapSet::EMPTY.with(Cap::CHOWN);
        let table: &[(&[&str], &[&str], CapSet)] = &[
            (&[], &[], default),
            (&["SYS_ADMIN"], &[], default.with(Cap::SYS_ADMIN)),
            (&[], &["CAP_CHOWN"], default.without(Cap::CHOWN)),
            (&["ALL"], &["CHOWN"], limit.without(Cap::CHOWN)),
            (&["chown"], &["ALL"], chown),
            (&["ALL"], &["ALL"], CapSet::EMPTY),
            (&["SYS_ADMIN"], &["SYS_ADMIN"], default),
        ];
        for (add, drop, expected) in table {
            let granted = grant(&lists(add, drop, &[]), false, limit).unwrap();
            assert_eq!(granted.bounding, *expected, "add {add:?} drop {drop:?}");
            assert!(granted.ambient.is_empty());
        }
    }

    #[test]
    fn our_own_bounding_set_is_the_limit() {
        let limit = CapSet::all_up_to(ALL).without(Cap::SYS_RESOURCE);
        assert!(
            !grant(&lists(&["SYS_RESOURCE"], &[], &[]), false, limit)
                .unwrap()
                .bounding
                .has(Cap::SYS_RESOURCE)
        );
        assert_eq!(grant(&lists(&[], &["ALL"], &[]), true, limit).unwrap().bounding, limit);
        assert_eq!(grant(&lists(&["ALL"], &[], &[]), false, limit).unwrap().bounding, limit);
    }

    #[test]
    fn ambient_is_only_what_was_named_and_not_dropped() {
        let limit = CapSet::all_up_to(ALL);
        let granted =
            grant(&lists(&[], &["KILL"], &["NET_BIND_SERVICE", "KILL", "SYS_TIME"]), false, limit).unwrap();
        assert_eq!(granted.ambient, CapSet::EMPTY.with(Cap::NET_BIND_SERVICE).with(Cap::SYS_TIME));
        assert!(granted.bounding.has(Cap::SYS_TIME) && !granted.bounding.has(Cap::KILL));
    }

    #[test]
    fn an_unknown_name_is_refused_by_its_field() {
        let error = grant(&lists(&[], &["SYS_ROOT"], &[]), false, CapSet::DEFAULT).unwrap_err().to_string();
        assert!(error.contains("drop_capabilities") && error.contains("SYS_ROOT"), "{error}");
    }
}
