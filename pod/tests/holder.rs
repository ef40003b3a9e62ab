//! The holder as it stands: what it has, what it has not, and that nothing is left of one that was not wanted.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::{
    Ended, Kept, LIMIT, acting, alone, config, eventually, is_root, keep, mounts, names, namespace,
    own_namespace, processes_of, status, with_sysctls, with_user_namespace,
};
use holdfast_pod::executable::{self, ExecutableError};
use holdfast_pod::holder::{Holder, HolderConfig, HolderError, Namespaces, spawn};
use holdfast_pod::protocol::{FaultKind, VERSION};
use holdfast_pod::report::{MAX_REPORT, Report};
use holdfast_sys::{pidfd, socket};

/// Runs something in namespaces of the holder, on a thread that ends with it.
fn inside<T: Send>(holder: &Holder, kinds: &[&str], act: impl FnOnce() -> T + Send) -> T {
    let fds: Vec<OwnedFd> = kinds.iter().map(|kind| holder.namespace(kind).unwrap()).collect();
    let enter = move || {
        for fd in &fds {
            nix::sched::setns(fd.as_fd(), nix::sched::CloneFlags::empty()).unwrap();
        }
        act()
    };
    std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

fn sysctl(path: &str) -> String {
    let value = fs::read_to_string(format!("/proc/sys/{path}")).unwrap();
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn namespaces_are_new_or_shared_as_asked() {
    if !is_root() {
        return;
    }
    let none = Namespaces::default();
    for (wanted, user) in [
        (Namespaces { net: true, ipc: true, uts: true, pid: false }, false),
        (Namespaces { net: true, ipc: true, uts: true, pid: true }, true),
        (Namespaces { ipc: true, ..none }, false),
        (Namespaces { pid: true, ..none }, false),
        (none, false),
    ] {
        let base = HolderConfig { namespaces: wanted, hostname: None, ..config("namespaces") };
        let kept = keep(&if user { with_user_namespace(base) } else { base });
        let of = |kind| namespace(kept.pid(), kind) != own_namespace(kind);
        let pid = namespace(kept.pid(), "pid_for_children") != own_namespace("pid_for_children");
        let got = Namespaces { net: of("net"), ipc: of("ipc"), uts: of("uts"), pid };
        assert_eq!((got, of("user"), of("mnt"), of("cgroup")), (wanted, user, true, false));
        assert_eq!(pid, of("pid"));
        let last = status(kept.pid(), "NSpid").rsplit(' ').next().map(str::to_owned);
        assert_eq!(last == Some("1".to_owned()), wanted.pid);
    }
}

#[test]
fn the_holder_has_nothing() {
    if !is_root() {
        return;
    }
    for base in [config("nothing"), with_user_namespace(config("nothing-user"))] {
        let outside = base.uid_map.first().map_or(0, |map| map.outside);
        let kept = keep(&base);
        let pid = kept.pid();
        let ids = vec![(65535 + outside).to_string(); 4].join(" ");
        assert_eq!(status(pid, "Uid"), ids);
        assert_eq!(status(pid, "Gid"), ids);
        assert_eq!(status(pid, "Groups"), "");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, set), "0000000000000000", "{set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        assert_eq!(status(pid, "Threads"), "1");
        assert_eq!(status(pid, "Name"), "holdfast-pod");
        let proc = PathBuf::from(format!("/proc/{pid}"));
        assert_eq!(names(proc.join("fd")), [""; 0]);
        assert_eq!(fs::read(proc.join("environ")).unwrap(), b"");
        assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), PathBuf::from("/"));
        assert_eq!(fs::read_link(proc.join("root")).unwrap(), PathBuf::from("/"));
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(proc.join("fd")).unwrap());
        assert_eq!(owner, 0, "not dumpable: its /proc entries belong to root");
        let line = fs::read_to_string(proc.join("cmdline")).unwrap();
        assert!(line.contains(&format!("\0--pod\0{}\0", base.pod_id)), "{line:?}");
    }
}

