//! The machine itself: qemu without a network, with its serial console as our output.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::tree::System;

/// How the guest's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translation.
    Tcg,
}

impl Accelerator {
    /// As qemu calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// What the tests' limits of time are multiplied by.
    pub fn slowness(self) -> u32 {
        match self {
            Self::Kvm => 2,
            Self::Tcg => 10,
        }
    }
}

/// There are machines where /dev/kvm can be opened but a guest hangs: a kernel that speaks within this time runs.
const FIRST_WORD: Duration = Duration::from_secs(20);

/// Chooses the accelerator, once: by booting the kernel without a disk and waiting for its first line.
pub fn accelerator(dir: &Path, system: &System) -> Result<Accelerator> {
    let memory = dir.join("accelerator");
    match fs::read_to_string(&memory).unwrap_or_default().as_str() {
        "kvm" => return Ok(Accelerator::Kvm),
        "tcg" => return Ok(Accelerator::Tcg),
        _ => {}
    }
    let found = if kvm_works(system)? { Accelerator::Kvm } else { Accelerator::Tcg };
    fs::write(&memory, found.name()).context("remember the accelerator")?;
    Ok(found)
}

fn kvm_works(system: &System) -> Result<bool> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let mut command = qemu(system, Accelerator::Kvm, "");
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("run qemu")?;
    let lines = lines(&mut child)?;
    let deadline = Instant::now() + FIRST_WORD;
    let mut works = false;
    // Without its disk the kernel ends in the initial file system's shell; a few lines of it are enough.
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if line.contains("Freeing unused kernel") || line.contains("Run /init") {
            works = true;
            break;
        }
    }
    child.kill().context("kill qemu")?;
    child.wait().context("wait for qemu")?;
    Ok(works)
}

/// Boots, shows the console, and waits for the power to go off.
pub fn run(
    dir: &Path,
    system: &System,
    payload: &Path,
    accelerator: Accelerator,
    kernel: &str,
    limit: Duration,
) -> Result<()> {
    let mut command = qemu(system, accelerator, &format!("quiet {kernel}"));
    for (disk, snapshot) in [(system.disk.as_path(), "on"), (payload, "off")] {
        let drive = format!("file={},format=raw,if=virtio,cache=unsafe,snapshot={snapshot}", disk.display());
        command.arg("-drive").arg(drive);
    }
    // Snapshots are temporary files of the size of what the machine writes.
    command.env("TMPDIR", dir).stdout(Stdio::piped());
    let mut child = command.spawn().context("run qemu")?;
    let lines = lines(&mut child)?;
    let mut console = File::create(dir.join("console.log")).context("create console.log")?;
    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                println!("    | {line}");
                writeln!(console, "{line}").context("write console.log")?;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() > deadline {
            child.kill().context("kill qemu")?;
            child.wait().context("wait for qemu")?;
            bail!("the machine did not power off within {} min; see console.log", limit.as_secs() / 60);
        }
    }
    let status = child.wait().context("wait for qemu")?;
    if !status.success() {
        bail!("qemu: {status}");
    }
    Ok(())
}

fn qemu(system: &System, accelerator: Accelerator, kernel: &str) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    let accel = if accelerator == Accelerator::Kvm { "kvm" } else { "tcg,thread=multi" };
    command.args(["-accel", accel, "-cpu", "max", "-smp", "2", "-m", "3072", "-nic", "none", "-no-reboot"]);
    command.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(&system.kernel).arg("-initrd").arg(&system.initrd);
    // On a busy machine the emulated timer comes too late for the kernel's check of it, which then panics, and udev takes
    // longer for the second disk than systemd waits for it, which then starts nothing.
    let base = "root=/dev/vda rw console=ttyS0 panic=-1 no_timer_check systemd.show_status=false \
                systemd.default_device_timeout_sec=900 hugepages=32";
    command.arg("-append").arg(format!("{base} {kernel}"));
    command.stdin(Stdio::null());
    command
}

/// The console's lines, without what is meant for terminals.
fn lines(child: &mut Child) -> Result<mpsc::Receiver<String>> {
    let output = child.stdout.take().context("qemu's output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let text: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).collect();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}
