//! Whole runs against an agent of tests, with a clock that jumps.

mod agent;

use std::{fs, time::Duration};

use tokio::time::Instant;

use agent::{Agent, FOR_EVER, Lives};

use super::*;
use crate::{
    manifest,
    standalone::{logs::Printer, steps::tests::Sink},
};

/// What came of a run.
struct Outcome {
    ended: Result<u8, RunError>,
    out: String,
    steps: String,
    /// Names in the root after it.
    left: Vec<String>,
}

fn pod(spec: &str) -> Pod {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p, uid: u}}\nspec:\n{spec}");
    manifest::read(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn seconds(lives: &[(u64, i32)]) -> Lives {
    lives.iter().map(|(run, code)| (Duration::from_secs(*run), *code)).collect()
}

/// Runs a pod in `root`; `signals` come after so many seconds.
async fn run_in(root: &Path, agent: &mut Agent, pod: &Pod, signals: &[(u64, u8)]) -> Outcome {
    let (out, steps_sink) = (Sink::default(), Sink::default());
    let names = pod.all_containers().count() > 1;
    let printer = Printer::to(names, Box::new(out.clone()), Box::new(out.clone()));
    let logs = Logs::start(printer).unwrap();
    let steps = Steps::to(std::time::Instant::now(), Box::new(steps_sink.clone()));
    let (interrupts, interrupt) = Interrupts::fake();
    agent.begun = Some(Instant::now());
    if agent.images.is_empty() {
        agent.images.push("a:1");
    }
    let run = PodRun { cri: &*agent, root, pod, steps: &steps, interrupts: &interrupts, logs: &logs };
    let begun = Instant::now();
    let signalling = async {
        for (at, code) in signals {
            tokio::time::sleep_until(begun + Duration::from_secs(*at)).await;
            interrupt(*code);
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = run.run() => ended,
        ended = signalling => ended,
    };
    let left =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().display().to_string()).collect();
    Outcome { ended, out: out.text(), steps: steps_sink.text(), left }
}

async fn run(agent: &mut Agent, spec: &str, signals: &[(u64, u8)]) -> Outcome {
    let root = tempfile::tempdir().unwrap();
    let outcome = run_in(root.path(), agent, &pod(spec), signals).await;
    assert!(outcome.left.is_empty(), "left behind: {:?}\n{}", outcome.left, outcome.steps);
    assert!(agent.pods.borrow().is_empty(), "{}", outcome.steps);
    outcome
}

fn agent(lives: &[(&'static str, &[(u64, i32)])]) -> Agent {
    let lives = lives.iter().map(|(name, lives)| (*name, seconds(lives))).collect();
    Agent { lives, ..Agent::default() }
}

const ONE: &str = "  containers: [{name: main, image: 'a:1'}]\n";

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_over() {
    for (code, expected) in [(0, 0), (3, 3), (137, 137)] {
        let mut agent = agent(&[("main", &[(1, code)])]);
        let outcome = run(&mut agent, &format!("{ONE}  restartPolicy: Never\n"), &[]).await;
        assert_eq!(outcome.ended.unwrap(), expected);
        assert_eq!(outcome.out, "hello from main-0\n");
        for words in
            ["image a:1 is here", "pod p made, address 10.1.0.2", "container main started", "pod p removed"]
        {
            assert!(outcome.steps.contains(words), "{words}: {}", outcome.steps);
        }
        assert!(
            outcome.steps.contains(&format!("container main ended with exit code {code}")),
            "{}",
            outcome.steps
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_code_is_that_of_the_one_that_failed_first() {
    let mut agent = agent(&[("a", &[(5, 1)]), ("b", &[(2, 7)]), ("c", &[(1, 0)])]);
    let spec = "  restartPolicy: Never\n  containers: [{name: a, image: 'a:1'}, {name: b, image: 'a:1'}, {name: c, image: 'a:1'}]\n";
    let outcome = run(&mut agent, spec, &[]).await;
    assert_eq!(outcome.ended.unwrap(), 7);
    let starts: Vec<_> = agent.asked().into_iter().filter(|asked| asked.starts_with("start")).collect();
    assert_eq!(
        starts,
        ["start a-0 at 0", "start b-0 at 0", "start c-0 at 0"],
        "in the order of the manifest"
    );
    let mut lines: Vec<_> = outcome.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[a] hello from a-0", "[b] hello from b-0", "[c] hello from c-0"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_started_again_after_a_wait_that_grows() {
    let mut agent = agent(&[("main", &[(0, 1), (0, 1), (0, 1), (0, 1), (0, 0)])]);
    let outcome = run(&mut agent, &format!("{ONE}  restartPolicy: OnFailure\n"), &[]).await;
    assert_eq!(outcome.ended.unwrap(), 0);
    let asked = agent.asked();
    let starts = asked.iter().filter_map(|asked| asked.strip_prefix("start main-")?.split(" at ").nth(1));
    let starts: Vec<u64> = starts.map(|second| second.parse().unwrap()).collect();
    let waits: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // The clock jumps over the time for printing as well, which has a limit of 2 s.
    let expected = [0..3, 10..13, 20..23, 40..43];
    assert!(
        waits.len() == 4 && expected.iter().zip(&waits).all(|(range, wait)| range.contains(wait)),
        "{waits:?}"
    );
    assert!(outcome.steps.contains("container main is started again in 20 s"), "{}", outcome.steps);
    let printed: Vec<_> = outcome.out.lines().collect();
    assert_eq!(printed.len(), 5, "{printed:?}");
}

#[tokio::test(start_paused = true)]
async fn always_goes_on_until_a_signal() {
    let mut agent = agent(&[("main", &[(700, 0)])]);
    agent.stops_in = Duration::from_secs(2);
    let outcome = run(&mut agent, ONE, &[(1500, 130)]).await;
    assert_eq!(outcome.ended.unwrap(), 130);
    assert_eq!(agent.count("start main"), 3);
    assert_eq!(agent.count("stop main-2 within 30"), 1, "{:?}", agent.asked());
    assert!(outcome.steps.contains("interrupted: the pod is stopped within 30 s"), "{}", outcome.steps);
    assert!(outcome.steps.contains("container main stopped with exit code 143"), "{}", outcome.steps);
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_does_not_wait() {
    let mut agent = agent(&[("main", &[(FOR_EVER.as_secs(), 0)])]);
    agent.stops_in = FOR_EVER;
    let begun = Instant::now();
    let outcome =
        run(&mut agent, &format!("{ONE}  terminationGracePeriodSeconds: 100\n"), &[(5, 143), (8, 130)]).await;
    assert_eq!(outcome.ended.unwrap(), 143);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(outcome.steps.contains("once more: the pod is killed"), "{}", outcome.steps);
}

#[tokio::test(start_paused = true)]
async fn init_containers_come_first_and_sidecars_go_last() {
    let mut agent = agent(&[
        ("first", &[(1, 1), (1, 0)]),
        ("side", &[(3, 5), (FOR_EVER.as_secs(), 0)]),
        ("other", &[(FOR_EVER.as_secs(), 0)]),
        ("main", &[(100, 0)]),
    ]);
    agent.stops_in = Duration::from_secs(29);
    let spec = "  restartPolicy: OnFailure\n  initContainers:\n  - {name: first, image: 'a:1'}\n  \
                - {name: side, image: 'a:1', restartPolicy: Always}\n  - {name: other, image: 'a:1', restartPolicy: Always}\n  \
                containers: [{name: main, image: 'a:1'}]\n";
    let outcome = run(&mut agent, spec, &[]).await;
    assert_eq!(outcome.ended.unwrap(), 0, "a sidecar's code does not count");
    let order: Vec<_> = agent
        .asked()
        .into_iter()
        .filter(|asked| asked.starts_with("start") || asked.contains("within"))
        .map(|asked| asked.split(" at ").next().unwrap_or_default().to_owned())
        .collect();
    let expected = [
        "start first-0",
        "start first-1",
        "start side-0",
        "start other-0",
        "start main-0",
        "start side-1",
        "stop other-0 within 30",
        "stop side-1 within 2",
    ];
    assert_eq!(order, expected);
}

#[tokio::test(start_paused = true)]
async fn an_init_container_that_fails_is_the_end() {
    let mut agent = agent(&[("first", &[(1, 9)]), ("main", &[(1, 0)])]);
    let spec = format!("{ONE}  restartPolicy: Never\n  initContainers: [{{name: first, image: 'a:1'}}]\n");
    assert_eq!(run(&mut agent, &spec, &[]).await.ended.unwrap(), 9);
    assert_eq!(agent.count("create main"), 0);
}

#[tokio::test(start_paused = true)]
async fn images_are_there_or_pulled() {
    let spec = |image: &str, policy: &str| {
        format!(
            "  restartPolicy: Never\n  containers: [{{name: main, image: '{image}', imagePullPolicy: {policy}}}]\n"
        )
    };
    let lives: &[(&'static str, &[(u64, i32)])] = &[("main", &[(1, 0)])];
    for (image, policy, pulls) in
        [("a:1", "IfNotPresent", 0), ("a:1", "Never", 0), ("a:1", "Always", 1), ("b:1", "IfNotPresent", 1)]
    {
        let mut agent = agent(lives);
        let outcome = run(&mut agent, &spec(image, policy), &[]).await;
        assert_eq!((outcome.ended.unwrap(), agent.count("pull")), (0, pulls), "{image} {policy}");
    }
    let shared = "  restartPolicy: Never\n  containers:\n  - {name: a, image: 'a:1'}\n  \
                  - {name: b, image: 'a:1', imagePullPolicy: Always}\n  - {name: c, image: 'a:1', imagePullPolicy: Always}\n";
    let mut sharing = agent(&[("a", &[(1, 0)]), ("b", &[(1, 0)]), ("c", &[(1, 0)])]);
    run(&mut sharing, shared, &[]).await.ended.unwrap();
    assert_eq!(sharing.count("pull"), 1, "once for all");
    let volume = |policy: &str| {
        format!(
            "{}  volumes: [{{name: v, image: {{reference: 'c:1', pullPolicy: {policy}}}}}]\n",
            spec("a:1", "IfNotPresent")
        )
    };
    let mut with_volume = agent(lives);
    run(&mut with_volume, &volume("IfNotPresent"), &[]).await.ended.unwrap();
    assert_eq!(with_volume.count("pull c:1"), 1, "a volume's image too");
    let error = run(&mut agent(lives), &volume("Never"), &[]).await.ended.unwrap_err();
    assert!(chain(&error).contains("spec.volumes[0].image: c:1 is not here"), "{}", chain(&error));
    for (image, policy, words) in [
        ("b:1", "Never", "spec.containers[0].image: b:1 is not here, and its pull policy is Never"),
        ("absent:1", "Always", "spec.containers[0].image: pull absent:1"),
        ("absent:1", "IfNotPresent", "spec.containers[0].image: pull absent:1"),
    ] {
        let mut agent = agent(lives);
        let error = run(&mut agent, &spec(image, policy), &[]).await.ended.unwrap_err();
        assert!(chain(&error).contains(words), "{}", chain(&error));
        assert_eq!(agent.count("run pod"), 0, "nothing is made");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_made_ends_the_pod() {
    let mut agent = agent(&[("good", &[(FOR_EVER.as_secs(), 0)])]);
    let spec = "  containers: [{name: good, image: 'a:1'}, {name: bad, image: 'a:1'}]\n";
    let error = run(&mut agent, spec, &[]).await.ended.unwrap_err();
    assert!(chain(&error).contains("create container"), "{}", chain(&error));
    assert_eq!(agent.count("stop good-0"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_not_started_is_not_waited_for() {
    let mut agent = agent(&[("main", &[(1, 0)])]);
    agent.no_starts = true;
    let error = run(&mut agent, ONE, &[]).await.ended.unwrap_err();
    assert!(error.to_string().starts_with("start container"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_pod() {
    let mut agent = agent(&[("main", &[(FOR_EVER.as_secs(), 0)])]);
    let error = run(&mut agent, &format!("{ONE}  activeDeadlineSeconds: 60\n"), &[]).await.ended.unwrap_err();
    assert_eq!(error.to_string(), "spec.activeDeadlineSeconds: the pod has run for 60 s");
    assert_eq!(agent.count("stop main-0"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_is_too_full_ends_the_pod() {
    let mut agent = agent(&[("main", &[(FOR_EVER.as_secs(), 0)])]);
    let root = tempfile::tempdir_in("/var/tmp").unwrap();
    let spec = "  containers: [{name: main, image: 'a:1', volumeMounts: [{name: v, mountPath: /v}]}]\n  \
                volumes: [{name: v, emptyDir: {sizeLimit: 64Ki}}]\n";
    let file = root.path().join("standalone/u/volumes/v/file");
    let fill = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        fs::write(file, vec![b'x'; 1 << 20]).unwrap();
        std::future::pending::<Outcome>().await
    };
    let pod = pod(spec);
    let outcome = tokio::select! {
        outcome = run_in(root.path(), &mut agent, &pod, &[]) => outcome,
        outcome = fill => outcome,
    };
    let error = outcome.ended.unwrap_err().to_string();
    assert!(error.starts_with("emptyDir v holds 10"), "{error}");
    assert!(outcome.left.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_restarted_is_waited_for() {
    let mut agent = agent(&[("main", &[(10, 0)])]);
    *agent.silent.borrow_mut() = 20;
    let outcome = run(&mut agent, &format!("{ONE}  restartPolicy: Never\n"), &[]).await;
    assert_eq!(outcome.ended.unwrap(), 0);
    assert!(outcome.steps.contains("the agent does not answer"), "{}", outcome.steps);
    *agent.silent.borrow_mut() = u32::MAX;
    let error = run(&mut agent, &format!("{ONE}  restartPolicy: Never\n"), &[]).await.ended.unwrap_err();
    assert!(error.to_string().contains("has not said how container main is for 120 s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_is_removed_by_the_next_run() {
    let root = tempfile::tempdir().unwrap();
    let mut agent = agent(&[("main", &[(1, 3)])]);
    *agent.failing_removals.borrow_mut() = 3;
    let failing = pod(&format!("{ONE}  restartPolicy: Never\n"));
    let outcome = run_in(root.path(), &mut agent, &failing, &[]).await;
    let error = outcome.ended.unwrap_err().to_string();
    assert!(error.starts_with("remove pod p: what is left is removed by the next run"), "{error}");
    assert_eq!(outcome.left, ["standalone"]);
    assert_eq!(agent.pods.borrow().len(), 1);
    let other = Pod { uid: None, ..failing };
    let outcome = run_in(root.path(), &mut agent, &other, &[]).await;
    assert_eq!(outcome.ended.unwrap(), 3);
    assert!(outcome.steps.contains("what a run left that was killed is removed"), "{}", outcome.steps);
    assert!(outcome.left.is_empty() && agent.pods.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_killed_while_its_pod_was_made_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let agent = Agent::default();
    let place = Place::make(root.path(), "u").unwrap();
    let config = PodSandboxConfig::default();
    agent.run_pod_sandbox(&config).await.unwrap();
    place.write(&Record { config: Some(config), ..Record::default() }).unwrap();
    drop(place);
    let sink = Sink::default();
    let steps = Steps::to(std::time::Instant::now(), Box::new(sink.clone()));
    leftovers::remove(&agent, root.path(), &steps).await;
    assert!(
        agent.pods.borrow().is_empty() && fs::read_dir(root.path()).unwrap().count() == 0,
        "{}",
        sink.text()
    );
}

#[tokio::test(start_paused = true)]
async fn a_user_namespace_has_a_range_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for uid in ["one", "two"] {
        let place = Place::make(root.path(), uid).unwrap();
        let number = place.reserve_ids(&mut Record::default()).unwrap();
        seen.push(id_range(number)[0]);
        std::mem::forget(place);
    }
    assert_eq!(seen[0], IdMapping { host_id: FIRST_ID, container_id: 0, length: 65536 });
    assert_eq!(seen[1].host_id, FIRST_ID + 65536);
}

#[test]
fn uids_are_uuids_and_differ() {
    let (a, b) = (random_uid().unwrap(), random_uid().unwrap());
    assert_ne!(a, b);
    let parts: Vec<_> = a.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12]);
    assert!(a.as_bytes()[14] == b'4' && b"89ab".contains(&a.as_bytes()[19]), "{a}");
}
