//! Tests of checks and conversions, and of v2's files in a directory that stands in for cgroupfs.

use std::fs;

use holdfast_model::HugepageLimit;

use super::*;

fn refused(change: impl FnOnce(&mut Resources)) -> String {
    let mut resources = Resources::default();
    change(&mut resources);
    let error = check(&resources, Mode::V2, Phase::Create).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::Invalid);
    error.to_string()
}

#[test]
fn refusals_name_field_and_value() {
    for (text, field, value) in [
        (refused(|r| r.cpu_shares = -5), "cpu_shares", "-5"),
        (refused(|r| r.cpu_shares = 262_145), "cpu_shares", "262145"),
        (refused(|r| r.cpu_period_us = 10), "cpu_period", "10"),
        (refused(|r| r.cpu_quota_us = -2), "cpu_quota", "-2"),
        (refused(|r| r.cpu_quota_us = 999), "cpu_quota", "999"),
        (refused(|r| r.memory_limit_bytes = -2), "memory_limit_in_bytes", "-2"),
        (refused(|r| r.memory_limit_bytes = 100), "memory_limit_in_bytes", "100"),
        (refused(|r| r.memory_swap_limit_bytes = -7), "memory_swap_limit_in_bytes", "-7"),
        (refused(|r| r.memory_swap_limit_bytes = 7), "memory_swap_limit_in_bytes", "7"),
        (refused(|r| r.oom_score_adj = 1001), "oom_score_adj", "1001"),
        (refused(|r| r.cpuset_cpus = "0-".into()), "cpuset_cpus", "0-"),
        (refused(|r| r.cpuset_mems = "x".into()), "cpuset_mems", "x"),
        (
            refused(|r| {
                r.hugepage_limits = vec![HugepageLimit { page_size: "../2MB".into(), limit_bytes: 0 }];
            }),
            "page_size",
            "../2MB",
        ),
        (refused(|r| drop(r.unified.insert("a/b.c".into(), "1".into()))), "unified", "a/b.c"),
        (refused(|r| drop(r.unified.insert("cgroup.procs".into(), "1".into()))), "unified", "cgroup.procs"),
        (refused(|r| drop(r.unified.insert("..".into(), "1".into()))), "unified", ".."),
    ] {
        assert!(text.contains(field) && text.contains(value), "{text}");
    }
    let mut swap_only = Resources { memory_swap_limit_bytes: 1 << 20, ..Resources::default() };
    assert!(check(&swap_only, Mode::V2, Phase::Update).is_ok());
    swap_only.memory_limit_bytes = 1 << 21;
    assert!(check(&swap_only, Mode::V2, Phase::Update).is_err());
}

#[test]
fn unified_is_for_v2_only() {
    let resources = Resources {
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        ..Resources::default()
    };
    assert!(check(&resources, Mode::V2, Phase::Create).is_ok());
    assert!(check(&resources, Mode::Hybrid, Phase::Create).is_err());
    assert!(check(&resources, Mode::V1, Phase::Create).is_err());
}

#[test]
fn weights_as_runc_has_them() {
    for (shares, weight) in [(2, 1), (3, 2), (10, 4), (102, 17), (512, 59), (2048, 174), (100_000, 4340)] {
        assert_eq!(shares_to_weight(shares), weight, "{shares}");
    }
    assert_eq!([2, 1024, 262_144].map(shares_to_weight), [1, 100, 10_000]);
    assert!((2..262_144).step_by(37).all(|shares| shares_to_weight(shares) <= shares_to_weight(shares + 37)));
    for weight in 1..=10_000 {
        let back = shares_to_weight(weight_to_shares(weight) as u64);
        assert!(back <= weight && weight - back <= 1, "{weight} {back}");
    }
    assert_eq!(weight_to_shares(100), 1024);
}

/// A v2 tree of plain files: what is written can be read back.
fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Layout) {
    let root = tempfile::tempdir().unwrap();
    let group = root.path().join("pod/c1");
    fs::create_dir_all(&group).unwrap();
    fs::write(root.path().join("pod/cgroup.subtree_control"), "").unwrap();
    for (name, text) in files {
        fs::write(group.join(name), text).unwrap();
    }
    let layout = Layout::v2(root.path().to_owned());
    (root, layout)
}

