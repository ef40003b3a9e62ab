//! The command itself: where it is, in which directory, and why it does not run.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::Path;

use holdfast_pod::protocol::{Failure, FaultKind};
use holdfast_sys::path::{Kind, Root};
use holdfast_sys::process::Program;
use oci_spec::runtime::Process;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::fault::{OrFail, Result, failure, invalid};
use crate::link::{Progress, Step};

/// Where a command without a slash is looked for if the environment does not say it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with everything that execve(2) needs.
pub struct Command {
    program: Program,
    candidates: Vec<CString>,
    found: Vec<Found>,
    name: String,
}

/// A candidate that is there.
struct Found {
    path: CString,
    directory: bool,
}

/// Lays the command out. `home` becomes HOME if the environment has none.
pub fn prepare(process: &Process, raw_env: &[Vec<u8>], home: &str) -> Result<Command> {
    const STAGE: &str = "prepare command";
    let zero = |_| invalid(STAGE, "an argument or variable has a zero byte");
    let arguments = process.args().as_deref().unwrap_or_default();
    let name = arguments.first().filter(|name| !name.is_empty()).cloned();
    let name = name.ok_or_else(|| invalid(STAGE, "no command: name one, or use an image that has one"))?;
    let texts = process.env().iter().flatten().map(|pair| pair.clone().into_bytes());
    let mut environment: Vec<Vec<u8>> = texts.chain(raw_env.iter().cloned()).collect();
    if value_of(&environment, b"HOME=").is_none() {
        environment.push(format!("HOME={home}").into_bytes());
    }
    let path = value_of(&environment, b"PATH=").unwrap_or(DEFAULT_PATH.as_bytes());
    let candidates =
        candidates(&name, path).into_iter().map(CString::new).collect::<std::result::Result<_, _>>();
    let candidates = candidates.map_err(zero)?;
    let strings =
        |all: Vec<Vec<u8>>| all.into_iter().map(CString::new).collect::<std::result::Result<Vec<_>, _>>();
    let arguments =
        strings(arguments.iter().map(|argument| argument.clone().into_bytes()).collect()).map_err(zero)?;
    let program = Program::new(arguments, strings(environment).map_err(zero)?);
    Ok(Command { program, candidates, found: Vec::new(), name })
}

fn value_of<'a>(environment: &'a [Vec<u8>], key: &[u8]) -> Option<&'a [u8]> {
    environment.iter().find_map(|pair| pair.strip_prefix(key))
}

/// As execvp(3): a name with a slash is a path, an empty part of PATH is the working directory.
fn candidates(name: &str, path: &[u8]) -> Vec<Vec<u8>> {
    if name.contains('/') {
        return vec![name.as_bytes().to_vec()];
    }
    path.split(|byte| *byte == b':')
        .map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            [directory, b"/", name.as_bytes()].concat()
        })
        .collect()
}

impl Command {
    /// Looks where the command is, as the user that runs it and before a seccomp program forbids to look.
    pub fn locate(&mut self) -> Result<()> {
        self.found = std::mem::take(&mut self.candidates).into_iter().filter_map(look).collect();
        if self.found.is_empty() { Err(self.missing()) } else { Ok(()) }
    }

    /// Becomes the command; comes back with the reason why not.
    pub fn run(&self, progress: &Progress) -> Failure {
        let mut denied = None;
        for candidate in &self.found {
            progress.at(Step::Execute);
            let errno = self.program.run(&candidate.path);
            // Before all else: to find words takes memory, which the seccomp program may refuse.
            progress.failed(errno.raw_os_error());
            match errno {
                // execvp(3) goes on as well: another one further on may be allowed.
                Errno::ACCESS => denied = denied.or(Some(candidate)),
                errno => return refused(candidate, errno),
            }
        }
        match denied {
            Some(candidate) => refused(candidate, Errno::ACCESS),
            None => self.missing(),
        }
    }

    fn missing(&self) -> Failure {
        let text = if self.name.contains('/') {
            format!("{:?} is not in the image: name a program that is", self.name)
        } else {
            format!(
                "{:?} is not in the PATH of the image: name a program that is, or give its full path",
                self.name
            )
        };
        failure(FaultKind::NotFound, "run command", Errno::NOENT.raw_os_error(), text)
    }
}

fn refused(candidate: &Found, errno: Errno) -> Failure {
    let path = String::from_utf8_lossy(candidate.path.to_bytes());
    let text = match errno {
        Errno::ACCESS if candidate.directory => format!("{path:?} is a directory, not a program"),
        Errno::ACCESS => {
            format!("{path:?}: permission denied: make it executable for the user that runs it")
        }
        Errno::NOEXEC => {
            format!("{path:?}: exec format error: not a program for this machine, or a script without #!")
        }
        Errno::NOENT => format!("{path:?} is there, but the interpreter or loader that it names is not"),
        Errno::TOOBIG => format!("{path:?}: arguments and environment are too long"),
        errno => format!("{path:?}: {}", std::io::Error::from(errno)),
    };
    failure(FaultKind::Invalid, "run command", errno.raw_os_error(), text)
}

/// `None`: there is nothing. What cannot be looked at is for execve(2) to tell of.
fn look(path: CString) -> Option<Found> {
    let is_directory = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
    match rustix::fs::stat(path.as_c_str()) {
        Err(Errno::NOENT | Errno::NOTDIR) => None,
        stat => Some(Found { path, directory: stat.is_ok_and(|stat| is_directory(stat.st_mode)) }),
    }
}

