//! Every failpoint of every operation: the operation fails, stalls or dies there, and afterwards it is whole or absent. Asked
//! for once more it works, and nothing is left behind.
//!
//! The failpoints of an operation are learned by running it once. `cargo x test failpoints --rounds N` goes through every
//! fault at each of them, and then N pairs at random; without rounds each gets a kill and one error.

use std::{
    collections::BTreeMap,
    env, fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{
    Scene,
    oracle::Oracle,
    place,
    scene::BUSYBOX,
    specs::{container, pod},
    wait,
};
use holdfast_sys::failpoint::{Board, Fault, VARIABLE};
use serde_json::Value;
use tempfile::TempDir;

/// Longest time until an operation works after a fault: what is undone in the background comes first.
const RECOVERY: Duration = Duration::from_secs(20);

/// How long it may take without a restart until nothing is left.
const SETTLE: Duration = Duration::from_secs(3);

/// Errors that any effect may fail with.
const ERRNOS: [i32; 5] = [libc::EIO, libc::ENOSPC, libc::ENOMEM, libc::EMFILE, libc::EINTR];
const STALL: Fault = Fault::Stall(5_000);

/// An operation, in the order of a pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Pull,
    RunPod,
    Create,
    Start,
    Exec,
    Update,
    Restart,
    StopContainer,
    RemoveContainer,
    StopPod,
    RemovePod,
    RemoveImage,
}

const LIFE: [Step; 12] = [
    Step::Pull,
    Step::RunPod,
    Step::Create,
    Step::Start,
    Step::Exec,
    Step::Update,
    Step::Restart,
    Step::StopContainer,
    Step::RemoveContainer,
    Step::StopPod,
    Step::RemovePod,
    Step::RemoveImage,
];

/// A fault at the nth hit of a failpoint.
#[derive(Clone)]
struct Point {
    name: String,
    nth: u32,
    fault: Fault,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (hit {}) {:?}", self.name, self.nth, self.fault)
    }
}

/// One pod and its container, as far as they are.
struct Life<'a> {
    scene: &'a mut Scene,
    board: &'a Board,
    pod: Value,
    container: Value,
    pod_id: String,
    id: String,
}