#[test]
fn its_mounts_are_its_own() {
    if !is_root() {
        return;
    }
    let kept = keep(&config("mounts"));
    let root = format!("/proc/{}/root", kept.pid());
    let table = mounts(kept.pid());
    let table: Vec<_> = table.iter().map(|(at, kind)| (at.as_str(), kind.as_str())).collect();
    let [(first, root_kind), (second, shm_kind)] = table.as_slice() else { panic!("{table:?}") };
    assert_eq!((*first, *second), ("/", "/dev/shm"));
    assert!(root_kind.starts_with("ro,nosuid,nodev,noexec,relatime tmpfs rw,size=4k"), "{root_kind}");
    assert!(shm_kind.starts_with("rw,nosuid,nodev,noexec,relatime tmpfs rw,size=1024k"), "{shm_kind}");
    for kind in [root_kind, shm_kind] {
        assert!(kind.ends_with(' '), "not private: {kind}");
    }
    assert_eq!(names(&root), ["dev", "root"]);
    assert_eq!(names(format!("{root}/root")), [""; 0]);
    assert_eq!(names(format!("{root}/dev")), ["shm"]);
    let mode = |path: &str| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(format!("{root}{path}")).unwrap().permissions())
    };
    assert_eq!(mode("/dev/shm") & 0o7777, 0o1777);
    assert_eq!(
        fs::write(format!("{root}/x"), "").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    fs::write(format!("{root}/dev/shm/x"), "shared").unwrap();

    let own = Namespaces { ipc: false, ..config("").namespaces };
    let without = keep(&HolderConfig { namespaces: own, ..config("mounts-host-ipc") });
    let table = mounts(without.pid());
    assert_eq!((table.len(), table[0].0.as_str()), (1, "/"), "{table:?}");
    assert_eq!(names(format!("/proc/{}/root", without.pid())), ["root"]);
}

#[test]
fn host_name_loopback_and_sysctls_are_set_inside() {
    if !is_root() {
        return;
    }
    let host = (sysctl("net/ipv4/ip_forward"), sysctl("kernel/shmmax"), sysctl("kernel/msgmax"));
    for (name, user) in [("set-inside", false), ("set-inside-user", true)] {
        let base = config(name);
        let base = if user { with_user_namespace(base) } else { base };
        // A slash in a name in dots is a dot, which an interface's name may have.
        let config = with_sysctls(
            base,
            &[
                ("net.ipv4.ip_forward", "1"),
                ("net/ipv4/conf/lo/forwarding", "0"),
                ("net.ipv4.ip_local_port_range", "2000 3000"),
                ("kernel.shmmax", "123456"),
                ("kernel.msgmax", "9999"),
                ("kernel.sem", "250 32000 32 99"),
                ("fs.mqueue.msg_max", "7"),
            ],
        );
        let kept = keep(&config);
        let answer = inside(&kept, &["uts"], || nix::unistd::gethostname().unwrap());
        assert_eq!(answer, name);
        assert_eq!(inside(&kept, &["uts"], || sysctl("kernel/domainname")), "");
        inside(&kept, &["net", "ipc"], || {
            assert_eq!(sysctl("net/ipv4/ip_forward"), "1");
            assert_eq!(sysctl("net/ipv4/conf/lo/forwarding"), "0");
            assert_eq!(sysctl("net/ipv4/ip_local_port_range"), "2000 3000");
            assert_eq!(sysctl("kernel/shmmax"), "123456");
            assert_eq!(sysctl("kernel/msgmax"), "9999");
            assert_eq!(sysctl("kernel/sem"), "250 32000 32 99");
            assert_eq!(sysctl("fs/mqueue/msg_max"), "7");
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let listener = TcpListener::bind(address).unwrap();
                TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            }
        });
    }
    assert_eq!(host, (sysctl("net/ipv4/ip_forward"), sysctl("kernel/shmmax"), sysctl("kernel/msgmax")));
}

#[test]
fn the_id_maps_are_those_that_were_asked_for() {
    if !is_root() {
        return;
    }
    let config = with_user_namespace(config("maps"));
    let kept = keep(&config);
    for map in ["uid_map", "gid_map"] {
        let text = fs::read_to_string(format!("/proc/{}/{map}", kept.pid())).unwrap();
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "1000000", "65536"]);
    }
    let setgroups = fs::read_to_string(format!("/proc/{}/setgroups", kept.pid())).unwrap();
    assert_eq!(setgroups, "allow\n", "a container's groups can be set");
}

