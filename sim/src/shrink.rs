//! Making a failing run small: delta debugging over faults, sessions and steps.
//!
//! Parts are removed, halves first, as long as the same checker still fails. Plans and workloads refer to
//! nodes by name and draw nothing while they run, so what is left does exactly what it did before.

use crate::plan::Timed;
use crate::run::{Resolved, RunOptions, Verdict, run};
use crate::workload::{Session, Step};
use std::time::Duration;

/// The outcome of shrinking.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The smallest run found.
    pub run: Resolved,
    /// Its verdict.
    pub verdict: Verdict,
    /// How many runs it took.
    pub tries: u64,
}

/// Shrinks a failing run with at most `tries_max` further runs. `progress` hears of every smaller run. `None`
/// if the run does not fail.
pub fn shrink(start: Resolved, tries_max: u64, progress: &mut dyn FnMut(&Shrunk)) -> Option<Shrunk> {
    let verdict = again(&start);
    let checker = verdict.failure.as_ref()?.checker.clone();
    let mut shrinker =
        Shrinker { best: Shrunk { run: start, verdict, tries: 1 }, checker, tries_max, progress };
    shrinker.cut_short();
    loop {
        let size = shrinker.size();
        shrinker.faults();
        shrinker.sessions();
        shrinker.steps();
        if shrinker.size() == size || shrinker.spent() {
            return Some(shrinker.best);
        }
    }
}

fn again(resolved: &Resolved) -> Verdict {
    run(RunOptions {
        seed: resolved.seed,
        duration: Some(Duration::from_millis(resolved.load_ms)),
        config: Some(resolved.config.clone()),
        plan: Some(resolved.plan.clone()),
        workload: Some(resolved.workload.clone()),
        decisions: resolved.decisions.clone(),
        executor: resolved.executor,
    })
}

struct Shrinker<'a> {
    best: Shrunk,
    checker: String,
    tries_max: u64,
    progress: &'a mut dyn FnMut(&Shrunk),
}

impl Shrinker<'_> {
    fn size(&self) -> usize {
        self.best.run.plan.faults.len() + self.best.run.workload.len()
    }

    fn spent(&self) -> bool {
        self.best.tries >= self.tries_max
    }

    /// Takes `smaller` if it still fails in the same way.
    fn attempt(&mut self, smaller: Resolved) -> bool {
        if self.spent() {
            return false;
        }
        self.best.tries += 1;
        let verdict = again(&smaller);
        if verdict.failure.as_ref().is_none_or(|failure| failure.checker != self.checker) {
            return false;
        }
        self.best.run = smaller;
        self.best.verdict = verdict;
        (self.progress)(&self.best);
        true
    }

    /// Ends the load phase earlier, as long as that helps.
    fn cut_short(&mut self) {
        while self.best.run.load_ms > 500 {
            let mut smaller = self.best.run.clone();
            smaller.load_ms /= 2;
            smaller.plan.faults.retain(|timed| timed.at_ms < smaller.load_ms);
            if !self.attempt(smaller) {
                return;
            }
        }
    }

    fn faults(&mut self) {
        let items = self.best.run.plan.faults.clone();
        self.reduce(items, |run, faults: Vec<Timed>| run.plan.faults = faults);
    }

    fn sessions(&mut self) {
        let items = self.best.run.workload.sessions.clone();
        self.reduce(items, |run, sessions: Vec<Session>| run.workload.sessions = sessions);
    }

    fn steps(&mut self) {
        for index in 0..self.best.run.workload.sessions.len() {
            let items = self.best.run.workload.sessions[index].steps.clone();
            self.reduce(items, |run, steps: Vec<Step>| run.workload.sessions[index].steps = steps);
        }
    }

    /// Removes chunks of `items`, halves first, down to single ones.
    fn reduce<T: Clone>(&mut self, mut items: Vec<T>, set: impl Fn(&mut Resolved, Vec<T>)) {
        let mut chunk = items.len().div_ceil(2);
        while chunk > 0 && !items.is_empty() {
            let mut at = 0;
            while at < items.len() && !self.spent() {
                let mut fewer = items.clone();
                fewer.drain(at..(at + chunk).min(items.len()));
                let mut smaller = self.best.run.clone();
                set(&mut smaller, fewer.clone());
                if self.attempt(smaller) {
                    items = fewer;
                } else {
                    at += chunk;
                }
            }
            chunk /= 2;
        }
    }
}
