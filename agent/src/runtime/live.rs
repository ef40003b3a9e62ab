//! The part of the configuration that can change while the agent runs.

use std::sync::{Arc, PoisonError, RwLock};

use holdfast_cgroup::Driver;

use super::{Runtime, handlers::Handlers};
use crate::config::{CdiSection, Config, RuntimeSection};

/// What an operation takes once, at its beginning.
#[derive(Debug)]
pub struct Live {
    /// `[runtime]`.
    pub runtime: RuntimeSection,
    /// `[cdi]`.
    pub cdi: CdiSection,
    /// The RuntimeClass handlers.
    pub handlers: Handlers,
}

impl Live {
    /// What this configuration says.
    pub fn new(config: &Config, driver: Driver) -> Self {
        Self {
            runtime: config.runtime.clone(),
            cdi: config.cdi.clone(),
            handlers: Handlers::new(config, driver == Driver::Systemd),
        }
    }
}

/// The one in force.
#[derive(Debug)]
pub struct InForce(RwLock<Arc<Live>>);

impl InForce {
    /// Begins with `live`.
    pub fn new(live: Live) -> Self {
        Self(RwLock::new(Arc::new(live)))
    }

    /// What is in force now.
    pub fn get(&self) -> Arc<Live> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, live: Live) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }
}

impl Runtime {
    /// Puts what can change of `config` into force. Containers that are there keep what they were made with.
    pub fn reload(&self, config: &Config) {
        self.live.set(Live::new(config, self.cgroups.driver()));
        self.images.reload(super::start::registry_settings(config));
        self.ask_runtimes();
    }

    /// Takes the locks that every request takes: returns if they are free some time.
    pub fn answers(&self) {
        drop(self.pods.read());
        drop(self.containers.read());
        drop(self.live.get());
    }
}