#[test]
fn what_a_pod_may_not_set_is_refused_by_name() {
    let no_net = Namespaces { net: false, ..config("").namespaces };
    let refusal = |config: &HolderConfig| {
        let error = spawn(config).unwrap_err();
        assert_eq!(error.kind(), FaultKind::Invalid, "{error}");
        error.to_string()
    };
    for (config, text) in [
        (
            with_sysctls(config("refused"), &[("kernel.panic", "1")]),
            "sysctl \"kernel.panic\" is not one of a pod's own",
        ),
        (
            with_sysctls(config("refused"), &[("net/../kernel/panic", "1")]),
            "sysctl \"net/../kernel/panic\" is no sysctl name",
        ),
        (with_sysctls(config("refused"), &[("net.a", "1\0")]), "sysctl \"net.a\" has a zero byte"),
        (
            HolderConfig {
                namespaces: no_net,
                ..with_sysctls(config("refused"), &[("net.ipv4.ip_forward", "1")])
            },
            "sysctl \"net.ipv4.ip_forward\" needs a network namespace",
        ),
        (HolderConfig { hostname: Some("x".repeat(65)), ..config("refused") }, "has not 1 to 64 bytes"),
        (HolderConfig { namespaces: Namespaces::default(), ..config("refused") }, "needs a uts namespace"),
        (
            HolderConfig { gid_map: Vec::new(), ..with_user_namespace(config("refused")) },
            "needs a uid map and a gid map",
        ),
        (HolderConfig { shm_size: 0, ..config("refused") }, "/dev/shm is 0"),
        (HolderConfig { shm_size: u64::MAX, ..config("refused") }, "above 2^63"),
    ] {
        let got = refusal(&config);
        assert!(got.contains(text), "{got} does not say {text}");
    }
}

#[test]
fn a_stage_that_fails_is_named_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let short = |mut config: HolderConfig| {
        config.uid_map[0].count = 1000;
        config
    };
    let overlapping = |mut config: HolderConfig| {
        config.gid_map.push(config.gid_map[0]);
        config
    };
    for (config, stage, kind) in [
        (
            with_sysctls(config("fails-value"), &[("net.ipv4.ip_local_port_range", "x")]),
            "write sysctl net.ipv4.ip_local_port_range",
            FaultKind::Invalid,
        ),
        (
            with_sysctls(config("fails-name"), &[("net.ipv4.no_such", "1")]),
            "write sysctl net.ipv4.no_such",
            FaultKind::Invalid,
        ),
        (
            short(with_user_namespace(config("fails-ids"))),
            "become user and group 65535, which the id maps have to hold",
            FaultKind::Internal,
        ),
        (overlapping(with_user_namespace(config("fails-map"))), "write gid_map", FaultKind::Internal),
    ] {
        let error = spawn(&config).unwrap_err();
        assert!(error.to_string().contains(stage), "{error} is not about {stage}");
        assert_eq!(error.kind(), kind, "{error:?}");
        assert_eq!(processes_of(&config.pod_id), [0; 0], "{stage}");
    }
}

