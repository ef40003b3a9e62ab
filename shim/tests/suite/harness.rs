//! The agent's part.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use holdfast_pod::channel;
use holdfast_pod::holder::{self, HolderConfig, Namespaces, PendingHolder};
use holdfast_pod::launch::{ExecLaunch, IdMap};
use holdfast_pod::protocol::{
    Answer, Call, Create, Created, Event, Exec, ExitRecord, Failure, FdRole, Packet, Request, SOCKET_NAME,
};
use holdfast_sys::clone::Child;
use holdfast_sys::spawn::{self, Command};
use holdfast_sys::{memfd, pidfd, socket};
use serde_json::Value;

use crate::scene::Scene;

pub const LIMIT: Duration = Duration::from_secs(30);

pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "never came: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn holder_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let shim = Path::new(env!("CARGO_BIN_EXE_holdfast-shim"));
        let program = shim.with_file_name("holdfast-pod");
        let mut cargo = Program::new(env!("CARGO"));
        cargo.args(["build", "-q", "-p", "holdfast-pod", "--bin", "holdfast-pod"]);
        if shim.parent().unwrap().ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "build holdfast-pod");
        program
    })
}

/// A pod's holder.
pub fn holder(scene: &Scene, net: bool, pid: bool) -> PendingHolder {
    holder::spawn(&HolderConfig {
        program: holder_program().to_owned(),
        pod_id: "test".into(),
        hostname: Some("podhost".into()),
        namespaces: Namespaces { net, ipc: true, uts: true, pid },
        uid_map: scene.map.clone(),
        gid_map: scene.map.clone(),
        sysctls: BTreeMap::new(),
        shm_size: 1 << 20,
        shm_label: String::new(),
        timeout: LIMIT,
    })
    .unwrap()
}

pub fn user_map() -> Vec<IdMap> {
    vec![IdMap { inside: 0, outside: 200_000, count: 65_536 }]
}

/// One connection to a shim.
pub struct Agent {
    pub channel: OwnedFd,
    seq: u64,
    events: Vec<Event>,
    answers: Vec<(u64, Answer)>,
    /// What came with answers.
    pub passed: Vec<OwnedFd>,
}

impl Agent {
    fn new(channel: OwnedFd) -> Self {
        Self { channel, seq: 0, events: Vec::new(), answers: Vec::new(), passed: Vec::new() }
    }

    pub fn connect(scene: &Scene) -> Self {
        let run = File::open(scene.path("run")).unwrap();
        Self::new(socket::connect_at(run.as_fd(), SOCKET_NAME, LIMIT).unwrap())
    }

    pub fn send(&mut self, request: Request, fds: &[(FdRole, BorrowedFd<'_>)]) -> u64 {
        self.seq += 1;
        let call = Call { seq: self.seq, request, fds: fds.iter().map(|(role, _)| *role).collect() };
        let fds: Vec<_> = fds.iter().map(|(_, fd)| *fd).collect();
        channel::send(&self.channel, &call, &fds).unwrap();
        self.seq
    }

    fn receive(&mut self) -> bool {
        let packet = channel::recv_timeout::<Packet>(&self.channel, &mut channel::buffer(), LIMIT).unwrap();
        match packet {
            Some((Packet::Answer { seq, answer }, fds)) => {
                self.answers.push((seq, answer));
                self.passed.extend(fds);
            }
            Some((Packet::Event(event), _)) => self.events.push(event),
            Some((Packet::Unknown(_), _)) => panic!("a shim of our own version is not understood"),
            None => return false,
        }
        true
    }

    pub fn answer(&mut self, seq: u64) -> Answer {
        loop {
            if let Some(at) = self.answers.iter().position(|(number, _)| *number == seq) {
                return self.answers.remove(at).1;
            }
            assert!(self.receive(), "the shim closed instead of answering");
        }
    }

    pub fn call(&mut self, request: Request) -> Answer {
        let seq = self.send(request, &[]);
        self.answer(seq)
    }

    pub fn ok(&mut self, request: Request) {
        let answer = self.call(request);
        assert!(matches!(answer, Answer::Ok), "{answer:?}");
    }

    pub fn failure(&mut self, request: Request) -> Failure {
        match self.call(request) {
            Answer::Failed(failure) => failure,
            other => {
                self.receive();
                panic!("{other:?} {:?}", self.events)
            }
        }
    }

    pub fn event<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            if let Some(at) = self.events.iter().position(|event| wanted(event).is_some()) {
                return wanted(&self.events.remove(at)).unwrap();
            }
            assert!(self.receive(), "the shim closed without the event");
        }
    }

