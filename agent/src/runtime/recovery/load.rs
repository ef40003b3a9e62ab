//! Reading of all records of one kind.
//!
//! Content decides what becomes of an object, never a failed read: an error of the disk or of the kernel (EIO, EMFILE, ENOMEM)
//! is one of the start, which is tried again, while a record whose bytes make no sense will make none the next time.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};

use crate::runtime::{
    quarantine,
    record::{self, Record, RecordError},
};

/// Content of a directory of records.
#[derive(Debug)]
pub struct Loaded<R> {
    /// The records that can be used.
    pub records: Vec<R>,
    /// The other directories with an object's name.
    pub others: Vec<Other>,
}

/// A directory without a record that can be used.
#[derive(Debug)]
pub struct Other {
    /// Where it is.
    pub dir: PathBuf,
    /// The id that its name says.
    pub id: String,
    /// Why the record cannot be used.
    pub fault: Fault,
}

/// Reasons not to use a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// There is none: its writer was killed before it, and so before anything that it would have named.
    Missing,
    /// Its bytes never reached the disk, which lost its power soon after.
    Empty,
    /// Its bytes are no record of that object.
    Torn {
        /// The first thing that is wrong.
        reason: String,
    },
    /// A newer program wrote it.
    Newer {
        /// Its version.
        version: u32,
    },
    /// It is whole and of our version, and says what we do not know: a newer program's, or a damaged one.
    Strange {
        /// The first thing that is not known.
        reason: String,
    },
    /// A start before this one has set it aside.
    Aside,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("no record"),
            Self::Empty => f.write_str("an empty record"),
            Self::Torn { reason } => write!(f, "unreadable: {reason}"),
            Self::Newer { version } => {
                write!(f, "version {version} of a newer holdfast; this one reads up to {}", record::VERSION)
            }
            Self::Strange { reason } => {
                write!(f, "not understood: {reason}; a newer holdfast may have written it")
            }
            Self::Aside => f.write_str("set aside before"),
        }
    }
}

/// Reads every `parent/<id>/record.json`. Names that are no ids are somebody else's (`lost+found`). Blocking.
///
/// # Errors
/// The first error that is not about the content of a record.
pub fn load<R: Record>(parent: &Path) -> Result<Loaded<R>, RecordError> {
    let failed = |source| RecordError { operation: "list the directory of", path: parent.to_owned(), source };
    let mut loaded = Loaded { records: Vec::new(), others: Vec::new() };
    for entry in fs::read_dir(parent).map_err(failed)? {
        let dir = entry.map_err(failed)?.path();
        let Some((id, is_aside)) = dir.file_name().and_then(|name| quarantine::split(name.to_str()?)) else {
            continue;
        };
        let id = id.to_owned();
        let read = if is_aside { Some(Err(Fault::Aside)) } else { read(&dir, &id)? };
        match read {
            None => {}
            Some(Ok(record)) => loaded.records.push(record),
            Some(Err(fault)) => loaded.others.push(Other { dir, id, fault }),
        }
    }
    Ok(loaded)
}

/// `None`: it is no directory.
fn read<R: Record>(dir: &Path, id: &str) -> Result<Option<Result<R, Fault>>, RecordError> {
    let path = dir.join(record::FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(parse(&bytes, id))),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(Some(Err(Fault::Missing))),
            io::ErrorKind::NotADirectory => Ok(None),
            io::ErrorKind::IsADirectory => Ok(Some(Err(Fault::Torn { reason: error.to_string() }))),
            _ => Err(RecordError { operation: "read", path, source: error }),
        },
    }
}

