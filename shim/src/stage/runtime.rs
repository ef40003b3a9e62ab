//! Becoming another OCI runtime, for one command.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use holdfast_pod::oci_runtime::OciRuntime;
use holdfast_pod::protocol::{Failure, FaultKind};
use holdfast_sys::process::{self, Program};
use rustix::io::Errno;
use rustix::process::Signal;

use super::{console, null};
use crate::fault::{OrFail, Result, failure, internal};

/// All that a runtime needs of an environment: its hooks have their own.
const PATH: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the runtime, in the bundle's directory. Its stdio is that of what it starts; without any, it says what it has to
/// say in its log. The link, if there is one, closes when it runs. Comes back only with the reason why not.
pub fn become_runtime(
    runtime: &OciRuntime,
    arguments: Vec<OsString>,
    bundle: &Path,
    stdio: Option<&[Option<OwnedFd>; 3]>,
    link: Option<BorrowedFd<'_>>,
) -> Failure {
    match prepare(arguments, bundle, stdio, link) {
        Ok(program) => run(runtime, &program),
        Err(failure) => failure,
    }
}

fn prepare(
    arguments: Vec<OsString>,
    bundle: &Path,
    stdio: Option<&[Option<OwnedFd>; 3]>,
    link: Option<BorrowedFd<'_>>,
) -> Result<Program> {
    const STAGE: &str = "prepare the OCI runtime";
    let strings = arguments.into_iter().map(|argument| CString::new(argument.into_vec()));
    let strings = strings.collect::<std::result::Result<Vec<_>, _>>();
    let strings = strings.map_err(|_| internal(STAGE, "an argument has a zero byte"))?;
    // It is of no use without us, who wait for it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).or_fail(STAGE)?;
    if let Some(three) = stdio {
        if three.iter().any(Option::is_none) {
            // Not all runtimes open another for the container.
            null::take(&null::own()?).or_fail(STAGE)?;
        }
        console::take_three(three)?;
    } else {
        let null = rustix::stdio::stdin();
        rustix::stdio::dup2_stdout(null).or_fail(STAGE)?;
        rustix::stdio::dup2_stderr(null).or_fail(STAGE)?;
    }
    rustix::process::chdir(bundle).or_fail("enter the bundle")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    process::reset_signals();
    let mut kept = vec![0, 1, 2];
    kept.extend(link.map(|link| link.as_raw_fd()));
    process::close_all_but(&mut kept).or_fail(STAGE)?;
    Ok(Program::new(strings, vec![PATH.to_owned()]))
}

fn run(runtime: &OciRuntime, program: &Program) -> Failure {
    let path = runtime.program.display();
    let stage = format!("run the OCI runtime {path}");
    let Ok(name) = CString::new(runtime.program.clone().into_os_string().into_vec()) else {
        return internal(&stage, "its path has a zero byte");
    };
    let errno = program.run(&name);
    let text = match errno {
        Errno::NOENT => {
            "there is no such program: install it, or change the handler's `runtime` in the configuration"
                .to_owned()
        }
        errno => format!("{}: is it a program for this machine?", std::io::Error::from(errno)),
    };
    failure(FaultKind::Precondition, &stage, errno.raw_os_error(), text)
}