impl<'a> Life<'a> {
    fn new(scene: &'a mut Scene, board: &'a Board) -> Self {
        let pod = pod(&scene.dir, "failpoints");
        let container =
            container("main", BUSYBOX, &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"]);
        Self { scene, board, pod, container, pod_id: String::new(), id: String::new() }
    }

    fn perform(&mut self, step: Step) -> Result<()> {
        let crictl = self.scene.crictl.clone();
        let ok = |args: &[&str]| crictl.ok(args).map(drop);
        match step {
            Step::Pull => ok(&["pull", BUSYBOX]),
            Step::RunPod => {
                self.pod_id = self.scene.run_pod(&self.pod)?;
                Ok(())
            }
            Step::Create => {
                self.id = self.scene.create(&self.pod_id, &self.pod, &self.container)?;
                Ok(())
            }
            Step::Start => ok(&["start", &self.id]),
            Step::Exec => ok(&["exec", "-s", &self.id, "true"]),
            Step::Update => ok(&["update", "--cpu-share", "256", &self.id]),
            Step::Restart => self.scene.agent()?.crash(),
            Step::StopContainer => ok(&["stop", "-t", "5", &self.id]),
            Step::RemoveContainer => self.unless_gone(&["ps", "-a", "-q"], &self.id, &["rm", &self.id]),
            Step::StopPod => self.unless_gone(&["pods", "-q"], &self.pod_id, &["stopp", &self.pod_id]),
            Step::RemovePod => self.unless_gone(&["pods", "-q"], &self.pod_id, &["rmp", &self.pod_id]),
            Step::RemoveImage => self.unless_gone(&["images", "-q"], BUSYBOX, &["rmi", BUSYBOX]),
        }
    }

    /// crictl asks for the status before it removes: of what is gone, that is an error.
    fn unless_gone(&self, list: &[&str], id: &str, remove: &[&str]) -> Result<()> {
        let crictl = &self.scene.crictl;
        match crictl.ok(remove) {
            Ok(_) => Ok(()),
            Err(error) if error.to_string().contains("NotFound") || error.to_string().contains("no such") => {
                ensure!(!crictl.ok(list)?.contains(id), "{id} is not found, and is listed: {error:#}");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Everything before `step`, without a fault.
    fn up_to(&mut self, step: Step) -> Result<()> {
        if step == Step::Pull {
            self.perform(Step::RemoveImage)?;
        }
        for before in LIFE.into_iter().filter(|before| *before < step && *before != Step::Restart) {
            self.perform(before).with_context(|| format!("{before:?} before {step:?}"))?;
        }
        Ok(())
    }

    /// The rest of the life from `step` on, which may have been done already, or be half done.
    fn finish(&mut self, step: Step) -> Result<()> {
        for next in LIFE.into_iter().filter(|next| *next >= step && *next != Step::Restart) {
            if next == Step::RemoveImage && !matches!(step, Step::Pull | Step::RemoveImage) {
                continue;
            }
            if self.has_ended() && matches!(next, Step::Start | Step::Exec | Step::Update) {
                continue;
            }
            self.until_it_works(next).with_context(|| format!("{next:?} after the fault"))?;
        }
        Ok(())
    }

    /// A client that got an error asks again.
    fn until_it_works(&mut self, step: Step) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.scene.agent()?.revive()?;
            match self.perform(step) {
                Ok(()) => return Ok(()),
                // The shim may have died of the fault, or only just now: that is a defined end.
                Err(_) if matches!(step, Step::Start | Step::Exec | Step::Update) && self.has_ended() => {
                    return Ok(());
                }
                Err(error) if begin.elapsed() > RECOVERY => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn has_ended(&self) -> bool {
        !self.id.is_empty()
            && self.scene.crictl.container_state(&self.id).is_ok_and(|state| state == "CONTAINER_EXITED")
    }

    /// The agent may die only after its answer: whatever it does in the background has failpoints as well.
    fn until_lists_are_right(&mut self, step: Step) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.scene.agent()?.revive().context("start again")?;
            match self.check_lists(step) {
                Err(_) if begin.elapsed() < RECOVERY => std::thread::sleep(Duration::from_millis(50)),
                checked => return checked,
            }
        }
    }

    /// What CRI says after the fault is one thing or the other.
    fn check_lists(&self, step: Step) -> Result<()> {
        let count = |args: &[&str]| -> Result<usize> {
            Ok(self.scene.crictl.ok(args)?.lines().filter(|line| !line.trim().is_empty()).count())
        };
        let (pods, containers) = (count(&["pods", "-q"])?, count(&["ps", "-a", "-q"])?);
        ensure!(pods <= 1 && containers <= 1, "{pods} pods and {containers} containers after {step:?}");
        if (Step::Create..=Step::StopContainer).contains(&step) {
            ensure!(pods == 1, "the pod is gone after {step:?}");
        }
        if (Step::Start..=Step::StopContainer).contains(&step) {
            ensure!(containers == 1, "the container is gone after {step:?}");
        }
        Ok(())
    }

    /// The failpoints that `step` hits, each with the number of its hits.
    fn learn(&mut self, step: Step) -> Result<Vec<(String, u32)>> {
        self.up_to(step)?;
        self.board.forget_hits();
        self.perform(step)?;
        let mut hits: BTreeMap<String, u32> = BTreeMap::new();
        for name in self.board.hits() {
            *hits.entry(name).or_default() += 1;
        }
        if let Some(next) = LIFE.into_iter().find(|next| *next > step) {
            self.finish(next)?;
        }
        Ok(hits.into_iter().collect())
    }

    /// One life with faults in one of its steps.
    fn with_faults(&mut self, step: Step, points: &[Point], oracle: &mut Oracle) -> Result<()> {
        self.up_to(step)?;
        for (slot, point) in points.iter().enumerate() {
            self.board.arm(slot, &point.name, point.nth, point.fault);
        }
        let result = self.perform(step);
        self.board.disarm();
        self.until_lists_are_right(step).with_context(|| format!("{step:?} answered {result:?}"))?;
        self.finish(step).with_context(|| format!("{step:?} answered {result:?}"))?;
        self.nothing_left(oracle)
    }

    /// What could not be taken away for the fault may stay until the next start.
    fn nothing_left(&mut self, oracle: &mut Oracle) -> Result<()> {
        oracle.agent_is_now(self.scene.agent()?.pid());
        let is_clean = || Ok(oracle.new_facts()?.ours.is_empty().then_some(()));
        if wait::until("the machine to be as before", SETTLE, is_clean).is_ok() {
            return oracle.nothing_left();
        }
        self.scene.agent()?.crash()?;
        oracle.agent_is_now(self.scene.agent()?.pid());
        oracle.nothing_left().context("after a restart")
    }
}

/// Faults for the `index`th failpoint: all of them, or a kill and one error.
fn faults(all: bool, index: usize) -> Vec<Fault> {
    let errors = ERRNOS.map(Fault::Fail);
    if all {
        return [Fault::Kill].into_iter().chain(errors).chain([STALL]).collect();
    }
    vec![Fault::Kill, errors[index % errors.len()]]
}

/// Hits of a failpoint that get a fault: the first ones and the last.
fn hits(all: bool, count: u32) -> Vec<u32> {
    if all { (1..=count).collect() } else { [1, count].into_iter().take(count.min(2) as usize).collect() }
}

fn rounds() -> Option<u32> {
    env::var("HOLDFAST_E2E_ROUNDS").ok()?.parse().ok()
}

/// A scene whose programs have a board, and the directory of that.
fn scene_with_board() -> Result<Option<(Scene, Board, TempDir)>> {
    let dir = tempfile::Builder::new().prefix("hf-board-").tempdir()?;
    let board = Board::create(&dir.path().join("board"))?;
    let path = board.path().display().to_string();
    let scene = Scene::ours_with(|settings| settings.environment.push((VARIABLE.to_owned(), path)))?;
    let Some(scene) = scene else { return Ok(None) };
    if board.hits().is_empty() {
        println!("SKIP: the programs are built without failpoints ({})", place::programs().display());
        return Ok(None);
    }
    Ok(Some((scene, board, dir)))
}

fn every_failpoint_of(steps: &[Step]) -> Result<()> {
    let Some((mut scene, board, _dir)) = scene_with_board()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let all = rounds().is_some();
    let mut failures = Vec::new();
    let mut tried = 0;
    for step in steps {
        let learned = Life::new(&mut scene, &board).learn(*step)?;
        println!(
            "{step:?}: {} failpoints, {} hits",
            learned.len(),
            learned.iter().map(|hit| hit.1).sum::<u32>()
        );
        for (index, (name, count)) in learned.into_iter().enumerate() {
            for nth in hits(all, count) {
                for fault in faults(all, index) {
                    let point = Point { name: name.clone(), nth, fault };
                    tried += 1;
                    let result = Life::new(&mut scene, &board).with_faults(
                        *step,
                        std::slice::from_ref(&point),
                        &mut oracle,
                    );
                    if let Err(error) = result {
                        println!("FAILED {step:?} at {point}: {error:#}");
                        failures.push(format!("{step:?} at {point}: {error:#}"));
                        start_over(&mut scene, &mut oracle)?;
                    }
                }
            }
        }
    }
    println!("{tried} faults tried");
    ensure!(tried > 0, "{steps:?} have no failpoints");
    ensure!(failures.is_empty(), "{} of {tried} faults failed:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}

/// Takes away what a failure has left, so that it is told once.
fn start_over(scene: &mut Scene, oracle: &mut Oracle) -> Result<()> {
    scene.agent()?.revive()?;
    for (list, remove) in [("pods", "rmp"), ("ps", "rm")] {
        let args: &[&str] = if list == "ps" { &[list, "-a", "-q"] } else { &[list, "-q"] };
        for id in scene.crictl.ok(args)?.lines() {
            let _ = scene.crictl.call(&[remove, "-f", id.trim()])?;
        }
    }
    *oracle = scene.oracle()?;
    Ok(())
}

#[test]
fn of_making_a_pod() -> Result<()> {
    every_failpoint_of(&[Step::RunPod])
}

#[test]
fn of_making_and_starting_a_container() -> Result<()> {
    every_failpoint_of(&[Step::Create, Step::Start])
}

#[test]
fn of_a_running_container() -> Result<()> {
    every_failpoint_of(&[Step::Exec, Step::Update, Step::Restart])
}

#[test]
fn of_stopping_and_removing() -> Result<()> {
    every_failpoint_of(&[Step::StopContainer, Step::RemoveContainer, Step::StopPod, Step::RemovePod])
}

#[test]
fn of_images() -> Result<()> {
    every_failpoint_of(&[Step::Pull, Step::RemoveImage])
}

/// Two faults in the same operation, at random.
#[test]
fn pairs_at_random() -> Result<()> {
    let Some((mut scene, board, _dir)) = scene_with_board()? else { return Ok(()) };
    let mut oracle = scene.oracle()?;
    let seed = env::var("HOLDFAST_E2E_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(u64::from(std::process::id()));
    println!("seed {seed} (HOLDFAST_E2E_SEED)");
    let mut random = Random(seed | 1);
    let mut learned = BTreeMap::new();
    for step in LIFE {
        learned.insert(step, Life::new(&mut scene, &board).learn(step)?);
    }
    for round in 0..rounds().unwrap_or(20) {
        let step = LIFE[random.below(LIFE.len())];
        if learned[&step].is_empty() {
            continue;
        }
        let points: Vec<Point> = (0..2)
            .map(|_| {
                let (name, count) = &learned[&step][random.below(learned[&step].len())];
                let nth = 1 + random.below(*count as usize) as u32;
                let faults = faults(true, 0);
                // A stall is for those who have time.
                let fault = faults[random.below(faults.len() - usize::from(rounds().is_none()))];
                Point { name: name.clone(), nth, fault }
            })
            .collect();
        let told = format!("seed {seed}, round {round}: {step:?} at {} and {}", points[0], points[1]);
        Life::new(&mut scene, &board).with_faults(step, &points, &mut oracle).context(told)?;
    }
    Ok(())
}

/// xorshift64 (Marsaglia 2003): a seed gives the same faults again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}