    pub fn exited(&mut self) -> ExitRecord {
        self.event(|event| if let Event::Exited(record) = event { Some(record.clone()) } else { None })
    }

    pub fn exec_exited(&mut self, id: u64) -> (i32, bool) {
        self.event(|event| match event {
            Event::ExecExited { exec_id, exit_code, timed_out } if *exec_id == id => {
                Some((*exit_code, *timed_out))
            }
            _ => None,
        })
    }

    pub fn start(&mut self) {
        let answer = self.call(Request::Start);
        assert!(matches!(answer, Answer::Started { .. }), "{answer:?}");
    }
}

/// A shim and its pod.
pub struct Shim {
    pub agent: Agent,
    pub child: Child,
    pub holder: Option<PendingHolder>,
}

/// What Create is asked.
pub fn request(scene: &Scene) -> Create {
    Create {
        id: "test".into(),
        log_path: Some(scene.log()),
        own_pid_namespace: true,
        timeout_ms: 20_000,
        drain_ms: 2_000,
        ..Create::default()
    }
}

impl Shim {
    /// Only the process.
    pub fn spawn(scene: &Scene, holder: PendingHolder) -> Self {
        let (ours, theirs) = socket::pair().unwrap();
        let run = File::open(scene.path("run")).unwrap();
        let args: Vec<OsString> = vec!["--id".into(), "test".into()];
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_holdfast-shim")), &args, theirs.as_fd());
        command.cwd = Some(run.as_fd());
        command.stderr = Some(rustix::stdio::stderr());
        let child = spawn::spawn(&command).unwrap();
        Self { agent: Agent::new(ours), child, holder: Some(holder) }
    }

