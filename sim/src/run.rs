//! One run: boot, load, break; heal, see that everything serves again; judge.
//!
//! ```no_run
//! let verdict = nokv_sim::run(nokv_sim::RunOptions::seed(7));
//! println!("{}", nokv_sim::report::line(&verdict));
//! ```

use crate::atoms::{Decider, Decisions};
use crate::check::{self, Findings, Violation};
use crate::config::WorldConfig;
use crate::draw::Draw;
use crate::exec::own::{Order, OwnExecutor};
use crate::exec::{Executor, Halt, lock};
use crate::faults::Faults;
use crate::history::{History, Recorder};
use crate::net::NetStats;
use crate::plan::Plan;
use crate::scenario::{Outcome, Scenario};
use crate::trace::{Difference, Keep, Trace};
use crate::watch::Tally;
use crate::workload::Workload;
use crate::world::World;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// More polls than any healthy run makes.
const POLLS_MAX: u64 = 200_000_000;

/// Who runs the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecutorKind {
    /// Our own executor.
    #[default]
    Own,
    /// madsim; only in builds with `--cfg madsim`.
    #[cfg(madsim)]
    Madsim,
}

/// What to run. Whatever is `None` is drawn from the seed.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The seed.
    pub seed: u64,
    /// What was asked for besides the seed.
    pub given: Given,
    /// The world's configuration.
    pub config: Option<WorldConfig>,
    /// The fault plan.
    pub plan: Option<Plan>,
    /// The workload.
    pub workload: Option<Workload>,
    /// What the world decides against the default while it runs.
    pub decisions: Option<Decisions>,
    /// The executor.
    pub executor: ExecutorKind,
}

/// What somebody may ask for besides a seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// Length of the phase in which clients work and faults strike. Drawn from the seed when missing.
    pub duration: Option<Duration>,
    /// Damage without a budget, see [`crate::damage`].
    pub unlimited_damage: bool,
}

impl Given {
    /// Of this length.
    pub fn duration(duration: Duration) -> Self {
        Self { duration: Some(duration), ..Self::default() }
    }

    /// As flags of a command.
    pub fn flags(&self) -> String {
        let mut flags = String::new();
        if let Some(duration) = self.duration {
            let _ = write!(flags, " --duration {}ms", duration.as_millis());
        }
        if self.unlimited_damage {
            flags.push_str(" --unlimited-damage");
        }
        flags
    }
}

impl RunOptions {
    /// Everything drawn from `seed`.
    pub fn seed(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Draws what was not given, so that it can be shown, saved and shrunk.
    pub fn resolve(&self) -> Resolved {
        let drawn_ms = Draw::new(self.seed, "duration").pick(&[10_000, 20_000, 30_000]);
        let load_ms = self.given.duration.map_or(drawn_ms, |duration| duration.as_millis() as u64);
        let mut config = self.config.clone().unwrap_or_else(|| WorldConfig::draw(self.seed));
        config.unlimited_damage |= self.given.unlimited_damage;
        let plan = self.plan.clone().unwrap_or_else(|| Plan::draw(self.seed, &config, load_ms));
        let workload = self.workload.clone().unwrap_or_else(|| Workload::draw(self.seed, &config, load_ms));
        let decisions = self.decisions.clone();
        Resolved { seed: self.seed, load_ms, config, plan, workload, decisions, executor: self.executor }
    }
}

/// A run with nothing left to draw but, perhaps, the decisions that it makes while it runs.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Seed of everything that is drawn while the world runs.
    pub seed: u64,
    /// Length of the load phase.
    pub load_ms: u64,
    /// The world's configuration.
    pub config: WorldConfig,
    /// The fault plan.
    pub plan: Plan,
    /// The workload.
    pub workload: Workload,
    /// Decisions against the default; drawn from the seed when missing.
    pub decisions: Option<Decisions>,
    /// The executor.
    pub executor: ExecutorKind,
}

/// What a run leaves behind.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub verdict: Verdict,
    /// What was decided against the default; given to [`RunOptions`], they replay the run.
    pub decisions: Decisions,
    /// What the trace kept.
    pub kept: Keep,
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Which checker says so.
    pub checker: String,
    /// The smallest facts.
    pub facts: String,
    /// When it was noticed, in simulated nanoseconds.
    pub at_ns: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// What is wrong; `None` is a pass.
    pub failure: Option<Failure>,
    /// Simulated time.
    pub sim_ns: u64,
    /// Real time; filled in by the caller, who alone may read clocks.
    pub wall: Option<Duration>,
    /// Events in the trace.
    pub events: u64,
    /// Hash of the trace.
    pub trace: u64,
    /// Faults that found their target.
    pub faults: u64,
    /// The same by kind.
    pub struck: BTreeMap<String, u64>,
    /// What the protocols did.
    pub tally: Tally,
    /// Other decisions against the default, see [`crate::atoms`].
    pub decisions: u64,
    /// Operations invoked by clients.
    pub ops: u64,
    /// Operations that were answered.
    pub answered: u64,
    /// What the judges of the history counted.
    pub findings: Findings,
    /// Network counters.
    pub net: NetStats,
    /// Probes reached, and how often.
    pub probes: BTreeMap<String, u64>,
    /// What mattered, with times in nanoseconds.
    #[serde(skip)]
    pub timeline: Vec<(u64, String)>,
    /// What was asked for besides the seed, for the replay command.
    #[serde(skip)]
    pub given: Given,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

