//! The way from a manifest to the image for this machine, through indexes and past what is no image.
//!
//! An entry of an index that names a platform is believed: if it names this machine's, that is the image, whatever its
//! configuration says. An entry that names none is looked at only where no other fits, and then its configuration
//! decides; one that turns out to be something else is passed over. A manifest that no index leads to is judged by its
//! configuration as well.

use super::platform::{Platform, architecture};
use super::{
    Config, Descriptor, ImageManifest, Index, LARGEST_MANIFEST, Manifest, RawDescriptor, descriptor,
};
use crate::digest::Digest;
use crate::{Error, ErrorKind};

/// Indexes that lead to an index, before the one that leads to an image.
const MOST_INDEXES: u32 = 3;
/// Entries without a platform that are looked at, each with a request or two.
const MOST_LOOKS: usize = 16;

/// Next step of the search: the body that it needs, or its result.
#[derive(Debug)]
pub(crate) enum Step {
    /// The body of this manifest.
    Manifest(Descriptor),
    /// The body of this configuration.
    Config(Descriptor),
    /// Nothing more.
    Found(Box<Found>),
}

/// The image for this machine.
#[derive(Debug)]
pub(crate) struct Found {
    /// As they came.
    pub manifest: Vec<u8>,
    pub config_body: Vec<u8>,
    /// Digest of the configuration.
    pub id: Digest,
    pub config: Config,
    pub layers: Vec<Descriptor>,
}

/// A search; it does no I/O and is fed what it asks for.
#[derive(Debug)]
pub(crate) struct Search {
    /// For messages: the reference or the archive.
    object: String,
    /// Entries that may be the image, the next one last.
    leads: Vec<(Lead, Descriptor)>,
    reading: Reading,
    /// The error for which the first of them was passed over.
    passed_over: Option<Error>,
    looks: usize,
}

/// The way by which a manifest was reached.
#[derive(Debug, Clone, Copy)]
struct Lead {
    /// Indexes on the way.
    depth: u32,
    /// An index says that it is for this machine.
    decided: bool,
    /// Other entries are looked at if it is not what it should be.
    optional: bool,
}

/// Kind of the body that is expected next.
#[derive(Debug)]
enum Reading {
    Nothing,
    Manifest(Lead, Digest),
    Config { lead: Lead, body: Vec<u8>, manifest: ImageManifest },
}

impl Search {
    /// From a manifest that is already here.
    pub(crate) fn start(object: &str, digest: &Digest, body: Vec<u8>) -> Result<(Self, Step), Error> {
        let mut search = Self::new(object);
        search.reading =
            Reading::Manifest(Lead { depth: 0, decided: false, optional: false }, digest.clone());
        let step = search.feed(body)?;
        Ok((search, step))
    }

    /// From an entry of a layout. `decided`: the layout says that it is for this machine.
    pub(crate) fn enter(object: &str, entry: Descriptor, decided: bool) -> (Self, Step) {
        let mut search = Self::new(object);
        let step = search.read(Lead { depth: 0, decided, optional: false }, entry);
        (search, step)
    }

    fn new(object: &str) -> Self {
        Self {
            object: object.to_owned(),
            leads: Vec::new(),
            reading: Reading::Nothing,
            passed_over: None,
            looks: 0,
        }
    }

    /// Takes what the last step asked for.
    pub(crate) fn feed(&mut self, body: Vec<u8>) -> Result<Step, Error> {
        match std::mem::replace(&mut self.reading, Reading::Nothing) {
            Reading::Manifest(lead, digest) => match self.look(lead, &digest, body) {
                Ok(step) => Ok(step),
                Err(error) => self.pass_over(lead, error),
            },
            Reading::Config { lead, body: manifest_body, manifest } => {
                match self.read_config(lead, &manifest, &body) {
                    Ok(config) => {
                        let ImageManifest { config: Descriptor { digest: id, .. }, layers, .. } = manifest;
                        let found = Found { manifest: manifest_body, config_body: body, id, config, layers };
                        Ok(Step::Found(Box::new(found)))
                    }
                    Err(error) => self.pass_over(lead, error),
                }
            }
            Reading::Nothing => Err(Error::corrupt(&self.object, "nothing more was asked for")),
        }
    }

