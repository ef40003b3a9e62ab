//! Exec, attach and port-forward as crictl does them, over SPDY and WebSocket, under a real terminal too.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Crictl, Scene, place,
    process::{self, Process},
    scene::BUSYBOX,
    specs::{container, pod, sleeper},
    terminal::Terminal,
    wait,
};
use serde_json::Value;

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
/// Connections through one forwarded port.
const FORWARDED: usize = 200;
/// Growth of the agent that a stream of any length may cause, in KiB.
const GROWTH: u64 = 8 << 10;

fn running(scene: &Scene, name: &str) -> Result<(Value, String, String)> {
    let pod = pod(&scene.dir, name);
    let pod_id = scene.run_pod(&pod)?;
    let id = scene.start(&pod_id, &pod, &sleeper("main", BUSYBOX))?;
    Ok((pod, pod_id, id))
}

fn exec(crictl: &Crictl, transport: &str, flags: &str, id: &str, script: &str) -> Command {
    crictl.command(&["exec", "-r", transport, flags, id, "sh", "-c", script])
}

/// Resident memory of the agent without what it maps of files, in KiB.
fn memory(scene: &mut Scene) -> Result<u64> {
    let pid = scene.agent()?.pid().context("the agent runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn an_exec_under_a_terminal() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let (_, pod_id, id) = running(&scene, "terminal")?;
    for transport in TRANSPORTS {
        let mut screen =
            Terminal::spawn(&exec(&scene.crictl, transport, "-it", &id, "PS1='ready> ' exec sh"))?;
        screen.expect("ready> ")?;
        screen.send("tty; test -t 0 && echo on a $((1+1))-way line\n")?;
        screen.expect("/dev/pts/")?;
        screen.expect("on a 2-way line")?;
        screen.resize(132, 43)?;
        screen.send("for i in 1 2 3 4 5 6 7 8 9; do stty size; sleep 0.2; done; echo siz''ed\n")?;
        screen.expect("43 132")?;
        screen.expect("sized")?;
        // Job control: Ctrl-C ends the command, Ctrl-Z stops it, and the shell goes on.
        screen.send("sleep 1000; echo interr''upted $?\n")?;
        screen.expect("\n")?;
        wait::until_true("sleep to run", || {
            Ok(scene.crictl.ok(&["exec", "-s", &id, "ps"])?.contains("sleep 1000"))
        })?;
        screen.send("\u{3}")?;
        screen.expect("ready> ")?;
        screen.send("sleep 1001\n")?;
        wait::until_true("the next to run", || {
            Ok(scene.crictl.ok(&["exec", "-s", &id, "ps"])?.contains("sleep 1001"))
        })?;
        screen.send("\u{1a}")?;
        screen.expect("Stopped")?;
        screen.send("kill -9 %1; wait; vi /tmp/note\n")?;
        screen.expect("- /tmp/note")?;
        screen.send("iwritten in vi")?;
        screen.expect("vi")?;
        screen.send("\u{1b}")?;
        screen.expect("- /tmp/note")?;
        screen.send(":wq\n")?;
        screen.expect("ready> ")?;
        screen.send("cat /tmp/note; rm /tmp/note; exit 7\n")?;
        screen.expect("written in vi")?;
        ensure!(screen.end()? != Some(0), "exit 7 was success");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A terminal that goes away hangs up: nothing of the session is left.
#[test]
fn a_terminal_that_is_closed_hangs_up() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let (_, pod_id, id) = running(&scene, "hang-up")?;
    let mut screen = Terminal::spawn(&exec(&scene.crictl, "spdy", "-it", &id, "echo he''re; sleep 4000"))?;
    screen.expect("here")?;
    drop(screen);
    wait::until_true("the session to end", || {
        Ok(!scene.crictl.ok(&["exec", "-s", &id, "ps"])?.contains("sleep 4000"))
    })?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A terminal whose last opener goes is not at its end: whoever opens it next is heard, in the log, by those who attach
/// and in an exec, and nobody waits for ever because it is not read.
#[test]
fn a_terminal_that_is_let_go_and_opened_again() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "reopened");
    let pod_id = scene.run_pod(&pod)?;
    let volume = scene.dir.join("told");
    fs::create_dir(&volume)?;
    // More than a terminal holds, a line at a time.
    let lines =
        |to: &str| format!("i=0; while [ $i -lt 2000 ]; do echo \"line $i .....\" >{to}; i=$((i+1)); done");
    let script = format!(
        "echo one; exec </dev/null >/dev/null 2>&1; while [ ! -e /told/go ]; do sleep 0.02; done; {}; exit 7",
        lines("/dev/console")
    );
    let mut spec = container("main", BUSYBOX, &["sh", "-c", &script]);
    spec["tty"] = true.into();
    spec["mounts"] = serde_json::json!([{"container_path": "/told", "host_path": volume}]);
    let id = scene.start(&pod_id, &pod, &spec)?;
    let log = scene.log(&pod, &spec);
    wait::until_true("the first line", || Ok(fs::read_to_string(&log)?.contains("one")))?;

    let script = format!("echo ex''ec; exec </dev/null >/dev/null 2>&1; sleep 0.2; {}", lines("/dev/tty"));
    let mut screen = Terminal::spawn(&exec(&scene.crictl, "spdy", "-it", &id, &script))?;
    screen.expect("exec")?;
    screen.expect("line 1999 .....")?;
    screen.end()?;

    let attach = Terminal::spawn(&scene.crictl.command(&["attach", "-it", &id]));
    let mut attach = attach?;
    // Who is attached is not known before something comes.
    wait::until_true("the session to stand", || {
        fs::write(volume.join("go"), "")?;
        Ok(fs::read_to_string(&log)?.contains("line 1 "))
    })?;
    let status = scene.exited(&id)?;
    ensure!(status["exitCode"] == 7, "{status}");
    attach.end()?;
    let text = fs::read_to_string(&log)?;
    for number in 0..2000 {
        ensure!(text.contains(&format!(" line {number} .....")), "line {number} is not in the log");
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

#[test]
fn exits_and_refusals() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let (_, pod_id, id) = running(&scene, "exits")?;
    for transport in TRANSPORTS {
        let run = |args: &[&str]| {
            let mut command = scene.crictl.command(&["exec", "-r", transport]);
            process::run(command.args(args))
        };
        let output = run(&[&id, "sh", "-c", "echo out; echo err >&2"])?;
        ensure!(
            output.status.success() && output.stdout == b"out\n" && output.stderr == b"err\n",
            "{output:?}"
        );
        let output = run(&[&id, "sh", "-c", "exit 42"])?;
        ensure!(
            String::from_utf8_lossy(&output.stderr).contains("42") && !output.status.success(),
            "{output:?}"
        );
        let output = run(&[&id, "no-such-program"])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(text.contains("no-such-program") && !output.status.success(), "{text}");
    }
    scene.crictl.ok(&["stop", "--timeout", "0", &id])?;
    let refusal = scene.crictl.refused(&["exec", &id, "true"])?;
    ensure!(refusal.code == "FailedPrecondition" || refusal.code == "Unknown", "{refusal:?}");
    ensure!(scene.crictl.refused(&["attach", &id])?.text.contains(&id[..12]));
    ensure!(scene.crictl.refused(&["exec", "no-such-container", "true"])?.code == "NotFound");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Long streams arrive byte by byte, and the agent does not grow with them.
#[test]
fn long_streams_are_exact() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    let (_, pod_id, id) = running(&scene, "long")?;
    let (file, back) = (scene.dir.join("data"), scene.dir.join("back"));
    let mib = long_stream_mib();
    process::stdout(
        "dd",
        ["if=/dev/urandom", "bs=1M", &format!("count={mib}"), &format!("of={}", file.display())],
    )?;
    for transport in TRANSPORTS {
        // Out through stdin, back through stdout.
        let mut command = exec(&scene.crictl, transport, "-i", &id, "cat");
        command.stdin(File::open(&file)?).stdout(File::create(&back)?).stderr(Stdio::null());
        while_memory_is_flat(&mut scene, &mut command)?;
        process::stdout("cmp", [&file, &back])?;

        // The same through a forwarded port.
        let mut keep = exec(&scene.crictl, "spdy", "-i", &id, "cat >/tmp/data");
        let kept = Process::spawn(keep.stdin(File::open(&file)?))?.wait()?;
        ensure!(kept.success(), "{kept}");
        scene.crictl.ok(&["exec", "-s", &id, "sh", "-c", "nc -l -p 9000 </tmp/data >/dev/null 2>&1 &"])?;
        let (_client, port) = forward(&scene, transport, &pod_id, 9000)?;
        let mut fetch = Command::new("bash");
        fetch.args(["-c", &format!("cat </dev/tcp/127.0.0.1/{port} >{}", back.display())]);
        while_memory_is_flat(&mut scene, &mut fetch)?;
        process::stdout("cmp", [&file, &back])?;
        scene.crictl.ok(&["exec", "-s", &id, "rm", "/tmp/data"])?;
    }
    for path in [file, back] {
        fs::remove_file(path)?;
    }
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// Runs a command to its end, and looks at the agent's memory all the while.
fn while_memory_is_flat(scene: &mut Scene, command: &mut Command) -> Result<()> {
    let before = memory(scene)?;
    let mut child = Process::spawn(command)?;
    let mut most = before;
    let status = wait::until("the end of a long stream", wait::LIMIT * 60, || {
        most = most.max(memory(scene)?);
        child.ended()
    })?;
    ensure!(status.success(), "{command:?}: {status}");
    let growth = most - before;
    ensure!(growth <= GROWTH, "{command:?}: the agent grew by {growth} KiB");
    Ok(())
}

/// Length of a long stream: 64 MiB, or what `HOLDFAST_E2E_STREAM_MIB` says.
fn long_stream_mib() -> u32 {
    std::env::var("HOLDFAST_E2E_STREAM_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(64)
}

/// A forwarded port, while the client lives.
fn forward(scene: &Scene, transport: &str, pod_id: &str, port: u16) -> Result<(Process, u16)> {
    let said = scene.dir.join("said");
    let mut command = scene.crictl.command(&["port-forward", "-r", transport, pod_id, &format!(":{port}")]);
    command.stdin(Stdio::null()).stdout(File::create(&said)?).stderr(File::create(scene.dir.join("err"))?);
    let client = Process::spawn(&mut command)?;
    let port = wait::until("the local port", wait::LIMIT, || {
        let text = fs::read_to_string(&said)?;
        Ok(text.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()))
    })?;
    Ok((client, port))
}

#[test]
fn attached_to_a_container() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let pod = pod(&scene.dir, "attach");
    let pod_id = scene.run_pod(&pod)?;
    let mut spec =
        container("main", BUSYBOX, &["sh", "-c", "while read line; do echo got $line; done; echo over"]);
    spec["stdin"] = true.into();
    let id = scene.start(&pod_id, &pod, &spec)?;
    for (round, transport) in TRANSPORTS.iter().enumerate() {
        let mut command = scene.crictl.command(&["attach", "-r", transport, "-i", &id]);
        let out = scene.dir.join(format!("attach-{round}"));
        command.stdin(Stdio::piped()).stdout(File::create(&out)?).stderr(Stdio::null());
        let mut child = Attached::spawn(&mut command)?;
        child.say(&format!("line {round}\n"))?;
        wait::until_true("the answer", || Ok(fs::read_to_string(&out)? == format!("got line {round}\n")))?;
        // It leaves; the container stays, with its stdin open for the next one, whatever agent there is by then.
        drop(child);
        scene.agent()?.crash()?;
        oracle.agent_is_now(scene.agent()?.pid());
        ensure!(scene.crictl.container_state(&id)? == "CONTAINER_RUNNING");
        fs::remove_file(out)?;
    }
    ensure!(scene.crictl.ok(&["logs", &id])? == "got line 0\ngot line 1", "the log");
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A client whose stdin is ours.
struct Attached {
    stdin: File,
    _process: Process,
}

impl Attached {
    fn spawn(command: &mut Command) -> Result<Self> {
        let (read, write) = std::io::pipe()?;
        command.stdin(read);
        let process = Process::spawn(command)?;
        // Our copy of its end.
        command.stdin(Stdio::null());
        Ok(Self { stdin: File::from(std::os::fd::OwnedFd::from(write)), _process: process })
    }

    fn say(&mut self, text: &str) -> Result<()> {
        self.stdin.write_all(text.as_bytes()).context("write to the client's stdin")
    }
}

/// A session whose agent is killed ends, its command with it; the container does not notice.
#[test]
fn a_killed_agent_ends_sessions_only() -> Result<()> {
    let Some(mut scene) = Scene::ours()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let (_, pod_id, id) = running(&scene, "killed")?;
    let mut command = exec(&scene.crictl, "spdy", "-i", &id, "echo here; exec sleep 5000");
    let out = scene.dir.join("out");
    command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(Stdio::null());
    let mut client = Process::spawn(&mut command)?;
    wait::until_true("the session", || Ok(fs::read_to_string(&out)? == "here\n"))?;
    scene.agent()?.crash()?;
    oracle.agent_is_now(scene.agent()?.pid());
    client.end(wait::LIMIT)?;
    wait::until_true("the command to end", || {
        Ok(!scene.crictl.ok(&["exec", "-s", &id, "ps"])?.contains("sleep 5000"))
    })?;
    ensure!(scene.crictl.container_state(&id)? == "CONTAINER_RUNNING");
    fs::remove_file(out)?;
    scene.remove_pod(&pod_id)?;
    oracle.nothing_left()
}

/// A forwarded port serves many at once, and closes with its pod: an open connection keeps no namespace.
#[test]
fn a_forwarded_port() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let oracle = scene.oracle()?;
    for transport in TRANSPORTS {
        let pod = pod(&scene.dir, "forward");
        let pod_id = scene.run_pod(&pod)?;
        let script = "mkdir /www; echo hello >/www/small; head -c 3000000 /dev/urandom >/www/data; \
                      exec httpd -f -p 127.0.0.1:8080 -h /www";
        let id = scene.start(&pod_id, &pod, &container("web", BUSYBOX, &["sh", "-c", script]))?;
        wait::until_true("httpd to listen", || {
            Ok(scene.crictl.ok(&["exec", "-s", &id, "netstat", "-ltn"])?.contains(":8080"))
        })?;
        let sum = scene.crictl.ok(&["exec", "-s", &id, "sha256sum", "/www/data"])?;
        let (_client, port) = forward(&scene, transport, &pod_id, 8080)?;
        for _ in 0..3 {
            let fetches: Vec<_> = (0..8).map(|_| get(port, "/data")).collect::<Result<_>>()?;
            // All at once: crictl's SPDY has no windows, so one that is not read stops the others.
            let readers: Vec<_> = fetches.into_iter().map(|one| thread::spawn(move || body(one))).collect();
            let bodies: Vec<_> = readers.into_iter().map(|one| one.join().unwrap()).collect::<Result<_>>()?;
            ensure!(bodies.iter().all(|body| *body == bodies[0] && body.len() == 3_000_000), "bodies differ");
            let file = scene.dir.join("fetched");
            fs::write(&file, &bodies[0])?;
            let ours = process::stdout("sha256sum", [&file])?;
            ensure!(ours.split(' ').next() == sum.split(' ').next(), "{transport}: bytes differ");
            fs::remove_file(file)?;
        }
        many_at_once(&scene, &id, port)?;
        let _open = TcpStream::connect(("127.0.0.1", port))?;
        scene.remove_pod(&pod_id)?;
    }
    oracle.nothing_left()
}

/// All connections stand, seen from inside the pod, before the first is used.
fn many_at_once(scene: &Scene, id: &str, port: u16) -> Result<()> {
    let mut all = Vec::new();
    while all.len() < FORWARDED {
        // httpd listens with a queue of 9, and what finds it full tries again a second later.
        for _ in 0..8 {
            all.push(TcpStream::connect(("127.0.0.1", port))?);
        }
        wait::until_true("all connections in the pod", || {
            let list = scene.crictl.ok(&["exec", "-s", id, "netstat", "-tn"])?;
            let words = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let served = words.filter(|words| {
                words.get(3..6).is_some_and(|end| end[0] == "127.0.0.1:8080" && end[2] == "ESTABLISHED")
            });
            Ok(served.count() == all.len())
        })?;
    }
    for stream in &mut all {
        request(stream, "/small")?;
    }
    for stream in all {
        ensure!(body(stream)? == b"hello\n", "another answer");
    }
    Ok(())
}

/// A request whose answer is not read yet.
fn get(port: u16, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    request(&mut stream, path)?;
    Ok(stream)
}

fn request(stream: &mut TcpStream, path: &str) -> Result<()> {
    Ok(write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?)
}

fn body(mut stream: TcpStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(wait::LIMIT * place::slowness()))?;
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("no head")?;
    Ok(answer.split_off(end + 4))
}
