//! A container that logs as fast as it can while its log is rotated ten times a second.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use holdfast_cri::v1;
use tokio::time::sleep;

use super::{
    Fault, Options,
    frame::{Frame, framed},
    small::{Small, failed},
};
use crate::{
    ask::container_status,
    kernel, ledger,
    report::{self, Report},
    rpc, specs,
    stage::Setup,
};

/// Lines on each of the two streams.
const LINES: u64 = 300_000;
/// Bytes of a long line, longer than any buffer on its way.
const LONG: usize = 200_000;
/// Between two rotations.
const ROTATION: Duration = Duration::from_millis(100);
/// Longest until all is written.
const LIMIT: Duration = Duration::from_mins(10);
/// What a shim's memory may grow by while it writes, in KiB.
const GROWTH_KIB: u64 = 2048;

/// Runs it.
pub async fn run(setup: &Setup, options: &Options) -> Result<Report> {
    let lines = options.amount.unwrap_or(LINES);
    framed(Fault::Logs, setup, options, async |frame| flood(frame, lines).await).await
}

async fn flood(frame: &mut Frame, lines: u64) -> Result<()> {
    let small = Small::run(&frame.caller, specs::PLAIN, "flood").await.map_err(failed("RunPodSandbox"))?;
    let script = format!(
        "sleep 0.3; seq 1 {lines} >&2 & seq 1 {lines}; head -c {LONG} /dev/zero | tr '\\0' x; echo; wait; exit 6"
    );
    let config = small.container("main", &script);
    let log = Path::new(&small.config.log_directory).join(&config.log_path);
    let id = small.start(config).await.map_err(failed("start"))?;
    let (_, process) = container_status(&frame.caller, &id).await.map_err(failed("ContainerStatus"))?;
    let ours = frame.is_ours();
    let writer = if ours { process.map(|process| process.parent) } else { frame.stage.daemon.pid() };
    let writer = writer.context("nobody writes the log")?;

    let begin = Instant::now();
    let mut memory = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    let status = loop {
        sleep(ROTATION).await;
        memory.extend(kernel::kib(writer, "status", "VmRSS"));
        let (status, _) = container_status(&frame.caller, &id).await.map_err(failed("ContainerStatus"))?;
        if status.state() == v1::ContainerState::ContainerExited {
            break status;
        }
        if begin.elapsed() > LIMIT {
            bail!("the flood does not end");
        }
        if rotate(frame, &id, &log, files.len()).await? {
            files.push(rotated(&log, files.len()));
        }
    };
    let time = begin.elapsed();
    files.push(log);
    if status.exit_code != 6 {
        frame.found(ledger::Fault::WrongExit, &format!("{status:?}"));
    }
    if let Err(text) = check(&files, lines) {
        frame.found(ledger::Fault::WrongLog, &text);
    }
    let bytes: u64 = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|meta| meta.len()).sum();
    // The first samples are from before the flood.
    let (first, most) =
        (memory.get(1).copied().unwrap_or_default(), memory.iter().copied().max().unwrap_or_default());
    if ours && most > first + GROWTH_KIB {
        frame.found(ledger::Fault::WrongState, &format!("the shim grew from {first} to {most} KiB"));
    }
    frame.report.figure("lines", (2 * lines + 1) as f64);
    frame.report.figure("rotations", (files.len() - 1) as f64);
    frame.report.figure("MiB a second", bytes as f64 / time.as_secs_f64() / f64::from(1 << 20));
    frame.report.figure("memory of the log's writer at first, KiB", first as f64);
    frame.report.figure("memory of the log's writer, max, KiB", most as f64);
    frame.report.figure("flood, ms", report::milliseconds(time));
    small.end().await.map_err(failed("the pod's end"))
}

fn rotated(log: &Path, number: usize) -> PathBuf {
    log.with_extension(format!("{number}"))
}

/// As a kubelet does it: rename, then ask. Whether there is one more file. A container that has just ended needs no new
/// log; the old name is then the log.
async fn rotate(frame: &Frame, id: &str, log: &Path, number: usize) -> Result<bool> {
    let old = rotated(log, number);
    fs::rename(log, &old).with_context(|| format!("rename {}", log.display()))?;
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    match frame.caller.settle("ReopenContainerLog", &[], rpc::reopen_container_log(request)).await {
        Ok(_) => Ok(true),
        Err(_) if log.exists() => Ok(true),
        Err(failure) => {
            fs::rename(&old, log).with_context(|| format!("rename {}", old.display()))?;
            let (status, _) = container_status(&frame.caller, id).await.map_err(failed("ContainerStatus"))?;
            if status.state() != v1::ContainerState::ContainerExited {
                frame.found(ledger::Fault::Stuck, &format!("ReopenContainerLog: {failure}"));
            }
            Ok(false)
        }
    }
}

/// Whether the files together are the two sequences and the long line, every record whole.
fn check(files: &[PathBuf], lines: u64) -> Result<(), String> {
    let mut whole = BTreeMap::<String, Vec<String>>::new();
    let mut begun = BTreeMap::<String, String>::new();
    for file in files {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(format!("{}: the last record is torn", file.display()));
        }
        for record in text.lines() {
            let parts: Vec<&str> = record.splitn(4, ' ').collect();
            let [_, stream @ ("stdout" | "stderr"), tag @ ("F" | "P"), content] = parts.as_slice() else {
                return Err(format!("{}: {:?} is no record", file.display(), record.get(..100)));
            };
            let line = begun.entry((*stream).to_owned()).or_default();
            line.push_str(content);
            if *tag == "F" {
                whole.entry((*stream).to_owned()).or_default().push(std::mem::take(line));
            }
        }
    }
    for (stream, more) in [("stdout", 1), ("stderr", 0)] {
        let found = whole.remove(stream).unwrap_or_default();
        let wrong = (1..=lines).zip(&found).find(|(number, line)| number.to_string() != **line);
        if let Some((number, line)) = wrong {
            return Err(format!("{stream}: line {number} is {:?}", line.get(..40.min(line.len()))));
        }
        if found.len() as u64 != lines + more {
            return Err(format!("{stream}: {} lines and not {}", found.len(), lines + more));
        }
        let long = found.last().filter(|_| more == 1);
        if long.is_some_and(|long| long.len() != LONG || long.bytes().any(|byte| byte != b'x')) {
            return Err("the long line is torn".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(records: &[(&str, &str, &str)]) -> Result<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new()?;
        let lines: Vec<String> =
            records.iter().map(|(stream, tag, text)| format!("2026 {stream} {tag} {text}\n")).collect();
        fs::write(file.path(), lines.concat())?;
        Ok(file)
    }

    #[test]
    fn a_lost_line_and_a_torn_one_are_seen() -> Result<()> {
        let long = "x".repeat(LONG);
        let first = written(&[
            ("stdout", "F", "1"),
            ("stderr", "F", "1"),
            ("stdout", "F", "2"),
            ("stderr", "F", "2"),
        ])?;
        let second = written(&[("stdout", "P", &long[..10]), ("stdout", "F", &long[10..])])?;
        let files = [first.path().to_owned(), second.path().to_owned()];
        assert_eq!(check(&files, 2), Ok(()));
        assert!(check(&files[..1], 2).is_err(), "the long line is missing");
        let gap = written(&[("stdout", "F", "1"), ("stderr", "F", "2")])?;
        assert!(check(&[gap.path().to_owned(), files[1].clone()], 2).is_err());
        Ok(())
    }
}