    pub fn send_create(&mut self, scene: &Scene, create: Create, more: &[(FdRole, BorrowedFd<'_>)]) -> u64 {
        // A scene that has been played already is another container: its own overlay cannot be mounted again.
        let _ = fs::remove_dir_all(scene.path("work/work/incompat"));
        let launch = memfd::sealed("launch", &scene.launch()).unwrap();
        let state = File::open(scene.path("state")).unwrap();
        let holder = self.holder.as_ref().unwrap().pidfd();
        let mut fds = vec![
            (FdRole::Launch, launch.as_fd()),
            (FdRole::StateDir, state.as_fd()),
            (FdRole::Holder, holder),
        ];
        fds.extend_from_slice(more);
        self.agent.send(Request::Create(create), &fds)
    }

    pub fn create(&mut self, scene: &Scene, create: Create, more: &[(FdRole, BorrowedFd<'_>)]) -> Created {
        let seq = self.send_create(scene, create, more);
        match self.agent.answer(seq) {
            Answer::Created(created) => created,
            other => panic!("{other:?}"),
        }
    }

    /// At the gate, committed.
    pub fn created(scene: &Scene) -> (Self, Created) {
        Self::created_with(scene, request(scene), holder(scene, true, false), &[])
    }

    pub fn created_with(
        scene: &Scene,
        create: Create,
        holder: PendingHolder,
        more: &[(FdRole, BorrowedFd<'_>)],
    ) -> (Self, Created) {
        let mut shim = Self::spawn(scene, holder);
        let created = shim.create(scene, create, more);
        shim.agent.ok(Request::Commit);
        (shim, created)
    }

    /// Running.
    pub fn started(scene: &Scene) -> Self {
        let (mut shim, _) = Self::created(scene);
        shim.agent.start();
        shim
    }

    /// The failure of Create.
    pub fn refused(scene: &Scene) -> Failure {
        let mut shim = Self::spawn(scene, holder(scene, scene.join & holdfast_sys::ns::NEWNET != 0, false));
        let seq = shim.send_create(scene, request(scene), &[]);
        let failure = match shim.agent.answer(seq) {
            Answer::Failed(failure) => failure,
            other => panic!("{other:?}"),
        };
        shim.gone(scene);
        assert!(!scene.log().exists(), "the log of a container that never was");
        failure
    }

    /// Runs to its end and leaves nothing.
    pub fn run(scene: &Scene) -> ExitRecord {
        let mut shim = Self::started(scene);
        let record = shim.agent.exited();
        shim.gone(scene);
        record
    }

    /// Runs to its end, which has to be 0, and returns its standard output without the final newline.
    pub fn run_for_output(scene: &Scene) -> String {
        let record = Self::run(scene);
        let text = scene.lines().join("\n").replace("stdout F ", "");
        assert_eq!(record.exit_code, 0, "{text}");
        text
    }

    /// The shim ends by itself, and takes its socket along.
    pub fn gone(&mut self, scene: &Scene) {
        assert!(pidfd::wait_exit(&self.child.pidfd, LIMIT).unwrap(), "the shim does not end");
        let exit = pidfd::reap(&self.child.pidfd).unwrap();
        assert_eq!(exit, Some(pidfd::Exit::Code(0)));
        assert!(!scene.path("run").join(SOCKET_NAME).exists());
        drop(self.holder.take());
        assert_eq!(fs::read_dir(scene.path("run")).unwrap().count(), 0);
    }

    pub fn exec(
        &mut self,
        id: u64,
        process: &Value,
        exec: &Exec,
        fds: &[(FdRole, BorrowedFd<'_>)],
    ) -> Answer {
        let launch = ExecLaunch { process: process.clone(), raw_env: Vec::new(), seccomp_flags: 0 };
        let memfd = memfd::sealed("exec", &serde_json::to_vec(&launch).unwrap()).unwrap();
        let mut all = vec![(FdRole::Process, memfd.as_fd())];
        all.extend_from_slice(fds);
        let seq = self.agent.send(Request::Exec(Exec { exec_id: id, ..exec.clone() }), &all);
        self.agent.answer(seq)
    }

    /// Runs a command to its end: its output and exit code.
    pub fn output(&mut self, id: u64, process: &Value) -> (String, i32) {
        let (reader, writer) = std::io::pipe().unwrap();
        let fds = [(FdRole::Stdout, writer.as_fd()), (FdRole::Stderr, writer.as_fd())];
        let answer = self.exec(id, process, &Exec::default(), &fds);
        assert!(matches!(answer, Answer::ExecStarted { .. }), "{answer:?}");
        drop(writer);
        let output = std::io::read_to_string(reader).unwrap();
        (output, self.agent.exec_exited(id).0)
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // A failed test leaves nothing either: without its agent an uncommitted shim ends, a committed one is killed
        // with its container.
        if pidfd::wait_exit(&self.child.pidfd, Duration::ZERO).unwrap() {
            let _ = pidfd::reap(&self.child.pidfd);
            return;
        }
        let _ = channel::send(
            &self.agent.channel,
            &Call { seq: 0, request: Request::Shutdown, fds: vec![] },
            &[],
        );
        if !pidfd::wait_exit(&self.child.pidfd, Duration::from_secs(10)).unwrap() {
            let _ = pidfd::kill(&self.child.pidfd);
            let _ = pidfd::wait_exit(&self.child.pidfd, LIMIT);
        }
        let _ = pidfd::reap(&self.child.pidfd);
    }
}

/// The record on disk.
pub fn record(scene: &Scene) -> ExitRecord {
    serde_json::from_slice(&fs::read(scene.path("state/exit.json")).unwrap()).unwrap()
}
