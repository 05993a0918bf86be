//! Making a failing run small: delta debugging over decisions, faults, sessions, steps and configuration.
//!
//! The run is first recorded, so that all its decisions are data ([`crate::atoms`]). Then parts are removed, many at
//! once first, as long as the same checker still fails: decisions by kind, by point and one by one; faults; sessions;
//! steps, whose pauses are kept so that the rest happens when it did. Last the configuration is made plain, field by
//! field. A large removal that loses the failure only because everything else now falls a little differently is tried
//! again in a few other orders of events.
//!
//! Delta debugging after Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).

use crate::Given;
use crate::atoms::{Atom, Decisions};
use crate::config::WorldConfig;
use crate::run::{Ran, Resolved, RunOptions, Verdict, run_keeping};
use crate::trace::Keep;
use crate::workload::Step;
use std::collections::BTreeSet;
use std::time::Duration;

/// Other orders of events in which a large removal is tried.
const OTHER_ORDERS: u64 = 3;
/// The load phase is not cut below this.
const LOAD_MS_MIN: u64 = 500;

/// How much work shrinking may be.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Runs at most.
    pub tries: u64,
    /// Runs side by side.
    pub jobs: usize,
}

/// The outcome of shrinking.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The smallest run found, with all its decisions given.
    pub run: Resolved,
    /// Its verdict.
    pub verdict: Verdict,
    /// How many runs it took.
    pub tries: u64,
}

impl Shrunk {
    /// Faults and other decisions that are left.
    pub fn atoms(&self) -> usize {
        self.run.plan.faults.len() + self.run.decisions.as_ref().map_or(0, Decisions::len)
    }

    /// Client operations that are left.
    pub fn ops(&self) -> usize {
        self.run.workload.len()
    }
}

/// Shrinks a failing run; `progress` hears of every smaller one. `None` if the run does not fail.
pub fn shrink(start: Resolved, effort: Effort, progress: &mut dyn FnMut(&Shrunk)) -> Option<Shrunk> {
    let Ran { verdict, decisions, .. } = again(&start);
    let checker = verdict.failure.as_ref()?.checker.clone();
    let recorded = Resolved { decisions: Some(decisions), ..start };
    let best = Shrunk { run: recorded, verdict, tries: 1 };
    let mut shrinker = Shrinker { best, checker, effort, progress };
    loop {
        let size = shrinker.size();
        shrinker.cut_short();
        shrinker.begin_later();
        shrinker.faults();
        shrinker.decisions();
        shrinker.sessions();
        shrinker.steps();
        shrinker.configuration();
        if shrinker.size() == size || shrinker.spent() {
            return Some(shrinker.best);
        }
    }
}

fn again(run: &Resolved) -> Ran {
    let options = RunOptions {
        seed: run.seed,
        given: Given::duration(Duration::from_millis(run.load_ms)),
        config: Some(run.config.clone()),
        plan: Some(run.plan.clone()),
        workload: Some(run.workload.clone()),
        decisions: run.decisions.clone(),
        executor: run.executor,
    };
    run_keeping(&options, Keep::Hash)
}

struct Shrinker<'a> {
    best: Shrunk,
    checker: String,
    effort: Effort,
    progress: &'a mut dyn FnMut(&Shrunk),
}

