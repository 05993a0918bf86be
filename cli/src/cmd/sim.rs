//! `nokv sim`: whole clusters in simulated time. Everything happens in `nokv_sim`; here are threads, wall time and
//! printing.
//!
//! Verdicts are printed in the order of seeds, whoever is done first, so that equal sweeps print equal lines.
#![allow(clippy::disallowed_methods, reason = "whoever starts simulations may read clocks and files")]

use crate::args::tools::{Sim, SimRun, SimShrink};
use crate::args::{Format, Global};
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use nokv_sim::cases::Case;
use nokv_sim::plan::Plan;
use nokv_sim::shrink::{Effort, Shrunk};
use nokv_sim::{RunOptions, Verdict, report};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// Lines of the timeline that a failure shows.
const TIMELINE_LINES: usize = 30;

/// Runs, repeats or shrinks simulations.
pub fn run(command: &Sim, global: &Global) -> Result<u8> {
    crate::logging::start("off")?;
    match command {
        Sim::Run(args) => seeds(args, global.format()),
        Sim::Cases { dir, jobs } => cases(dir, *jobs, global.format()),
        Sim::Shrink(args) => shrink(args),
        Sim::Report(args) => super::sim_report::run(args),
    }
}

/// A verdict, and whether a second run agreed.
struct Judged {
    verdict: Verdict,
    /// Name of a saved case.
    case: Option<String>,
    /// Where two runs of the seed part.
    difference: Option<String>,
}

impl Judged {
    fn failed(&self) -> bool {
        !self.verdict.passed() || self.difference.is_some()
    }
}

fn seeds(args: &SimRun, format: Format) -> Result<u8> {
    let plan = args.plan.as_deref().map(read_plan).transpose()?;
    let range = match (args.seed, &args.seeds) {
        (Some(seed), _) => seed..seed.saturating_add(1),
        (None, Some(range)) => range.clone(),
        (None, None) => return Err(Failure::usage("give --seed S or --seeds A..B")),
    };
    let options =
        |seed| RunOptions { seed, duration: args.duration, plan: plan.clone(), ..RunOptions::default() };
    if args.print_plan {
        return print_plans(range, options);
    }
    let mut printer = Printer::new(format, args.hashes);
    let run = |seed| judge(options(seed), args.check_determinism);
    in_order(range, args.jobs, args.fail_fast, &run, |judged| printer.show(&judged))?;
    printer.end(args.plan.as_deref())
}

fn read_plan(path: &Path) -> Result<Plan> {
    let text =
        std::fs::read(path).map_err(|error| Failure::io(format!("read {}", path.display()), &error))?;
    serde_json::from_slice(&text).map_err(|error| {
        Failure::usage(format!("{}: no fault plan: {error}", path.display()))
            .next("`nokv sim run --seed S --print-plan` shows the format")
    })
}

fn print_plans(range: Range<u64>, options: impl Fn(u64) -> RunOptions) -> Result<u8> {
    let mut out = Out::new();
    for seed in range {
        let plan = options(seed).resolve().plan;
        out.json(&serde_json::json!(plan))?;
    }
    out.flush()?;
    Ok(0)
}

fn judge(options: RunOptions, twice: bool) -> Judged {
    let began = Instant::now();
    let (mut verdict, difference) =
        if twice { nokv_sim::check_determinism(&options) } else { (nokv_sim::run(options), None) };
    verdict.wall = Some(began.elapsed());
    Judged { verdict, case: None, difference: difference.map(|difference| difference.to_string()) }
}

/// Runs `range` on several threads; `show` sees the outcomes in order.
fn in_order(
    range: Range<u64>,
    jobs: Option<u32>,
    fail_fast: bool,
    run: &(dyn Fn(u64) -> Judged + Sync),
    mut show: impl FnMut(Judged) -> Result,
) -> Result {
    let jobs = self::jobs(jobs).min(range.end - range.start);
    let (next, stop) = (AtomicU64::new(range.start), AtomicBool::new(false));
    let (send, receive) = mpsc::channel();

    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (send, next, stop, end) = (send.clone(), &next, &stop, range.end);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end || send.send((number, run(number))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let (mut early, mut wanted) = (BTreeMap::new(), range.start);
        for (number, judged) in receive {
            early.insert(number, judged);
            while let Some(judged) = early.remove(&wanted) {
                wanted += 1;
                let enough = fail_fast && judged.failed();
                let shown = show(judged);
                if enough || shown.is_err() {
                    stop.store(true, Ordering::Relaxed);
                    return shown;
                }
            }
        }
        Ok(())
    })
}

fn cases(dir: &Path, jobs: Option<u32>, format: Format) -> Result<u8> {
    let files = case_files(dir)?;
    let mut all = Vec::new();
    for path in &files {
        let case = read_case(path)?;
        all.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), case));
    }
    let mut printer = Printer::new(format, false);
    let run = |number: u64| {
        let (name, case) = &all[number as usize];
        Judged { case: Some(name.clone()), ..judge(case.options(), false) }
    };
    in_order(0..all.len() as u64, jobs, false, &run, |judged| printer.show(&judged))?;
    printer.end(None)
}

