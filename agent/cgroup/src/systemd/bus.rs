//! One connection to systemd, and the ends of its jobs.
//!
//! A job's end comes as a signal (JobRemoved of org.freedesktop.systemd1(5)) to those who have subscribed. That is done
//! once for the connection, so that an operation is one call and one signal; whoever waits is told by the unit's name and
//! looks for its job.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cgroups_rs::systemd::NO_SUCH_UNIT;
use futures_util::StreamExt;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use zbus::{
    Connection, Proxy,
    proxy::{CacheProperties, SignalStream},
    zvariant::{DynamicType, OwnedObjectPath, OwnedValue},
};

use super::is_method_error;

const DESTINATION: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PEER: &str = "org.freedesktop.DBus.Peer";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const UNKNOWN_OBJECT: &str = "org.freedesktop.DBus.Error.UnknownObject";
/// After so long without a signal the job itself is asked for: a manager that was executed anew may have forgotten us.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 400 } else { 2000 });

/// A connection with its subscription.
#[derive(Debug)]
pub(super) struct Bus {
    manager: Proxy<'static>,
    version: u32,
    waiting: Arc<Waiting>,
    listener: JoinHandle<()>,
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Bus {
    /// Subscribes, and asks for the version.
    pub async fn new(connection: &Connection) -> zbus::Result<Self> {
        let manager = proxy(connection, PATH, INTERFACE).await?;
        // Listening begins before systemd is told that somebody listens.
        let ends = manager.receive_signal("JobRemoved").await?;
        manager.call::<_, _, ()>("Subscribe", &()).await?;
        let version: String = manager.get_property("Version").await?;
        let waiting = Arc::new(Waiting::default());
        let listener = tokio::spawn(listen(ends, Arc::clone(&waiting)));
        Ok(Self { manager, version: number(&version), waiting, listener })
    }

    /// systemd's version; 0 if it is not a number.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether signals still come, as far as we know.
    pub fn is_open(&self) -> bool {
        let state = self.waiting.lock();
        !state.ended && !state.distrusted
    }

    /// Whether systemd answers at all (D-Bus specification, org.freedesktop.DBus.Peer).
    pub async fn ping(&self) -> zbus::Result<()> {
        let connection = self.manager.connection();
        connection.call_method(Some(DESTINATION), PATH, Some(PEER), "Ping", &()).await.map(drop)
    }

    /// A method of the manager.
    pub async fn call<R>(
        &self,
        method: &'static str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> zbus::Result<R>
    where
        R: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
    {
        self.manager.call(method, body).await
    }

    /// Calls a method that queues a job and waits for that job's end: `done`, `failed`, `canceled`, `timeout` ...
    pub async fn run_job(
        &self,
        method: &'static str,
        unit: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> zbus::Result<String> {
        // Before the call: the job may be over before its answer is read.
        let mut ends = self.waiting.register(unit);
        let job: OwnedObjectPath = self.call(method, body).await?;
        let mut is_there = true;
        loop {
            match timeout(PATIENCE, ends.receiver.recv()).await {
                Ok(Some((ended, result))) if ended == job => return Ok(result),
                Ok(Some(_)) => {}
                Ok(None) => return Err(zbus::Error::InputOutput(Arc::new(io::ErrorKind::BrokenPipe.into()))),
                // A job that was gone a while ago has had its signal sent, if at all.
                Err(_) if !is_there => return self.without_signal(method, unit).await,
                Err(_) => is_there = self.has_job(&job).await?,
            }
        }
    }

    async fn has_job(&self, job: &OwnedObjectPath) -> zbus::Result<bool> {
        match self.property(job, JOB, "State").await {
            Ok(_) => Ok(true),
            Err(error) if is_method_error(&error, UNKNOWN_OBJECT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The job is over and nobody has told: its result is seen by the unit. Other operations make a new connection.
    async fn without_signal(&self, method: &str, unit: &str) -> zbus::Result<String> {
        tracing::warn!(unit, method, "systemd did not tell of a job's end: subscribing anew");
        self.waiting.lock().distrusted = true;
        let active = match self.call::<OwnedObjectPath>("GetUnit", &unit).await {
            Ok(path) => {
                let state = String::try_from(self.property(&path, UNIT, "ActiveState").await?)?;
                ["active", "activating", "reloading"].contains(&state.as_str())
            }
            Err(error) if is_method_error(&error, NO_SUCH_UNIT) => false,
            Err(error) => return Err(error),
        };
        let wanted = method == "StartTransientUnit";
        Ok(if active == wanted { "done" } else { "failed" }.to_owned())
    }

    async fn property(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
        name: &str,
    ) -> zbus::Result<OwnedValue> {
        let object = proxy(self.manager.connection(), path.as_str(), PROPERTIES).await?;
        object.call("Get", &(interface, name)).await
    }
}

/// Without a cache, which would ask for all properties and follow their changes.
async fn proxy(connection: &Connection, path: &str, interface: &'static str) -> zbus::Result<Proxy<'static>> {
    zbus::proxy::Builder::new(connection)
        .destination(DESTINATION)?
        .path(path.to_owned())?
        .interface(interface)?
        .cache_properties(CacheProperties::No)
        .build()
        .await
}

/// `257.9-1~deb13u1` is 257.
fn number(version: &str) -> u32 {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

type End = (OwnedObjectPath, String);

/// Registered waiters for the jobs of units.
#[derive(Debug, Default)]
struct Waiting {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The connection has.
    ended: bool,
    /// A signal did not come: who waits goes on, but nobody begins.
    distrusted: bool,
    next: u64,
    senders: HashMap<u64, (String, mpsc::UnboundedSender<End>)>,
}

/// The ends of one unit's jobs; the channel is closed when the connection has ended.
struct Ends {
    waiting: Arc<Waiting>,
    key: u64,
    receiver: mpsc::UnboundedReceiver<End>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.waiting.lock().senders.remove(&self.key);
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(self: &Arc<Self>, unit: &str) -> Ends {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.lock();
        let key = state.next;
        state.next += 1;
        if !state.ended {
            state.senders.insert(key, (unit.to_owned(), sender));
        }
        Ends { waiting: Arc::clone(self), key, receiver }
    }

    fn tell(&self, unit: &str, end: &End) {
        for (of, sender) in self.lock().senders.values() {
            if of == unit {
                // Who waited may just be giving up.
                let _ = sender.send(end.clone());
            }
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.senders.clear();
    }
}

/// Until the connection ends.
async fn listen(mut ends: SignalStream<'static>, waiting: Arc<Waiting>) {
    while let Some(message) = ends.next().await {
        match message.body().deserialize::<(u32, OwnedObjectPath, String, String)>() {
            Ok((_, job, unit, result)) => waiting.tell(&unit, &(job, result)),
            Err(error) => {
                tracing::debug!(error = holdfast_model::chain(&error), "JobRemoved of another kind");
            }
        }
    }
    waiting.close();
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn versions_are_their_first_number() {
        let all = ["257.9-1~deb13u1", "v258", "252 (252.5-2)", "systemd 249", "", "x"];
        assert_eq!(all.map(number), [257, 258, 252, 249, 0, 0]);
    }
}
