//! Running one plugin: environment, standard input, limits on time and output.

use std::{path::PathBuf, process::Stdio, time::Duration};

use holdfast_sys::failpoint;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use super::result::{excerpt, failure};
use crate::{Error, thread};

/// More than that is not a result.
const STDOUT_MOST: usize = 1 << 20;
/// Of what a plugin says beside, so much is kept.
const STDERR_MOST: usize = 64 << 10;
/// How long a pipe may stay open in a plugin's children after it ended.
const DRAIN: Duration = Duration::from_secs(1);

/// One call of one plugin.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) plugin: &'a str,
    /// ADD, DEL, CHECK.
    pub(super) command: &'static str,
    pub(super) container_id: &'a str,
    /// Path of the network namespace, or nothing when it is gone.
    pub(super) netns: &'a str,
    pub(super) args: &'a str,
    pub(super) ifname: &'a str,
    pub(super) input: Vec<u8>,
    pub(super) bin_dirs: &'a [PathBuf],
    pub(super) limit: Duration,
}

/// Where a plugin's program is.
pub(super) fn find(plugin: &str, bin_dirs: &[PathBuf]) -> Option<PathBuf> {
    bin_dirs.iter().map(|dir| dir.join(plugin)).find(|path| path.is_file())
}

/// Says where a plugin was looked for.
pub(super) fn not_found(plugin: &str, bin_dirs: &[PathBuf]) -> String {
    let dirs: Vec<String> = bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
    format!("there is no program {plugin} in {}: install it, or set network.cni.bin_dirs", dirs.join(", "))
}

impl Call<'_> {
    /// Runs the plugin and returns what it printed.
    pub(super) async fn run(self) -> Result<Vec<u8>, Error> {
        let path = find(self.plugin, self.bin_dirs)
            .ok_or_else(|| self.error(not_found(self.plugin, self.bin_dirs)))?;
        let mut child = self.spawn(path).await?;
        let pid = child.id();
        if let Ok(answer) = timeout(self.limit, self.talk(&mut child)).await {
            return answer;
        }
        // Not reaped yet, so the number is still that of the plugin's process group.
        if let (Some(pid), Some(_)) = (pid.filter(|pid| *pid > 1), child.id()) {
            let _ = killpg(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        let _ = timeout(DRAIN, child.wait()).await;
        let stage = format!("CNI plugin {} {}", self.plugin, self.command);
        Err(Error::Timeout { stage, seconds: self.limit.as_secs() })
    }

    async fn spawn(&self, path: PathBuf) -> Result<Child, Error> {
        let dirs: Vec<&std::ffi::OsStr> = self.bin_dirs.iter().map(|dir| dir.as_os_str()).collect();
        let mut command = Command::new(&path);
        command
            .env("CNI_COMMAND", self.command)
            .env("CNI_CONTAINERID", self.container_id)
            .env("CNI_NETNS", self.netns)
            .env("CNI_ARGS", self.args)
            .env("CNI_IFNAME", self.ifname)
            .env("CNI_PATH", dirs.join(std::ffi::OsStr::new(":")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it started can be ended with it.
            .process_group(0)
            .kill_on_drop(true);
        thread::blocking("CNI plugin", move || {
            failpoint::at("network.plugin.start")
                .and_then(|()| command.spawn())
                .map_err(Error::io(format!("start CNI plugin {}", path.display())))
        })
        .await
    }

    async fn talk(&self, child: &mut Child) -> Result<Vec<u8>, Error> {
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut input), Some(output), Some(errors)) = (input, output, errors) else {
            return Err(Error::Lost("CNI plugin"));
        };
        let write = async move {
            // A plugin that does not read its configuration will say what it makes of that.
            let _ = input.write_all(&self.input).await;
        };
        let stdout = Reader::start(output, STDOUT_MOST);
        let stderr = Reader::start(errors, STDERR_MOST);
        let ((), status) = tokio::join!(write, child.wait());
        let status = status.map_err(Error::io(format!("wait for CNI plugin {}", self.plugin)))?;
        let stdout_text = stdout.finish().await;
        let stderr_text = stderr.finish().await;
        let (printed, complete) = stdout_text
            .ok_or_else(|| self.error("left a process behind that keeps its output open".to_owned()))?;
        let beside = stderr_text.map(|(bytes, _)| bytes).unwrap_or_default();
        if !complete {
            return Err(self.error(format!("printed more than {STDOUT_MOST} bytes: {}", excerpt(&printed))));
        }
        if status.success() {
            return Ok(printed);
        }
        Err(self.error(failure(&status.to_string(), &printed, &beside)))
    }

    fn error(&self, message: String) -> Error {
        Error::Plugin { plugin: self.plugin.to_owned(), command: self.command, message }
    }
}

/// A task that reads a pipe; ends with this, even if a process that was left behind keeps the pipe open.
struct Reader(JoinHandle<(Vec<u8>, bool)>);

impl Reader {
    fn start(from: impl AsyncRead + Unpin + Send + 'static, most: usize) -> Self {
        Self(tokio::spawn(collect(from, most)))
    }

    /// What it read, if it came to the end.
    async fn finish(mut self) -> Option<(Vec<u8>, bool)> {
        timeout(DRAIN, &mut self.0).await.ok()?.ok()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads to the end, so that the writer is never stopped, and keeps the first `most` bytes; whether that was all.
async fn collect(mut from: impl AsyncRead + Unpin, most: usize) -> (Vec<u8>, bool) {
    let mut kept = Vec::new();
    let mut complete = true;
    let mut buffer = vec![0; 8192];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return (kept, complete),
            Ok(count) => {
                let room = (most - kept.len()).min(count);
                kept.extend_from_slice(&buffer[..room]);
                complete &= room == count;
            }
        }
    }
}
