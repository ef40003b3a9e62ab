//! Which devices a container may use: v1 `devices.allow` lines, v2 an eBPF program.
//!
//! cgroups-rs has no program for v2. A list of rules says what is allowed, all else is not; an empty list sets nothing.

use std::os::fd::AsFd;

use holdfast_model::{DeviceKind, DeviceRule};
use holdfast_sys::bpf::{self, Insn};

use crate::{Error, files::GroupDir};

/// Most rules: the program of one rule has at most six instructions.
const MAX_RULES: usize = 4096;
/// The kernel's dev_t has 12 bits of major and 20 of minor number.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// What the kernel's and systemd's files make of a rule.
pub(crate) trait Written {
    /// Refuses numbers that the kernel's dev_t cannot hold.
    fn check(&self) -> Result<(), Error>;
    /// A line of v1's devices.allow.
    fn line(&self) -> String;
    /// systemd's DeviceAllow= specifier; a major number alone goes by its driver's name in /proc/devices.
    fn systemd_name(&self, proc_devices: &str) -> Option<String>;
    /// Whether it allows nothing.
    fn is_nothing(&self) -> bool;
}

impl Written for DeviceRule {
    fn check(&self) -> Result<(), Error> {
        for (field, number, most) in
            [("device major", self.major, MAX_MAJOR), ("device minor", self.minor, MAX_MINOR)]
        {
            if let Some(number) = number.filter(|number| *number > most) {
                return Err(Error::invalid(field, number, format!("is above {most}")));
            }
        }
        Ok(())
    }

    fn line(&self) -> String {
        let kind = match self.kind {
            DeviceKind::Any => "a",
            DeviceKind::Char => "c",
            DeviceKind::Block => "b",
        };
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.permissions())
    }

    fn systemd_name(&self, proc_devices: &str) -> Option<String> {
        let (class, heading) = match self.kind {
            DeviceKind::Any => return None,
            DeviceKind::Char => ("char", "Character devices:"),
            DeviceKind::Block => ("block", "Block devices:"),
        };
        match (self.major, self.minor) {
            (None, None) => Some(format!("{class}-*")),
            (Some(major), Some(minor)) => Some(format!("/dev/{class}/{major}:{minor}")),
            (Some(major), None) => {
                let list = proc_devices.split(heading).nth(1)?.lines().skip(1);
                let mut words = list.take_while(|line| !line.is_empty()).map(str::split_ascii_whitespace);
                words.find_map(|mut words| {
                    let number: u32 = words.next()?.parse().ok()?;
                    words.next().filter(|_| number == major).map(|name| format!("{class}-{name}"))
                })
            }
            (None, Some(_)) => None,
        }
    }

    fn is_nothing(&self) -> bool {
        !self.read && !self.write && !self.mknod
    }
}

/// Whether nothing has to be restricted.
fn is_open(rules: &[DeviceRule]) -> bool {
    rules.is_empty() || rules.contains(&DeviceRule::ALL)
}

/// Checks what the kernel could not express.
pub(crate) fn check(rules: &[DeviceRule]) -> Result<(), Error> {
    if rules.len() > MAX_RULES {
        return Err(Error::invalid("devices", rules.len(), format!("are more than {MAX_RULES} rules")));
    }
    rules.iter().try_for_each(DeviceRule::check)
}

/// v1: deny all, then allow. The group has to be without processes or children.
pub(crate) fn apply_v1(dir: &GroupDir, rules: &[DeviceRule]) -> Result<(), Error> {
    if is_open(rules) {
        return Ok(());
    }
    dir.write("devices.deny", "a")?;
    rules.iter().filter(|rule| !rule.is_nothing()).try_for_each(|rule| {
        // Type `a` is all or nothing to v1 ("a 1:3 r" is read as "a").
        let kinds: &[_] =
            if rule.kind == DeviceKind::Any { &[DeviceKind::Char, DeviceKind::Block] } else { &[rule.kind] };
        kinds
            .iter()
            .try_for_each(|kind| dir.write("devices.allow", DeviceRule { kind: *kind, ..*rule }.line()))
    })
}

