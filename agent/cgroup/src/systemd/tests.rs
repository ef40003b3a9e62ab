//! Against a manager of our own, on a bus of our own.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use zbus::{
    connection::Builder,
    fdo,
    object_server::SignalEmitter,
    zvariant::{ObjectPath, OwnedObjectPath, OwnedValue},
};

use super::*;
use crate::Kind;

const MANAGER: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const PROMPTLY: Duration = Duration::from_secs(10);

/// A dbus-daemon, ended at the end of the test.
struct Daemon {
    process: Child,
    dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Daemon {
    /// `None`: there is no such program here.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let policy = "<policy context=\"default\"><allow own=\"*\"/><allow send_destination=\"*\"/>\
                      <allow send_type=\"signal\"/><allow receive_sender=\"*\"/></policy>";
        let text = format!(
            "<busconfig><type>system</type><listen>{}</listen><auth>EXTERNAL</auth>{policy}</busconfig>",
            address(&dir.path().join("bus"))
        );
        std::fs::write(dir.path().join("bus.conf"), text).unwrap();
        let Ok(process) = spawn(&dir) else {
            println!("SKIP: there is no dbus-daemon here");
            return None;
        };
        Some(Self { process, dir })
    }

    /// Ends, and comes again at the same place.
    fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let _ = std::fs::remove_file(self.dir.path().join("bus"));
        self.process = spawn(&self.dir).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("bus")
    }

    async fn connect(&self) -> Connection {
        connect(self.socket()).await.unwrap()
    }

    fn systemd(&self) -> Systemd {
        let socket = self.socket();
        Systemd::on(Box::new(move || Box::pin(connect(socket.clone()))))
    }
}

/// Returns when it listens.
fn spawn(dir: &tempfile::TempDir) -> std::io::Result<Child> {
    let config = dir.path().join("bus.conf");
    let mut child = Command::new("dbus-daemon")
        .args(["--nofork", "--nopidfile", "--print-address=1"])
        .arg(format!("--config-file={}", config.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line)?;
    assert!(line.starts_with("unix:"), "{line:?}");
    Ok(child)
}

fn address(socket: &std::path::Path) -> String {
    format!("unix:path={}", socket.display())
}

async fn connect(socket: PathBuf) -> zbus::Result<Connection> {
    Builder::address(address(&socket).as_str())?.build().await
}

/// Calls that a manager has received, and the number of its jobs.
#[derive(Default)]
struct Asked {
    calls: Vec<String>,
    jobs: u32,
}

/// A manager whose units do what their names say.
#[derive(Clone)]
struct Manager {
    asked: Arc<Mutex<Asked>>,
    /// The test's: zbus calls methods on a thread of its own.
    runtime: tokio::runtime::Handle,
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    UnitExists(String),
    NoSuchUnit(String),
}

impl Manager {
    fn new() -> Self {
        Self { asked: Arc::default(), runtime: tokio::runtime::Handle::current() }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap().calls)
    }

    fn record(&self, call: &str) -> (u32, OwnedObjectPath) {
        let mut asked = self.asked.lock().unwrap();
        asked.calls.push(call.to_owned());
        asked.jobs += 1;
        (asked.jobs, ObjectPath::try_from(format!("{MANAGER}/job/{}", asked.jobs)).unwrap().into())
    }

    /// `early-`: the job has ended before the answer; `mute-`: nobody is told; else a little later.
    async fn queue(&self, call: &str, unit: &str, emitter: &SignalEmitter<'_>) -> OwnedObjectPath {
        let (number, job) = self.record(call);
        let result = if unit.contains("failing") { "failed" } else { "done" };
        let end = (number, job.clone(), unit.to_owned(), result);
        let connection = emitter.connection().clone();
        let tell = async move {
            connection.emit_signal(None::<&str>, MANAGER, INTERFACE, "JobRemoved", &end).await.unwrap();
        };
        if unit.starts_with("early-") {
            tell.await;
        } else if !unit.starts_with("mute-") {
            let _telling = self.runtime.spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                tell.await;
            });
        }
        job
    }

    /// Serves on the bus.
    async fn serve(&self, daemon: &Daemon) -> Connection {
        let socket = daemon.socket();
        Builder::address(address(&socket).as_str())
            .unwrap()
            .serve_at(MANAGER, self.clone())
            .unwrap()
            .serve_at(UNIT_PATH, ActiveUnit)
            .unwrap()
            .name("org.freedesktop.systemd1")
            .unwrap()
            .build()
            .await
            .unwrap()
    }
}

const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/active";

struct ActiveUnit;

#[expect(clippy::unused_self, reason = "an interface's methods have one")]
#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl ActiveUnit {
    #[zbus(property)]
    fn active_state(&self) -> String {
        "active".to_owned()
    }
}

type Properties = Vec<(String, OwnedValue)>;