/// Makes the working directory if the image has none of that name, as runc does. What goes wrong shows when it is entered.
pub fn make_directory(path: &Path, root: &Root) {
    if path.is_absolute() {
        let _ = root.ensure(path, Kind::Directory);
    }
}

/// Enters the working directory, as whoever we are now: first as root, whom a directory of somebody else is open to. What
/// goes wrong is told by Start.
pub fn change_directory(path: &Path) -> Result<()> {
    let stage = format!("change to working directory {}", path.display());
    if !path.is_absolute() {
        return Err(invalid(&stage, "it has to be an absolute path"));
    }
    rustix::process::chdir(path).or_invalid(&stage, "make it in the image, or choose another")?;
    // A directory outside of the root, reached through a descriptor in /proc, has no path here (CVE-2024-21626).
    let now = rustix::process::getcwd(Vec::new()).or_fail(&stage)?;
    if now.to_bytes().first() != Some(&b'/') {
        return Err(invalid(&stage, "it lies outside of the container's root"));
    }
    Ok(())
}

/// Enters it again, as the user, where root was not let in: a FUSE or NFS mount may know nobody but its own user.
pub fn change_directory_again(as_root: Result<()>, path: &Path) -> Result<()> {
    let denied = |errno| [Errno::ACCESS, Errno::PERM].iter().any(|denied| denied.raw_os_error() == errno);
    match as_root {
        Err(failure) if denied(failure.errno) => change_directory(path),
        other => other,
    }
}

/// There is a label to set.
pub fn has_label(process: &Process) -> bool {
    [process.apparmor_profile(), process.selinux_label()].into_iter().flatten().any(|label| !label.is_empty())
}

/// Tells AppArmor or SELinux what the command shall be confined by, at its execve(2).
pub fn set_label(process: &Process, proc: Option<BorrowedFd<'_>>) -> Result<()> {
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(profile) = some(process.apparmor_profile()) {
        let stage = format!("set AppArmor profile {profile}");
        let line = format!("exec {profile}");
        // The file of its own came with the stacking of security modules; the old one may be another module's.
        write_label(proc, "thread-self/attr/apparmor/exec", &line)
            .or_else(|_| write_label(proc, "thread-self/attr/exec", &line))
            .or_invalid(&stage, "is the profile loaded on this node?")?;
    }
    if let Some(label) = some(process.selinux_label()) {
        let stage = format!("set SELinux label {label}");
        write_label(proc, "thread-self/attr/exec", &label)
            .or_invalid(&stage, "is it a label of this node's policy?")?;
    }
    Ok(())
}

/// `proc` is a procfs of ours: the image cannot have put anything there (CVE-2019-16884).
fn write_label(proc: Option<BorrowedFd<'_>>, path: &str, label: &str) -> rustix::io::Result<()> {
    let proc = proc.ok_or(Errno::NOENT)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let file = openat2(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    rustix::io::write(file, label.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        assert_eq!(candidates("/bin/sh", b"/x"), [b"/bin/sh".to_vec()]);
        assert_eq!(candidates("./run", b"/x"), [b"./run".to_vec()]);
        assert_eq!(candidates("sh", b"/a:/b"), [b"/a/sh".to_vec(), b"/b/sh".to_vec()]);
        assert_eq!(candidates("sh", b"/a:"), [b"/a/sh".to_vec(), b"./sh".to_vec()]);
    }

    #[test]
    fn a_missing_command_and_a_directory_are_told_apart() {
        let command = |name: &str| {
            let mut process = Process::default();
            process
                .set_args(Some(vec![name.to_owned()]))
                .set_env(Some(vec!["PATH=/nowhere:/usr".to_owned()]));
            let progress = Progress::new().or_fail("test")?;
            let mut command = prepare(&process, &[], "/")?;
            command.locate()?;
            Ok::<_, Failure>(command.run(&progress))
        };
        let text = |name| command(name).map_or_else(|e| e.to_string(), |e| e.to_string());
        assert!(text("no-such-command").contains("is not in the PATH of the image"));
        assert!(text("bin").contains("\"/usr/bin\" is a directory"));
        assert!(text("/etc/passwd").contains("permission denied"));
        assert!(text("").contains("no command"));
    }

    #[test]
    fn a_working_directory_is_absolute_and_there() {
        let error = change_directory(Path::new("tmp")).map_or_else(|e| e.to_string(), |()| String::new());
        assert!(error.contains("absolute"), "{error}");
        let error =
            change_directory(Path::new("/no/such")).map_or_else(|e| e.to_string(), |()| String::new());
        assert!(error.contains("/no/such"), "{error}");
    }

    #[test]
    fn what_root_may_not_enter_is_tried_again() {
        let denied = |errno: Errno| Err(failure(FaultKind::Invalid, "as root", errno.raw_os_error(), ""));
        let here = Path::new("/");
        assert!(change_directory_again(denied(Errno::ACCESS), here).is_ok());
        assert!(change_directory_again(denied(Errno::NOENT), here).is_err_and(|e| e.stage == "as root"));
        let error = change_directory_again(denied(Errno::ACCESS), Path::new("/no/such"));
        assert!(error.is_err_and(|e| e.stage.contains("/no/such")), "the second try's is told");
        assert!(change_directory_again(Ok(()), Path::new("/no/such")).is_ok(), "one is enough");
    }
}