#[test]
fn programs_that_are_none_and_time_limits() {
    if !is_root() {
        return;
    }
    let with = |program: &str| HolderConfig { program: program.into(), ..config("no-program") };
    assert!(matches!(spawn(&with("/usr/bin/no-such-program")), Err(HolderError::Spawn(_))));
    let refused = |program: &str| match spawn(&with(program)) {
        Err(HolderError::Spawn(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused("/no-such-dir/holdfast-pod"), ExecutableError::Mount { .. }));
    assert!(matches!(refused("holdfast-pod"), ExecutableError::Path(_)));
    assert!(matches!(spawn(&with("/bin/true")), Err(HolderError::NoRecord)));
    let late = HolderConfig { timeout: std::time::Duration::ZERO, ..config("late") };
    let error = spawn(&late).unwrap_err();
    assert_eq!(error.to_string(), "wait for the holder to be ready: not done within 0 ms");
    assert_eq!(processes_of(&late.pod_id), [0; 0]);
}

#[test]
fn one_that_is_not_committed_ends_with_its_value() {
    if !is_root() {
        return;
    }
    for base in [config("dropped"), with_user_namespace(config("dropped-user"))] {
        let pending = spawn(&base).unwrap();
        assert_eq!(processes_of(&base.pod_id), [pending.pid()]);
        let pidfd = pending.pidfd().try_clone_to_owned().unwrap();
        drop(pending);
        assert!(pidfd::wait_exit(&pidfd, std::time::Duration::ZERO).unwrap());
        assert_eq!(pidfd::pid_of(&pidfd).unwrap(), None, "reaped");
        assert_eq!(processes_of(&base.pod_id), [0; 0]);
    }
}

#[test]
fn one_that_is_killed_is_seen() {
    if !is_root() {
        return;
    }
    let pending = spawn(&config("killed")).unwrap();
    pidfd::kill(pending.pidfd()).unwrap();
    assert!(pidfd::wait_exit(pending.pidfd(), LIMIT).unwrap());
    assert!(matches!(pending.commit(), Err(HolderError::Gone { .. })));

    let holder = spawn(&config("killed-later")).unwrap().commit().unwrap();
    assert!(holder.is_alive());
    pidfd::kill(holder.pidfd()).unwrap();
    assert!(pidfd::wait_exit(holder.pidfd(), LIMIT).unwrap());
    assert!(!holder.is_alive());
    assert!(matches!(holder.namespace("net"), Err(HolderError::Gone { .. })));
    assert!(Holder::find(holder.pid(), holder.start_time()).unwrap().is_none());
    holder.kill_and_wait(LIMIT).unwrap();
    holder.kill_and_wait(LIMIT).unwrap();
}

/// Acts as an agent: makes a holder, says who it is, and commits it if a line says so.
fn act_as_agent() {
    let pending = spawn(&config("orphan")).unwrap();
    println!("\nholder {} {}", pending.pid(), pending.start_time());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let _holder = pending.commit().unwrap();
    println!("\ncommitted");
    std::io::stdin().read_to_string(&mut line).unwrap();
}

fn start_agent(test: &str) -> (Ended, BufReader<std::process::ChildStdout>, (i32, u64)) {
    let mut agent = Ended(alone(test).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut output = BufReader::new(agent.0.stdout.take().unwrap());
    let line = await_line(&mut output, "holder ");
    let (pid, start_time) = line.split_once(' ').unwrap();
    (agent, output, (pid.parse().unwrap(), start_time.parse().unwrap()))
}

fn await_line(output: &mut impl BufRead, start: &str) -> String {
    for line in output.lines() {
        if let Some(rest) = line.unwrap().strip_prefix(start) {
            return rest.to_owned();
        }
    }
    panic!("the agent ended before it said {start}");
}

#[test]
fn one_whose_agent_dies_before_commit_ends() {
    if !is_root() {
        return;
    }
    if acting() {
        return act_as_agent();
    }
    let (mut agent, _output, (pid, start_time)) = start_agent("one_whose_agent_dies_before_commit_ends");
    let pidfd = holdfast_sys::proc::open_identified(pid, start_time).unwrap().unwrap();
    assert!(!pidfd::wait_exit(&pidfd, std::time::Duration::ZERO).unwrap());
    agent.0.kill().unwrap();
    assert!(pidfd::wait_exit(&pidfd, LIMIT).unwrap());
}

#[test]
fn one_whose_agent_dies_after_commit_is_found_again() {
    if !is_root() {
        return;
    }
    if acting() {
        return act_as_agent();
    }
    let (mut agent, mut output, (pid, start_time)) =
        start_agent("one_whose_agent_dies_after_commit_is_found_again");
    agent.0.stdin.as_mut().unwrap().write_all(b"commit\n").unwrap();
    await_line(&mut output, "committed");
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    assert!(Holder::find(pid, start_time + 1).unwrap().is_none());
    let holder = Kept(Holder::find(pid, start_time).unwrap().unwrap());
    assert!(holder.is_alive());
    assert_ne!(namespace(pid, "net"), own_namespace("net"));
}

#[test]
fn it_is_small() {
    const LIMIT_KIB: u64 = 64;
    if !is_root() {
        return;
    }
    let kept: Vec<_> = (0..5).map(|_| keep(&config("small"))).collect();
    for holder in &kept {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", holder.pid())).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let pss: u64 = pss.trim().trim_end_matches(" kB").parse().unwrap();
        println!("PSS of a holder among {}: {pss} KiB", kept.len());
        assert!(pss < LIMIT_KIB, "{rollup}");
    }
}

#[test]
fn the_command_line_is_checked() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast-pod"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, help, nothing) = run(&["--help"]);
    assert_eq!((code, nothing.as_str()), (Some(0), ""));
    assert!(help.starts_with("holdfast-pod: keeps the namespaces of a pod."), "{help}");
    let version = format!("holdfast-pod {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]), (Some(0), version, String::new()));
    for (args, message) in [
        (&[][..], "descriptor 0 is no socket"),
        (&["--new", "net,ipc,uts,pid"], "descriptor 0 is no socket"),
        (&["--new", "net,mnt"], "mnt is no namespace of"),
        (&["--nope", "x"], "--nope is no option"),
        (&["--new"], "--new needs a value"),
        (&["--hostname", "h"], "--hostname needs uts in --new"),
        (&["--new", "uts", "--hostname", ""], "is no host name of 1 to 64 bytes"),
        (&["--new", "user"], "needs --uid-map and --gid-map"),
        (&["--new", "user", "--uid-map", "0 1 1"], "needs --uid-map and --gid-map"),
        (&["--uid-map", "0 1 1"], "need user in --new"),
        (&["--uid-map", "0 1"], "0 1 is no id map"),
        (&["--uid-map", "0 1 0"], "0 1 0 is no id map"),
        (&["--uid-map", "0 1 1 1"], "0 1 1 1 is no id map"),
        (&["--uid-map", "0  1 1"], "0  1 1 is no id map"),
        (&["--gid-map", "0 4294967296 1"], "is no id map"),
        (&["--gid-map", "-1 0 1"], "is no id map"),
        (&["--shm-size", "0"], "0 is no number of bytes"),
        (&["--shm-size", "64m"], "64m is no number of bytes"),
        (&["--new", "net", "--sysctl", "net.ipv4.ip_forward"], "is no sysctl like NAME=VALUE"),
        (&["--new", "ipc", "--sysctl", "net.ipv4.ip_forward=1"], "net.ipv4.ip_forward needs net in --new"),
        (&["--new", "net", "--sysctl", "kernel.sem=1"], "kernel.sem needs ipc in --new"),
        (&["--new", "net", "--sysctl", "vm.swappiness=1"], "vm.swappiness is not one of a pod's own"),
        (&["--new", "net", "--sysctl", "net/../vm/swappiness=1"], "is no sysctl name"),
    ] {
        let (code, output, error) = run(args);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{args:?}");
        assert!(error.starts_with("holdfast-pod: ") && error.contains(message), "{args:?}: {error}");
    }
}

#[test]
fn orphans_and_zombies_of_failed_holders_are_none() {
    if !is_root() {
        return;
    }
    // Many at once, half of them dropped: each is reaped by its own descriptor, nobody else's.
    let work = |index: usize| {
        let pending = spawn(&config("many")).unwrap();
        if index.is_multiple_of(2) {
            let holder = pending.commit().unwrap();
            holder.kill_and_wait(LIMIT).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (0..5).for_each(|round| work(thread + round)));
        }
    });
    eventually("all holders are gone", || processes_of(&config("many").pod_id).is_empty());
}

