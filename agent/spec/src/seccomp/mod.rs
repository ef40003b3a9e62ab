//! Seccomp programs: compiled once per profile and capability set, kept, and handed to the shim as bytes.

mod bpf;
mod compile;
pub mod default;
mod oci;
pub mod profile;

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

pub use compile::CompileError;
use holdfast_model::SecurityProfile;
pub use profile::ProfileError;

use crate::{caps::CapSet, error::ErrorKind};

/// Longest profile that is read, in bytes.
const MAX_PROFILE: u64 = 4 << 20;
/// How many programs are kept; each is about 10 KiB.
const KEPT: usize = 64;

/// A compiled filter.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    bytes: Vec<u8>,
    flags: u32,
}

impl Program {
    /// An array of `struct sock_filter`, for a sealed memfd.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many instructions.
    pub fn instructions(&self) -> usize {
        self.bytes.len() / bpf::INSTRUCTION_SIZE
    }

    /// Flags for seccomp(2) with SECCOMP_SET_MODE_FILTER.
    pub fn flags(&self) -> u32 {
        self.flags
    }
}

/// Why there is no program for a profile.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SeccompError {
    /// A relative profile that leaves the profile directory.
    #[error("seccomp profile {0:?}: a relative path may not hold .. or be empty")]
    Path(String),
    /// No such file.
    #[error("seccomp profile {} is not on this node: put it there, or change localhost_profile", .0.display())]
    Missing(PathBuf),
    /// A file that cannot be a profile.
    #[error("seccomp profile {}: {problem}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// What it is.
        problem: &'static str,
    },
    /// The file could not be read.
    #[error("read seccomp profile {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Its words are not all known to the OCI runtime spec.
    #[error("write seccomp profile {name} for another runtime")]
    Oci {
        /// Which.
        name: String,
        /// What is not known.
        #[source]
        source: Arc<serde_json::Error>,
    },
    /// The file's content is no profile.
    #[error("seccomp profile {name}")]
    Profile {
        /// Which.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Arc<ProfileError>,
    },
    /// The profile could not be compiled.
    #[error("compile seccomp profile {name}")]
    Compile {
        /// Which.
        name: String,
        /// Why not.
        #[source]
        source: Arc<CompileError>,
    },
}

impl SeccompError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing(_) => ErrorKind::NotFound,
            Self::Path(_) | Self::File { .. } | Self::Profile { .. } | Self::Oci { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Compile { source, .. } => match **source {
                CompileError::Library { .. } | CompileError::Read(_) => ErrorKind::Internal,
                _ => ErrorKind::InvalidArgument,
            },
            Self::Read { .. } => ErrorKind::Internal,
        }
    }
}

/// What a program is made from. A profile file's whole text is the key, so that a changed file is a new profile.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Default(CapSet),
    Text(Arc<[u8]>, CapSet),
}

/// One program, made by whoever asks for it first; others that ask wait for that one.
type Slot = Arc<OnceLock<Result<Arc<Program>, SeccompError>>>;

/// Compiles profiles and keeps the programs that were asked for last.
///
/// A compilation takes some 15 milliseconds of a processor, and a profile is a file: call [`Compiler::program`] where
/// blocking is allowed (`spawn_blocking`), and [`Compiler::warm`] once at the start, in the background.
#[derive(Debug)]
pub struct Compiler {
    profile_root: PathBuf,
    kernel: (u32, u32),
    /// Last used last.
    programs: Mutex<Vec<(Source, Slot)>>,
    /// Those that were not compiled here, while somebody has them.
    given: Mutex<Vec<Weak<Program>>>,
}

impl Compiler {
    /// For relative profiles below `profile_root` (the kubelet's /var/lib/kubelet/seccomp) and a kernel of this version.
    pub fn new(profile_root: impl Into<PathBuf>, kernel: (u32, u32)) -> Self {
        Self {
            profile_root: profile_root.into(),
            kernel,
            programs: Mutex::default(),
            given: Mutex::default(),
        }
    }

    /// Compiles RuntimeDefault for the default capabilities, so that the first container need not wait for it.
    pub fn warm(&self) -> Result<(), SeccompError> {
        self.program(&SecurityProfile::RuntimeDefault, CapSet::DEFAULT).map(drop)
    }

