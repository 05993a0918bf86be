//! Checkers: they see facts and histories, never faults.
//!
//! [`invariants`] is asked at every fact and [`oracle`] at every client operation, while the world runs. The others
//! judge the history afterwards.

pub mod bank;
pub mod fork;
pub mod invariants;
pub mod linear;
pub mod oracle;
pub mod replicas;
pub mod si;
pub mod stamps;

use crate::history::{History, Span};
use serde::Serialize;
use std::fmt;

/// Something that must never happen, did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which checker says so.
    pub checker: &'static str,
    /// The smallest facts that show it.
    pub facts: String,
}

impl Violation {
    pub(crate) fn new(checker: &'static str, facts: impl Into<String>) -> Self {
        Self { checker, facts: facts.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.facts)
    }
}

/// What the judges of a history say besides "nothing is wrong".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Keys whose linearizability could not be decided within the budget.
    pub undecided: u64,
    /// Snapshots that showed a write skew, which snapshot isolation allows.
    pub write_skews: u64,
}

/// Judges a complete history; the final reads after healing are part of it.
pub fn history(history: &History, accounts: &bank::Bank) -> Result<Findings, Violation> {
    let undecided = linear::check(&history.kv)?;
    bank::check(accounts, &history.transfers, &history.totals)?;
    si::check(&history.lists)?;
    fork::check(&history.pairs)?;
    stamps::check("timestamps", &history.timestamps)?;
    stamps::check("ids", &history.ids)?;
    Ok(Findings { undecided, write_skews: history.write_skews })
}

/// Simulated seconds, for people.
pub(crate) fn seconds(ns: u64) -> String {
    if ns == u64::MAX { "never".to_owned() } else { format!("{:.6}s", ns as f64 / 1e9) }
}

pub(crate) fn show_span(span: &Span) -> String {
    format!("session {} from {} to {}", span.session, seconds(span.invoked_ns), seconds(span.returned_ns))
}
