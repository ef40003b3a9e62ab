//! Those who read along, and who write to stdin.

use std::fs;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use holdfast_pod::protocol::{Answer, Attach, Create, Event, FdRole, Request};

use crate::harness::{Agent, Shim, holder, request, until};
use crate::scene::{Scene, lines_of};

fn started(scene: &Scene, create: Create) -> Shim {
    let (mut shim, _) = Shim::created_with(scene, create, holder(scene, true, false), &[]);
    shim.agent.start();
    shim
}

/// Attaches to both streams, or for a terminal to the one.
fn attach(agent: &mut Agent, id: u64, stdin: bool, both: bool) -> (PipeReader, PipeReader, Option<OwnedFd>) {
    let ((out, out_end), (err, err_end)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let mut fds = vec![(FdRole::Stdout, out_end.as_fd())];
    if both {
        fds.push((FdRole::Stderr, err_end.as_fd()));
    }
    let seq = agent.send(Request::Attach(Attach { attach_id: id, stdin }), &fds);
    let answer = agent.answer(seq);
    assert!(matches!(answer, Answer::Attached), "{answer:?}");
    (out, err, agent.passed.pop())
}

fn all_of(mut pipe: PipeReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn all_read_the_same_and_stdin_ends_with_the_first() {
    let Some(scene) = Scene::sh("cat; echo over >&2") else { return };
    let mut shim = started(&scene, Create { stdin: true, stdin_once: true, ..request(&scene) });
    let (out, err, stdin) = attach(&mut shim.agent, 1, true, true);
    let (other_out, other_err, no_stdin) = attach(&mut shim.agent, 2, true, true);
    assert!(no_stdin.is_none(), "stdin_once: it belongs to the first");
    let mut stdin = fs::File::from(stdin.unwrap());
    let data: Vec<u8> = (0..400_000_u32).map(|n| (n % 251) as u8).collect();
    let readers = [out, other_out].map(|pipe| std::thread::spawn(move || all_of(pipe)));
    stdin.write_all(&data).unwrap();
    drop(stdin);
    for reader in readers {
        assert!(reader.join().unwrap() == data, "bytes differ");
    }
    assert_eq!([err, other_err].map(all_of), [b"over\n", b"over\n"]);
    assert_eq!(shim.agent.exited().exit_code, 0);
    shim.gone(&scene);
}

#[test]
fn one_who_comes_back_has_stdin_again_without_once() {
    let Some(scene) = Scene::sh("while read line; do echo got $line; done") else { return };
    let mut shim = started(&scene, Create { stdin: true, ..request(&scene) });
    for round in 0..3 {
        // Each agent anew, as after a restart.
        let mut agent = Agent::connect(&scene);
        let (mut out, _err, stdin) = attach(&mut agent, round, true, true);
        fs::File::from(stdin.unwrap()).write_all(format!("{round}\n").as_bytes()).unwrap();
        let mut text = [0; 6];
        out.read_exact(&mut text).unwrap();
        assert_eq!(text, *format!("got {round}\n").as_bytes());
    }
    shim.agent.ok(Request::Kill);
    drop(shim.agent.exited());
    shim.gone(&scene);
    assert_eq!(lines_of(&scene.log()), ["stdout F got 0", "stdout F got 1", "stdout F got 2"]);
}

#[test]
fn one_who_does_not_read_is_cut_off_and_nothing_is_lost() {
    let Some(scene) = Scene::sh("seq 1 60000; sleep 1000") else { return };
    let mut shim = started(&scene, request(&scene));
    let begun = Instant::now();
    let (stuck, _stuck_err, _) = attach(&mut shim.agent, 7, false, true);
    let (mut out, err, _) = attach(&mut shim.agent, 8, false, true);
    drop(err);
    let reader = std::thread::spawn(move || {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 65_536]);
        while !bytes.ends_with(b"\n60000\n") {
            match out.read(&mut chunk).unwrap() {
                0 => break,
                len => bytes.extend_from_slice(&chunk[..len]),
            }
        }
        bytes
    });
    let reason = shim.agent.attach_cut(7);
    assert!(reason.contains("10 s"), "{reason}");
    assert!(begun.elapsed() >= Duration::from_secs(9), "too early");
    let all = (1..=60_000).map(|n| n.to_string()).collect::<Vec<_>>().join("\n") + "\n";
    let read = reader.join().unwrap();
    // It attached while the container wrote.
    assert!(all.as_bytes().ends_with(&read) && !read.is_empty(), "bytes are missing");
    let got = all_of(stuck);
    let got = String::from_utf8(got).unwrap();
    assert!(got.len() <= 65_536 && all.contains(&got), "what it got is no part of the output");
    until("the log to be whole", || lines_of(&scene.log()).len() == 60_000);
    shim.agent.ok(Request::Kill);
    drop(shim.agent.exited());
    shim.gone(&scene);
}

#[test]
fn a_terminal_takes_stdin_and_tells_its_size() {
    let Some(scene) = Scene::sh("stty size; read line; stty size; echo got $line") else { return };
    let mut scene = scene;
    scene.spec["process"]["terminal"] = true.into();
    let mut shim = started(&scene, Create { tty: true, stdin: true, ..request(&scene) });
    let (out, _, master) = attach(&mut shim.agent, 1, true, false);
    shim.agent.ok(Request::Resize { width: 132, height: 43 });
    fs::File::from(master.unwrap()).write_all(b"hello\n").unwrap();
    let text = String::from_utf8(all_of(out)).unwrap();
    assert!(text.contains("43 132") && text.contains("got hello"), "{text:?}");
    assert_eq!(shim.agent.exited().exit_code, 0);
    shim.gone(&scene);
}

#[test]
fn too_many_and_too_early() {
    let Some(scene) = Scene::sh("sleep 1000") else { return };
    let (mut shim, _) = Shim::created(&scene);
    assert!(matches!(shim.agent.call(Request::Attach(Attach::default())), Answer::Failed(_)));
    shim.agent.start();
    let mut kept: Vec<_> = (0..64).map(|id| attach(&mut shim.agent, id, false, true)).collect();
    let (_reader, writer) = std::io::pipe().unwrap();
    let fds = [(FdRole::Stdout, writer.as_fd())];
    let seq = shim.agent.send(Request::Attach(Attach { attach_id: 99, stdin: false }), &fds);
    assert!(matches!(shim.agent.answer(seq), Answer::Failed(failure) if failure.text.contains("64")));
    // Room again, as soon as one goes.
    kept.pop();
    until("room for one more", || {
        let seq = shim.agent.send(Request::Attach(Attach { attach_id: 100, stdin: false }), &fds);
        matches!(shim.agent.answer(seq), Answer::Attached)
    });
    shim.agent.ok(Request::Kill);
    drop(shim.agent.exited());
    shim.gone(&scene);
    assert!(kept.into_iter().all(|(out, err, _)| all_of(out).is_empty() && all_of(err).is_empty()));
}

impl Agent {
    fn attach_cut(&mut self, id: u64) -> String {
        self.event(|event| match event {
            Event::AttachCut { attach_id, reason } if *attach_id == id => Some(reason.clone()),
            _ => None,
        })
    }
}
