//! Which images containers hold. In memory alone: what lasts are the containers' own records, of which the store is told
//! when it is opened.

use std::collections::{HashMap, HashSet};

use crate::config::Holders;
use crate::digest::Digest;

/// The leases of all containers.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: HashMap<String, Vec<Digest>>,
    /// Containers whose images nobody knows: as long as there is one, any image may be in use.
    unknown: HashSet<String>,
}

impl Leases {
    pub(super) fn new(holders: Holders) -> Self {
        let mut leases = Self { held: HashMap::new(), unknown: holders.unknown };
        for (owner, images) in holders.images {
            for image in images {
                match image.parse() {
                    Ok(id) => leases.add(&owner, id),
                    Err(_) => leases.doubt(&owner),
                }
            }
        }
        leases
    }

    pub(super) fn add(&mut self, owner: &str, image: Digest) {
        let held = self.held.entry(owner.to_owned()).or_default();
        if !held.contains(&image) {
            held.push(image);
        }
    }

    /// From now on nobody knows what this owner holds.
    pub(super) fn doubt(&mut self, owner: &str) {
        self.unknown.insert(owner.to_owned());
    }

    /// Ends all leases of an owner; `true`: there were some.
    pub(super) fn release(&mut self, owner: &str) -> bool {
        let held = self.held.remove(owner).is_some();
        self.unknown.remove(owner) || held
    }

    /// Whether an image may be in use.
    pub(super) fn hold(&self, image: &Digest) -> bool {
        !self.unknown.is_empty() || self.held.values().any(|held| held.contains(image))
    }

    /// Those whose images nobody knows.
    pub(super) fn unknown(&self) -> &HashSet<String> {
        &self.unknown
    }

    /// Owners and what they hold.
    pub(super) fn pairs(&self) -> Vec<(String, Digest)> {
        let pairs = self.held.iter().flat_map(|(owner, held)| held.iter().map(move |image| (owner, image)));
        pairs.map(|(owner, image)| (owner.clone(), image.clone())).collect()
    }
}
