//! The instructions that stand in front of libseccomp's program (classic BPF, linux/filter.h).

use libseccomp::ScmpAction;

use super::profile::Arch;

/// Size of `struct sock_filter`.
pub const INSTRUCTION_SIZE: usize = 8;

/// Load the word at an offset of `struct seccomp_data`.
const LOAD_WORD: u16 = 0x20;
const JUMP_ALWAYS: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// What marks a call as x32's.
const X32_BIT: u32 = 0x4000_0000;
/// `SECCOMP_RET_ERRNO`.
const RETURN_ERRNO: u32 = 0x0005_0000;

/// Calls since libseccomp 2.5.4, by their numbers, which are the same on every architecture.
const NEWER: &[(&str, u32)] = &[
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
];

/// The number of a call that an older libseccomp does not know.
pub fn newer_number(name: &str) -> Option<u32> {
    NEWER.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// The highest call that a profile names for an architecture.
pub struct ArchLimit {
    /// Which.
    pub arch: Arch,
    /// Its number, with x32's bit where it is x32's.
    pub highest: u32,
}

/// A call that libseccomp could not compile, and what the filter returns for it.
pub struct Newer {
    /// Number.
    pub number: u32,
    /// `SECCOMP_RET_*`.
    pub value: u32,
}

/// What a filter returns for an action (linux/seccomp.h).
pub fn return_value(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(errno) => RETURN_ERRNO | (errno as u32 & 0xffff),
        ScmpAction::Notify => 0x7fc0_0000,
        ScmpAction::Trace(data) => 0x7ff0_0000 | u32::from(data),
        ScmpAction::Log => 0x7ffc_0000,
        ScmpAction::Allow => 0x7fff_0000,
        // KillThread, and whatever a later libseccomp adds.
        _ => 0,
    }
}

/// `program` behind instructions that answer calls above `limits`: `newer` as they say, the others ENOSYS.
pub fn prefix(limits: &[ArchLimit], newer: &[Newer], program: &[u8]) -> Vec<u8> {
    let mut blocks: Vec<(u32, Vec<Instruction>)> = Vec::new();
    for arch in limits.iter().filter(|limit| limit.arch != Arch::X32) {
        let x32 = limits.iter().find(|limit| arch.arch == Arch::X8664 && limit.arch == Arch::X32);
        let block = match x32 {
            Some(x32) => two_ranges(arch.highest, x32.highest, newer),
            None => above(arch.highest, 0, newer),
        };
        blocks.push((token(arch.arch), block));
    }

    let mut all = vec![Instruction::plain(LOAD_WORD, ARCHITECTURE)];
    let mut behind: usize = blocks.iter().map(|(_, block)| block.len() + 3).sum();
    for (token, block) in blocks {
        // compare, load, block, jump to libseccomp's program
        behind -= block.len() + 3;
        all.push(Instruction::jump(JUMP_IF_EQUAL, token, 0, block.len() + 2));
        all.push(Instruction::plain(LOAD_WORD, NUMBER));
        all.extend(block);
        all.push(Instruction::plain(JUMP_ALWAYS, behind as u32));
    }
    let mut bytes: Vec<u8> = all.iter().flat_map(|instruction| instruction.bytes()).collect();
    bytes.extend_from_slice(program);
    bytes
}

/// x86_64 and x32 share their token and differ in a bit of the number.
fn two_ranges(native: u32, x32: u32, newer: &[Newer]) -> Vec<Instruction> {
    let first = above(native, 0, newer);
    let second = above(x32, X32_BIT, newer);
    let mut block = vec![Instruction::jump(JUMP_IF_NOT_LESS, X32_BIT, first.len() + 1, 0)];
    block.extend(first);
    block.push(Instruction::plain(JUMP_ALWAYS, second.len() as u32));
    block.extend(second);
    block
}

/// Returns for numbers above `highest`, falls through for others.
fn above(highest: u32, bit: u32, newer: &[Newer]) -> Vec<Instruction> {
    let mut answers = Vec::with_capacity(newer.len() * 2 + 1);
    for call in newer.iter().filter(|call| call.number | bit > highest) {
        answers.push(Instruction::jump(JUMP_IF_EQUAL, call.number | bit, 0, 1));
        answers.push(Instruction::plain(RETURN, call.value));
    }
    answers.push(Instruction::plain(RETURN, RETURN_ERRNO | libc::ENOSYS as u32));
    let mut block = vec![Instruction::jump(JUMP_IF_GREATER, highest, 0, answers.len())];
    block.extend(answers);
    block
}

/// `AUDIT_ARCH_*` (linux/audit.h): the ELF machine, 64-bit and little-endian as flags.
fn token(arch: Arch) -> u32 {
    const LE: u32 = 0x4000_0000;
    const BITS_64: u32 = 0x8000_0000;
    match arch {
        Arch::X86 => 0x03 | LE,
        Arch::X8664 | Arch::X32 => 0x3e | BITS_64 | LE,
        Arch::Arm => 0x28 | LE,
        Arch::Aarch64 => 0xb7 | BITS_64 | LE,
        Arch::Riscv64 => 0xf3 | BITS_64 | LE,
        Arch::Ppc64Le => 0x15 | BITS_64 | LE,
        Arch::S390 => 0x16,
        Arch::S390X => 0x16 | BITS_64,
        Arch::Loongarch64 => 0x102 | BITS_64 | LE,
        Arch::Foreign => 0,
    }
}

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

impl Instruction {
    fn plain(code: u16, value: u32) -> Self {
        Self { code, jump_true: 0, jump_false: 0, value }
    }

    /// The distances are at most twice [`NEWER`] and a little more, far below 255.
    fn jump(code: u16, value: u32, jump_true: usize, jump_false: usize) -> Self {
        debug_assert!(jump_true <= 255 && jump_false <= 255);
        Self { code, jump_true: jump_true as u8, jump_false: jump_false as u8, value }
    }

    fn bytes(self) -> [u8; INSTRUCTION_SIZE] {
        let mut bytes = [0; INSTRUCTION_SIZE];
        bytes[..2].copy_from_slice(&self.code.to_ne_bytes());
        bytes[2] = self.jump_true;
        bytes[3] = self.jump_false;
        bytes[4..].copy_from_slice(&self.value.to_ne_bytes());
        bytes
    }
}
