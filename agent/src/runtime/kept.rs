//! Launch parameters that are kept of a container: all of them on disk, for the status and for execs, and the
//! part that execs need in memory as well, once there was one. A probe then reads no disk and parses no spec.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, PoisonError},
};

use holdfast_model::SecurityProfile;
use holdfast_pod::launch::Launch;
use holdfast_spec::{
    Built,
    caps::CapSet,
    seccomp::{Compiler, Program},
};
use holdfast_sys::failpoint;
use oci_spec::runtime::{Process, Spec};

use super::{Error, object::Container};

/// A [`KeptLaunch`], in the container's directory.
pub(super) const LAUNCH_FILE: &str = "launch.json";
/// The program of a profile that is a file: what that says may change, or go, while the container runs.
pub(super) const PROGRAM_FILE: &str = "seccomp.bpf";

/// Launch parameters of a container.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct KeptLaunch<L = Launch<Spec>, S = SecurityProfile> {
    pub launch: L,
    pub seccomp: S,
    pub capabilities: u64,
}

/// Parameters that all execs in a container have in common: a few KiB, for containers with execs alone.
#[derive(Debug)]
pub struct ExecBase {
    /// The container's first process, without its command.
    pub process: Process,
    /// As [`Launch::raw_env`].
    pub raw_env: Vec<Vec<u8>>,
    /// As [`Launch::seccomp_flags`].
    pub seccomp_flags: u32,
    /// The container's seccomp program.
    pub program: Option<Arc<Program>>,
}

/// Writes what is kept into the container's directory. Blocking.
pub fn write(dir: &Path, launch: &[u8], program: Option<&Program>) -> Result<(), Error> {
    put(dir, LAUNCH_FILE, launch)?;
    program.map_or(Ok(()), |program| put(dir, PROGRAM_FILE, program.bytes()))
}

/// The launch of a container as it is kept.
pub fn encode(built: &Built, dir: &Path) -> Result<Vec<u8>, Error> {
    let kept = KeptLaunch {
        launch: &built.launch,
        seccomp: &built.seccomp,
        capabilities: built.capabilities.bits(),
    };
    serde_json::to_vec(&kept).map_err(|error| failed("encode", dir, LAUNCH_FILE)(error.into()))
}

/// Whether the program is kept: that of the default profile is made anew from the capabilities.
pub fn is_of_file(profile: &SecurityProfile) -> bool {
    matches!(profile, SecurityProfile::Localhost(_))
}

fn put(dir: &Path, name: &'static str, bytes: &[u8]) -> Result<(), Error> {
    failpoint::at("runtime.container.file.write")
        .and_then(|()| fs::write(dir.join(name), bytes))
        .map_err(failed("write", dir, name))
}

fn failed(operation: &'static str, dir: &Path, name: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = dir.join(name);
    move |source| Error::Io { operation, path, source }
}

impl Container {
    /// Launch parameters that it was started with. Blocking.
    pub fn kept_launch(&self) -> Result<KeptLaunch, Error> {
        fs::read(self.dir.join(LAUNCH_FILE))
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
            .map_err(failed("read", &self.dir, LAUNCH_FILE))
    }

    /// Common parameters of its execs, if they are in memory.
    pub fn known_exec_base(&self) -> Option<Arc<ExecBase>> {
        self.exec_base.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Common parameters of its execs; from now on they are in memory until the container ends. Blocking.
    pub fn load_exec_base(&self, compiler: &Compiler) -> Result<Arc<ExecBase>, Error> {
        let kept = self.kept_launch()?;
        let program = self.program(compiler, &kept)?;
        let Launch { mut spec, raw_env, seccomp_flags, .. } = kept.launch;
        let no_process =
            || failed("find the process in", &self.dir, LAUNCH_FILE)(io::ErrorKind::InvalidData.into());
        let mut process = spec.process_mut().take().ok_or_else(no_process)?;
        process.set_args(None);
        let base = Arc::new(ExecBase { process, raw_env, seccomp_flags, program });
        *self.exec_base.lock().unwrap_or_else(PoisonError::into_inner) = Some(base.clone());
        Ok(base)
    }

    fn program(&self, compiler: &Compiler, kept: &KeptLaunch) -> Result<Option<Arc<Program>>, Error> {
        if self.record.get().runtime.is_some() {
            // Another runtime has the profile of the container, and compiles it itself.
            return Ok(None);
        }
        if is_of_file(&kept.seccomp) {
            match fs::read(self.dir.join(PROGRAM_FILE)) {
                Ok(bytes) => return Ok(Some(compiler.given(bytes, kept.launch.seccomp_flags))),
                // Made before programs were kept.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("read", &self.dir, PROGRAM_FILE)(error)),
            }
        }
        compiler
            .program(&kept.seccomp, CapSet::from_bits(kept.capabilities))
            .map_err(|source| Error::Seccomp { operation: "exec", source })
    }
}
