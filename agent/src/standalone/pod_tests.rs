//! Whole runs against an agent of tests, with a clock that jumps.

use std::{cell::RefCell, collections::HashMap, fs, path::PathBuf, rc::Rc, time::Duration};

use holdfast_model::{ContainerConfig, Image};
use tokio::time::Instant;

use super::*;
use crate::{
    cri::client::{ClientError, ContainerState, ContainerStatus, ProgressFn},
    manifest,
    standalone::{logs::Printer, steps::tests::Sink},
};

/// What a container does in each of its lives: run so long, end so.
type Lives = Vec<(Duration, i32)>;

/// Runs until it is stopped.
const FOR_EVER: Duration = Duration::from_secs(1 << 40);

struct Container {
    config: ContainerConfig,
    log: PathBuf,
    started: Option<Instant>,
    life: (Duration, i32),
    /// How long it takes to stop.
    stops_in: Duration,
    stopped: Option<Instant>,
}

/// An agent in which time is all that passes.
#[derive(Default)]
struct Agent {
    lives: HashMap<&'static str, Lives>,
    stops_in: Duration,
    images: Vec<&'static str>,
    /// Requests, in their order.
    asked: RefCell<Vec<String>>,
    pods: RefCell<Vec<PodSandboxConfig>>,
    containers: RefCell<HashMap<String, Container>>,
    begun: Option<Instant>,
    /// The answer to the next status is an error so often.
    silent: RefCell<u32>,
    failing_removals: RefCell<u32>,
}

fn refused(operation: &str) -> ClientError {
    ClientError::Incomplete { operation: operation.to_owned(), what: "wish to do it" }
}

impl Agent {
    fn say(&self, what: impl Into<String>) {
        self.asked.borrow_mut().push(what.into());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// How often something was asked for.
    fn count(&self, what: &str) -> usize {
        self.asked.borrow().iter().filter(|asked| asked.starts_with(what)).count()
    }
}

impl Container {
    fn ended(&self) -> Option<(Instant, i32)> {
        let by_itself = self.started? + self.life.0;
        match self.stopped {
            Some(at) if at < by_itself => Some((at, 143)),
            _ => Some((by_itself, self.life.1)),
        }
    }
}

impl Cri for Agent {
    async fn image(&self, name: &str) -> Result<Option<Image>, ClientError> {
        self.say(format!("image {name}"));
        let id = format!("sha256:{name}");
        let pulled = self.count(&format!("pull {name}")) > 0;
        Ok((pulled || self.images.contains(&name)).then(|| Image { id, ..Image::default() }))
    }

    async fn pull(&self, name: &str, _: ProgressFn) -> Result<Image, ClientError> {
        self.say(format!("pull {name}"));
        if name.contains("absent") { Err(refused(&format!("pull {name}"))) } else { Ok(Image::default()) }
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig) -> Result<String, ClientError> {
        self.say("run pod");
        let mut pods = self.pods.borrow_mut();
        if !pods.contains(config) {
            pods.push(config.clone());
        }
        Ok(format!("pod-{}", config.metadata.uid))
    }

    async fn pod_ips(&self, _: &str) -> Result<Vec<String>, ClientError> {
        Ok(vec!["10.1.0.2".to_owned()])
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), ClientError> {
        self.say(format!("stop {id}"));
        for container in self.containers.borrow_mut().values_mut() {
            container.stopped.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), ClientError> {
        self.say(format!("remove {id}"));
        if *self.failing_removals.borrow() > 0 {
            *self.failing_removals.borrow_mut() -= 1;
            return Err(refused("remove pod sandbox"));
        }
        self.pods.borrow_mut().retain(|pod| format!("pod-{}", pod.metadata.uid) != id);
        self.containers.borrow_mut().clear();
        Ok(())
    }

    async fn create_container(
        &self,
        _: &str,
        config: &ContainerConfig,
        pod: &PodSandboxConfig,
    ) -> Result<String, ClientError> {
        let (name, attempt) = (&config.metadata.name, config.metadata.attempt);
        self.say(format!("create {name}"));
        let lives = self.lives.get(name.as_str()).ok_or_else(|| refused("create container"))?;
        let life = lives[(attempt as usize).min(lives.len() - 1)];
        let log = PathBuf::from(&pod.log_directory).join(&config.log_path);
        let id = format!("{name}-{attempt}");
        let container = Container {
            config: config.clone(),
            log,
            started: None,
            life,
            stops_in: self.stops_in,
            stopped: None,
        };
        self.containers.borrow_mut().insert(id.clone(), container);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), ClientError> {
        let at = self.begun.map_or(0, |begun| begun.elapsed().as_secs());
        self.say(format!("start {id} at {at}"));
        let mut containers = self.containers.borrow_mut();
        let container = containers.get_mut(id).ok_or_else(|| refused("start container"))?;
        container.started = Some(Instant::now());
        let line = format!("2026-11-24T01:02:03Z stdout F hello from {id}\n");
        fs::write(&container.log, line).map_err(|_| refused("write log"))?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_s: i64) -> Result<(), ClientError> {
        self.say(format!("stop {id} within {grace_s}"));
        let wait = {
            let mut containers = self.containers.borrow_mut();
            let container = containers.get_mut(id).ok_or_else(|| refused("stop container"))?;
            let wait = container.stops_in.min(Duration::from_secs(grace_s.max(0) as u64));
            container.stopped = Some(Instant::now() + wait);
            wait
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), ClientError> {
        self.containers.borrow_mut().remove(id);
        Ok(())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, ClientError> {
        if *self.silent.borrow() > 0 {
            *self.silent.borrow_mut() -= 1;
            return Err(refused("status of container"));
        }
        let containers = self.containers.borrow();
        let container = containers.get(id).ok_or_else(|| refused("status of container"))?;
        let ended = container.ended().filter(|(at, _)| *at <= Instant::now());
        Ok(ContainerStatus {
            state: if ended.is_some() { ContainerState::Exited } else { ContainerState::Running },
            exit_code: ended.map_or(0, |(_, code)| code),
            reason: String::new(),
            message: String::new(),
            log_path: container.config.log_path.clone(),
        })
    }
}

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
    for (image, policy, words) in [
        ("b:1", "Never", "spec.containers[0].image: b:1 is not here, and imagePullPolicy is Never"),
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
    let seen = Rc::new(RefCell::new(Vec::new()));
    for uid in ["one", "two"] {
        let place = Place::make(root.path(), uid).unwrap();
        let number = place.reserve_ids(&mut Record::default()).unwrap();
        seen.borrow_mut().push(id_range(number)[0]);
        std::mem::forget(place);
    }
    assert_eq!(seen.borrow()[0], IdMapping { host_id: FIRST_ID, container_id: 0, length: 65536 });
    assert_eq!(seen.borrow()[1].host_id, FIRST_ID + 65536);
}

#[test]
fn uids_are_uuids_and_differ() {
    let (a, b) = (random_uid().unwrap(), random_uid().unwrap());
    assert_ne!(a, b);
    let parts: Vec<_> = a.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12]);
    assert!(a.as_bytes()[14] == b'4' && b"89ab".contains(&a.as_bytes()[19]), "{a}");
}
