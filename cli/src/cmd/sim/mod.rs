//! `nokv sim`: whole clusters in simulated time. Everything happens in `nokv_sim`; here are threads, wall time, files
//! and printing, a file a verb.
#![allow(clippy::disallowed_methods, reason = "whoever starts simulations may read clocks and files")]

mod cases;
mod diverge;
mod pool;
mod printer;
mod report;
mod run;
mod shrink;
mod sweep;

use crate::args::Global;
use crate::args::sim::{Given, Sim};
use crate::errors::{Failure, Result};
use nokv_sim::cases::Case;
use nokv_sim::{RunOptions, Verdict};
use std::path::Path;
use std::time::Instant;

/// Runs, judges or explains simulations.
pub fn run(command: &Sim, global: &Global) -> Result<u8> {
    crate::logging::start("off")?;
    match command {
        Sim::Run(args) => run::run(args, global.format()),
        Sim::Sweep(args) => sweep::run(args, global.format()),
        Sim::Cases(args) => cases::run(args, global.format()),
        Sim::Shrink(args) => shrink::run(args, global.format()),
        Sim::Report(args) => report::run(args, global.format()),
        Sim::Diverge(args) => diverge::run(args, global.format()),
    }
}

/// Runs one world and looks at the clock, which the simulator itself may not do.
fn timed(run: impl FnOnce() -> Verdict) -> Verdict {
    let began = Instant::now();
    let verdict = run();
    Verdict { wall: Some(began.elapsed()), ..verdict }
}

/// A world of which the seed is given, and little else.
fn of_seed(seed: u64, given: Given) -> RunOptions {
    RunOptions { given: given.into(), ..RunOptions::seed(seed) }
}

/// A verdict for programs.
fn document(verdict: &Verdict) -> serde_json::Value {
    let mut document = serde_json::json!(verdict);
    // 64 bits do not fit into the numbers of every reader.
    document["trace"] = format!("{:016x}", verdict.trace).into();
    document
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Failure::io(format!("read {}", path.display()), &error))
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result {
    std::fs::write(path, content).map_err(|error| Failure::io(format!("write {}", path.display()), &error))
}

fn read_case(path: &Path) -> Result<Case> {
    Case::parse(&read_text(path)?).map_err(|error| {
        Failure::usage(format!("{}: no saved case: {error}", path.display()))
            .next("`nokv sim shrink --seed S --out FILE` writes one")
    })
}
