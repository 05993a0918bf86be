//! Cases: runs as JSON, kept in `sim/cases/` and run for ever.
//!
//! A case is a run that once failed, as `nokv sim shrink` writes it, or a scenario that somebody wrote by hand. What it
//! leaves out is drawn from its seed; fields of the configuration that it leaves out are plain, see
//! [`WorldConfig::plain`]. A case may name the probes that it exists to reach: when the code has changed so much that it
//! no longer does, it says so instead of passing for nothing.

use crate::atoms::Decisions;
use crate::config::WorldConfig;
use crate::plan::Plan;
use crate::run::{ExecutorKind, Failure, Given, Resolved, RunOptions, Verdict};
use crate::workload::Workload;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A run as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows, for people.
    pub about: String,
    /// Probes and chance points that it must reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reaches: Vec<String>,
    /// Seed of the world's own draws.
    pub seed: u64,
    /// Length of the load phase. Drawn from the seed when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
    /// The world. Drawn from the seed when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<WorldConfig>,
    /// The faults. Drawn from the seed when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Decisions against the default. Drawn from the seed when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decisions: Option<Decisions>,
    /// The workload. Drawn from the seed when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
}

impl Case {
    /// The case of a run.
    pub fn of(about: impl Into<String>, run: &Resolved) -> Self {
        Self {
            about: about.into(),
            reaches: Vec::new(),
            seed: run.seed,
            load_ms: Some(run.load_ms),
            config: Some(run.config.clone()),
            plan: Some(run.plan.clone()),
            decisions: run.decisions.clone(),
            workload: Some(run.workload.clone()),
        }
    }

    /// Reads a case from its JSON.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The probes among those it exists for that its run did not reach.
    pub fn missed(&self, verdict: &Verdict) -> Vec<&str> {
        let missed = self.reaches.iter().filter(|name| !verdict.probes.contains_key(*name));
        missed.map(String::as_str).collect()
    }

    /// Runs it. A passing run that does not reach what the case exists for fails too, by the checker `coverage`.
    pub fn run(&self) -> Verdict {
        let mut verdict = crate::run(self.options());
        let missed = self.missed(&verdict).join(", ");
        if verdict.passed() && !missed.is_empty() {
            let facts = format!("the case no longer reaches what it exists for: {missed}");
            verdict.failure = Some(Failure { checker: "coverage".to_owned(), facts, at_ns: verdict.sim_ns });
        }
        verdict
    }

    /// The options that run it.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            seed: self.seed,
            given: Given { duration: self.load_ms.map(Duration::from_millis), unlimited_damage: false },
            config: self.config.clone(),
            plan: self.plan.clone(),
            workload: self.workload.clone(),
            decisions: self.decisions.clone(),
            executor: ExecutorKind::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_survives_its_json() {
        let case = Case::of("example", &RunOptions::seed(3).resolve());
        let text = serde_json::to_string_pretty(&case).expect("serializable");
        let read = Case::parse(&text).expect("readable");
        assert_eq!(read, case);
        assert_eq!(read.options().resolve().plan, case.plan.expect("given"));
    }

    #[test]
    fn a_case_written_by_hand_may_be_short_but_not_misspelt() {
        let case = Case::parse(r#"{"about": "calm", "seed": 1, "config": {"regions": 2}, "decisions": {}}"#);
        let config = case.expect("readable").config.expect("given");
        assert_eq!(config, WorldConfig { regions: 2, ..WorldConfig::plain() });
        assert!(Case::parse(r#"{"about": "calm", "seed": 1, "config": {"region": 2}}"#).is_err());
        assert!(Case::parse(r#"{"about": "calm", "seed": 1, "plans": {}}"#).is_err());
    }

    #[test]
    fn a_case_that_misses_what_it_exists_for_fails() {
        let calm = |reaches: &str| {
            let text = format!(
                r#"{{"about": "calm", "reaches": ["{reaches}"], "seed": 1, "load_ms": 500, "config": {{}},
                    "plan": {{"faults": []}}, "decisions": {{}}}}"#
            );
            Case::parse(&text).expect("readable").run().failure.map(|failure| failure.checker)
        };
        assert_eq!(calm("engine.create"), None);
        assert_eq!(calm("replica.log.torn"), Some("coverage".to_owned()));
    }
}
