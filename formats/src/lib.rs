//! Records and messages as each version of Holdfast writes them, kept as files, and the check that this version reads them,
//! and writes what they can be read from.
//!
//! `sets/<format>/<version>.<revision>/<sample>.json` is a sample as a program of that version wrote it. A version is the
//! number in the record, or of the protocol: another one means that programs of before cannot read it. A revision is what has
//! been added since without need of a new version. Nothing that is stored here ever changes or goes: programs in the field
//! write it, and read it.
//!
//! [`Format::check`] is called by a test beside each format, with samples that name every field, so that a new field
//! does not compile without its sample. It asks that
//!
//! - the newest set is what this program writes: a change of a format shows here first;
//! - every sample of every set is read, and nothing of it is lost;
//! - what is written again has every field of a sample of the same version, as it was: an old program can read it;
//! - fields that nobody knows, as a newer program may write them, are passed over.
//!
//! `UPDATE_FORMATS=1 cargo test stored_format` stores what this program writes as a new set, if it is another format than
//! the newest set's. It refuses to without a new version if the old one's programs could not read it.

mod compare;
mod sets;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use compare::{Kind, difference, lost_of, with_more};
use sets::{Number, Set};

/// Environment variable that lets [`Format::check`] store a new set.
pub const UPDATE: &str = "UPDATE_FORMATS";

/// A container's OCI spec with about everything that the agent writes into one, for samples of launches.
pub fn oci_spec() -> Value {
    let text = include_str!("oci-spec.json");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("parse oci-spec.json: {error}"))
}

/// A kind of record or message.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Name of its directory.
    pub name: &'static str,
    /// The version that this program writes.
    pub version: u32,
}

impl Format {
    /// Checks all stored sets against this program, and this program against the newest.
    ///
    /// # Panics
    /// With a sentence that says what is wrong and what to do.
    pub fn check<T: Serialize + DeserializeOwned>(self, samples: &[(&str, T)]) {
        let written: Vec<(String, Value)> =
            samples.iter().map(|(name, sample)| ((*name).to_owned(), self.written(name, sample))).collect();
        let sets = sets::load(self.name);
        let changes = self.changes(sets.last(), &written);
        if changes.is_empty() {
            self.read_all::<T>(&sets);
        } else if std::env::var_os(UPDATE).is_some() {
            self.store(&sets, &written, &changes);
        } else {
            panic!("{}", self.sentence(&changes, !Self::is_readable(&changes)));
        }
    }

    /// Every sample of every stored set up to our version, with its name; for checks that are more than this one's.
    pub fn stored(self) -> Vec<(String, Value)> {
        let sets = sets::load(self.name).into_iter().filter(|set| set.number.version <= self.version);
        sets.flat_map(|set| {
            let number = set.number;
            set.samples.into_iter().map(move |(name, value)| (format!("{number}/{name}"), value))
        })
        .collect()
    }

    fn written<T: Serialize>(self, name: &str, sample: &T) -> Value {
        serde_json::to_value(sample).unwrap_or_else(|error| panic!("encode {} {name}: {error}", self.name))
    }

    /// The ways in which what we write is another thing than the newest set.
    fn changes(self, newest: Option<&Set>, written: &[(String, Value)]) -> Vec<(Kind, String)> {
        let Some(set) = newest.filter(|set| set.number.version == self.version) else {
            return vec![(Kind::New, format!("no set of version {} is stored", self.version))];
        };
        let mut changes = Vec::new();
        for (name, value) in written {
            match set.samples.get(name) {
                Some(stored) => difference(stored, value, name, &mut changes),
                None => changes.push((Kind::New, format!("{name} is not stored"))),
            }
        }
        let gone = set.samples.keys().filter(|name| written.iter().all(|(other, _)| other != *name));
        changes.extend(
            gone.map(|name| (Kind::Lost, format!("{name} is stored, and no sample of this program"))),
        );
        changes
    }

    /// Whether programs of the same version can read what we write.
    fn is_readable(changes: &[(Kind, String)]) -> bool {
        changes.iter().all(|(kind, _)| matches!(kind, Kind::New | Kind::Changed))
    }

    fn sentence(self, changes: &[(Kind, String)], is_other: bool) -> String {
        let Self { name, version } = self;
        let what: Vec<&str> = changes.iter().map(|(_, text)| text.as_str()).collect();
        let advice = if is_other {
            format!("Programs of version {version} cannot read that: raise the version and store a set of it")
        } else {
            "If older programs can do without it, store it as a new set; else raise the version first"
                .to_owned()
        };
        format!(
            "the format {name:?} is not what formats/sets/{name} says of version {version}: {}. {advice} \
             ({UPDATE}=1 cargo test stored_format; CONTRIBUTING.md, \"Formats of records and messages\")",
            what.join("; ")
        )
    }

    fn store(self, sets: &[Set], written: &[(String, Value)], changes: &[(Kind, String)]) {
        let same_version = sets.iter().rev().find(|set| set.number.version == self.version);
        let is_other = same_version.is_some() && !Self::is_readable(changes);
        assert!(!is_other, "not stored: {}", self.sentence(changes, true));
        let revision = same_version.map_or(0, |set| set.number.revision + 1);
        sets::store(self.name, Number { version: self.version, revision }, written);
    }

    fn read_all<T: Serialize + DeserializeOwned>(self, sets: &[Set]) {
        for set in sets.iter().filter(|set| set.number.version <= self.version) {
            for (name, stored) in &set.samples {
                let place = format!("formats/sets/{}/{}/{name}.json", self.name, set.number);
                let written = self.again::<T>(name, stored);
                let written =
                    written.unwrap_or_else(|error| panic!("{place} cannot be read any more: {error}"));
                if set.number.version == self.version {
                    let lost = lost_of(stored, &written);
                    assert!(
                        lost.is_empty(),
                        "{place} is read, but written again an old program misses {lost:?}"
                    );
                    self.pass_over::<T>(&place, name, stored);
                }
            }
        }
    }

    /// Asks that unknown fields change nothing.
    fn pass_over<T: Serialize + DeserializeOwned>(self, place: &str, name: &str, stored: &Value) {
        // The name of a variant stands alone.
        for (more, at, _) in with_more(stored).into_iter().filter(|(.., may_be_tag)| !may_be_tag) {
            let lost = self.again::<T>(name, &more).map(|written| lost_of(stored, &written));
            let is_same = lost.as_ref().is_ok_and(Vec::is_empty);
            assert!(
                is_same,
                "{place} with an unknown field at {at:?}, as a newer program may write it: {lost:?}"
            );
        }
    }

    /// A stored sample as it is written again.
    fn again<T: Serialize + DeserializeOwned>(
        self,
        name: &str,
        value: &Value,
    ) -> Result<Value, serde_json::Error> {
        serde_json::from_value::<T>(value.clone()).map(|sample| self.written(name, &sample))
    }
}