/// v2: loads and attaches the filter.
pub(crate) fn apply_v2(dir: &GroupDir, rules: &[DeviceRule]) -> Result<(), Error> {
    if is_open(rules) {
        return Ok(());
    }
    let program = bpf::load_cgroup_device(&program(rules))
        .map_err(|source| Error::io("load the device filter of", &dir.path, source))?;
    bpf::attach_cgroup_device(dir.fd.as_fd(), program.as_fd())
        .map_err(|source| Error::io("attach the device filter to", &dir.path, source))
}

// linux/bpf_common.h, linux/bpf.h
const LDX_W: u8 = 0x61;
const MOV64_IMM: u8 = 0xb7;
const MOV32_REG: u8 = 0xbc;
const AND32_IMM: u8 = 0x54;
const RSH32_IMM: u8 = 0x74;
const JNE_IMM: u8 = 0x55;
const JNE_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;

/// The filter. The context (`struct bpf_cgroup_dev_ctx`) holds `access << 16 | type`, major and minor; the registers
/// r2 to r5 take type, access, major and minor.
fn program(rules: &[DeviceRule]) -> Vec<Insn> {
    let mut code = vec![
        Insn::new(LDX_W, 2, 1, 0, 0),
        Insn::new(MOV32_REG, 3, 2, 0, 0),
        Insn::new(AND32_IMM, 2, 0, 0, 0xffff),
        Insn::new(RSH32_IMM, 3, 0, 0, 16),
        Insn::new(LDX_W, 4, 1, 4, 0),
        Insn::new(LDX_W, 5, 1, 8, 0),
    ];
    for rule in rules.iter().filter(|rule| !rule.is_nothing()) {
        code.extend(rule_code(rule));
    }
    code.extend([Insn::new(MOV64_IMM, 0, 0, 0, 0), Insn::new(EXIT, 0, 0, 0, 0)]);
    code
}

/// Tests that jump behind the rule when they fail, and a return of 1.
fn rule_code(rule: &DeviceRule) -> Vec<Insn> {
    let mut tests: Vec<Vec<Insn>> = Vec::new();
    let unequal = |register, value| vec![Insn::new(JNE_IMM, register, 0, 0, value)];
    match rule.kind {
        DeviceKind::Any => {}
        DeviceKind::Char => tests.push(unequal(2, TYPE_CHAR)),
        DeviceKind::Block => tests.push(unequal(2, TYPE_BLOCK)),
    }
    let bit = |set, bit| if set { bit } else { 0 };
    let access = bit(rule.read, ACCESS_READ) | bit(rule.write, ACCESS_WRITE) | bit(rule.mknod, ACCESS_MKNOD);
    if access != ACCESS_ALL {
        // All that is wanted has to be within what is allowed: wanted & allowed == wanted.
        tests.push(vec![
            Insn::new(MOV32_REG, 1, 3, 0, 0),
            Insn::new(AND32_IMM, 1, 0, 0, access),
            Insn::new(JNE_REG, 1, 3, 0, 0),
        ]);
    }
    tests.extend(rule.major.map(|major| unequal(4, major as i32)));
    tests.extend(rule.minor.map(|minor| unequal(5, minor as i32)));
    let mut code: Vec<Insn> = tests.into_iter().flatten().collect();
    code.extend([Insn::new(MOV64_IMM, 0, 0, 0, 1), Insn::new(EXIT, 0, 0, 0, 0)]);
    let length = code.len();
    for (index, insn) in code.iter_mut().enumerate() {
        if matches!(insn.code, JNE_IMM | JNE_REG) {
            insn.offset = (length - index - 1) as i16;
        }
    }
    code
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "devices_tests.rs"]
mod tests;
