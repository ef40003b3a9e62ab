//! systemd's manager over D-Bus: transient scopes and slices.
//!
//! Unit names, slices and the common properties come from cgroups-rs. Its client opens a bus connection for every call,
//! blocks, and does not wait for the job; so the calls are made here, on one connection that is kept.

use std::time::Duration;

use cgroups_rs::systemd::{NO_SUCH_UNIT, UNIT_MODE_REPLACE};
use futures_util::StreamExt;
use tokio::sync::Mutex;
use zbus::{
    Connection, Proxy,
    zvariant::{OwnedObjectPath, Value},
};

use crate::Error;

const DESTINATION: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// For one operation, its job included.
const LIMIT: Duration = Duration::from_secs(30);

/// A property of a unit.
pub(crate) type Property = (&'static str, Value<'static>);

/// The manager, connected to when first needed.
#[derive(Debug, Default)]
pub(crate) struct Systemd {
    connection: Mutex<Option<Connection>>,
}

/// Whether the unit was started or was there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Started {
    New,
    Existed,
}

impl Systemd {
    /// Whether systemd is this host's init (sd_booted(3)).
    pub fn is_running() -> bool {
        std::path::Path::new("/run/systemd/system").is_dir()
    }

    /// StartTransientUnit, and waits for its job.
    pub async fn start(&self, unit: &str, properties: Vec<Property>) -> Result<Started, Error> {
        within(format!("systemd: start {unit}"), async {
            let failed = failed("StartTransientUnit", unit);
            let proxy = self.manager(unit).await?;
            let aux: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
            let call = |properties| (unit, UNIT_MODE_REPLACE, properties, aux);
            match run_job(&proxy, "StartTransientUnit", unit, &call(properties)).await {
                Ok(result) if result == "done" => Ok(Started::New),
                Ok(result) => Err(Error::Job { unit: unit.to_owned(), result }),
                Err(error) if is_method_error(&error, UNIT_EXISTS) => Ok(Started::Existed),
                Err(error) => Err(failed(error)),
            }
        })
        .await
    }

    /// SetUnitProperties, until the unit ends.
    pub async fn set(&self, unit: &str, properties: Vec<Property>) -> Result<(), Error> {
        if properties.is_empty() {
            return Ok(());
        }
        within(format!("systemd: set properties of {unit}"), async {
            let proxy = self.manager(unit).await?;
            proxy
                .call::<_, _, ()>("SetUnitProperties", &(unit, true, properties))
                .await
                .map_err(failed("SetUnitProperties", unit))
        })
        .await
    }

    /// StopUnit, and waits for its job; a unit that is not there is success, one that failed is forgotten.
    pub async fn stop(&self, unit: &str) -> Result<(), Error> {
        within(format!("systemd: stop {unit}"), async {
            let proxy = self.manager(unit).await?;
            match run_job(&proxy, "StopUnit", unit, &(unit, UNIT_MODE_REPLACE)).await {
                Ok(_) => {}
                Err(error) if is_method_error(&error, NO_SUCH_UNIT) => {}
                Err(error) => return Err(failed("StopUnit", unit)(error)),
            }
            // Only a unit that failed needs it, and there is no cheaper way to ask.
            let _ = proxy.call::<_, _, ()>("ResetFailedUnit", &unit).await;
            Ok(())
        })
        .await
    }

    /// A proxy on a live connection. A bus that was restarted closes the old one.
    async fn manager(&self, unit: &str) -> Result<Proxy<'static>, Error> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            let proxy = proxy(connection).await.map_err(failed("connect for", unit))?;
            // Subscribing is a round trip that also tells whether anyone is still there; without it no JobRemoved comes.
            match proxy.call::<_, _, ()>("Subscribe", &()).await {
                Err(zbus::Error::InputOutput(_)) => {}
                _ => return Ok(proxy),
            }
        }
        let connection = Connection::system().await.map_err(failed("connect for", unit))?;
        let proxy = proxy(&connection).await.map_err(failed("connect for", unit))?;
        proxy.call::<_, _, ()>("Subscribe", &()).await.map_err(failed("Subscribe", unit))?;
        *kept = Some(connection);
        Ok(proxy)
    }
}

async fn proxy(connection: &Connection) -> zbus::Result<Proxy<'static>> {
    Proxy::new(connection, DESTINATION, PATH, INTERFACE).await
}

/// Calls a method that queues a job and waits for that job's end: `done`, `failed`, `canceled`, `timeout` ...
async fn run_job<B>(proxy: &Proxy<'_>, method: &'static str, unit: &str, body: &B) -> zbus::Result<String>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    // Listening begins before the call: the job may be over before its answer is read.
    let mut ends = proxy.receive_signal_with_args("JobRemoved", &[(2, unit)]).await?;
    let job: OwnedObjectPath = proxy.call(method, body).await?;
    while let Some(message) = ends.next().await {
        let (_, ended, _, result): (u32, OwnedObjectPath, String, String) = message.body().deserialize()?;
        if ended == job {
            return Ok(result);
        }
    }
    Err(zbus::Error::InputOutput(std::sync::Arc::new(std::io::ErrorKind::UnexpectedEof.into())))
}

fn is_method_error(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, _, _) if found.as_str() == name)
}

fn failed(operation: &'static str, unit: &str) -> impl FnOnce(zbus::Error) -> Error + use<> {
    let unit = unit.to_owned();
    move |source| Error::Dbus { operation, unit, source: Box::new(source) }
}

async fn within<T>(stage: String, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or(Err(Error::Timeout { stage, limit: LIMIT }))
}