/// Runs one world to its verdict.
pub fn run(options: RunOptions) -> Verdict {
    run_keeping(&options, Keep::Hash).verdict
}

/// Runs the same world twice; says where the second run differs from the first, if it does.
pub fn check_determinism(options: &RunOptions) -> (Verdict, Option<Difference>) {
    let Ran { verdict, kept, .. } = run_keeping(options, Keep::Events(Vec::new()));
    let Keep::Events(events) = kept else { return (verdict, None) };
    let again = run_keeping(options, Keep::Compare(events, None));
    let difference = if let Keep::Compare(_, difference) = again.kept { difference } else { None };
    (verdict, difference)
}

/// Runs one world, keeping of its trace what `keep` says.
pub fn run_keeping(options: &RunOptions, keep: Keep) -> Ran {
    let run = options.resolve();
    let trace = Arc::new(Trace::new(keep));
    let decider = Decider::new(run.seed, run.decisions.clone());
    let exec = executor(&run, &decider, trace.clone());
    let world = World::new(run.seed, run.config.clone(), decider.clone(), exec.clone(), trace.clone());
    let recorder = Arc::new(Recorder::new(world.around.watch.clone()));
    let faults = Faults::new(world.clone());
    let outcome: Arc<Mutex<Option<Outcome>>> = Arc::default();
    let scenario = Scenario {
        world: world.clone(),
        faults: faults.clone(),
        recorder: recorder.clone(),
        plan: run.plan.clone(),
        workload: run.workload.clone(),
        load_ms: run.load_ms,
    };
    let slot = outcome.clone();
    let halted = exec.run(Box::pin(async move {
        let ended = scenario.run().await;
        *lock(&slot) = Some(ended);
    }));
    let sim_ns = exec.now_ns();
    world.clear();
    let outcome = lock(&outcome).take();
    let history = recorder.take();
    trace.record(|recording| recording.history = history.clone());
    let mut findings = Findings::default();
    let failure = judge(&world, &run, halted, outcome, &history, &mut findings, sim_ns);
    let (hash, events) = trace.summary();
    let decisions = decider.taken();
    let verdict = Verdict {
        seed: run.seed,
        failure,
        sim_ns,
        wall: None,
        events,
        trace: hash,
        faults: faults.count(),
        struck: faults.struck(),
        tally: world.around.watch.tally(),
        decisions: decisions.len() as u64,
        ops: history.invoked,
        answered: history.answered,
        findings,
        net: world.around.network.stats(),
        probes: world
            .around
            .watch
            .probes()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        timeline: world.around.watch.take_timeline(),
        given: options.given,
    };
    Ran { verdict, decisions, kept: trace.take() }
}

fn executor(run: &Resolved, decider: &Arc<Decider>, trace: Arc<Trace>) -> Arc<dyn Executor> {
    let order = decider.once("world/schedule", Some).map_or(Order::Fifo, Order::Random);
    match run.executor {
        ExecutorKind::Own => OwnExecutor::new(order, run.config.nodes(), POLLS_MAX, trace),
        #[cfg(madsim)]
        ExecutorKind::Madsim => {
            crate::exec::mad::MadExecutor::new(run.seed, run.config.nodes(), POLLS_MAX, trace)
        }
    }
}

/// The first thing that is wrong: what was seen while running, how the run ended, then the history.
fn judge(
    world: &World,
    run: &Resolved,
    halted: Result<(), Halt>,
    outcome: Option<Outcome>,
    history: &History,
    findings: &mut Findings,
    sim_ns: u64,
) -> Option<Failure> {
    let at = |at_ns: u64, violation: Violation| {
        Some(Failure { checker: violation.checker.to_owned(), facts: violation.facts, at_ns })
    };
    if let Some((at_ns, violation)) = world.around.watch.failure() {
        return at(at_ns, violation);
    }
    if let Err(halt) = halted {
        let (checker, facts) = match halt {
            Halt::Panic(panic) => {
                let name = if panic.node.0 == 0 { "the world" } else { world.name(panic.node) };
                ("panic", format!("task {} of {name}: {}", panic.task, panic.message))
            }
            other => ("liveness", other.to_string()),
        };
        return at(sim_ns, Violation::new(checker, facts));
    }
    let outcome = outcome.unwrap_or_default();
    // A history that cannot be explained says more than what came of it.
    match check::history(history, &run.workload.bank()) {
        Ok(found) => *findings = found,
        Err(violation) => return at(sim_ns, violation),
    }
    if let Some(violation) = outcome.failure {
        // Without a budget for damage, data may be out of reach for good.
        let legal = run.config.unlimited_damage && violation.checker == "liveness";
        return if legal { None } else { at(sim_ns, violation) };
    }
    check::replicas::check(&outcome.replicas).err().and_then(|violation| at(sim_ns, violation))
}

/// Runs many seeds on `jobs` threads; `each` sees every verdict as it comes, in any order. `timed` runs one
/// world and fills in the wall time, since only the caller may read clocks.
pub fn sweep(
    seeds: std::ops::Range<u64>,
    jobs: usize,
    timed: &(dyn Fn(u64) -> Verdict + Sync),
    each: &(dyn Fn(Verdict) + Sync),
) {
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    each(timed(seed));
                }
            });
        }
    });
}
