//! The messages to and from shims and holders, and the exit record, against those that are stored (`formats/`).

use std::collections::BTreeMap;
use std::ffi::OsString;

use holdfast_formats::Format;

use crate::holder::{HolderConfig, Namespaces, arguments};
use crate::launch::IdMap;
use crate::oci_runtime::OciRuntime;
use crate::protocol::{
    Answer, Attach, Call, Create, Created, Event, Exec, ExitRecord, Failure, FaultKind, FdRole, Packet,
    Phase, Request, ResolvedUser, State, VERSION,
};
use crate::report::{MAX_REPORT, Report};

const fn format(name: &'static str) -> Format {
    Format { name, version: VERSION }
}

/// A new request does not compile without a name here, and wants a sample below.
fn name(request: &Request) -> &'static str {
    match request {
        Request::Create(_) => "create",
        Request::Placed => "placed",
        Request::Commit => "commit",
        Request::Start => "start",
        Request::Exec(_) => "exec",
        Request::Attach(_) => "attach",
        Request::KillExec { .. } => "kill_exec",
        Request::Signal { .. } => "signal",
        Request::Kill => "kill",
        Request::State => "state",
        Request::ReopenLog => "reopen_log",
        Request::Resize { .. } => "resize",
        Request::Shutdown => "shutdown",
    }
}

fn create() -> Create {
    Create {
        id: "0c".repeat(32),
        log_path: Some("/var/log/pods/web/main/0.log".into()),
        tty: true,
        stdin: true,
        stdin_once: true,
        own_pid_namespace: true,
        await_placement: true,
        timeout_ms: 120_000,
        drain_ms: 2_000,
        bundle: "/run/holdfast/containers/c1".into(),
        hooks: true,
        runtime: Some(OciRuntime {
            program: "/usr/bin/crun".into(),
            root: "/run/holdfast/runtimes/crun".into(),
            options: vec!["--debug".into()],
            oci_version: "1.3.0".into(),
            systemd_cgroup: true,
        }),
    }
}

/// With every role of a descriptor.
fn requests() -> Vec<(Request, Vec<FdRole>)> {
    use FdRole::{
        CgroupDir, CgroupTasks, Holder, Launch, OomCount, PidTarget, Process, Seccomp, StateDir, Stderr,
        Stdin, Stdout,
    };
    let create_fds =
        vec![Launch, StateDir, Holder, Seccomp, PidTarget, CgroupDir, CgroupTasks, CgroupTasks, OomCount];
    let exec = Exec { exec_id: 7, timeout_ms: 1_000, kill_on_disconnect: true, tty: true };
    vec![
        (Request::Create(create()), create_fds),
        (Request::Placed, vec![CgroupDir, OomCount]),
        (Request::Commit, vec![]),
        (Request::Start, vec![]),
        (Request::Exec(exec), vec![Process, Seccomp, Stdin, Stdout, Stderr]),
        (Request::Attach(Attach { attach_id: 8, stdin: true }), vec![Stdout, Stderr]),
        (Request::KillExec { exec_id: 7 }, vec![]),
        (Request::Signal { signal: 15 }, vec![]),
        (Request::Kill, vec![]),
        (Request::State, vec![]),
        (Request::ReopenLog, vec![]),
        (Request::Resize { width: 80, height: 24 }, vec![]),
        (Request::Shutdown, vec![]),
    ]
}

#[test]
fn stored_format_of_calls() {
    let calls: Vec<(&str, Call)> = requests()
        .into_iter()
        .map(|(request, fds)| (name(&request), Call { seq: 3, request, fds }))
        .collect();
    format("shim-call").check(&calls);
}

fn created() -> Created {
    let user = ResolvedUser { uid: 1000, gid: 1000, groups: vec![5, 1000], home: "/home/web".into() };
    Created { pid: 4242, start_time: 123_456, user }
}

fn exit_record() -> ExitRecord {
    ExitRecord {
        exit_code: 137,
        signal: 9,
        oom_killed: true,
        started_at_ns: 1_764_576_000_000_000_001,
        finished_at_ns: 1_764_576_001_000_000_002,
        reason: "StartError".into(),
        message: "exec /nope: no such file".into(),
        log_lines_dropped: 3,
        unfinished: false,
    }
}

