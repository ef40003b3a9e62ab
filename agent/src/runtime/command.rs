//! Running somebody else's program for a short while: bounded in time, and in what it may print.

use std::{ffi::OsString, io, path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command as Process},
    time::timeout,
};

/// Most that is read of each stream, in bytes.
const MOST: u64 = 1 << 20;
/// How long a killed one may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CommandError {
    #[error("run {program}")]
    Run { program: String, source: io::Error },
    #[error("{program}: no answer within {} s: it was killed", limit.as_secs())]
    Timeout { program: String, limit: Duration },
    #[error("{program}: {said}")]
    Failed { program: String, said: String },
}

/// What to run.
#[derive(Debug)]
pub struct Command<'a> {
    /// The program, an absolute path.
    pub program: &'a Path,
    /// Arguments after its name.
    pub args: Vec<OsString>,
    /// What it reads.
    pub input: &'a [u8],
    /// Where it runs, if not where we do.
    pub directory: Option<&'a Path>,
    /// Longest time.
    pub limit: Duration,
}

/// What it printed, and whether it ended with 0.
#[derive(Debug)]
pub struct Output {
    pub success: bool,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    /// What it said went wrong, line by line; never nothing.
    pub fn said(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.stderr);
        let mut lines: Vec<String> =
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        if lines.is_empty() {
            lines.push("failed without a word".to_owned());
        }
        lines
    }
}

impl<'a> Command<'a> {
    /// A program without arguments, that reads nothing.
    pub fn new(program: &'a Path, limit: Duration) -> Self {
        Self { program, args: Vec::new(), input: &[], directory: None, limit }
    }

    /// Runs it to its end, or kills it with its group.
    pub async fn run(&self) -> Result<Output, CommandError> {
        let program = || self.program.display().to_string();
        let failed = |source| CommandError::Run { program: program(), source };
        let mut process = Process::new(self.program);
        process
            .args(&self.args)
            .stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it started can be ended with it.
            .process_group(0)
            .kill_on_drop(true);
        if let Some(directory) = self.directory {
            process.current_dir(directory);
        }
        let mut child = process.spawn().map_err(failed)?;
        if let Ok(output) = timeout(self.limit, self.talk(&mut child)).await {
            return output.map_err(failed);
        }
        // Not reaped yet, so the number is still that of its group.
        if let Some(pid) = child.id().filter(|pid| *pid > 1) {
            let _ = killpg(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        let _ = timeout(KILL_LIMIT, child.wait()).await;
        Err(CommandError::Timeout { program: program(), limit: self.limit })
    }

    /// The same, where only the end counts.
    pub async fn succeed(&self) -> Result<(), CommandError> {
        let output = self.run().await?;
        if output.success {
            return Ok(());
        }
        let said = output.said().pop().unwrap_or_default();
        Err(CommandError::Failed { program: self.program.display().to_string(), said })
    }

    async fn talk(&self, child: &mut Child) -> io::Result<Output> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that ends early says why.
                let _ = stdin.write_all(self.input).await;
            }
        };
        let ((), stdout, stderr, status) = tokio::join!(write, read(stdout), read(stderr), child.wait());
        Ok(Output { success: status?.success(), stdout, stderr })
    }
}

async fn read(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What was read counts, whatever ended it; and what is beyond the limit is for nobody, but has to go somewhere.
        let mut from = from.take(MOST);
        let _ = from.read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut from.into_inner(), &mut tokio::io::sink()).await;
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Command<'_> {
        Command { args: vec!["-c".into(), script.into()], ..Command::new(Path::new("/bin/sh"), limit) }
    }

    #[tokio::test]
    async fn what_a_program_says_and_how_it_ends() {
        let long = Duration::from_secs(20);
        let output = shell("echo out; echo err >&2; exit 3", long).run().await.unwrap();
        assert_eq!(
            (output.success, output.stdout, output.stderr),
            (false, b"out\n".to_vec(), b"err\n".to_vec())
        );
        let error = shell("echo why >&2; exit 1", long).succeed().await.unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh: why");
        let output = shell("printf 'one\\n\\ntwo' >&2; exit 1", long).run().await.unwrap();
        assert_eq!(output.said(), ["one", "two"]);
        assert_eq!(shell("exit 1", long).run().await.unwrap().said(), ["failed without a word"]);
        let much = shell("head -c 3000000 /dev/zero", long).run().await.unwrap();
        assert_eq!((much.success, much.stdout.len() as u64), (true, MOST));
    }

    #[tokio::test]
    async fn it_reads_what_it_is_given_where_it_is_told_to_run() {
        let directory = tempfile::tempdir().unwrap();
        let input = vec![b'x'; 300_000];
        let mut command = shell("wc -c; pwd -P", Duration::from_secs(20));
        (command.input, command.directory) = (&input, Some(directory.path()));
        let output = command.run().await.unwrap();
        let place = directory.path().canonicalize().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("300000\n{}\n", place.display()));
        // One that reads nothing is no reason to wait.
        command.args = vec!["-c".into(), "exit 0".into()];
        assert!(command.run().await.unwrap().success);
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_its_children() {
        let error = shell("sleep 600 & wait", Duration::from_millis(100)).run().await.unwrap_err();
        assert!(matches!(error, CommandError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_named() {
        let command = Command::new(Path::new("/no/such"), Duration::from_secs(1));
        assert_eq!(command.run().await.unwrap_err().to_string(), "run /no/such");
    }
}
