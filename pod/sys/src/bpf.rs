//! cgroup device programs by bpf(2): the device filter of cgroup v2.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
/// More instructions than a device list of any size that makes sense; the kernel's own limit is a million.
const MAX_INSTRUCTIONS: usize = 65_536;

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    registers: u8,
    /// Jump distance or memory offset.
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
}

impl Insn {
    /// One instruction; registers are numbered 0 to 10.
    pub const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        let registers = if cfg!(target_endian = "little") {
            (source & 0xf) << 4 | (destination & 0xf)
        } else {
            (destination & 0xf) << 4 | (source & 0xf)
        };
        Self { code, registers, offset, immediate }
    }

    /// Number of the destination register.
    pub const fn destination(&self) -> u8 {
        if cfg!(target_endian = "little") { self.registers & 0xf } else { self.registers >> 4 }
    }

    /// Number of the source register.
    pub const fn source(&self) -> u8 {
        if cfg!(target_endian = "little") { self.registers >> 4 } else { self.registers & 0xf }
    }
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads (Linux 4.15 and later).
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_ATTACH reads.
#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE; the verifier refuses a wrong one with EINVAL or EACCES.
pub fn load_cgroup_device(program: &[Insn]) -> io::Result<OwnedFd> {
    if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let license = c"Apache-2.0";
    let mut name = [0; 16];
    name[..15].copy_from_slice(b"holdfast_device");
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name: name,
        expected_attach_type: BPF_CGROUP_DEVICE,
        ..LoadAttr::default()
    };
    // SAFETY: `attr` is a zero-initialised prefix of bpf_attr of the size that is passed; `insns` points to `insn_cnt`
    // instructions and `license` to a NUL-terminated text, both of which outlive the call; the kernel only reads.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<LoadAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns. The kernel opens it O_CLOEXEC.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a device program to a cgroup v2 directory, beside those that are there: all have to allow an access.
///
/// It stays until the group is removed. EPERM: an ancestor has an exclusive program.
pub fn attach_cgroup_device(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let attr = AttachAttr {
        target_fd: cgroup.as_fd().as_raw_fd() as u32,
        attach_bpf_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attr` is a prefix of bpf_attr of the size that is passed and outlives the call; both descriptors are
    // borrowed, hence open; the kernel only reads.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attr, size_of::<AttachAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_the_kernels_layout() {
        assert_eq!((size_of::<Insn>(), size_of::<LoadAttr>(), size_of::<AttachAttr>()), (8, 72, 16));
        let insn = Insn::new(0xb7, 3, 5, -1, 7);
        assert_eq!((insn.destination(), insn.source()), (3, 5));
    }

    #[test]
    fn the_verifier_takes_a_program_and_refuses_a_wrong_one() {
        let allow = [Insn::new(0xb7, 0, 0, 0, 1), Insn::new(0x95, 0, 0, 0, 0)];
        match load_cgroup_device(&allow) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                return eprintln!("SKIP: bpf(2): {error}");
            }
            loaded => drop(loaded.unwrap()),
        }
        let endless = [Insn::new(0xb7, 0, 0, 0, 1)];
        assert!(load_cgroup_device(&endless).is_err());
        assert_eq!(load_cgroup_device(&[]).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    }
}