/// In each kind of fault and phase.
fn answers() -> Vec<(&'static str, Answer)> {
    let failed = |kind, stage: &str| {
        Answer::Failed(Failure { kind, stage: stage.into(), errno: 2, text: "No such file".into() })
    };
    let state = |phase| {
        Answer::State(State {
            phase,
            created: created(),
            started_at_ns: 1_764_576_000_000_000_001,
            log_lines_dropped: 3,
            starting: true,
            version: 1,
        })
    };
    vec![
        ("ok", Answer::Ok),
        ("created", Answer::Created(created())),
        ("placing", Answer::Placing { pid: 4242 }),
        ("started", Answer::Started { started_at_ns: 1_764_576_000_000_000_001 }),
        ("exec_started", Answer::ExecStarted { pid: 4243 }),
        ("attached", Answer::Attached),
        ("state_creating", state(Phase::Creating)),
        ("state_created", state(Phase::Created)),
        ("state_running", state(Phase::Running)),
        ("state_exited", state(Phase::Exited)),
        ("failed_invalid", failed(FaultKind::Invalid, "open mount source /data")),
        ("failed_not_found", failed(FaultKind::NotFound, "find the exec")),
        ("failed_precondition", failed(FaultKind::Precondition, "start")),
        ("failed_timeout", failed(FaultKind::Timeout, "mounts")),
        ("failed_internal", failed(FaultKind::Internal, "clone")),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    vec![
        ("exited", Event::Exited(exit_record())),
        ("exec_exited", Event::ExecExited { exec_id: 7, exit_code: 130, timed_out: true }),
        ("attach_cut", Event::AttachCut { attach_id: 8, reason: "it read too slowly".into() }),
        ("oom_killed", Event::OomKilled),
        ("warning", Event::Warning { text: "no AppArmor".into() }),
    ]
}

#[test]
fn stored_format_of_packets() {
    let answers = answers().into_iter().map(|(name, answer)| (name, Packet::Answer { seq: 3, answer }));
    let events = events().into_iter().map(|(name, event)| (name, Packet::Event(event)));
    let packets: Vec<(&str, Packet)> = answers.chain(events).collect();
    format("shim-packet").check(&packets);
    // What cannot be read is Unknown, which the check takes for read.
    for (name, stored) in format("shim-packet").stored() {
        let packet: Packet = serde_json::from_value(stored).unwrap();
        let unknown = matches!(
            packet,
            Packet::Unknown(_)
                | Packet::Event(Event::Unknown(_))
                | Packet::Answer { answer: Answer::Unknown(_), .. }
        );
        assert!(!unknown, "{name} is not known any more");
    }
}

#[test]
fn stored_format_of_exit_records() {
    let samples = [
        ("finished", exit_record()),
        ("unfinished", ExitRecord { unfinished: true, ..exit_record() }),
        ("completed", ExitRecord { finished_at_ns: 1, ..ExitRecord::default() }),
    ];
    format("exit").check(&samples);
}

/// A newer peer's answers, events, descriptors and faults.
#[test]
fn what_a_newer_peer_says_is_passed_over() {
    let packet = |text: &str| serde_json::from_str::<Packet>(text).unwrap();
    for text in [
        r#"{"answer":{"seq":3,"answer":{"paused":{"since":[1]}}}}"#,
        r#"{"answer":{"seq":3,"answer":"frozen"}}"#,
        // A phase that is not known: what stands there cannot be told.
        r#"{"answer":{"seq":3,"answer":{"state":{"phase":"frozen","created":{},"started_at_ns":0,"log_lines_dropped":0}}}}"#,
    ] {
        assert!(matches!(packet(text), Packet::Answer { seq: 3, answer: Answer::Unknown(_) }), "{text}");
    }
    for text in
        [r#"{"event":"thawed"}"#, r#"{"event":{"pressure":{"some":1.5}}}"#, r#"{"event":{"exited":7}}"#]
    {
        assert!(matches!(packet(text), Packet::Event(Event::Unknown(_))), "{text}");
    }
    assert!(matches!(packet(r#"{"progress":{"percent":5}}"#), Packet::Unknown(_)));
    let failed =
        r#"{"answer":{"seq":3,"answer":{"failed":{"kind":"quota","stage":"s","errno":0,"text":"t"}}}}"#;
    let Packet::Answer { answer: Answer::Failed(failure), .. } = packet(failed) else { panic!("{failed}") };
    assert_eq!(failure.kind, FaultKind::Internal);
    let call: Call =
        serde_json::from_str(r#"{"seq":1,"request":"state","fds":["stdin","sock_diag"]}"#).unwrap();
    assert_eq!(call.fds, [FdRole::Stdin, FdRole::Unknown]);
}

fn holder() -> HolderConfig {
    let map = vec![IdMap { inside: 0, outside: 1_000_000, count: 65_536 }];
    HolderConfig {
        program: "/usr/libexec/holdfast/holdfast-pod".into(),
        pod_id: "0b".repeat(32),
        hostname: Some("web".into()),
        namespaces: Namespaces { net: true, ipc: true, uts: true, pid: true },
        uid_map: map.clone(),
        gid_map: map,
        sysctls: BTreeMap::from([
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
        ]),
        shm_size: 1 << 26,
        shm_label: String::new(),
        timeout: std::time::Duration::from_secs(10),
    }
}

/// `tests/holder.rs` gives the stored ones to the program.
#[test]
fn stored_format_of_holder_arguments() {
    let none = Namespaces::default();
    let host = HolderConfig {
        hostname: None,
        namespaces: none,
        uid_map: vec![],
        gid_map: vec![],
        sysctls: BTreeMap::new(),
        ..holder()
    };
    let labelled = HolderConfig { shm_label: "system_u:object_r:tmpfs_t:s0".into(), ..holder() };
    let text = |config: &HolderConfig| -> Vec<String> {
        arguments(config).unwrap().into_iter().map(OsString::into_string).map(Result::unwrap).collect()
    };
    let samples = [("whole", text(&holder())), ("host", text(&host)), ("labelled", text(&labelled))];
    format("holder-arguments").check(&samples);
}

#[test]
fn stored_format_of_holder_reports() {
    let bytes = |report: &Report<'_>| {
        let mut out = [0; MAX_REPORT];
        let length = report.encode(&mut out);
        out[..length].to_vec()
    };
    let ready = Report { errno: 0, pid: 4242, stage: b"", text: b"" };
    let failed = Report { errno: 22, pid: 4242, stage: b"write sysctl net.x", text: b"is it a number?" };
    format("holder-report").check(&[("ready", bytes(&ready)), ("failed", bytes(&failed))]);
    for (name, stored) in format("holder-report").stored() {
        let stored: Vec<u8> = serde_json::from_value(stored).unwrap();
        let wanted = if name.ends_with("ready") { ready } else { failed };
        assert_eq!(Report::decode(&stored), Some(wanted), "{name}");
    }
}