fn case_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(dir).map_err(|error| Failure::io(format!("list {}", dir.display()), &error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    if files.is_empty() {
        Err(Failure::new(Code::FileNotFound, format!("no *.json case in {}", dir.display())))
    } else {
        Ok(files)
    }
}

fn shrink(args: &SimShrink) -> Result<u8> {
    let (name, options) = match (&args.case, args.seed) {
        (Some(path), _) => {
            let case = read_case(path)?;
            (case.about.clone(), case.options())
        }
        (None, seed) => {
            let seed = seed.unwrap_or_default();
            (format!("seed {seed}"), RunOptions { seed, duration: args.duration, ..RunOptions::default() })
        }
    };
    let effort = Effort { tries: args.tries, jobs: jobs(args.jobs) as usize };
    let began = Instant::now();
    let mut shown = None;
    let mut progress = |smaller: &Shrunk| {
        let size = (smaller.atoms(), smaller.ops());
        if shown.replace(size) != Some(size) {
            let (atoms, ops) = size;
            eprintln!(
                "after {} runs: {atoms} atoms, {ops} operations, {} ms of load",
                smaller.tries, smaller.run.load_ms
            );
        }
    };
    let shrunk = nokv_sim::shrink::shrink(options.resolve(), effort, &mut progress)
        .ok_or_else(|| Failure::usage(format!("{name} does not fail: there is nothing to shrink")))?;
    let checker = shrunk.verdict.failure.as_ref().map(|failure| failure.checker.as_str()).unwrap_or_default();
    let about = if args.case.is_some() { name } else { format!("{name}, checker {checker}") };
    let text = format!("{:#}\n", serde_json::json!(Case::of(about, &shrunk.run)));
    let mut out = Out::new();
    let Some(path) = &args.out else {
        out.write(text.as_bytes())?;
        out.flush()?;
        return Ok(0);
    };
    std::fs::write(path, text).map_err(|error| Failure::io(format!("write {}", path.display()), &error))?;
    out.line(report::failure(&shrunk.verdict).trim_end())?;
    out.line(&format!(
        "shrunk to {} atoms and {} operations in {} runs, {:.0} s; saved as {}",
        shrunk.atoms(),
        shrunk.ops(),
        shrunk.tries,
        began.elapsed().as_secs_f64(),
        path.display()
    ))?;
    out.flush()?;
    Ok(0)
}

fn read_case(path: &Path) -> Result<Case> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::io(format!("read {}", path.display()), &error))?;
    Case::parse(&text).map_err(|error| Failure::usage(format!("{}: no saved case: {error}", path.display())))
}

/// The number of threads that was asked for, or one a processor.
fn jobs(asked: Option<u32>) -> u64 {
    let cores = || std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    asked.map_or_else(cores, u64::from)
}

/// Prints outcomes and keeps the score.
struct Printer {
    out: Out,
    format: Format,
    hashes: bool,
    began: Instant,
    sim_ns: u64,
    runs: u64,
    /// Replay command or case name of each failure.
    failed: Vec<String>,
}

impl Printer {
    fn new(format: Format, hashes: bool) -> Self {
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

    fn show(&mut self, judged: &Judged) -> Result {
        let verdict = &judged.verdict;
        self.runs += 1;
        self.sim_ns += verdict.sim_ns;
        if judged.failed() {
            self.failed.push(judged.case.clone().unwrap_or_else(|| report::replay(verdict)));
        }
        let case = judged.case.as_ref().map(|name| format!(" case={name}")).unwrap_or_default();
        if self.hashes {
            self.out.line(&format!("{} {:016x}", verdict.seed, verdict.trace))?;
        } else if self.format == Format::Plain {
            self.out.line(&format!("{}{case}", report::line(verdict)))?;
            self.out.write(report::failure(verdict).as_bytes())?;
            if !verdict.passed() {
                self.out.write(report::timeline(verdict, TIMELINE_LINES).as_bytes())?;
            }
            if let Some(difference) = &judged.difference {
                self.out.line(&format!("seed {} does not repeat itself: {difference}", verdict.seed))?;
            }
        } else {
            let mut document = serde_json::json!(verdict);
            document["trace"] = format!("{:016x}", verdict.trace).into();
            document["case"] = serde_json::json!(judged.case);
            document["difference"] = serde_json::json!(judged.difference);
            self.out.line(&document.to_string())?;
        }
        self.out.flush()
    }

    /// The score; a failure names every seed that failed.
    fn end(mut self, plan: Option<&Path>) -> Result<u8> {
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
        let plan = plan.map(|path| format!(" --plan {}", path.display())).unwrap_or_default();
        let commands: Vec<String> = self.failed.iter().map(|command| format!("{command}{plan}")).collect();
        Err(Failure::new(
            Code::SimulationFailed,
            format!("{} of {} runs failed", self.failed.len(), self.runs),
        )
        .next(commands.join("\n"))
        .detail("failed", self.failed))
    }
}
