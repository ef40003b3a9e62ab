//! Pull: from a reference to an image of the store.
//!
//! Resolve, walk the index, read the configuration; then all missing layers at once, as far as there are slots; then
//! one commit. Until the commit nothing has a name, and whatever ends the pull, a dropped future included, leaves only
//! work directories, which discard themselves.

mod fetch;
mod flights;
mod meter;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use holdfast_model::{Credentials, Image};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::fetch::{Wanted, fetch};
use self::flights::{Flight, Flights, Key};
use self::meter::{Counter, Meter};
use crate::blocking::blocking;
use crate::digest::Digest;
use crate::manifest::{Config, Descriptor, Found, Search, Step};
use crate::reference::{Reference, Target};
use crate::registry::{Fetched, Registries, Session};
use crate::store::{Catalog, Facts, Layers, NewImage, Staged, commit, healthy};
use crate::{Error, ErrorKind, ProgressFn, RegistrySettings};

/// How often a pull joins a download that was another one's and failed for the other one's reasons.
const MOST_JOINS: usize = 3;
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Pulls into one store.
#[derive(Debug)]
pub(crate) struct Puller {
    catalog: Arc<Catalog>,
    source: RwLock<Arc<Source>>,
    flights: Flights,
}

/// Where layers come from, and how many at once.
#[derive(Debug)]
pub(crate) struct Source {
    registries: Registries,
    slots: Arc<Semaphore>,
}

impl Source {
    pub(crate) fn new(settings: RegistrySettings) -> Self {
        let parallel = settings.max_parallel_downloads.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            registries: Registries::new(settings.config_dir, settings.progress_timeout),
            slots: Arc::new(Semaphore::new(parallel)),
        }
    }
}

impl Puller {
    pub(crate) fn new(catalog: Arc<Catalog>, source: Source) -> Self {
        Self { catalog, source: RwLock::new(Arc::new(source)), flights: Flights::default() }
    }

