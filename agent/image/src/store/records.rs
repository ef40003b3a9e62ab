//! The images' records on disk: one JSON file for each image that a user can see, `images/<hex>.json`, with its names.
//!
//! There is no index that could be lost: what is known of layers lies beside them, and an image of which only the
//! configuration is left can be put together from that. `images/whole` is there once the directory holds what it should: so
//! one that was lost is not taken for that of a store without images. An image has come when its file has got its name, and is gone
//! when the file is: so a removal writes nothing, and works on a full disk. A name moves from one image to another by the
//! newcomer's file alone: of two that claim it, the one with the higher serial number has it. The loser's file is put right
//! afterwards; so is all else that images only lose, as soon as the disk takes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{self, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::home::{Home, Scratch, blames_content, names, read_file, unlink};
use super::model::{ImageRecord, Model};
use crate::Error;
use crate::blocking::failpoint;
use crate::digest::Digest;

/// Of the files' form. Fields may be added without a new one.
pub(super) const VERSION: u32 = 1;
const ENDING: &str = ".json";
const WHOLE: &str = "whole";
/// Configurations are smaller, and names are few.
const LARGEST: u64 = 64 << 20;

/// A file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct File {
    pub version: u32,
    pub serial: u64,
    /// Complete references that lead to the image.
    pub references: BTreeSet<String>,
    #[serde(flatten)]
    pub image: ImageRecord,
}

/// The part of a file that every version has.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Head {
    version: u32,
    serial: u64,
}

/// What has to be known to write the files.
#[derive(Debug)]
pub(super) struct Records {
    home: Arc<Home>,
    /// The highest that was used.
    serial: u64,
    /// Images whose files do not say what is so.
    stale: BTreeSet<Digest>,
    /// Whether none was lost before they were read.
    whole: bool,
}

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub images: BTreeMap<Digest, ImageRecord>,
    pub references: BTreeMap<String, Digest>,
    /// Images whose files cannot be read.
    pub unreadable: BTreeSet<Digest>,
}

impl Records {
    /// Reads all files. One that is no record is told of and left alone; one that the disk does not give is an error.
    /// Blocking.
    pub(super) fn load(home: Arc<Home>) -> Result<(Self, Found), Error> {
        let mut found = Found::default();
        let mut records = Self { home, serial: 0, stale: BTreeSet::new(), whole: false };
        let mut claims: HashMap<String, (u64, Digest)> = HashMap::new();
        let names = names(records.home.images.as_fd())
            .map_err(|errno| Error::io("read directory images of the image store", errno))?;
        for name in names {
            if name == WHOLE {
                records.whole = true;
                continue;
            }
            let Some(id) = id_of(&name) else {
                tracing::warn!(name, "a file among the records of the image store that is none");
                continue;
            };
            match read(&records.home, &name) {
                Ok(file) => {
                    records.serial = records.serial.max(file.serial);
                    for reference in file.references {
                        records.claim(&mut claims, reference, (file.serial, id.clone()));
                    }
                    found.images.insert(id, file.image);
                }
                Err(Trouble::Unreadable { reason, serial }) => {
                    tracing::warn!(%id, reason, "the record of an image cannot be read");
                    // The program that can read it shall not take its names for newer than what is written from now on.
                    records.serial = records.serial.max(serial);
                    found.unreadable.insert(id);
                }
                Err(Trouble::Disk(source)) => {
                    return Err(Error::Io { operation: format!("read record images/{name}"), source });
                }
            }
        }
        found.references = claims.into_iter().map(|(reference, (_, id))| (reference, id)).collect();
        Ok((records, found))
    }

    fn claim(&mut self, claims: &mut HashMap<String, (u64, Digest)>, reference: String, new: (u64, Digest)) {
        let loser = match claims.get(&reference) {
            Some(old) if *old > new => Some(new.1),
            _ => claims.insert(reference, new).map(|(_, old)| old),
        };
        self.stale.extend(loser);
    }

    /// Whether those that were read are all that there were.
    pub(super) fn are_whole(&self) -> bool {
        self.whole
    }

    /// Makes the files say `after` instead of `before`. What an image gains is durable when this returns, and an error
    /// means that nothing of it is there; what is lost only may come back with a power cut or a disk that is full until
    /// the next start. Blocking.
    pub(super) fn commit(&mut self, before: &Model, after: &Model) -> Result<(), Error> {
        let Changes { gains, losses, gone } = Changes::between(before, after);
        let done = self.write(&gains, after).and_then(|()| gone.iter().try_for_each(|id| self.remove(id)));
        if done.is_ok() {
            self.stale.extend(losses);
            self.catch_up(after);
        } else {
            self.stale.extend(gone);
            self.catch_up(before);
        }
        done
    }

