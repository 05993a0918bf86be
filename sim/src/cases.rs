//! Saved cases: runs that once failed, kept as JSON in `sim/cases/` and run for ever.

use crate::atoms::Decisions;
use crate::config::WorldConfig;
use crate::plan::Plan;
use crate::run::{ExecutorKind, Resolved, RunOptions};
use crate::workload::Workload;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A run with nothing left to chance but the world's own draws from the seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// What it once showed, for people.
    pub about: String,
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

    /// The options that run it.
    pub fn options(&self) -> RunOptions {
        RunOptions {
            seed: self.seed,
            duration: self.load_ms.map(Duration::from_millis),
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
}