    fn look(&mut self, lead: Lead, digest: &Digest, body: Vec<u8>) -> Result<Step, Error> {
        let named = format!("{}: manifest {digest}", self.object);
        match Manifest::parse(&named, &body)? {
            Manifest::Image(manifest) => {
                let config = manifest.config.clone();
                self.reading = Reading::Config { lead, body, manifest };
                Ok(Step::Config(config))
            }
            Manifest::Index(_) if lead.depth >= MOST_INDEXES => {
                Err(Error::corrupt(&self.object, "its index leads to an index again and again"))
            }
            Manifest::Index(index) => {
                self.follow(lead, &index, &named)?;
                self.next()
            }
        }
    }

    fn read_config(&self, lead: Lead, manifest: &ImageManifest, body: &[u8]) -> Result<Config, Error> {
        let object = format!("{}: configuration {}", self.object, manifest.config.digest);
        let config = Config::parse(&object, body).map_err(|error| match &manifest.odd_config {
            Some(kind) => {
                Error::unsupported(&object, format!("of type {kind}: not a container image ({error})"))
            }
            None => error,
        })?;
        config.check_layers(&object, manifest.layers.len())?;
        if !lead.decided {
            config.check_platform(&object)?;
        }
        Ok(config)
    }

    /// Takes the entries of an index that may be the image: the one that fits best, else those that do not say for what
    /// they are, in their order.
    fn follow(&mut self, lead: Lead, index: &Index, named: &str) -> Result<(), Error> {
        let entries = || index.entries.iter().filter(|entry| entry.may_be_image());
        let ranked = entries().filter_map(|entry| Some((entry.platform()?.rank()?, entry)));
        let depth = lead.depth + 1;
        // The first of those that fit as well.
        if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
            let lead = Lead { depth, decided: true, ..lead };
            self.leads.push((lead, descriptor(named, best, LARGEST_MANIFEST)?));
            return Ok(());
        }
        let mut open: Vec<&RawDescriptor> = entries().filter(|entry| entry.platform().is_none()).collect();
        if open.is_empty() {
            return Err(Error::unsupported(named, misfit(entries().filter_map(RawDescriptor::platform))));
        }
        open.truncate(MOST_LOOKS);
        for entry in open.into_iter().rev() {
            let lead = Lead { depth, decided: lead.decided, optional: true };
            self.leads.push((lead, descriptor(named, entry, LARGEST_MANIFEST)?));
        }
        Ok(())
    }

    /// An entry that need not be the image is left for the next one.
    fn pass_over(&mut self, lead: Lead, error: Error) -> Result<Step, Error> {
        if !lead.optional || !matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Corrupt) {
            return Err(error);
        }
        self.passed_over.get_or_insert(error);
        self.next()
    }

    fn next(&mut self) -> Result<Step, Error> {
        let next = self.leads.pop().filter(|_| self.looks < MOST_LOOKS);
        let Some((lead, descriptor)) = next else {
            let nothing = || Error::corrupt(&self.object, "it leads to no image");
            return Err(self.passed_over.take().unwrap_or_else(nothing));
        };
        self.looks += 1;
        Ok(self.read(lead, descriptor))
    }

    fn read(&mut self, lead: Lead, descriptor: Descriptor) -> Step {
        self.reading = Reading::Manifest(lead, descriptor.digest.clone());
        Step::Manifest(descriptor)
    }
}

/// Reason for which an index has nothing for this machine.
fn misfit<'a>(platforms: impl Iterator<Item = &'a Platform>) -> String {
    let mut known: Vec<String> = platforms.map(Platform::show).take(20).collect();
    known.sort();
    format!("no manifest for linux/{}, only for: {}", architecture(), known.join(", "))
}
