//! What a sweep says in the end, as data.

use super::{Row, Set, Shape, Sweep};
use crate::coverage::{Catalogue, Required, catalogue};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// Slowest seeds that are listed.
const SLOWEST: usize = 10;

/// Why a sweep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Every seed has run.
    Complete,
    /// At the first failure, as asked.
    AtFailure,
    /// Somebody stopped it.
    Interrupted,
}

/// A seed that failed, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// Which checker says so; `determinism` when two runs differ.
    pub checker: String,
    /// The smallest facts.
    pub facts: String,
    /// When, in simulated nanoseconds.
    pub at_ns: u64,
    /// Commands: run it again, make it small, see it; or find where two runs part.
    pub commands: Vec<String>,
}

/// How many runs reached something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// What.
    pub name: String,
    /// `probe`, `chance` or `fault`.
    pub sort: &'static str,
    /// In how many runs.
    pub runs: u64,
}

/// Something required that no run reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What.
    pub name: String,
    /// Why it matters.
    pub why: String,
}

/// Which probes were reached in runs in which which faults struck.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// Kinds of faults: the columns.
    pub faults: Vec<String>,
    /// Probes and chance points: the rows.
    pub probes: Vec<String>,
    /// Runs in which each kind struck.
    pub fault_runs: Vec<u64>,
    /// Runs that reached each probe.
    pub probe_runs: Vec<u64>,
    /// Runs that had both, row by row.
    pub runs: Vec<Vec<u64>>,
}

/// What depends on the machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// Runs at once.
    pub jobs: u64,
    /// From the first to the last run, repeats included.
    pub wall_s: f64,
    /// Wall time of all first runs, one after the other.
    pub runs_wall_s: f64,
    /// Simulated seconds a wall second, on one core.
    pub sim_per_wall_on_one_core: f64,
    /// Seeds a minute on one core.
    pub seeds_per_minute_on_one_core: f64,
    /// Seeds a second, all threads together, repeats counted.
    pub runs_per_second: f64,
}

/// A seed and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slow {
    /// The seed.
    pub seed: u64,
    /// Wall time.
    pub wall_s: f64,
    /// Simulated time.
    pub sim_s: f64,
    /// Events.
    pub events: u64,
}

/// What a sweep says in the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The first seed.
    pub first_seed: u64,
    /// The seed after the last one that was asked for.
    pub end_seed: u64,
    /// Length of the faulty phase, if it was given, in milliseconds.
    pub duration_ms: Option<u64>,
    /// Why it ended.
    pub ended: Ended,
    /// Seeds that ran.
    pub runs: u64,
    /// Seeds that failed or did not repeat themselves.
    pub failed: u64,
    /// Seeds that ran twice.
    pub repeated: u64,
    /// Seeds whose two runs differ.
    pub mismatches: u64,
    /// Hash over the traces of all seeds in order: equal sweeps have equal ones.
    pub trace: String,
    /// The failures by seed.
    pub failures: Vec<Failed>,
    /// What was required and no run reached.
    pub required_missing: Vec<Missing>,
    /// How much was required.
    pub required: u64,
    /// Probes, chance points and kinds of faults that no run reached.
    pub never: Vec<Reached>,
    /// Everything that there is to reach, and how many runs did.
    pub reached: Vec<Reached>,
    /// Fault kind by probe.
    pub matrix: Matrix,
    /// Distributions over runs.
    pub shapes: Vec<Shape>,
    /// The most expensive seeds.
    pub slowest: Vec<Slow>,
    /// What depends on the machine.
    pub speed: Speed,
}

impl Summary {
    /// Whether nothing is wrong.
    pub fn passed(&self) -> bool {
        self.failed == 0 && self.required_missing.is_empty()
    }

    /// Names of a sort that no run reached.
    pub fn never_of(&self, sort: &str) -> Vec<&str> {
        let never = self.never.iter().filter(|reached| reached.sort == sort);
        never.map(|reached| reached.name.as_str()).collect()
    }
}

impl Sweep {
    /// Sums up. `wall` is what the whole sweep took.
    pub fn summary(&self, ended: Ended, required: &[Required], jobs: u64, wall: Duration) -> Summary {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_unstable_by_key(|row| row.seed);
        let reached = self.reached(&rows);
        let never: Vec<Reached> = reached.iter().filter(|reached| reached.runs == 0).cloned().collect();
        let required_missing = required.iter().filter(|required| is_missing(&reached, required));
        Summary {
            first_seed: self.asked.seeds.start,
            end_seed: self.asked.seeds.end,
            duration_ms: self.asked.given.duration.map(|duration| duration.as_millis() as u64),
            ended,
            runs: self.runs(),
            failed: self.failed(),
            repeated: self.repeated.len() as u64,
            mismatches: self.mismatches.len() as u64,
            trace: trace(&rows),
            failures: self.failures(),
            required_missing: required_missing
                .map(|required| Missing { name: required.name.clone(), why: required.why.clone() })
                .collect(),
            required: required.len() as u64,
            never,
            matrix: self.matrix(&rows, &reached),
            reached,
            shapes: shapes(&rows),
            slowest: slowest(&rows),
            speed: speed(&rows, jobs, wall, self.repeated.len() as u64),
        }
    }

    /// Runs whose set holds `name`.
    fn count(&self, rows: &[&Row], name: &str, set: impl Fn(&Row) -> &Set) -> u64 {
        let Some(&number) = self.names.0.get(name) else { return 0 };
        rows.iter().filter(|row| set(row).has(number)).count() as u64
    }

