//! What a client does: pods of all shapes and the calls of their lives, drawn from the seed before anything is known of
//! how the calls will go. So two runs of one seed make the same calls in the same order, client by client.

use std::time::Duration;

use fastrand::Rng;

use crate::seed::{once_in, stream};

/// Whose network a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// That of the node.
    Host,
    /// One of its own.
    Pod,
}

/// What is particular about a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodShape {
    /// Its network.
    pub network: Network,
    /// A port of the node that leads to it.
    pub host_port: Option<u16>,
    /// First of the 65,536 users of the node that are the pod's.
    pub user_namespace: Option<u32>,
    /// Its containers share one pid namespace.
    pub shared_pid: bool,
}

/// What a container's program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Prints a line, and runs until it is told to end; then it prints another one, and ends with `code`.
    Sleeper {
        /// Exit code after SIGTERM.
        code: u8,
    },
    /// Prints `lines` lines after `pause`, and ends with `code`.
    Ender {
        /// Lines that it prints.
        lines: u32,
        /// Time before the first one.
        pause: Duration,
        /// Exit code.
        code: u8,
    },
}

impl Script {
    /// For `sh -c`. `token` is in every line.
    pub fn text(self, token: &str) -> String {
        match self {
            // Told twice, it says goodbye once.
            Self::Sleeper { code } => format!(
                "trap 'trap \"\" TERM; echo bye {token}; exit {code}' TERM; echo up {token}; \
                 while :; do sleep 3600 & wait; done"
            ),
            Self::Ender { lines, pause, code } => format!(
                "sleep {}; i=0; while [ $i -lt {lines} ]; do echo line $i {token}; i=$((i+1)); done; exit {code}",
                pause.as_secs_f64()
            ),
        }
    }

    /// The lines of its log, to the end if it was asked to end or ends by itself.
    pub fn lines(self, token: &str, to_the_end: bool) -> Vec<String> {
        match self {
            Self::Sleeper { .. } => {
                let bye = to_the_end.then(|| format!("bye {token}"));
                std::iter::once(format!("up {token}")).chain(bye).collect()
            }
            Self::Ender { lines, .. } => (0..lines).map(|number| format!("line {number} {token}")).collect(),
        }
    }

    /// Its exit code when it ends as it should.
    pub fn code(self) -> i32 {
        match self {
            Self::Sleeper { code } | Self::Ender { code, .. } => code.into(),
        }
    }
}

/// A call, or a wait for something that happens by itself. Containers are named by their number in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// CreateContainer.
    Create(usize),
    /// StartContainer.
    Start(usize),
    /// Waits for the end of a container that ends by itself.
    Await(usize),
    /// ExecSync of a command that prints something and ends with this code.
    Exec(usize, u8),
    /// UpdateContainerResources with this memory limit, in MiB.
    Update(usize, u32),
    /// ContainerStatus and PodSandboxStatus, compared with what is known.
    Verify,
    /// ListPodSandbox and ListContainers of this pod, compared with what is known.
    List,
    /// StopContainer with a grace period that is long enough, or none.
    Stop(usize, bool),
    /// RemoveContainer.
    Remove(usize),
    /// PullImage of the client's own image.
    Pull,
    /// RemoveImage of it.
    RemoveImage,
    /// StopPodSandbox.
    StopPod,
    /// RemovePodSandbox.
    RemovePod,
}

/// A call with the moments at which its client gives it up and asks again; without any it waits for the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The call.
    pub action: Action,
    /// Limits of the tries that are cut off.
    pub cuts: Vec<Duration>,
}

/// A pod's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The pod.
    pub shape: PodShape,
    /// Cuts of its RunPodSandbox.
    pub cuts: Vec<Duration>,
    /// Its containers.
    pub scripts: Vec<Script>,
    /// What follows RunPodSandbox.
    pub steps: Vec<Step>,
}

/// One call in so many is cut off.
const CUT_ONCE_IN: u64 = 8;
/// Latest moment at which it is.
const CUT_LIMIT: Duration = Duration::from_millis(40);
/// Most calls that follow on a client's time-outs.
const MOST_CUTS: usize = 3;

/// Draws lives for one client.
#[derive(Debug)]
pub struct Plan {
    seed: u64,
    client: u64,
    round: u64,
    user_namespaces: bool,
}

impl Plan {
    /// Of a client, by its number.
    pub fn new(seed: u64, client: usize, user_namespaces: bool) -> Self {
        Self { seed, client: client as u64, round: 0, user_namespaces }
    }
}

impl Iterator for Plan {
    type Item = Life;

    fn next(&mut self) -> Option<Life> {
        let rng = &mut stream(self.seed, &format!("client {}", self.client), self.round);
        let slot = u16::try_from(self.client * 128 + self.round % 128).unwrap_or_default();
        self.round += 1;
        let mut shape = shape(rng, slot);
        if !self.user_namespaces {
            shape.user_namespace = None;
        }
        let scripts: Vec<Script> = (0..rng.usize(0..=3)).map(|_| script(rng)).collect();
        let actions = actions(rng, &scripts);
        let steps = actions.into_iter().map(|action| Step { action, cuts: cuts(rng) }).collect();
        Some(Life { shape, cuts: cuts(rng), scripts, steps })
    }
}

