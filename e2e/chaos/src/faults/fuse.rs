//! A volume whose file system stops to answer: processes that touch it wait in the kernel, and no signal ends them.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle as Thread},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use holdfast_cri::v1;
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use tokio::task::JoinHandle;

use super::{
    Fault, Options,
    frame::{Frame, framed},
    small::{Small, failed},
};
use crate::{
    ledger,
    report::{self, Report},
    rpc, specs,
    stage::Setup,
    wire::{Outcome, outcome},
};

/// What clients wait for while the volume hangs.
const PATIENCE: Duration = Duration::from_secs(3);
/// A call that waited for the volume ends so soon after that.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// A start of the daemon beside a hung volume takes no longer.
const START_LIMIT: Duration = Duration::from_secs(2);

/// Runs it.
pub async fn run(setup: &Setup, options: &Options) -> Result<Report> {
    framed(Fault::Fuse, setup, options, async |frame| {
        let volume = Volume::mount(&frame.stage.dir.join("volume"))?;
        let hung = hang(frame, &volume).await;
        // Who waits for it gets an error now.
        drop(volume);
        let (pods, making) = hung?;
        if tokio::time::timeout(CALL_LIMIT, making).await.is_err() {
            frame.found(ledger::Fault::Hang, "CreateContainer with a volume that was given up");
        }
        for small in pods {
            let _ = crate::ask::stop_pod(&small.caller, &small.id, &[]).await;
            let _ = crate::ask::remove_pod(&small.caller, &small.id, &[]).await;
        }
        Ok(())
    })
    .await
}

/// Pods that are to be ended when the volume is gone, and the call that makes a container with it.
async fn hang(frame: &mut Frame, volume: &Volume) -> Result<(Vec<Small>, JoinHandle<bool>)> {
    let before =
        Small::run(&frame.caller, specs::PLAIN, "hung-before").await.map_err(failed("RunPodSandbox"))?;
    let mut config = before.container("main", "while :; do sleep 1; done");
    config.mounts = vec![volume.as_mount()];
    let id = before.start(config.clone()).await.map_err(failed("start with a volume that answers"))?;
    volume.hang();

    // An exec that touches it keeps its own limit.
    let begin = Instant::now();
    let answer = before.exec(&id, "ls /volume", 2).await;
    frame.report.figure("exec on the volume, limit 2 s, ms", report::milliseconds(begin.elapsed()));
    if let Ok(answer) = &answer {
        frame.found(ledger::Fault::WrongExec, &format!("it read a volume that hangs: {answer:?}"));
    }
    // A container that is made with it is the caller's trouble and nobody else's.
    let after =
        Small::run(&frame.caller, specs::PLAIN, "hung-after").await.map_err(failed("RunPodSandbox"))?;
    let mut config = after.container("main", "ls /volume; sleep 3600");
    config.mounts = vec![volume.as_mount()];
    let making = {
        let (after, config) = (after.clone(), config.clone());
        tokio::spawn(async move { after.create(config).await.is_ok() })
    };
    // The pod with the exec is told to stop: it cannot, and the answer comes all the same.
    stop_in_vain(frame, &before).await;
    frame.bystander.exec("beside a hung volume").await;
    let restart = frame.stage.restart().await.context("a restart beside a hung volume")?;
    frame.report.figure("start beside a hung volume, ms", report::milliseconds(restart));
    if restart > START_LIMIT {
        let text = format!("a start beside a hung volume: {:.1} s", restart.as_secs_f64());
        frame.found(ledger::Fault::Slow, &text);
    }
    frame.bystander.check("after a restart beside a hung volume").await;
    Ok((vec![before, after], making))
}

/// StopPodSandbox of a pod that cannot end, as a kubelet with little patience asks for it.
async fn stop_in_vain(frame: &Frame, small: &Small) {
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: small.id.clone() };
    let call = rpc::stop_pod_sandbox(request)(frame.caller.cri.clone());
    let came = match outcome(call, PATIENCE).await {
        Outcome::Answer(_) => "answered".to_owned(),
        Outcome::Refused(status) => format!("refused: {status}"),
        Outcome::Lost(text) => format!("lost: {text}"),
        Outcome::Cut => "cut".to_owned(),
    };
    frame.world().events.add("fuse", "StopPodSandbox of a pod that hangs", &came.into());
}

/// A file system in user space (fuse(4), linux/fuse.h) with an empty directory, for as long as it answers.
#[derive(Debug)]
struct Volume {
    path: PathBuf,
    hangs: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<Thread<()>>,
}

