//! Tests of device rules. The programs run in a small interpreter and go through the kernel's verifier.

use super::*;

/// Runs a filter as the kernel would, for the instructions that it may contain.
fn allows(code: &[Insn], kind: i32, access: i32, major: u32, minor: u32) -> bool {
    let context = [(access << 16 | kind) as u32, major, minor];
    let mut registers = [0_u64; 11];
    let mut at = 0;
    loop {
        let insn = code[at];
        let (to, from) = (insn.destination() as usize, insn.source() as usize);
        at += 1;
        match insn.code {
            LDX_W => registers[to] = u64::from(context[insn.offset as usize / 4]),
            MOV64_IMM => registers[to] = insn.immediate as u64,
            MOV32_REG => registers[to] = u64::from(registers[from] as u32),
            AND32_IMM => registers[to] = u64::from(registers[to] as u32 & insn.immediate as u32),
            RSH32_IMM => registers[to] = u64::from(registers[to] as u32 >> insn.immediate),
            JNE_IMM if registers[to] != insn.immediate as u64 => at += insn.offset as usize,
            JNE_REG if registers[to] != registers[from] => at += insn.offset as usize,
            JNE_IMM | JNE_REG => {}
            EXIT => return registers[0] != 0,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[test]
fn the_default_filter_allows_what_runcs_does() {
    let code = program(&DeviceRule::defaults());
    for (kind, access, major, minor, expected) in [
        (TYPE_CHAR, ACCESS_READ | ACCESS_WRITE, 1, 3, true),
        (TYPE_CHAR, ACCESS_READ, 1, 9, true),
        (TYPE_CHAR, ACCESS_ALL, 136, 77, true),
        (TYPE_CHAR, ACCESS_READ, 1, 1, false),
        (TYPE_CHAR, ACCESS_READ, 10, 200, false),
        (TYPE_BLOCK, ACCESS_READ, 1, 3, false),
        (TYPE_BLOCK, ACCESS_MKNOD, 8, 0, true),
        (TYPE_CHAR, ACCESS_MKNOD, 10, 229, true),
        (TYPE_CHAR, ACCESS_MKNOD | ACCESS_READ, 10, 229, false),
    ] {
        assert_eq!(allows(&code, kind, access, major, minor), expected, "{kind} {access} {major}:{minor}");
    }
}

#[test]
fn partial_access_and_wildcards() {
    let rule = DeviceRule { write: false, mknod: false, ..DeviceRule::device(DeviceKind::Block, 8, 1) };
    let any = DeviceRule { kind: DeviceKind::Any, minor: None, ..DeviceRule::device(DeviceKind::Any, 10, 0) };
    let code = program(&[rule, any]);
    assert!(allows(&code, TYPE_BLOCK, ACCESS_READ, 8, 1));
    assert!(!allows(&code, TYPE_BLOCK, ACCESS_READ | ACCESS_WRITE, 8, 1));
    assert!(!allows(&code, TYPE_CHAR, ACCESS_READ, 8, 1));
    assert!(allows(&code, TYPE_CHAR, ACCESS_ALL, 10, 5) && allows(&code, TYPE_BLOCK, ACCESS_ALL, 10, 6));
    assert!(!allows(&program(&[]), TYPE_CHAR, ACCESS_READ, 1, 3));
}

#[test]
fn the_verifier_takes_every_shape() {
    let partial = |rule: DeviceRule| DeviceRule { write: false, ..rule };
    let lists = [
        DeviceRule::defaults(),
        vec![DeviceRule { major: None, ..DeviceRule::device(DeviceKind::Char, 0, 7) }],
        vec![partial(DeviceRule::ALL), partial(DeviceRule::device(DeviceKind::Block, MAX_MAJOR, MAX_MINOR))],
        vec![DeviceRule::device(DeviceKind::Char, 1, 3); 500],
    ];
    for rules in lists {
        match bpf::load_cgroup_device(&program(&rules)) {
            Err(error) if error.raw_os_error() == Some(1) => return eprintln!("SKIP: bpf(2): {error}"),
            loaded => drop(loaded.unwrap()),
        }
    }
}

#[test]
fn v1_lines() {
    assert_eq!(DeviceRule::device(DeviceKind::Char, 1, 3).line(), "c 1:3 rwm");
    assert_eq!(DeviceRule::defaults()[1].line(), "b *:* m");
    assert_eq!(DeviceRule::defaults().last().unwrap().line(), "c 136:* rwm");
}

#[test]
fn what_cannot_be_is_refused() {
    assert!(
        check(&[DeviceRule::device(DeviceKind::Char, 4096, 0)]).unwrap_err().to_string().contains("4096")
    );
    assert!(check(&[DeviceRule::device(DeviceKind::Char, 1, 1 << 20)]).is_err());
    assert!(check(&DeviceRule::defaults()).is_ok());
}
