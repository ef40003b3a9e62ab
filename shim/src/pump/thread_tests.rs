use super::*;
use crate::pump::record;
use holdfast_pod::protocol::{EXIT_RECORD_NAME, ExitRecord};
use std::io::Write;

fn started(log: &std::path::Path) -> (Pump, std::io::PipeWriter, std::io::PipeWriter) {
    let (stdout, out) = std::io::pipe().unwrap();
    let (stderr, err) = std::io::pipe().unwrap();
    let input = Input::Pipes { stdout: stdout.into(), stderr: stderr.into() };
    (Pump::start(input, Some(LogFile::open(log).unwrap()), None).unwrap(), out, err)
}

fn drain(pump: &mut Pump, limit: Duration) {
    pump.finish(limit, Vec::new());
    await_notice(pump, Pump::is_drained);
    assert!(!pump.is_finished(), "it ends when it is told to");
    pump.conclude(Vec::new());
    await_notice(pump, Pump::is_finished);
}

fn await_notice(pump: &Pump, done: impl Fn(&Pump) -> bool) {
    while !done(pump) {
        let ready = holdfast_sys::socket::wait_readable(pump.notice(), Duration::from_secs(20)).unwrap();
        assert!(ready, "the pump said nothing");
        pump.acknowledge();
    }
}

fn contents(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line[clock::LEN + 1..].to_owned()).collect()
}

#[test]
fn both_streams_end_up_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let (mut pump, mut out, mut err) = started(&path);
    out.write_all(b"one\ntwo").unwrap();
    err.write_all(b"oops\n").unwrap();
    drop((out, err));
    drain(&mut pump, Duration::from_secs(20));
    let mut lines = contents(&path);
    lines.sort();
    assert_eq!(lines, ["stderr F oops", "stdout F one", "stdout P two"]);
}

#[test]
fn a_terminal_that_is_opened_again_is_heard_again() {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let devpts = rustix::fs::openat(rustix::fs::CWD, "/dev/pts", flags, rustix::fs::Mode::empty()).unwrap();
    let Ok(terminal) = holdfast_sys::tty::open_in(&devpts) else {
        println!("SKIP: no usable /dev/pts/ptmx");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let again = terminal.master.try_clone().unwrap();
    let log = LogFile::open(&path).unwrap();
    let mut pump = Pump::start(Input::Terminal(terminal.master), Some(log), None).unwrap();
    let mut slave = Some(terminal.slave);
    for round in 0..50 {
        let end = slave.take().unwrap_or_else(|| {
            let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
            rustix::pty::ioctl_tiocgptpeer(&again, flags).unwrap()
        });
        rustix::io::write(&end, format!("line {round}\n").as_bytes()).unwrap();
        drop(end);
        // As long as nobody has it open, too.
        let deadline = Instant::now() + Duration::from_secs(20);
        while contents(&path).len() <= round {
            assert!(Instant::now() < deadline, "{:?}", contents(&path));
            std::thread::yield_now();
        }
    }
    drain(&mut pump, Duration::from_secs(20));
    let expected: Vec<String> = (0..50).map(|round| format!("stdout F line {round}")).collect();
    assert_eq!(contents(&path).iter().map(|line| line.trim_end()).collect::<Vec<_>>(), expected);
}

#[test]
fn an_unfinished_line_goes_whole_to_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let (mut pump, mut out, err) = started(&path);
    out.write_all(b"first\nbegun").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while contents(&path).is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let old = dir.path().join("old");
    std::fs::rename(&path, &old).unwrap();
    let wanted = pump.reopen();
    await_notice(&pump, |pump| pump.reopened().count >= wanted);
    out.write_all(b" and ended\ncut").unwrap();
    drop((out, err));
    drain(&mut pump, Duration::from_secs(20));
    assert_eq!(contents(&old), ["stdout F first"]);
    assert_eq!(contents(&path), ["stdout F begun and ended", "stdout P cut"]);
}

#[test]
fn a_pipe_that_somebody_holds_is_drained_for_a_while_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let (mut pump, mut out, _err) = started(&path);
    out.write_all(b"begun").unwrap();
    drain(&mut pump, Duration::from_millis(50));
    assert_eq!(contents(&path), ["stdout P begun"]);
}

#[test]
fn the_exit_record_is_there_before_the_log_is_drained_and_is_the_last_one_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let state: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
    let record = RecordFile::new(state.try_clone().unwrap(), record::reserve(&state).unwrap());
    let (stdout, out) = std::io::pipe().unwrap();
    let (stderr, err) = std::io::pipe().unwrap();
    let input = Input::Pipes { stdout: stdout.into(), stderr: stderr.into() };
    let mut pump = Pump::start(input, None, Some(record)).unwrap();
    let read = || -> Option<ExitRecord> {
        serde_json::from_slice(&std::fs::read(dir.path().join(EXIT_RECORD_NAME)).ok()?).ok()
    };
    let of = |exit_code| record::encode(&ExitRecord { exit_code, ..ExitRecord::default() });
    assert_eq!(read(), None);
    // Somebody holds the pipe.
    pump.finish(Duration::from_secs(20), of(3));
    let deadline = Instant::now() + Duration::from_secs(10);
    while read().is_none_or(|record| record.exit_code != 3) {
        assert!(Instant::now() < deadline && !pump.is_drained());
        std::thread::yield_now();
    }
    drop((out, err));
    await_notice(&pump, Pump::is_drained);
    pump.conclude(of(4));
    await_notice(&pump, Pump::is_finished);
    assert_eq!((read().unwrap().exit_code, pump.record_error()), (4, None));
}

#[test]
fn no_line_is_lost_over_many_reopens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let (mut pump, mut out, err) = started(&path);
    let writer = std::thread::spawn(move || {
        for number in 0..20_000 {
            writeln!(out, "line {number}").unwrap();
        }
    });
    let mut files = Vec::new();
    for number in 0..20 {
        let old = dir.path().join(format!("{number}.old"));
        std::fs::rename(&path, &old).unwrap();
        files.push(old);
        let wanted = pump.reopen();
        await_notice(&pump, |pump| pump.reopened().count >= wanted);
        assert_eq!(pump.reopened().errno, 0);
    }
    writer.join().unwrap();
    drop(err);
    drain(&mut pump, Duration::from_secs(20));
    files.push(path);
    let all: Vec<String> = files.iter().flat_map(|file| contents(file)).collect();
    let expected: Vec<String> = (0..20_000).map(|number| format!("stdout F line {number}")).collect();
    assert_eq!(all, expected);
    assert_eq!(pump.dropped(), 0);
}

#[test]
fn a_path_that_cannot_be_opened_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let (mut pump, mut out, err) = started(&logs.join("0.log"));
    let moved = dir.path().join("moved");
    std::fs::rename(&logs, &moved).unwrap();
    let wanted = pump.reopen();
    await_notice(&pump, |pump| pump.reopened().count >= wanted);
    assert_eq!(pump.reopened().errno, Errno::NOENT.raw_os_error());
    out.write_all(b"still here\n").unwrap();
    drop((out, err));
    drain(&mut pump, Duration::from_secs(20));
    assert_eq!(contents(&moved.join("0.log")), ["stdout F still here"]);
}
