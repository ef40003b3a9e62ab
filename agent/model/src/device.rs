//! Which devices a container may use: what the spec builder decides and the cgroup enforces.

use serde::{Deserialize, Serialize};

/// Type of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// Both.
    Any,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// Devices that a container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Type.
    pub kind: DeviceKind,
    /// Major number; `None`: any.
    pub major: Option<u32>,
    /// Minor number; `None`: any.
    pub minor: Option<u32>,
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// mknod(2).
    pub mknod: bool,
}

impl DeviceRule {
    /// Every device: a privileged container.
    pub const ALL: Self =
        Self { kind: DeviceKind::Any, major: None, minor: None, read: true, write: true, mknod: true };

    /// One device, all access.
    pub const fn device(kind: DeviceKind, major: u32, minor: u32) -> Self {
        Self { kind, major: Some(major), minor: Some(minor), ..Self::ALL }
    }

    /// What every container may use (runc's default list): any mknod, null, zero, full, random, urandom, tty, ptmx, pts.
    pub fn defaults() -> Vec<Self> {
        let mknod = |kind| Self { kind, read: false, write: false, ..Self::ALL };
        let char = |major, minor| Self::device(DeviceKind::Char, major, minor);
        let mut rules = vec![mknod(DeviceKind::Char), mknod(DeviceKind::Block)];
        rules.extend([(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)].map(|(a, b)| char(a, b)));
        rules.push(Self { minor: None, ..char(136, 0) });
        rules
    }

    /// `r`, `w` and `m`, as the OCI spec and v1's devices.allow write them.
    pub fn permissions(&self) -> String {
        let letter = |set, letter| if set { letter } else { "" };
        [letter(self.read, "r"), letter(self.write, "w"), letter(self.mknod, "m")].concat()
    }
}
