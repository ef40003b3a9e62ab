//! The order in which a filter looks for a call changes nothing but its speed: both orders are run, instruction by
//! instruction, for every call.

use super::*;
use crate::{caps::CapSet, seccomp::default};

/// One call after the other, libseccomp's default.
const LINEAR: u32 = 1;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;

/// Runs classic BPF over a `struct seccomp_data`, for the instructions that libseccomp and we write.
fn run(program: &[u8], data: &[u8; 64]) -> u32 {
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    loop {
        let one = &program[at * 8..at * 8 + 8];
        let (code, jump_true, jump_false) = (u16::from_ne_bytes([one[0], one[1]]), one[2], one[3]);
        let value = word(&one[4..]);
        at += 1;
        let mut jump = |taken: bool| at += usize::from(if taken { jump_true } else { jump_false });
        match code {
            0x20 => accumulator = word(&data[value as usize..value as usize + 4]),
            0x54 => accumulator &= value,
            0x05 => at += value as usize,
            0x15 => jump(accumulator == value),
            0x25 => jump(accumulator > value),
            0x35 => jump(accumulator >= value),
            0x45 => jump(accumulator & value != 0),
            0x06 => return value,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn data(arch: u32, number: u32, args: [u64; 2]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    data[16..24].copy_from_slice(&args[0].to_ne_bytes());
    data[24..32].copy_from_slice(&args[1].to_ne_bytes());
    data
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_tree_answers_as_a_list_does() {
    let all = CapSet::all_up_to(40);
    for caps in [CapSet::EMPTY, CapSet::DEFAULT, all] {
        let profile = default::profile(caps);
        let (tree, _) = compile(&profile).unwrap();
        let (list, _) = compile_ordered(&profile, LINEAR).unwrap();
        let (mut allowed, mut refused) = (0, 0);
        for arch in [AUDIT_ARCH_X86_64, AUDIT_ARCH_I386, 1] {
            for number in (0..1024).chain((0..1024).map(|number| number | 0x4000_0000)) {
                // Families of sockets, flags of clone, values of personality.
                for args in
                    [[0, 0], [2, 1], [16, 3], [38, 5], [40, 1], [0x7c02_0000, 0], [0xffff_ffff, 0], [8, 8]]
                {
                    let data = data(arch, number, args);
                    let answer = run(&tree, &data);
                    assert_eq!(answer, run(&list, &data), "call {number:#x} of {arch:#x} with {args:x?}");
                    if answer == 0x7fff_0000 { allowed += 1 } else { refused += 1 }
                }
            }
        }
        assert!(allowed > 4000 && refused > 4000, "{allowed} {refused}");
    }
}

/// Recorded profiles say things twice, unknown things, and nothing at all; what they say first about a call stands.
#[test]
#[cfg(target_arch = "x86_64")]
fn profiles_as_they_are_found_become_programs() {
    let compiled = |rules: &str| {
        let text = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rules}]}}"#);
        let profile = crate::seccomp::profile::parse(text.as_bytes(), CapSet::EMPTY, (6, 1)).unwrap();
        compile(&profile).unwrap_or_else(|error| panic!("{rules}: {error:?}")).0
    };
    let rule = |names: &str, errno: u32| {
        format!(r#"{{"names":{names},"action":"SCMP_ACT_ERRNO","errnoRet":{errno}}}"#)
    };
    let mkdir = u32::try_from(libc::SYS_mkdir).unwrap();
    let answer = |program: &[u8]| run(program, &data(AUDIT_ARCH_X86_64, mkdir, [0, 0]));
    let (allowed, refused) = (0x7fff_0000, 0x0005_0000 | 7);
    for (rules, expected) in [
        (rule("[]", 7), allowed),
        (rule(r#"["no_such_call_at_all"]"#, 7), allowed),
        (rule(r#"["mkdir","mkdir","no_such_call_at_all"]"#, 7), refused),
        ([rule(r#"["mkdir"]"#, 7), rule(r#"["mkdir"]"#, 7)].join(","), refused),
        ([rule("[]", 1), rule(r#"["mkdir"]"#, 7), rule("[]", 2)].join(","), refused),
    ] {
        assert_eq!(answer(&compiled(&rules)), expected, "{rules}");
    }
}