#[test]
fn v2_files_get_their_values() {
    let (root, layout) = fake(&[
        ("cgroup.controllers", "cpu memory pids cpuset hugetlb"),
        ("cpu.weight", ""),
        ("cpu.max", ""),
        ("memory.max", ""),
        ("memory.swap.max", ""),
        ("memory.oom.group", ""),
        ("cpuset.cpus", ""),
        ("pids.max", ""),
        ("hugetlb.2MB.max", ""),
        ("hugetlb.2MB.rsvd.max", ""),
    ]);
    let asked = Resources {
        cpu_shares: 1024,
        cpu_quota_us: 50_000,
        cpu_period_us: 100_000,
        memory_limit_bytes: 1 << 20,
        memory_swap_limit_bytes: 3 << 20,
        cpuset_cpus: "0".into(),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }],
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        ..Resources::default()
    };
    apply(&layout, "/pod/c1", &asked, Some(-1)).unwrap();
    let read = |name: &str| fs::read_to_string(root.path().join("pod/c1").join(name)).unwrap();
    assert_eq!(
        [
            "cpu.weight",
            "cpu.max",
            "memory.max",
            "memory.swap.max",
            "memory.oom.group",
            "pids.max",
            "hugetlb.2MB.max",
            "hugetlb.2MB.rsvd.max",
        ]
        .map(read),
        ["100", "50000 100000", "1048576", "2097152", "1", "max", "0", "0"]
    );
}

#[test]
fn v2_absences_are_named_or_skipped() {
    let (_root, layout) = fake(&[("cgroup.controllers", "memory"), ("memory.max", "")]);
    let mut memory =
        Resources { memory_limit_bytes: 1 << 20, memory_swap_limit_bytes: 1 << 20, ..Resources::default() };
    apply(&layout, "/pod/c1", &memory, None).unwrap();
    memory.memory_swap_limit_bytes = 1 << 21;
    apply(&layout, "/pod/c1", &memory, None).unwrap();
    let huge = HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 };
    apply(&layout, "/pod/c1", &Resources { hugepage_limits: vec![huge], ..Resources::default() }, None)
        .unwrap();
    let cpu = Resources { cpu_shares: 10, ..Resources::default() };
    let text = apply(&layout, "/pod/c1", &cpu, None).unwrap_err().to_string();
    assert!(text.contains("cpu controller") && text.contains("subtree_control"), "{text}");
    let gone = apply(&layout, "/pod/c2", &cpu, None).unwrap_err();
    assert_eq!(gone.kind(), crate::Kind::NotFound);
}

#[test]
fn v2_lowering_below_what_is_used_is_refused_but_not_for_page_cache() {
    let (root, layout) = fake(&[
        ("memory.max", "max"),
        ("memory.current", "10485760"),
        ("memory.stat", "anon 4194304\nfile 6291456\nshmem 1048576\nslab_reclaimable 0\n"),
    ]);
    let update = |bytes| {
        let asked = Resources { memory_limit_bytes: bytes, ..Resources::default() };
        refuse_below_usage(&layout, "/pod/c1", &asked)?;
        apply(&layout, "/pod/c1", &asked, None)
    };
    let text = update(4 << 20).unwrap_err().to_string();
    assert!(text.contains("4194304") && text.contains("5242880"), "{text}");
    assert_eq!(fs::read_to_string(root.path().join("pod/c1/memory.max")).unwrap(), "max");
    update(6 << 20).unwrap();
}

#[test]
fn a_memory_limit_alone_is_one_of_swap_as_well() {
    for (limit, both, expected) in
        [(100, 0, 100), (100, 150, 150), (100, -1, -1), (-1, 0, -1), (0, 0, 0), (0, 90, 90)]
    {
        let asked =
            Resources { memory_limit_bytes: limit, memory_swap_limit_bytes: both, ..Resources::default() };
        let found = with_swap(&asked);
        assert_eq!((found.memory_limit_bytes, found.memory_swap_limit_bytes), (limit, expected));
    }
    let (root, layout) =
        fake(&[("cgroup.controllers", "memory"), ("memory.max", ""), ("memory.swap.max", "")]);
    let asked = with_swap(&Resources { memory_limit_bytes: 1 << 20, ..Resources::default() });
    apply(&layout, "/pod/c1", &asked, None).unwrap();
    assert_eq!(fs::read_to_string(root.path().join("pod/c1/memory.swap.max")).unwrap(), "0");
}

/// The kernel refuses a weight for a group that is idle (EINVAL), whichever was asked for first.
#[test]
fn an_idle_group_gets_no_weight() {
    let (root, layout) = fake(&[("cgroup.controllers", "cpu"), ("cpu.weight", "old"), ("cpu.idle", "0")]);
    let read = |name: &str| fs::read_to_string(root.path().join("pod/c1").join(name)).unwrap();
    let with_idle = |idle: &str, cpu_shares| Resources {
        cpu_shares,
        unified: [("cpu.idle".to_owned(), idle.to_owned())].into(),
        ..Resources::default()
    };
    apply(&layout, "/pod/c1", &with_idle("1", 512), None).unwrap();
    assert_eq!((read("cpu.idle").as_str(), read("cpu.weight").as_str()), ("1", "old"));
    apply(&layout, "/pod/c1", &Resources { cpu_shares: 512, ..Resources::default() }, None).unwrap();
    assert_eq!(read("cpu.weight"), "old");
    apply(&layout, "/pod/c1", &with_idle("0", 1024), None).unwrap();
    assert_eq!((read("cpu.idle").as_str(), read("cpu.weight").as_str()), ("0", "100"));
}
