//! From a profile to BPF, by libseccomp.
//!
//! What libseccomp does not do stands in front of its program, as in runc: a call with a number above all that the
//! profile's author can have known is answered ENOSYS rather than with the default action, because a C library tries
//! new calls first and falls back on ENOSYS alone. Calls that are newer than the libseccomp that we are linked with,
//! but known here by number, keep the profile's answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek},
};

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use super::{
    bpf::{self, ArchLimit, Newer},
    profile::{Action, Arch, Arg, Op, Profile, Rule},
};

/// `SECCOMP_FILTER_FLAG_LOG` (linux/seccomp.h).
const FLAG_LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// The kernel's BPF_MAXINSNS.
const MAX_INSTRUCTIONS: usize = 4096;

/// Calls are found by halving and not one after the other. The kernel tries every call when a filter is loaded
/// (seccomp_cache_prepare), which happens at each start and each exec.
const BINARY_TREE: u32 = 2;

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// libseccomp refused.
    #[error("{step}")]
    Library {
        /// What it was asked.
        step: String,
        /// What it said.
        #[source]
        source: libseccomp::error::SeccompError,
    },
    /// An argument index beyond 5.
    #[error("rule for {name}: there is no argument {index}: use 0 to 5")]
    ArgumentIndex {
        /// The call.
        name: String,
        /// The index.
        index: u32,
    },
    /// An errno that no program would see as such.
    #[error("rule for {name}: errnoRet {errno} is above 4095")]
    Errno {
        /// The call, or `defaultAction`.
        name: String,
        /// The number.
        errno: u32,
    },
    /// A flag that is not supported.
    #[error("flag {0:?} is not supported: use SECCOMP_FILTER_FLAG_LOG, _SPEC_ALLOW or _TSYNC")]
    Flag(String),
    /// The program is larger than the kernel takes.
    #[error("it becomes {0} instructions, and the kernel takes {MAX_INSTRUCTIONS}: simplify it")]
    TooLong(usize),
    /// The program could not be read back.
    #[error("read the compiled program")]
    Read(#[source] std::io::Error),
}

/// Compiles `profile`: an array of `struct sock_filter` and the flags for seccomp(2).
pub fn compile(profile: &Profile) -> Result<(Vec<u8>, u32), CompileError> {
    compile_ordered(profile, BINARY_TREE)
}

fn compile_ordered(profile: &Profile, order: u32) -> Result<(Vec<u8>, u32), CompileError> {
    let default = action("defaultAction", profile.default_action, profile.default_errno)?;
    let library = |step: &str| {
        let step = step.to_owned();
        move |source| CompileError::Library { step, source }
    };
    let mut filter = ScmpFilterContext::new(default).map_err(library("new filter"))?;
    filter.set_ctl_optimize(order).map_err(library("order calls as a tree"))?;
    let architectures = add_architectures(&mut filter, &profile.architectures)?;

    let mut known = Known::default();
    for rule in &profile.rules {
        let action = action(rule.names.first().map_or("", String::as_str), rule.action, rule.errno)?;
        for name in &rule.names {
            known.note(name, rule, action, &architectures);
            // libseccomp refuses a rule that says what the default says.
            if action != default {
                add_rule(&mut filter, name, action, &rule.args)?;
            }
        }
    }

    let program = export(&filter)?;
    let program = match profile.default_action {
        // A permissive default has to stay one for new calls, and a tracer answers for itself.
        Action::Allow | Action::Log | Action::Trace => program,
        _ if profile.default_errno == Some(libc::ENOSYS as u32) => program,
        _ => bpf::prefix(&known.limits(&architectures), &known.newer(), &program),
    };
    let count = program.len() / bpf::INSTRUCTION_SIZE;
    if count > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong(count));
    }
    Ok((program, flags(profile.flags.as_deref())?))
}

/// What the profile's author knew.
#[derive(Default)]
struct Known {
    /// Highest number per architecture.
    highest: BTreeMap<Arch, u32>,
    /// Calls that libseccomp cannot name: number and answer.
    newer: BTreeMap<u32, u32>,
}

impl Known {
    fn note(&mut self, name: &str, rule: &Rule, action: ScmpAction, architectures: &BTreeSet<Arch>) {
        for arch in architectures {
            let Ok(call) = ScmpSyscall::from_name_by_arch(name, library_arch(*arch)) else { continue };
            // Negative: libseccomp's stand-in for a call that the architecture does not have.
            let number = u32::try_from(call.as_raw_syscall()).unwrap_or(0);
            let highest = self.highest.entry(*arch).or_default();
            *highest = (*highest).max(number);
        }
        if rule.args.is_empty()
            && ScmpSyscall::from_name(name).is_err()
            && let Some(number) = bpf::newer_number(name)
        {
            self.newer.insert(number, bpf::return_value(action));
        }
    }

    fn limits(&self, architectures: &BTreeSet<Arch>) -> Vec<ArchLimit> {
        let limit =
            |arch: &Arch| ArchLimit { arch: *arch, highest: self.highest.get(arch).copied().unwrap_or(0) };
        architectures.iter().map(limit).collect()
    }

