//! The configuration in force. Its files are looked at each time, and read when they have changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::conf::{self, ConfList, Fingerprint};
use crate::Error;

/// A configuration, or the file that has a mistake and which one.
type Outcome<T> = Result<T, (PathBuf, String)>;

/// The configuration as it was read last.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// `None`: never looked.
    dir: Option<Fingerprint>,
    /// The first file, without what its network's folder has.
    inlined: Option<Outcome<ConfList>>,
    folder: Fingerprint,
    /// `None`: not put together yet.
    list: Option<Outcome<Arc<ConfList>>>,
}

impl Cache {
    /// The list in force; `None` if there is no configuration.
    pub(super) fn list(&mut self, conf_dir: &Path) -> Result<Option<Arc<ConfList>>, Error> {
        let dir = conf::fingerprint(conf_dir)?;
        if self.dir.as_ref() != Some(&dir) {
            let inlined = outcome(conf::read(&dir))?.transpose();
            *self = Self { dir: Some(dir), inlined, ..Self::default() };
        }
        let inlined = match &self.inlined {
            None => return Ok(None),
            Some(Err(mistake)) => return Err(error(mistake)),
            Some(Ok(inlined)) => inlined,
        };
        let folder = conf::folder(inlined)?;
        if self.list.is_none() || self.folder != folder {
            let list = conf::with_folder(inlined.clone(), &folder).map(Arc::new);
            (self.list, self.folder) = (Some(outcome(list)?), folder);
        }
        match &self.list {
            Some(Err(mistake)) => Err(error(mistake)),
            Some(Ok(list)) => Ok(Some(list.clone())),
            None => Ok(None),
        }
    }
}

/// A mistake stands until a file changes; any other failure is tried again the next time.
fn outcome<T>(read: Result<T, Error>) -> Result<Outcome<T>, Error> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(Error::CniConfig { file, reason }) => Ok(Err((file, reason))),
        Err(error) => Err(error),
    }
}

fn error((file, reason): &(PathBuf, String)) -> Error {
    Error::CniConfig { file: file.clone(), reason: reason.clone() }
}
