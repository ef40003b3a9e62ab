//! systemd's manager over D-Bus: transient scopes and slices.
//!
//! Unit names, slices and the common properties come from cgroups-rs. Its client opens a bus connection for every call,
//! blocks, and does not wait for the job; so the calls are made here, on one connection that is kept.

mod bus;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cgroups_rs::systemd::{NO_SUCH_UNIT, UNIT_MODE_REPLACE};
use futures_util::future::BoxFuture;
use zbus::{Connection, zvariant::Value};

use crate::Error;
use bus::Bus;

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// For one operation, its job included.
const LIMIT: Duration = Duration::from_secs(30);

/// A property of a unit.
pub(crate) type Property = (&'static str, Value<'static>);

/// Opens a connection to the system's bus.
type Connect = Box<dyn Fn() -> BoxFuture<'static, zbus::Result<Connection>> + Send + Sync>;

/// The manager, connected to when first needed, and again when the bus has gone.
pub(crate) struct Systemd {
    connect: Connect,
    /// Locked for moments.
    kept: Mutex<Option<Arc<Bus>>>,
    /// Held by who connects: the others wait for that connection and make none of their own.
    connecting: tokio::sync::Mutex<()>,
}

impl Default for Systemd {
    fn default() -> Self {
        Self::on(Box::new(|| Box::pin(Connection::system())))
    }
}

impl std::fmt::Debug for Systemd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Systemd").field("connected", &self.kept().is_some()).finish_non_exhaustive()
    }
}

/// Whether the unit was started or was there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Started {
    New,
    Existed,
}

impl Systemd {
    fn on(connect: Connect) -> Self {
        Self { connect, kept: Mutex::default(), connecting: tokio::sync::Mutex::default() }
    }

    /// Whether systemd is this host's init (sd_booted(3)).
    pub fn is_running() -> bool {
        std::path::Path::new("/run/systemd/system").is_dir()
    }

    /// Its version, such as 257: what a unit may be told depends on it.
    pub async fn version(&self) -> Result<u32, Error> {
        within("systemd: ask for the version".to_owned(), async { Ok(self.bus("systemd").await?.version()) })
            .await
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), Error> {
        within("systemd: ping".to_owned(), async {
            self.bus("systemd").await?.ping().await.map_err(failed("Ping", "systemd"))
        })
        .await
    }

    /// StartTransientUnit, and waits for its job.
    pub async fn start(&self, unit: &str, properties: Vec<Property>) -> Result<Started, Error> {
        within(format!("systemd: start {unit}"), async {
            let bus = self.bus(unit).await?;
            let aux: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
            let body = (unit, UNIT_MODE_REPLACE, properties, aux);
            match bus.run_job("StartTransientUnit", unit, &body).await {
                Ok(result) if result == "done" => Ok(Started::New),
                Ok(result) => Err(Error::Job { unit: unit.to_owned(), result }),
                Err(error) if is_method_error(&error, UNIT_EXISTS) => Ok(Started::Existed),
                Err(error) => Err(failed("StartTransientUnit", unit)(error)),
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
            let bus = self.bus(unit).await?;
            bus.call::<()>("SetUnitProperties", &(unit, true, properties))
                .await
                .map_err(failed("SetUnitProperties", unit))
        })
        .await
    }

    /// StopUnit, and waits for its job; a unit that is not there is success.
    ///
    /// The job waits for the unit's processes, which get SIGTERM first and SIGKILL after 90 s: whoever wants the unit gone
    /// kills them before.
    pub async fn stop(&self, unit: &str) -> Result<(), Error> {
        within(format!("systemd: stop {unit}"), async {
            let bus = self.bus(unit).await?;
            match bus.run_job("StopUnit", unit, &(unit, UNIT_MODE_REPLACE)).await {
                Ok(_) => Ok(()),
                Err(error) if is_method_error(&error, NO_SUCH_UNIT) => Ok(()),
                Err(error) => Err(failed("StopUnit", unit)(error)),
            }
        })
        .await
    }

    /// ResetFailedUnit: a unit that failed keeps its name until then, unless it was told otherwise (CollectMode).
    pub async fn forget(&self, unit: &str) -> Result<(), Error> {
        within(format!("systemd: forget {unit}"), async {
            let bus = self.bus(unit).await?;
            match bus.call::<()>("ResetFailedUnit", &unit).await {
                Err(error) if !is_method_error(&error, NO_SUCH_UNIT) => {
                    Err(failed("ResetFailedUnit", unit)(error))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// A live connection.
    async fn bus(&self, unit: &str) -> Result<Arc<Bus>, Error> {
        if let Some(bus) = self.kept() {
            return Ok(bus);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(bus) = self.kept() {
            return Ok(bus);
        }
        let connection = (self.connect)().await.map_err(failed("connect for", unit))?;
        let bus = Arc::new(Bus::new(&connection).await.map_err(failed("Subscribe for", unit))?);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&bus));
        Ok(bus)
    }

    /// The connection of before, if anyone is still there.
    fn kept(&self) -> Option<Arc<Bus>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|bus| bus.is_open()).cloned()
    }
}

fn is_method_error(error: &zbus::Error, name: &str) -> bool {
    matches!(error, zbus::Error::MethodError(found, _, _) if found.as_str() == name)
}

/// systemd refuses a property by its value with InvalidArgs, and it names the property.
fn failed(operation: &'static str, unit: &str) -> impl FnOnce(zbus::Error) -> Error + use<> {
    const INVALID: &str = "org.freedesktop.DBus.Error.InvalidArgs";
    let unit = unit.to_owned();
    move |source| match source {
        zbus::Error::MethodError(name, Some(text), _) if name.as_str() == INVALID => {
            Error::Refused { operation, unit, text }
        }
        source => Error::Dbus { operation, unit, source: Box::new(source) },
    }
}

async fn within<T>(stage: String, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or(Err(Error::Timeout { stage, limit: LIMIT }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tests.rs"]
mod tests;
