//! The folders of specs and what is in their files.

use std::{
    fs, io,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    CdiError, Name,
    schema::{self, Claim, Spec},
};

/// Largest file in bytes. Those of a node with eight GPUs have some 100 KiB.
const MAX_FILE: u64 = 4 << 20;
/// Most bytes of all files.
const MAX_TOTAL: u64 = 64 << 20;
/// Most entries of all folders.
const MAX_ENTRIES: u64 = 10_000;

/// A spec file.
#[derive(Debug)]
pub struct File {
    /// Where.
    pub path: PathBuf,
    /// The place of its folder: a later one is higher.
    pub priority: usize,
    /// What is in it.
    pub content: Content,
}

/// What is in a file.
#[derive(Debug)]
pub enum Content {
    /// A spec.
    Spec(Box<Spec>),
    /// Something else.
    Bad {
        /// What is wrong with it.
        problem: String,
        /// What it claims to define, if that can be read.
        claim: Option<Claim>,
    },
}

impl File {
    /// It says what the device is, or means to.
    pub fn defines(&self, name: &Name) -> bool {
        match &self.content {
            Content::Spec(spec) => {
                spec.kind == name.kind && spec.devices.iter().any(|device| device.name == name.device)
            }
            Content::Bad { claim, .. } => claim.as_ref().is_some_and(|claim| {
                claim.kind == name.kind && claim.devices.iter().any(|device| device.name == name.device)
            }),
        }
    }

    /// What is wrong with a file of which nobody can say what it defines.
    pub fn unreadable(&self) -> Option<(PathBuf, String)> {
        match &self.content {
            Content::Bad { problem, claim: None } => Some((self.path.clone(), problem.clone())),
            _ => None,
        }
    }
}

/// Reads all files of the folders, in the order of their names; a folder that is not there holds none. One that is no
/// spec is logged. Blocking.
pub fn read(folders: &[PathBuf]) -> Result<Vec<File>, CdiError> {
    let (mut files, mut entries, mut bytes) = (Vec::new(), 0, 0);
    for (priority, folder) in folders.iter().enumerate() {
        let too_much = |limit, unit| CdiError::TooMuch { folder: folder.clone(), limit, unit };
        for path in list(folder)? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(too_much(MAX_ENTRIES, "files"));
            }
            let Some((content, len)) = read_one(&path) else { continue };
            bytes += len;
            if bytes > MAX_TOTAL {
                return Err(too_much(MAX_TOTAL, "bytes"));
            }
            if let Content::Bad { problem, .. } = &content {
                tracing::warn!(file = %path.display(), problem, "a file that is no CDI spec is left out");
            }
            files.push(File { path, priority, content });
        }
    }
    Ok(files)
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, CdiError> {
    let failed = |source| CdiError::Folder { folder: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    // One more than may be is enough to know that there are too many.
    for entry in entries.take(MAX_ENTRIES as usize + 1) {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "json" || extension == "yaml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// `None`: a directory, or gone meanwhile.
fn read_one(path: &Path) -> Option<(Content, u64)> {
    let bad = |problem: String| Some((Content::Bad { problem, claim: None }, 0));
    match contents(path) {
        Ok(Some(bytes)) => {
            let content = match schema::parse(path, &bytes) {
                Ok(spec) => Content::Spec(Box::new(spec)),
                Err(problem) => Content::Bad { problem, claim: schema::claim(path, &bytes) },
            };
            Some((content, bytes.len() as u64))
        }
        Ok(None) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => bad(error.to_string()),
    }
}

/// The bytes of a file; `None` for a directory. A special file is an error, for reading one may never end.
fn contents(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Ok(None);
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        let problem = format!("it is larger than {MAX_FILE} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(Some(bytes))
}
