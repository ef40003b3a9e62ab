//! The choice of a pod's network: by `[network] mode`, and by the CNI configuration that is there or not.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use holdfast_model::chain;

use crate::{Error, Mode, cni::conf::ConfList, network::Inner, thread};

/// The network of a pod that is made now.
#[derive(Debug)]
pub(crate) enum Choice {
    /// The plugins of this list.
    Cni(Arc<ConfList>),
    /// The embedded network.
    Embedded,
}

/// The mode, and what [`Mode::Auto`] has to remember.
#[derive(Debug)]
pub(crate) struct Chooser {
    mode: Mode,
    /// A CNI configuration was loaded, by this agent or an earlier one.
    cni_was_there: AtomicBool,
    /// That is on disk.
    is_noted: AtomicBool,
}

impl Chooser {
    pub(crate) fn new(mode: Mode, cni_was_there: bool) -> Self {
        Self { mode, cni_was_there: cni_was_there.into(), is_noted: cni_was_there.into() }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }
}

impl Inner {
    /// The network that serves pods now.
    ///
    /// # Errors
    /// [`Error::NoCni`]; a CNI configuration with a mistake: neither the next file nor the embedded network takes its place.
    pub(crate) async fn choose(&self) -> Result<Choice, Error> {
        let chooser = &self.chooser;
        if chooser.mode == Mode::Embedded {
            return Ok(Choice::Embedded);
        }
        if let Some(list) = self.cni.list().await? {
            if chooser.mode == Mode::Auto {
                self.note_cni().await;
            }
            return Ok(Choice::Cni(list));
        }
        if chooser.mode == Mode::Auto && !chooser.cni_was_there.load(Ordering::Acquire) {
            return Ok(Choice::Embedded);
        }
        Err(Error::NoCni { dir: self.cni.conf_dir().to_owned() })
    }

    /// The embedded network never takes the place of CNI from now on, whatever becomes of the configuration.
    async fn note_cni(&self) {
        let chooser = &self.chooser;
        chooser.cni_was_there.store(true, Ordering::Release);
        if chooser.is_noted.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = self.store.clone();
        if let Err(error) = thread::blocking("network", move || store.note_cni()).await {
            chooser.is_noted.store(false, Ordering::Release);
            tracing::warn!(
                error = chain(&error),
                "could not write down that CNI is in use: it is tried again"
            );
        }
    }
}