impl Shrinker<'_> {
    /// What has to get smaller for another round to be worth it.
    fn size(&self) -> (usize, usize) {
        (self.best.atoms(), self.best.ops())
    }

    fn spent(&self) -> bool {
        self.best.tries >= self.effort.tries
    }

    /// Takes the first of `candidates` that still fails in the same way; returns its position.
    fn first_of(&mut self, candidates: Vec<Resolved>) -> Option<usize> {
        let mut position = 0;
        for batch in candidates.chunks(self.effort.jobs.max(1)) {
            if self.spent() {
                return None;
            }
            self.best.tries += batch.len() as u64;
            for (offset, ran) in side_by_side(batch).into_iter().enumerate() {
                let same =
                    ran.verdict.failure.as_ref().is_some_and(|failure| failure.checker == self.checker);
                if same {
                    // Decisions that were listed but never asked for are gone from what the run took.
                    self.best.run = Resolved { decisions: Some(ran.decisions), ..batch[offset].clone() };
                    self.best.verdict = ran.verdict;
                    (self.progress)(&self.best);
                    return Some(position + offset);
                }
            }
            position += batch.len();
        }
        None
    }

    fn attempt(&mut self, smaller: Resolved) -> bool {
        self.first_of(vec![smaller]).is_some()
    }

    /// Like [`Shrinker::attempt`], in other orders of events too.
    fn attempt_in_any_order(&mut self, smaller: Resolved) -> bool {
        let mut candidates = vec![smaller.clone()];
        for order in 1..=OTHER_ORDERS {
            let mut other = smaller.clone();
            other.seed = smaller.seed.wrapping_add(order << 40);
            candidates.push(other);
        }
        self.first_of(candidates).is_some()
    }

    /// Ends the load phase earlier, as long as that helps.
    fn cut_short(&mut self) {
        for (times, of) in [(1, 2), (3, 4)] {
            while self.best.run.load_ms * times / of > LOAD_MS_MIN {
                let mut smaller = self.best.run.clone();
                smaller.load_ms = smaller.load_ms * times / of;
                smaller.plan.faults.retain(|timed| timed.at_ms < smaller.load_ms);
                if !self.attempt_in_any_order(smaller) {
                    break;
                }
            }
        }
    }

    /// Leaves out the beginning of the load phase: what clients do then, and the wait for the first fault.
    fn begin_later(&mut self) {
        let mut skip_ms = self.best.run.load_ms / 2;
        while skip_ms >= LOAD_MS_MIN / 2 {
            let mut smaller = self.best.run.clone();
            smaller.load_ms -= skip_ms.min(smaller.load_ms - 1);
            smaller.plan.faults.retain_mut(|timed| {
                let kept = timed.at_ms >= skip_ms;
                timed.at_ms = timed.at_ms.saturating_sub(skip_ms);
                kept
            });
            for session in &mut smaller.workload.sessions {
                session.skip(skip_ms);
            }
            if !self.attempt_in_any_order(smaller) {
                skip_ms /= 2;
            }
            skip_ms = skip_ms.min(self.best.run.load_ms / 2);
        }
    }

    fn decisions(&mut self) {
        let none = Resolved { decisions: Some(Decisions::default()), ..self.best.run.clone() };
        if self.best.run.decisions.as_ref().is_none_or(Decisions::is_empty) || self.attempt_in_any_order(none)
        {
            return;
        }
        self.drop_decisions_by(|atom| atom.kind().to_owned());
        self.drop_decisions_by(|atom| atom.key.clone());
        self.reduce(
            |run| run.decisions.iter().flat_map(Decisions::atoms).collect(),
            |run, atoms: Vec<Atom>| run.decisions = Some(atoms.into_iter().collect()),
        );
    }

    /// Removes all decisions that share a group, group by group.
    fn drop_decisions_by(&mut self, group: impl Fn(&Atom) -> String) {
        let groups: BTreeSet<String> =
            self.best.run.decisions.iter().flat_map(Decisions::atoms).map(|atom| group(&atom)).collect();
        for dropped in groups {
            let mut smaller = self.best.run.clone();
            let left =
                smaller.decisions.iter().flat_map(Decisions::atoms).filter(|atom| group(atom) != dropped);
            smaller.decisions = Some(left.collect());
            if smaller.decisions != self.best.run.decisions {
                self.attempt(smaller);
            }
        }
    }

    fn faults(&mut self) {
        self.reduce(|run| run.plan.faults.clone(), |run, faults| run.plan.faults = faults);
    }

    fn sessions(&mut self) {
        self.reduce(|run| run.workload.sessions.clone(), |run, sessions| run.workload.sessions = sessions);
    }

    fn steps(&mut self) {
        for index in 0..self.best.run.workload.sessions.len() {
            // Each step with the time at which its pause would end if operations took no time.
            let timed = |run: &Resolved| {
                let steps = run.workload.sessions[index].steps.iter();
                let timed = steps.scan(0, |at_ms, step| {
                    *at_ms += step.wait_ms;
                    Some((*at_ms, step.op.clone()))
                });
                timed.collect()
            };
            self.reduce(timed, |run, steps: Vec<(u64, _)>| {
                let mut before_ms = 0;
                let steps = steps.into_iter().map(|(at_ms, op)| {
                    let wait_ms = at_ms - std::mem::replace(&mut before_ms, at_ms);
                    Step { wait_ms, op }
                });
                run.workload.sessions[index].steps = steps.collect();
            });
        }
    }

    /// Makes every field of the configuration plain that the failure does not need.
    fn configuration(&mut self) {
        let Ok(serde_json::Value::Object(plain)) = serde_json::to_value(WorldConfig::plain()) else { return };
        for (field, value) in plain {
            let Ok(mut config) = serde_json::to_value(&self.best.run.config) else { return };
            if config[field.as_str()] == value {
                continue;
            }
            config[field.as_str()] = value;
            let Ok(config) = serde_json::from_value(config) else { continue };
            self.attempt(Resolved { config, ..self.best.run.clone() });
        }
    }

    /// Removes chunks of a list, everything and halves first, down to single items.
    fn reduce<T: Clone>(&mut self, get: impl Fn(&Resolved) -> Vec<T>, set: impl Fn(&mut Resolved, Vec<T>)) {
        let mut chunk = get(&self.best.run).len();
        while chunk > 0 {
            let mut at = 0;
            while !self.spent() {
                let items = get(&self.best.run);
                let without = |from: usize| {
                    let mut left = items.clone();
                    left.drain(from..(from + chunk).min(items.len()));
                    let mut smaller = self.best.run.clone();
                    set(&mut smaller, left);
                    smaller
                };
                let starts: Vec<usize> = (at..items.len()).step_by(chunk).collect();
                if starts.is_empty() {
                    break;
                }
                if starts.len() == 1 && chunk > 1 {
                    at = if self.attempt_in_any_order(without(at)) { at } else { items.len() };
                    continue;
                }
                match self.first_of(starts.iter().map(|start| without(*start)).collect()) {
                    // What follows has moved to where the removed chunk was.
                    Some(position) => at = starts[position],
                    None => break,
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
    }
}

/// Runs all of `batch`, one a thread.
fn side_by_side(batch: &[Resolved]) -> Vec<Ran> {
    if let [one] = batch {
        return vec![again(one)];
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = batch.iter().map(|run| scope.spawn(|| again(run))).collect();
        threads
            .into_iter()
            .zip(batch)
            // A thread that panicked is run again here, where its panic is seen.
            .map(|(thread, run)| thread.join().unwrap_or_else(|_| again(run)))
            .collect()
    })
}