    fn newer(&self) -> Vec<Newer> {
        self.newer.iter().map(|(number, value)| Newer { number: *number, value: *value }).collect()
    }
}

fn add_architectures(
    filter: &mut ScmpFilterContext,
    wanted: &[Arch],
) -> Result<BTreeSet<Arch>, CompileError> {
    let mut all: BTreeSet<Arch> = wanted.iter().copied().filter(|arch| *arch != Arch::Foreign).collect();
    all.insert(Arch::native());
    for arch in &all {
        filter
            .add_arch(library_arch(*arch))
            .map_err(|source| CompileError::Library { step: format!("add architecture {arch:?}"), source })?;
    }
    Ok(all)
}

fn add_rule(
    filter: &mut ScmpFilterContext,
    name: &str,
    action: ScmpAction,
    args: &[Arg],
) -> Result<(), CompileError> {
    // A name that this libseccomp does not know is of another architecture or newer: no program can make the call
    // under it, and the default answers. Every runtime does so, or profiles would be bound to versions.
    let Ok(call) = ScmpSyscall::from_name(name) else { return Ok(()) };
    if let Some(arg) = args.iter().find(|arg| arg.index > 5) {
        return Err(CompileError::ArgumentIndex { name: name.to_owned(), index: arg.index });
    }
    let failed = |source| CompileError::Library { step: format!("rule for {name}"), source };
    if args.is_empty() {
        return filter.add_rule(action, call).map(drop).map_err(failed);
    }
    let conditions: Vec<ScmpArgCompare> = args.iter().map(condition).collect();
    let distinct: BTreeSet<u32> = args.iter().map(|arg| arg.index).collect();
    if distinct.len() == args.len() {
        return filter.add_rule_conditional(action, call, &conditions).map(drop).map_err(failed);
    }
    for condition in conditions {
        filter.add_rule_conditional(action, call, &[condition]).map_err(failed)?;
    }
    Ok(())
}

fn condition(arg: &Arg) -> ScmpArgCompare {
    let (op, datum) = match arg.op {
        Op::NotEqual => (ScmpCompareOp::NotEqual, arg.value),
        Op::LessThan => (ScmpCompareOp::Less, arg.value),
        Op::LessEqual => (ScmpCompareOp::LessOrEqual, arg.value),
        Op::EqualTo => (ScmpCompareOp::Equal, arg.value),
        Op::GreaterEqual => (ScmpCompareOp::GreaterEqual, arg.value),
        Op::GreaterThan => (ScmpCompareOp::Greater, arg.value),
        Op::MaskedEqual => (ScmpCompareOp::MaskedEqual(arg.value), arg.value_two),
    };
    ScmpArgCompare::new(arg.index, op, datum)
}

fn action(name: &str, action: Action, errno: Option<u32>) -> Result<ScmpAction, CompileError> {
    let number = errno.unwrap_or(libc::EPERM as u32);
    let number = u16::try_from(number)
        .ok()
        .filter(|number| *number <= 4095)
        .ok_or_else(|| CompileError::Errno { name: name.to_owned(), errno: number })?;
    Ok(match action {
        Action::KillThread => ScmpAction::KillThread,
        Action::KillProcess => ScmpAction::KillProcess,
        Action::Trap => ScmpAction::Trap,
        Action::Errno => ScmpAction::Errno(number.into()),
        Action::Trace => ScmpAction::Trace(number),
        Action::Log => ScmpAction::Log,
        Action::Allow => ScmpAction::Allow,
        Action::Notify => ScmpAction::Notify,
    })
}

fn flags(names: Option<&[String]>) -> Result<u32, CompileError> {
    // Not said: no mitigation against speculative store bypass is switched on by the filter, as runc has it.
    let Some(names) = names else { return Ok(FLAG_SPEC_ALLOW) };
    names.iter().try_fold(0, |flags, name| match name.as_str() {
        "SECCOMP_FILTER_FLAG_LOG" => Ok(flags | FLAG_LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(flags | FLAG_SPEC_ALLOW),
        // The program is loaded by a process with one thread.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(flags),
        other => Err(CompileError::Flag(other.to_owned())),
    })
}

/// libseccomp 2.5 writes a program only to a descriptor.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, CompileError> {
    let memory = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|errno| CompileError::Read(errno.into()))?;
    let mut file = File::from(memory);
    filter
        .export_bpf(&file)
        .map_err(|source| CompileError::Library { step: "compile".to_owned(), source })?;
    let mut program = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut program)).map_err(CompileError::Read)?;
    Ok(program)
}

fn library_arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::X86 => ScmpArch::X86,
        Arch::X8664 => ScmpArch::X8664,
        Arch::X32 => ScmpArch::X32,
        Arch::Arm => ScmpArch::Arm,
        Arch::Aarch64 => ScmpArch::Aarch64,
        Arch::Riscv64 => ScmpArch::Riscv64,
        Arch::Ppc64Le => ScmpArch::Ppc64Le,
        Arch::S390 => ScmpArch::S390,
        Arch::S390X => ScmpArch::S390X,
        Arch::Loongarch64 => ScmpArch::Loongarch64,
        Arch::Foreign => ScmpArch::Native,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "compile_tests.rs"]
mod tests;
