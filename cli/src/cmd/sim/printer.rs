//! Verdicts, one after the other, and the score.

use crate::args::Format;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use nokv_sim::{Verdict, report};
use std::path::PathBuf;
use std::time::Instant;

/// Lines of the timeline that a failure shows.
const TIMELINE_LINES: usize = 30;

/// A verdict, and whether a second run agreed.
pub struct Judged {
    pub verdict: Verdict,
    /// Name of a saved case.
    pub case: Option<String>,
    /// Where it is saved.
    pub file: Option<PathBuf>,
    /// The command that runs it again.
    pub replay: String,
    /// Where two runs part, in words.
    pub difference: Option<String>,
}

impl Judged {
    pub fn failed(&self) -> bool {
        !self.verdict.passed() || self.difference.is_some()
    }
}

/// Prints outcomes and keeps the score.
pub struct Printer {
    out: Out,
    format: Format,
    hashes: bool,
    began: Instant,
    sim_ns: u64,
    runs: u64,
    /// Replay command of each failure.
    failed: Vec<String>,
}

impl Printer {
    pub fn new(format: Format, hashes: bool) -> Self {
        Self {
            out: Out::new(),
            format,
            hashes,
            began: Instant::now(),
            sim_ns: 0,
            runs: 0,
            failed: Vec::new(),
        }
    }

    pub fn show(&mut self, judged: &Judged) -> Result {
        let verdict = &judged.verdict;
        self.runs += 1;
        self.sim_ns += verdict.sim_ns;
        if judged.failed() {
            self.failed.push(judged.replay.clone());
        }
        if self.hashes {
            self.out.line(&format!("{} {:016x}", verdict.seed, verdict.trace))?;
        } else if self.format == Format::Plain {
            self.words(judged)?;
        } else {
            let mut document = super::document(verdict);
            document["case"] = serde_json::json!(judged.case);
            document["difference"] = serde_json::json!(judged.difference);
            self.out.line(&document.to_string())?;
        }
        self.out.flush()
    }

    fn words(&mut self, judged: &Judged) -> Result {
        let verdict = &judged.verdict;
        let case = judged.case.as_ref().map(|name| format!(" case={name}")).unwrap_or_default();
        self.out.line(&format!("{}{case}", report::line(verdict)))?;
        let failure = match &judged.file {
            Some(path) => report::failure_of_case(verdict, path),
            None => report::failure(verdict),
        };
        self.out.write(failure.as_bytes())?;
        if !verdict.passed() {
            self.out.write(report::timeline(verdict, TIMELINE_LINES).as_bytes())?;
        }
        if let Some(difference) = &judged.difference {
            self.out.line(&format!("seed {} does not repeat itself", verdict.seed))?;
            self.out.write(difference.as_bytes())?;
        }
        Ok(())
    }

    /// The score; a failure names every run that failed.
    pub fn end(mut self) -> Result<u8> {
        if self.format == Format::Plain && !self.hashes && self.runs > 1 {
            let (sim, wall) = (self.sim_ns as f64 / 1e9, self.began.elapsed().as_secs_f64().max(1e-3));
            self.out.line(&format!(
                "summary: {} runs, {} failed, {sim:.0} s simulated in {wall:.1} s ({:.1} runs/s, {:.0} times real time)",
                self.runs,
                self.failed.len(),
                self.runs as f64 / wall,
                sim / wall
            ))?;
        }
        self.out.flush()?;
        if self.failed.is_empty() {
            return Ok(0);
        }
        let message = format!("{} of {} runs failed", self.failed.len(), self.runs);
        Err(Failure::new(Code::SimulationFailed, message)
            .next(self.failed.join("\n"))
            .detail("failed", self.failed))
    }
}