/// The part of a record that every version has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// The record of the object `id`.
pub fn parse<R: Record>(bytes: &[u8], id: &str) -> Result<R, Fault> {
    // A file system that knew the length already, but not the data, shows zeros.
    if bytes.iter().all(|byte| *byte == 0) {
        return Err(Fault::Empty);
    }
    let torn = |error: serde_json::Error| Fault::Torn { reason: error.to_string() };
    let Head { version } = serde_json::from_slice(bytes).map_err(torn)?;
    if version > record::VERSION {
        return Err(Fault::Newer { version });
    }
    let record: R = serde_json::from_slice(bytes).map_err(|error| {
        let is_whole = error.is_data() && serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
        if is_whole { Fault::Strange { reason: error.to_string() } } else { torn(error) }
    })?;
    // Undoing a copied record would undo the object that it was copied from.
    if record.id() != id {
        return Err(Fault::Torn { reason: format!("it is the record of {}", record.id()) });
    }
    match record.own_cgroup() {
        Some(path) if !path.contains(id) => {
            Err(Fault::Torn { reason: format!("cgroup {path} is another's") })
        }
        _ => Ok(record),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Sample {
        version: u32,
        id: String,
        text: String,
    }

    impl Record for Sample {
        fn id(&self) -> &str {
            &self.id
        }

        fn must_stay(&self) -> bool {
            false
        }

        fn own_cgroup(&self) -> Option<&str> {
            None
        }
    }

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn bytes(version: u32, id: &str) -> Vec<u8> {
        let text = "ä".to_owned();
        serde_json::to_vec(&Sample { version, id: id.to_owned(), text }).unwrap()
    }

    #[test]
    fn cut_at_any_byte_a_record_is_torn_and_nothing_worse() {
        let whole = bytes(record::VERSION, &id('a'));
        assert!(parse::<Sample>(&whole, &id('a')).is_ok());
        assert_eq!(parse::<Sample>(b"", &id('a')).unwrap_err(), Fault::Empty);
        for length in 1..whole.len() {
            let fault = parse::<Sample>(&whole[..length], &id('a')).unwrap_err();
            assert!(matches!(fault, Fault::Torn { .. }), "{length}: {fault}");
        }
        assert_eq!(parse::<Sample>(&[0; 4096], &id('a')).unwrap_err(), Fault::Empty);
    }

    /// A newer record need not have the fields of ours.
    #[test]
    fn a_newer_version_is_known_by_its_number_alone() {
        let newer = br#"{"version": 99, "id": 7, "new": {}}"#;
        assert_eq!(parse::<Sample>(newer, &id('a')).unwrap_err(), Fault::Newer { version: 99 });
    }

    /// A phase, say, that a newer program has.
    #[test]
    fn what_is_whole_and_not_understood_is_not_torn() {
        let strange =
            format!(r#"{{"version": {}, "id": "{}", "text": {{"new": 1}}}}"#, record::VERSION, id('a'));
        let fault = parse::<Sample>(strange.as_bytes(), &id('a')).unwrap_err();
        assert!(matches!(fault, Fault::Strange { .. }), "{fault}");
        for length in 1..strange.len() {
            let fault = parse::<Sample>(&strange.as_bytes()[..length], &id('a')).unwrap_err();
            assert!(matches!(fault, Fault::Torn { .. }), "{length}: {fault}");
        }
    }

    /// Else the undo of a copied directory would undo what it was copied from.
    #[test]
    fn a_record_counts_in_its_own_directory_alone() {
        let fault = parse::<Sample>(&bytes(record::VERSION, &id('a')), &id('b')).unwrap_err();
        assert_eq!(fault.to_string(), format!("unreadable: it is the record of {}", id('a')));
    }

    #[test]
    fn each_directory_has_its_kind() {
        let base = tempfile::tempdir().unwrap();
        let put = |name: &str, content: Option<&[u8]>| {
            let dir = base.path().join(name);
            fs::create_dir(&dir).unwrap();
            if let Some(content) = content {
                fs::write(dir.join(record::FILE), content).unwrap();
            }
        };
        put(&id('1'), Some(&bytes(record::VERSION, &id('1'))));
        put(&id('2'), Some(b"{"));
        put(&id('3'), Some(&bytes(record::VERSION + 1, &id('3'))));
        put(&id('4'), None);
        put(&id('5'), Some(b""));
        // What was set aside is not read again, even if it could be.
        put(&format!("{}.unreadable", id('6')), Some(&bytes(record::VERSION, &id('6'))));
        put("lost+found", None);
        fs::write(base.path().join(id('7')), "").unwrap();
        fs::create_dir_all(base.path().join(id('8')).join(record::FILE)).unwrap();
        let loaded = load::<Sample>(base.path()).unwrap();
        assert_eq!(loaded.records.iter().map(Record::id).collect::<Vec<_>>(), [id('1')]);
        let mut others: Vec<_> = loaded.others.into_iter().map(|other| (other.id, other.fault)).collect();
        others.sort_by(|one, other| one.0.cmp(&other.0));
        let names: Vec<_> = others.iter().map(|(id, _)| id[..1].to_owned()).collect();
        assert_eq!(names, ["2", "3", "4", "5", "6", "8"]);
        assert!(matches!(others[0].1, Fault::Torn { .. }) && matches!(others[5].1, Fault::Torn { .. }));
        assert_eq!(others[1].1, Fault::Newer { version: record::VERSION + 1 });
        assert_eq!(
            (&others[2].1, &others[3].1, &others[4].1),
            (&Fault::Missing, &Fault::Empty, &Fault::Aside)
        );
    }

    /// The kernel's error for a path through too many links: neither an absent record nor a torn one.
    #[test]
    fn a_read_that_fails_fails_the_start() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join(id('1'));
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(record::FILE, dir.join(record::FILE)).unwrap();
        let error = load::<Sample>(base.path()).unwrap_err();
        assert!(error.path.ends_with(record::FILE) && error.operation == "read", "{error:?}");
        assert_eq!(load::<Sample>(&base.path().join("none")).unwrap_err().operation, "list the directory of");
    }
}
