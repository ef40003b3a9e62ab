//! Commands and progress lines.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// Limit of the time until a child is there.
const CHILD: Duration = Duration::from_secs(10);

/// Prints what begins, does it, and prints how long it took.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {what}");
    let begin = Instant::now();
    let result = work().with_context(|| what.to_owned())?;
    let seconds = begin.elapsed().as_secs_f32();
    if seconds >= 1.0 {
        println!("    {seconds:.0} s");
    }
    Ok(result)
}

/// A command with its program and arguments.
pub fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// As people would type it, for errors.
pub fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// The child of a running unshare(1) or its like, when it is there, as we number it.
pub fn first_child(parent: u32) -> Result<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let deadline = Instant::now() + CHILD;
    loop {
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        if let Ok(pid) = text.trim().parse() {
            return Ok(pid);
        }
        ensure!(Instant::now() < deadline, "{path}: {text:?} is not one process");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command whose output the user sees.
pub fn loud(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {}", shown(command)))?;
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command whose output the user sees, and whose verdict is told by its exit code.
pub fn verdict(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("run {}", shown(command)))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a command with its output in `log`; a failure shows the end of it.
pub fn quiet(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
    let copy = file.try_clone().with_context(|| format!("open {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .status()
        .with_context(|| format!("run {}", shown(command)))?;
    if !status.success() {
        let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        bail!("{}: {status}; the end of {}:\n{tail}", shown(command), log.display());
    }
    Ok(())
}

/// Runs a command and returns its standard output; a failure shows its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {}", shown(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", shown(command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