impl Volume {
    fn mount(path: &Path) -> Result<Self> {
        fs::create_dir(path).context("make a mount point")?;
        let device = File::options().read(true).write(true).open("/dev/fuse").context("open /dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("hf-chaos"), path, Some("fuse"), MsFlags::MS_NOSUID, Some(options.as_str()))
            .with_context(|| format!("mount {}", path.display()))?;
        let (hangs, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let flags = (hangs.clone(), over.clone());
        let thread = thread::spawn(move || serve(device, &flags.0, &flags.1));
        Ok(Self { path: path.to_owned(), hangs, over, thread: Some(thread) })
    }

    fn hang(&self) {
        self.hangs.store(true, Ordering::Relaxed);
    }

    fn as_mount(&self) -> v1::Mount {
        v1::Mount {
            host_path: self.path.to_string_lossy().into_owned(),
            container_path: "/volume".into(),
            ..Default::default()
        }
    }
}

impl Drop for Volume {
    /// Closing the device fails every request that waits.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
/// The smallest buffer that the kernel takes, and more than any request of ours.
const BUFFER: usize = 64 << 10;
const HEADER: usize = 40;

/// Answers what an empty directory needs. Requests that are read and never answered keep their callers for ever.
fn serve(mut device: File, hangs: &AtomicBool, over: &AtomicBool) {
    let mut buffer = vec![0; BUFFER];
    while !over.load(Ordering::Relaxed) {
        let mut wanted = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, PollTimeout::from(50_u16)) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        match device.read(&mut buffer) {
            Ok(length) if length >= HEADER => {}
            // A request that was taken back.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => continue,
            _ => return,
        }
        if hangs.load(Ordering::Relaxed) {
            continue;
        }
        if let Some(answer) = answer(&buffer) {
            let _ = device.write_all(&answer);
        }
    }
}

/// The answer to a request, if it wants one.
fn answer(request: &[u8]) -> Option<Vec<u8>> {
    const FORGET: [u32; 2] = [2, 42];
    let number =
        |at: usize| u32::from_le_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
    let (opcode, unique) = (number(4), &request[8..16]);
    let mut body = Vec::new();
    let mut error = 0_i32;
    match opcode {
        // Version 7.31, nothing read ahead, no flags, and no more than a page at once.
        INIT => {
            for word in [7_u32, 31, 0, 0, 0, 4096, 1] {
                body.extend(word.to_le_bytes());
            }
            body.resize(64, 0);
        }
        GETATTR => body = directory(),
        LOOKUP => error = -(Errno::ENOENT as i32),
        opcode if FORGET.contains(&opcode) => return None,
        // The kernel then asks in an older way.
        _ => error = -(Errno::ENOSYS as i32),
    }
    let mut answer = ((16 + body.len()) as u32).to_le_bytes().to_vec();
    answer.extend(error.to_le_bytes());
    answer.extend(unique);
    answer.extend(body);
    Some(answer)
}

/// `struct fuse_attr_out`, valid for no time: it is asked for again and again.
fn directory() -> Vec<u8> {
    let mut out = vec![0; 16];
    for word in [1_u64, 0, 0, 0, 0, 0] {
        out.extend(word.to_le_bytes());
    }
    for word in [0_u32, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0] {
        out.extend(word.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use holdfast_e2e::process::Process;
    use nix::sys::signal::Signal;

    use super::*;

    /// The real kernel: it answers, then whoever asks waits whatever signal comes, until the device is closed.
    #[test]
    fn a_volume_hangs_and_is_given_up() -> Result<()> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            println!("SKIP: needs root and /dev/fuse");
            return Ok(());
        }
        holdfast_e2e::scene::own_mounts()?;
        let dir = tempfile::tempdir()?;
        let volume = Volume::mount(&dir.path().join("volume"))?;
        assert!(fs::metadata(&volume.path)?.is_dir());
        volume.hang();
        let mut asking = Process::spawn(std::process::Command::new("stat").arg(&volume.path))?;
        thread::sleep(Duration::from_millis(300));
        asking.signal(Signal::SIGKILL)?;
        thread::sleep(Duration::from_millis(200));
        assert_eq!(asking.ended()?, None, "a signal ended it");
        drop(volume);
        asking.end(Duration::from_secs(5))?;
        Ok(())
    }

    #[test]
    fn answers_have_the_kernel_s_lengths() {
        let request = |opcode: u32| {
            let mut bytes = vec![0; HEADER];
            bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
            bytes[8] = 9;
            bytes
        };
        for (opcode, length) in [(INIT, 16 + 64), (GETATTR, 16 + 104), (LOOKUP, 16)] {
            let answer = answer(&request(opcode)).unwrap_or_default();
            assert_eq!((answer.len(), answer.first().copied()), (length, Some(length as u8)), "{opcode}");
            assert_eq!(answer[8], 9);
        }
        assert_eq!(answer(&request(2)), None);
    }
}