    /// The same for a start, which no file may hold up: what cannot be written now is written later. Says whether all was.
    pub(super) fn settle(&mut self, before: &Model, after: &Model) -> bool {
        let Changes { gains, losses, gone } = Changes::between(before, after);
        self.stale.extend(gains.into_iter().chain(losses).chain(gone));
        self.catch_up(after);
        self.stale.is_empty() && self.mark_whole()
    }

    fn mark_whole(&mut self) -> bool {
        if !self.whole {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = fs::openat(&self.home.images, WHOLE, flags, Mode::RUSR | Mode::WUSR);
            self.whole = made
                .inspect_err(|error| tracing::warn!(%error, "mark the records of the image store as whole"))
                .is_ok();
        }
        self.whole
    }

    /// Tries to put right what is not.
    fn catch_up(&mut self, model: &Model) {
        if self.stale.is_empty() {
            return;
        }
        let (stale, gone): (Vec<_>, Vec<_>) =
            self.stale.iter().cloned().partition(|id| model.visible(id).is_some());
        let removed = gone.iter().try_for_each(|id| {
            self.remove(id)?;
            self.stale.remove(id);
            Ok(())
        });
        if let Err(error) = removed.and_then(|()| self.write(&stale, model)) {
            tracing::warn!(
                images = self.stale.len(),
                error = holdfast_model::chain(&error),
                "records of images are behind until the next change"
            );
        }
    }

    /// Writes the files of these images. After an error those that may have been written are stale.
    fn write(&mut self, ids: &[Digest], model: &Model) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let scratch = Scratch::new(&self.home)?;
        let mut references: HashMap<&Digest, BTreeSet<String>> = HashMap::new();
        for (reference, id) in &model.references {
            references.entry(id).or_default().insert(reference.clone());
        }
        self.serial += 1;
        for id in ids {
            let Some(image) = model.visible(id) else { continue };
            let references = references.remove(id).unwrap_or_default();
            let file = File { version: VERSION, serial: self.serial, references, image: image.clone() };
            let json = serde_json::to_vec(&file).map_err(|error| Error::io("write a record", error))?;
            scratch.write_synced(&file_name(id), &json)?;
        }
        self.stale.extend(ids.iter().cloned());
        for id in ids {
            let name = file_name(id);
            failpoint("image.record.rename")?;
            scratch.publish_file(&name, self.home.images.as_fd(), &name)?;
        }
        self.home.sync_records()?;
        for id in ids {
            self.stale.remove(id);
        }
        Ok(())
    }

    fn remove(&self, id: &Digest) -> Result<(), Error> {
        unlink(&self.home.images, &file_name(id))
    }
}

/// What is not the same in two models, as far as files say it.
struct Changes {
    /// Images that are new, or have something that they had not.
    gains: Vec<Digest>,
    /// Images that have lost a name.
    losses: Vec<Digest>,
    gone: Vec<Digest>,
}

impl Changes {
    fn between(before: &Model, after: &Model) -> Self {
        let mut gains: BTreeSet<&Digest> = BTreeSet::new();
        gains.extend(after.images.keys().filter(|id| after.visible(id) != before.visible(id)));
        let moved = after.references.iter().filter(|(name, id)| before.references.get(*name) != Some(*id));
        gains.extend(moved.map(|(_, id)| id));
        gains.retain(|id| after.visible(id).is_some());
        let lost = before.references.iter().filter(|(name, id)| after.references.get(*name) != Some(*id));
        let losses = lost.map(|(_, id)| id).filter(|id| after.visible(id).is_some() && !gains.contains(id));
        let gone =
            before.images.keys().filter(|id| before.visible(id).is_some() && after.visible(id).is_none());
        Self {
            losses: losses.cloned().collect(),
            gone: gone.cloned().collect(),
            gains: gains.into_iter().cloned().collect(),
        }
    }
}

enum Trouble {
    /// The content is at fault, or of a newer program. The serial number is 0 where it does not tell.
    Unreadable { reason: String, serial: u64 },
    /// The disk is.
    Disk(io::Error),
}

fn read(home: &Home, name: &str) -> Result<File, Trouble> {
    let unreadable = |reason: String, serial| Trouble::Unreadable { reason, serial };
    let bytes = read_file(home.images.as_fd(), name, LARGEST).map_err(|error| {
        if blames_content(&error) { unreadable(error.to_string(), 0) } else { Trouble::Disk(error) }
    })?;
    let Head { version, serial } = serde_json::from_slice(&bytes).unwrap_or_default();
    if version > VERSION {
        return Err(unreadable(format!("version {version} is newer than {VERSION}"), serial));
    }
    serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string(), serial))
}

fn file_name(id: &Digest) -> String {
    format!("{}{ENDING}", id.hex())
}

fn id_of(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.strip_suffix(ENDING)?).parse().ok()
}