/// `slot` is this pod's alone for some time.
fn shape(rng: &mut Rng, slot: u16) -> PodShape {
    let network = if once_in(rng, 4) { Network::Host } else { Network::Pod };
    let own = network == Network::Pod;
    let (port, users) = (once_in(rng, 3), once_in(rng, 5));
    PodShape {
        network,
        host_port: (own && port).then_some(20_000 + slot),
        user_namespace: (own && users).then(|| 1_000_000 + u32::from(slot) * 65_536),
        shared_pid: once_in(rng, 4),
    }
}

fn script(rng: &mut Rng) -> Script {
    let code = rng.u8(0..=120);
    if rng.bool() {
        return Script::Sleeper { code };
    }
    Script::Ender { lines: rng.u32(0..200), pause: Duration::from_millis(rng.u64(0..300)), code }
}

fn cuts(rng: &mut Rng) -> Vec<Duration> {
    let mut cuts = Vec::new();
    while cuts.len() < MOST_CUTS && once_in(rng, CUT_ONCE_IN) {
        cuts.push(crate::seed::uniform(rng, CUT_LIMIT));
    }
    cuts
}

/// The lives of the containers, shuffled into each other, each in its own order, and the pod's end. The end may come while
/// containers run.
fn actions(rng: &mut Rng, scripts: &[Script]) -> Vec<Action> {
    let mut lives: Vec<Vec<Action>> =
        scripts.iter().enumerate().map(|(number, script)| container_life(rng, number, *script)).collect();
    if once_in(rng, 4) {
        lives.push(vec![Action::Pull, Action::RemoveImage]);
    }
    let mut all = Vec::new();
    for life in &mut lives {
        life.reverse();
    }
    while !lives.is_empty() {
        let at = rng.usize(0..lives.len());
        match lives[at].pop() {
            Some(action) => all.push(action),
            None => drop(lives.swap_remove(at)),
        }
        if once_in(rng, 6) {
            all.push(if rng.bool() { Action::Verify } else { Action::List });
        }
    }
    all.extend([Action::StopPod, Action::RemovePod]);
    if once_in(rng, 6) {
        // RemovePodSandbox alone has to do as well.
        all.retain(|action| *action != Action::StopPod);
    }
    all
}

fn container_life(rng: &mut Rng, number: usize, script: Script) -> Vec<Action> {
    let mut life = vec![Action::Create(number)];
    if once_in(rng, 10) {
        return life;
    }
    life.push(Action::Start(number));
    match script {
        Script::Sleeper { .. } => {
            for _ in 0..rng.usize(0..3) {
                life.push(if rng.bool() {
                    Action::Exec(number, rng.u8(0..100))
                } else {
                    Action::Update(number, rng.u32(32..128))
                });
            }
            if once_in(rng, 4) {
                return life;
            }
            life.push(Action::Stop(number, rng.bool()));
        }
        Script::Ender { .. } => life.push(Action::Await(number)),
    }
    if !once_in(rng, 4) {
        life.push(Action::Remove(number));
    }
    life
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_lives_again() {
        let lives = |seed, client| Plan::new(seed, client, true).take(50).collect::<Vec<_>>();
        assert_eq!(lives(3, 1), lives(3, 1));
        assert_ne!(lives(3, 1), lives(3, 2));
        assert_ne!(lives(3, 1), lives(4, 1));
    }

    #[test]
    fn a_container_s_calls_keep_their_order() {
        for life in Plan::new(1, 0, true).take(200) {
            for number in 0..life.scripts.len() {
                let at = |wanted: Action| life.steps.iter().position(|step| step.action == wanted);
                let (create, start, remove) =
                    (at(Action::Create(number)), at(Action::Start(number)), at(Action::Remove(number)));
                assert!(create.is_some());
                assert!(start.is_none() || create < start);
                assert!(remove.is_none() || (start.is_some() && start < remove));
            }
            assert_eq!(life.steps.last().map(|step| step.action), Some(Action::RemovePod));
        }
    }

    #[test]
    fn lives_have_every_shape() {
        let lives: Vec<Life> = Plan::new(1, 0, true).take(300).collect();
        let has = |wanted: fn(&PodShape) -> bool| lives.iter().any(|life| wanted(&life.shape));
        assert!(has(|shape| shape.network == Network::Host) && has(|shape| shape.host_port.is_some()));
        assert!(has(|shape| shape.user_namespace.is_some()) && has(|shape| shape.shared_pid));
        let cut = lives.iter().flat_map(|life| &life.steps).filter(|step| !step.cuts.is_empty()).count();
        let all = lives.iter().map(|life| life.steps.len()).sum::<usize>();
        assert!(cut * 12 > all && cut * 6 < all, "{cut} of {all} calls are cut");
    }

    #[test]
    fn a_script_s_log_is_known_before_it_runs() {
        let sleeper = Script::Sleeper { code: 3 };
        assert_eq!(sleeper.lines("t", false), ["up t"]);
        assert_eq!(sleeper.lines("t", true), ["up t", "bye t"]);
        let ender = Script::Ender { lines: 2, pause: Duration::ZERO, code: 4 };
        assert_eq!((ender.lines("t", true), ender.code()), (vec!["line 0 t".into(), "line 1 t".into()], 4));
    }
}