    /// Everything in the catalogue, and what runs named that is not in it.
    fn reached(&self, rows: &[&Row]) -> Vec<Reached> {
        let Catalogue { faults, probes, chances } = catalogue();
        let known: BTreeSet<&str> = faults.iter().chain(probes).chain(chances).copied().collect();
        let unknown = |name: &&String| !known.contains(name.as_str());
        let mut all: Vec<Reached> = Vec::new();
        let mut push = |sort, name: &str, runs| all.push(Reached { name: name.to_owned(), sort, runs });
        for name in faults {
            push("fault", name, self.count(rows, name, |row| &row.kinds));
        }
        for (sort, names) in [("probe", probes), ("chance", chances)] {
            for name in names {
                push(sort, name, self.count(rows, name, |row| &row.marks));
            }
        }
        for name in self.names.0.keys().filter(unknown) {
            push("fault", name, self.count(rows, name, |row| &row.kinds));
            push("probe", name, self.count(rows, name, |row| &row.marks));
        }
        all.retain(|reached| reached.runs > 0 || known.contains(reached.name.as_str()));
        all
    }

    fn matrix(&self, rows: &[&Row], reached: &[Reached]) -> Matrix {
        let names = |fault: bool| {
            let some = reached.iter().filter(move |one| (one.sort == "fault") == fault);
            some.map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        let (faults, probes) = (names(true), names(false));
        let count = |fault: bool| {
            let some = reached.iter().filter(move |one| (one.sort == "fault") == fault);
            some.map(|one| one.runs).collect()
        };
        let number = |name: &String| self.names.0.get(name).copied();
        let both = |fault: &String, probe: &String| {
            let (Some(fault), Some(probe)) = (number(fault), number(probe)) else { return 0 };
            rows.iter().filter(|row| row.kinds.has(fault) && row.marks.has(probe)).count() as u64
        };
        let runs = probes.iter().map(|probe| faults.iter().map(|fault| both(fault, probe)).collect());
        let runs = runs.collect();
        Matrix { faults, probes, fault_runs: count(true), probe_runs: count(false), runs }
    }

    fn failures(&self) -> Vec<Failed> {
        let flags = self.asked.given.flags();
        let command = |verb: &str, seed: u64| format!("nokv sim {verb} --seed {seed}{flags}");
        let failures = self.failures.iter().map(|(&seed, failure)| Failed {
            seed,
            checker: failure.checker.clone(),
            facts: failure.facts.clone(),
            at_ns: failure.at_ns,
            commands: vec![
                command("run", seed),
                format!("{} --out case-{seed}.json", command("shrink", seed)),
                format!("{} --out seed-{seed}.html", command("report", seed)),
            ],
        });
        let mismatches = self.mismatches.iter().map(|(&seed, mismatch)| Failed {
            seed,
            checker: "determinism".to_owned(),
            facts: format!(
                "two runs of the seed differ: {:016x} and {:016x}",
                mismatch.first, mismatch.second
            ),
            at_ns: 0,
            commands: vec![format!("nokv sim diverge {seed} {seed}{flags}")],
        });
        let mut all: Vec<Failed> = failures.chain(mismatches).collect();
        all.sort_by_key(|failed| failed.seed);
        all
    }
}

fn is_missing(reached: &[Reached], required: &Required) -> bool {
    let (sorts, name): (&[&str], &str) = match required.name.strip_prefix("fault:") {
        Some(kind) => (&["fault"], kind),
        None => (&["probe", "chance"], &required.name),
    };
    !reached.iter().any(|one| one.runs > 0 && one.name == name && sorts.contains(&one.sort))
}

fn trace(rows: &[&Row]) -> String {
    let mut bytes = Vec::with_capacity(rows.len() * 16);
    for row in rows {
        bytes.extend_from_slice(&row.seed.to_le_bytes());
        bytes.extend_from_slice(&row.trace.to_le_bytes());
    }
    format!("{:016x}", crate::trace::digest(&bytes))
}

fn shapes(rows: &[&Row]) -> Vec<Shape> {
    let shape = |name, value: fn(&Row) -> u64| Shape::of(name, rows.iter().map(|row| value(row)).collect());
    vec![
        shape("elections", |row| row.elections),
        shape("snapshots", |row| row.snapshots),
        shape("lease changes", |row| row.leases),
        shape("faults", |row| row.faults),
        shape("decisions", |row| row.decisions),
        shape("operations answered", |row| row.answered),
        shape("operations unanswered", |row| row.ops.saturating_sub(row.answered)),
        shape("simulated seconds", |row| row.sim_ns / 1_000_000_000),
        shape("events", |row| row.events),
    ]
}

fn slowest(rows: &[&Row]) -> Vec<Slow> {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| b.wall.cmp(&a.wall).then(a.seed.cmp(&b.seed)));
    let slow = |row: &&Row| Slow {
        seed: row.seed,
        wall_s: row.wall.as_secs_f64(),
        sim_s: row.sim_ns as f64 / 1e9,
        events: row.events,
    };
    rows.iter().take(SLOWEST).map(slow).collect()
}

fn speed(rows: &[&Row], jobs: u64, wall: Duration, repeated: u64) -> Speed {
    let runs_wall: Duration = rows.iter().map(|row| row.wall).sum();
    let sim_s = rows.iter().map(|row| row.sim_ns as f64 / 1e9).sum::<f64>();
    let per = |amount: f64, time: Duration| if time.is_zero() { 0.0 } else { amount / time.as_secs_f64() };
    Speed {
        jobs,
        wall_s: wall.as_secs_f64(),
        runs_wall_s: runs_wall.as_secs_f64(),
        sim_per_wall_on_one_core: per(sim_s, runs_wall),
        seeds_per_minute_on_one_core: per(60.0 * rows.len() as f64, runs_wall),
        runs_per_second: per((rows.len() as u64 + repeated) as f64, wall),
    }
}