    /// Downloads that begin from now on take `source`.
    pub(crate) fn set_source(&self, source: Source) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(source);
    }

    fn source(&self) -> Arc<Source> {
        self.source.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Pulls `reference`. Dropping the future is safe at any point.
    pub(crate) async fn pull(
        self: Arc<Self>,
        reference: Reference,
        credentials: Option<Credentials>,
        progress: Option<ProgressFn>,
    ) -> Result<Arc<Image>, Error> {
        let text = reference.to_string();
        let session = {
            let (source, reference) = (self.source(), reference.clone());
            let open = move || source.registries.session(&reference, credentials.as_ref());
            Arc::new(blocking(&text, "hosts.toml", open).await?)
        };
        let top = session.resolve().await?;
        let by_digest = reference.at(&top.digest).to_string();
        let names = match reference.target {
            Target::Tag(_) => vec![text.clone(), by_digest.clone()],
            Target::Digest(_) => vec![by_digest.clone()],
        };
        if let Some(image) = self.known(&text, by_digest, &names).await? {
            return Ok(image);
        }
        let Found { manifest, config_body, id, config, layers } = find_image(&session, &text, top).await?;
        let (layers, flights) = self.layers(&reference, &session, &layers, &config, progress).await?;
        let image = NewImage {
            id,
            config: config.image,
            diff_ids: config.diff_ids,
            blobs: vec![config_body, manifest],
            names,
        };
        let catalog = Arc::clone(&self.catalog);
        let work = move || {
            // Held up to here: who comes meanwhile finds the layers with them, who comes later in the records.
            let _flights = flights;
            commit(&catalog, vec![image], &layers)
        };
        let images = blocking(&text, "the disk, which takes the image", work).await?;
        images.into_iter().next().ok_or(Error::NoSuchImage { name: text })
    }

    /// An image that is complete and has this digest; it only gets the names.
    async fn known(
        &self,
        object: &str,
        by_digest: String,
        names: &[String],
    ) -> Result<Option<Arc<Image>>, Error> {
        let snapshot = self.catalog.snapshot();
        let Some(id) = snapshot.model.references.get(&by_digest).cloned() else { return Ok(None) };
        let Some(record) = snapshot.model.visible(&id) else { return Ok(None) };
        let diff_ids: HashSet<Digest> = record.diff_ids.iter().cloned().collect();
        let count = diff_ids.len();
        let healthy = self.healthy(object, diff_ids).await?;
        if healthy.len() < count {
            return Ok(None);
        }
        let (catalog, names) = (Arc::clone(&self.catalog), names.to_vec());
        blocking(object, "the disk, which takes the name", move || {
            let ((), snapshot) = catalog.edit(|model, _| {
                // It may have been removed meanwhile.
                if model.visible(&id).is_some() {
                    model.references.extend(names.into_iter().map(|name| (name, id.clone())));
                }
                Ok(())
            })?;
            Ok(snapshot.by_id(&id))
        })
        .await
    }

    /// All layers of the image, those that are missing fetched.
    async fn layers(
        self: &Arc<Self>,
        reference: &Reference,
        session: &Arc<Session>,
        blobs: &[Descriptor],
        config: &Config,
        progress: Option<ProgressFn>,
    ) -> Result<(Layers, Vec<Arc<Flight>>), Error> {
        // A layer that stands there twice is fetched once.
        let wanted: HashMap<Digest, Descriptor> =
            config.diff_ids.iter().cloned().zip(blobs.iter().cloned()).collect();
        let pinned = self.catalog.pin(wanted.keys().cloned().collect());
        let recorded = wanted.keys().filter(|diff_id| pinned.is_recorded(diff_id)).cloned().collect();
        let mut present = self.healthy(&reference.to_string(), recorded).await?;
        let mut meter = Meter::new(reference, progress, wanted.len(), present.len());
        let mut downloads = JoinSet::new();
        // Lowest first: slots are given in the order in which they are asked for.
        let mut started = HashSet::new();
        for diff_id in &config.diff_ids {
            if present.contains_key(diff_id) || !started.insert(diff_id) {
                continue;
            }
            let blob = wanted[diff_id].clone();
            let object = format!("{reference}: layer {}", blob.digest);
            let damaged = pinned.is_recorded(diff_id);
            let wanted = Wanted { blob, diff_id: diff_id.clone(), object, damaged };
            let received = meter.expect(wanted.blob.size);
            let (puller, session) = (Arc::clone(self), Arc::clone(session));
            let name = reference.name();
            downloads.spawn(async move { puller.layer(name, session, wanted, &received).await });
        }
        let (mut staged, mut flights) = (HashMap::new(), Vec::new());
        meter.tell();
        loop {
            let joined = tokio::select! {
                joined = downloads.join_next() => joined,
                () = tokio::time::sleep(PROGRESS_EVERY), if meter.is_wanted() => {
                    meter.tell();
                    continue;
                }
            };
            match joined {
                None => break,
                Some(Ok(layer)) => {
                    match layer? {
                        Got::Present(facts) => drop(present.insert(facts.diff_id.clone(), facts)),
                        Got::Staged(layer, flight) => {
                            staged.insert(layer.facts.diff_id.clone(), layer);
                            flights.push(flight);
                        }
                    }
                    meter.done += 1;
                    meter.tell();
                }
                Some(Err(_)) => return Err(Error::Cancelled { object: reference.to_string() }),
            }
        }
        Ok((Layers::new(present, staged, pinned), flights))
    }

    async fn healthy(
        &self,
        object: &str,
        diff_ids: HashSet<Digest>,
    ) -> Result<HashMap<Digest, Facts>, Error> {
        let home = Arc::clone(&self.catalog.home);
        blocking(object, "the disk, which reads layers", move || healthy(&home, diff_ids)).await
    }

    /// One layer, by a download of our own or one that another pull has begun.
    async fn layer(
        &self,
        repository: String,
        session: Arc<Session>,
        wanted: Wanted,
        received: &Counter,
    ) -> Result<Got, Error> {
        let key = Key { repository, blob: wanted.blob.digest.clone(), diff_id: wanted.diff_id.clone() };
        for join in 1.. {
            let (home, slots) = (Arc::clone(&self.catalog.home), Arc::clone(&self.source().slots));
            let (session, copy) = (Arc::clone(&session), wanted.clone());
            let recorded = || !wanted.damaged && self.catalog.is_recorded(&wanted.diff_id);
            let joined = self.flights.join(&key, recorded, |count| fetch(home, session, slots, copy, count));
            let Some((flight, ours)) = joined else {
                let facts = self.healthy(&wanted.object, [wanted.diff_id.clone()].into()).await?;
                let facts = facts.into_values().next();
                return facts.map(Got::Present).ok_or(Error::Cancelled { object: wanted.object });
            };
            received.set(Arc::clone(&flight.received));
            match flight.wait().await {
                Ok(staged) => return Ok(Got::Staged(staged, flight)),
                Err(error) if !ours && join < MOST_JOINS && is_personal(error.kind()) => {}
                Err(error) => return Err(Error::Shared(error)),
            }
        }
        Err(Error::Cancelled { object: wanted.object })
    }
}

/// A layer that a pull waited for.
enum Got {
    /// Another pull has committed it meanwhile.
    Present(Facts),
    /// Unpacked, with the download that brought it.
    Staged(Arc<Staged>, Arc<Flight>),
}

/// Failures that say something of the pull that had them, not of the layer.
fn is_personal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Cancelled | ErrorKind::Unauthenticated | ErrorKind::Denied)
}

/// Follows indexes to the image for this machine.
async fn find_image(session: &Session, object: &str, top: Fetched) -> Result<Found, Error> {
    let (mut search, mut step) = Search::start(object, &top.digest, top.body)?;
    loop {
        let body = match step {
            Step::Manifest(entry) => session.manifest(&entry.digest, Some(entry.size)).await?.body,
            Step::Config(config) => session.small_blob(&config).await?,
            Step::Found(found) => return Ok(*found),
        };
        step = search.feed(body)?;
    }
}