    /// The program of `profile` for a container with the bounding set `caps`; `None` for an unconfined one. Blocks.
    pub fn program(
        &self,
        profile: &SecurityProfile,
        caps: CapSet,
    ) -> Result<Option<Arc<Program>>, SeccompError> {
        let Some((source, name)) = self.source(profile, caps)? else { return Ok(None) };
        let slot = self.slot(&source);
        let result = slot.get_or_init(|| self.compile(&source, &name)).clone();
        if result.is_err() {
            self.forget(&slot);
        }
        result.map(Some)
    }

    /// A program that was compiled when its container was made, whatever its profile says by now. Equal ones are shared.
    pub fn given(&self, bytes: Vec<u8>, flags: u32) -> Arc<Program> {
        let program = Program { bytes, flags };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.retain(|known| known.strong_count() > 0);
        if let Some(known) = given.iter().filter_map(Weak::upgrade).find(|known| **known == program) {
            return known;
        }
        let program = Arc::new(program);
        given.push(Arc::downgrade(&program));
        program
    }

    /// The same profile in the words of the OCI runtime spec, for a runtime that compiles it itself. Blocks.
    pub fn oci(
        &self,
        profile: &SecurityProfile,
        caps: CapSet,
    ) -> Result<Option<oci_spec::runtime::LinuxSeccomp>, SeccompError> {
        let Some((source, name)) = self.source(profile, caps)? else { return Ok(None) };
        let oci = oci::to_oci(&self.read_profile(&source, &name)?);
        oci.map(Some).map_err(|source| SeccompError::Oci { name, source: Arc::new(source) })
    }

    fn source(
        &self,
        profile: &SecurityProfile,
        caps: CapSet,
    ) -> Result<Option<(Source, String)>, SeccompError> {
        match profile {
            SecurityProfile::Unconfined => Ok(None),
            SecurityProfile::RuntimeDefault => {
                Ok(Some((Source::Default(caps.and(default::relevant())), "runtime/default".to_owned())))
            }
            SecurityProfile::Localhost(reference) => {
                let path = self.locate(reference)?;
                Ok(Some((Source::Text(read(&path)?, caps), path.display().to_string())))
            }
        }
    }

    fn locate(&self, reference: &str) -> Result<PathBuf, SeccompError> {
        // What the kubelet sent before CRI had profile types.
        let path = Path::new(reference.strip_prefix("localhost/").unwrap_or(reference));
        if path.is_absolute() {
            return Ok(path.to_owned());
        }
        let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside || path.as_os_str().is_empty() {
            return Err(SeccompError::Path(reference.to_owned()));
        }
        Ok(self.profile_root.join(path))
    }

    fn compile(&self, source: &Source, name: &str) -> Result<Arc<Program>, SeccompError> {
        let profile = self.read_profile(source, name)?;
        let (bytes, flags) = compile::compile(&profile)
            .map_err(|source| SeccompError::Compile { name: name.to_owned(), source: Arc::new(source) })?;
        Ok(Arc::new(Program { bytes, flags }))
    }

    fn read_profile(&self, source: &Source, name: &str) -> Result<profile::Profile, SeccompError> {
        match source {
            Source::Default(caps) => Ok(default::profile(*caps)),
            Source::Text(text, caps) => profile::parse(text, *caps, self.kernel)
                .map_err(|source| SeccompError::Profile { name: name.to_owned(), source: Arc::new(source) }),
        }
    }

    fn slot(&self, source: &Source) -> Slot {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match programs.iter().position(|(known, _)| known == source) {
            Some(index) => programs.remove(index),
            None => (source.clone(), Slot::default()),
        };
        let slot = Arc::clone(&entry.1);
        if programs.len() >= KEPT {
            programs.remove(0);
        }
        programs.push(entry);
        slot
    }

    fn forget(&self, slot: &Slot) {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        programs.retain(|(_, known)| !Arc::ptr_eq(known, slot));
    }
}

fn read(path: &Path) -> Result<Arc<[u8]>, SeccompError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => SeccompError::Missing(path.to_owned()),
        _ => SeccompError::Read { path: path.to_owned(), source: Arc::new(source) },
    };
    let problem = |problem| SeccompError::File { path: path.to_owned(), problem };
    // Not to hang on a FIFO.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(problem("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_PROFILE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_PROFILE {
        return Err(problem("longer than 4 MiB"));
    }
    Ok(text.into())
}