#[expect(
    clippy::unused_self,
    clippy::needless_pass_by_value,
    reason = "an interface's methods have one, and own their arguments"
)]
#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {
        self.record("Subscribe");
    }

    async fn start_transient_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        unit: String,
        mode: String,
        properties: Properties,
        aux: Vec<(String, Properties)>,
    ) -> Result<OwnedObjectPath, Refusal> {
        assert!(mode == "replace" && properties.is_empty() && aux.is_empty());
        if unit.starts_with("there") {
            self.record("StartTransientUnit");
            return Err(Refusal::UnitExists(format!("Unit {unit} was already loaded")));
        }
        Ok(self.queue("StartTransientUnit", &unit, &emitter).await)
    }

    async fn stop_unit(
        &self,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        unit: String,
        mode: String,
    ) -> Result<OwnedObjectPath, Refusal> {
        assert_eq!(mode, "replace");
        if unit.starts_with("nobody") {
            self.record("StopUnit");
            return Err(Refusal::NoSuchUnit(format!("Unit {unit} not loaded.")));
        }
        Ok(self.queue("StopUnit", &unit, &emitter).await)
    }

    fn set_unit_properties(&self, unit: String, runtime: bool, properties: Properties) -> fdo::Result<()> {
        assert!(unit.contains("a.") && runtime);
        self.record("SetUnitProperties");
        if properties.into_iter().any(|(name, _)| name == "Bad") {
            return Err(fdo::Error::InvalidArgs("Bad= is out of range".to_owned()));
        }
        Ok(())
    }

    fn get_unit(&self, unit: String) -> Result<OwnedObjectPath, Refusal> {
        if unit.contains("active") {
            return Ok(ObjectPath::try_from(UNIT_PATH).unwrap().into());
        }
        Err(Refusal::NoSuchUnit(format!("Unit {unit} not loaded.")))
    }

    #[zbus(property)]
    fn version(&self) -> String {
        "257.9-1~deb13u1".to_owned()
    }
}

fn none() -> Vec<Property> {
    Vec::new()
}

/// An operation is one call; the subscription is made once, and a job that ends before its answer is not missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_one_call_each() {
    let Some(daemon) = Daemon::start() else { return };
    let manager = Manager::new();
    let _server = manager.serve(&daemon).await;
    let systemd = daemon.systemd();
    assert_eq!(systemd.version().await.unwrap(), 257);
    assert_eq!(systemd.start("early-a.scope", none()).await.unwrap(), Started::New);
    assert_eq!(systemd.start("late-a.scope", none()).await.unwrap(), Started::New);
    assert_eq!(systemd.start("there.scope", none()).await.unwrap(), Started::Existed);
    systemd.set("late-a.scope", vec![("TasksMax", 7_u64.into())]).await.unwrap();
    systemd.set("late-a.scope", none()).await.unwrap();
    systemd.stop("early-a.scope").await.unwrap();
    systemd.stop("nobody.scope").await.unwrap();
    let start = "StartTransientUnit";
    let wanted = ["Subscribe", start, start, start, "SetUnitProperties", "StopUnit", "StopUnit"];
    assert_eq!(manager.calls(), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_wait_for_their_own_jobs() {
    let Some(daemon) = Daemon::start() else { return };
    let manager = Manager::new();
    let _server = manager.serve(&daemon).await;
    let systemd = daemon.systemd();
    let begin = Instant::now();
    let name = |n| format!("{}{n}.scope", if n % 4 == 0 { "failing-" } else { "" });
    let names: Vec<_> = (0..40).map(name).collect();
    let all = names.iter().map(|name| systemd.start(name, none()));
    let results = futures_util::future::join_all(all).await;
    for (name, result) in names.iter().zip(&results) {
        assert_eq!(result.is_ok(), !name.starts_with("failing"), "{name}: {result:?}");
    }
    // One after the other would be 4 s.
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(manager.calls().iter().filter(|call| *call == "Subscribe").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_systemd_refuses_is_the_requests_fault() {
    let Some(daemon) = Daemon::start() else { return };
    let _server = Manager::new().serve(&daemon).await;
    let systemd = daemon.systemd();
    let error = systemd.set("a.scope", vec![("Bad", Value::from(1_u64))]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    assert!(error.to_string().contains("Bad= is out of range"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_that_went_is_connected_to_anew() {
    let Some(mut daemon) = Daemon::start() else { return };
    let manager = Manager::new();
    let server = manager.serve(&daemon).await;
    let systemd = daemon.systemd();
    systemd.start("early-a.scope", none()).await.unwrap();
    daemon.restart();
    drop(server);
    let _server = manager.serve(&daemon).await;
    let begin = Instant::now();
    while systemd.kept().is_some() {
        assert!(begin.elapsed() < PROMPTLY, "nobody has seen the old connection end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(systemd.start("early-b.scope", none()).await.unwrap(), Started::New);
    let wanted = ["Subscribe", "StartTransientUnit", "Subscribe", "StartTransientUnit"];
    assert_eq!(manager.calls(), wanted);
}

/// A manager that was executed anew may have forgotten who subscribed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_which_nobody_tells_is_looked_for() {
    let Some(daemon) = Daemon::start() else { return };
    let manager = Manager::new();
    let _server = manager.serve(&daemon).await;
    let systemd = daemon.systemd();
    assert_eq!(systemd.start("mute-active.scope", none()).await.unwrap(), Started::New);
    assert!(matches!(systemd.start("mute-gone.scope", none()).await, Err(Error::Job { .. })));
    systemd.stop("mute-gone.scope").await.unwrap();
    let subscribed = manager.calls().iter().filter(|call| *call == "Subscribe").count();
    assert_eq!(subscribed, 3, "each of the later two has connected anew");
}

/// Everybody may send signals on the system's bus; only those of systemd count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_signal_is_not_believed() {
    let Some(daemon) = Daemon::start() else { return };
    let manager = Manager::new();
    let _server = manager.serve(&daemon).await;
    let systemd = daemon.systemd();
    systemd.version().await.unwrap();
    let stranger = daemon.connect().await;
    // The next job is the second thing that the manager is asked.
    let job = ObjectPath::try_from(format!("{MANAGER}/job/2")).unwrap();
    let lie = (2_u32, job, "honest.scope", "failed");
    let lying = async {
        for _ in 0..20 {
            stranger.emit_signal(None::<&str>, MANAGER, INTERFACE, "JobRemoved", &lie).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (result, ()) = tokio::join!(systemd.start("honest.scope", none()), lying);
    assert_eq!(result.unwrap(), Started::New);
}