/// Command lines as the agents of all versions have written them.
#[test]
fn stored_arguments_are_obeyed() {
    if !is_root() {
        return;
    }
    let format = holdfast_formats::Format { name: "holder-arguments", version: VERSION };
    let stored = format.stored();
    assert!(!stored.is_empty());
    // A label needs SELinux.
    for (name, args) in stored.into_iter().filter(|(name, _)| !name.ends_with("/labelled")) {
        let args: Vec<OsString> =
            serde_json::from_value::<Vec<String>>(args).unwrap().into_iter().map(Into::into).collect();
        let (ours, theirs) = socket::pair().unwrap();
        let half = executable::start(&config("stored").program, &args, theirs.as_fd(), None).unwrap();
        drop(theirs);
        assert!(socket::wait_readable(&ours, LIMIT).unwrap(), "{name}");
        let mut bytes = [0; MAX_REPORT];
        let packet = socket::recv_packet(&ours, &mut bytes).unwrap().unwrap();
        let report = Report::decode(&bytes[..packet.len]).unwrap();
        assert_eq!((report.stage, report.errno), (&b""[..], 0), "{name}: {report:?}");
        let holder = packet.fds.into_iter().next().unwrap();
        // Not committed, it ends with our end.
        drop(ours);
        for process in [&half.pidfd, &holder] {
            assert!(pidfd::wait_exit(process, LIMIT).unwrap(), "{name}");
            pidfd::reap(process).unwrap();
        }
    }
}
