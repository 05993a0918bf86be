//! `nokv sim sweep`: many seeds, and what they reached between them.

use super::{of_seed, pool, timed};
use crate::args::Format;
use crate::args::sim::Sweep as Args;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use crate::signals::{Reason, Signals};
use indicatif::{ProgressBar, ProgressStyle};
use nokv_sim::coverage::{Required, required};
use nokv_sim::sweep::{Asked, Ended, Summary, Sweep, page, text};
use nokv_sim::{Verdict, report};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How often a log gets a line of progress; a terminal gets it at once.
const LINE_INTERVAL: Duration = Duration::from_secs(30);
/// Failures whose commands the closing words repeat.
const COMMANDS_MAX: usize = 20;

/// Runs the seeds and says what came of it.
pub fn run(args: &Args, format: Format) -> Result<u8> {
    let required = args.require.as_deref().map(read_required).transpose()?.unwrap_or_default();
    if let Some(dir) = &args.out {
        // Before the hours of work, not after.
        std::fs::create_dir_all(dir)
            .map_err(|error| Failure::io(format!("create {}", dir.display()), &error))?;
    }
    let halt = Halt::listen()?;
    let asked =
        Asked { seeds: args.seeds.clone(), repeat_percent: args.repeat_percent, given: args.given.into() };
    let (jobs, began) = (pool::jobs(args.jobs), Instant::now());
    let mut sweep = Sweep::new(asked);
    once(&mut sweep, args, jobs, &halt);
    let stopped = halt.stop.load(Ordering::Relaxed);
    if !stopped {
        again(&mut sweep, args, jobs, &halt);
    }
    let ended = match (halt.reason.get(), stopped) {
        (Some(_), _) => Ended::Interrupted,
        (None, true) => Ended::AtFailure,
        (None, false) => Ended::Complete,
    };
    if ended == Ended::AtFailure {
        sweep.end_at_first_failure();
    }
    // What a part of the seeds did not reach says nothing.
    let required = if ended == Ended::Complete { required } else { Vec::new() };
    let summary = sweep.summary(ended, &required, jobs, began.elapsed());
    show(&summary, args, format)?;
    verdict(&summary, halt.reason.get().copied())
}

fn read_required(path: &Path) -> Result<Vec<Required>> {
    required(&super::read_text(path)?).map_err(|what| {
        Failure::usage(format!("{}: {what}", path.display())).next("sim/catalogue.txt lists every name")
    })
}

/// Every seed once, lowest first.
fn once(sweep: &mut Sweep, args: &Args, jobs: u64, halt: &Halt) {
    let run = |seed| timed(|| nokv_sim::run(of_seed(seed, args.given)));
    let mut progress = Progress::new(args.seeds.end - args.seeds.start, "seeds");
    pool::spread(args.seeds.clone(), jobs, &halt.stop, &run, |done| {
        if let Some((_, verdict)) = done {
            if !verdict.passed() {
                progress.say(&told(&verdict));
                if args.fail_fast {
                    halt.stop.store(true, Ordering::Relaxed);
                }
            }
            sweep.add(&verdict);
            progress.ran(&verdict);
        }
        progress.show(sweep.failed(), halt);
    });
    progress.end();
}

/// Some seeds a second time: last first, on other threads, beside other worlds.
fn again(sweep: &mut Sweep, args: &Args, jobs: u64, halt: &Halt) {
    let seeds = sweep.to_repeat();
    let count = seeds.len() as u64;
    let run = |number| timed(|| nokv_sim::run(of_seed(seeds[number as usize], args.given)));
    let mut progress = Progress::new(count, "seeds again");
    pool::spread(0..count, jobs, &halt.stop, &run, |done| {
        if let Some((_, verdict)) = done {
            if !sweep.add_again(&verdict) {
                let seed = verdict.seed;
                progress.say(&format!("seed {seed} does not repeat itself: nokv sim diverge {seed} {seed}"));
            }
            progress.ran(&verdict);
        }
        progress.show(sweep.failed(), halt);
    });
    progress.end();
}

fn told(verdict: &Verdict) -> String {
    let (checker, facts) = verdict
        .failure
        .as_ref()
        .map_or(("", ""), |failure| (failure.checker.as_str(), failure.facts.as_str()));
    format!("seed {} failed, {checker}: {facts}\n  {}", verdict.seed, report::replay(verdict))
}

fn show(summary: &Summary, args: &Args, format: Format) -> Result {
    let mut out = Out::new();
    if format == Format::Plain {
        out.write(text::text(summary).as_bytes())?;
    } else {
        out.json(&serde_json::json!(summary))?;
    }
    if let Some(dir) = &args.out {
        super::write(&dir.join("summary.json"), format!("{:#}\n", serde_json::json!(summary)))?;
        let path = dir.join("summary.html");
        super::write(&path, page::page(summary))?;
        if format == Format::Plain {
            out.line(&format!("page: {}", path.display()))?;
        }
    }
    out.flush()
}

/// How the command ends.
fn verdict(summary: &Summary, reason: Option<Reason>) -> Result<u8> {
    if summary.failed > 0 {
        let seeds: Vec<u64> = summary.failures.iter().map(|failed| failed.seed).collect();
        let commands = summary.failures.iter().filter_map(|failed| failed.commands.first());
        let commands: Vec<String> = commands.take(COMMANDS_MAX).cloned().collect();
        let message = format!("{} of {} runs failed", summary.failed, summary.runs);
        return Err(Failure::new(Code::SimulationFailed, message)
            .next(commands.join("\n"))
            .detail("failed", commands)
            .detail("seeds", seeds));
    }
    if let Some(reason) = reason {
        let done = format!("after {} of {} seeds", summary.runs, summary.end_seed - summary.first_seed);
        let failure = reason.failure();
        return Err(Failure::new(failure.code(), format!("{} {done}", failure.message())));
    }
    if !summary.required_missing.is_empty() {
        let names: Vec<&str> = summary.required_missing.iter().map(|missing| missing.name.as_str()).collect();
        let message = format!(
            "{} of {} required states were not reached: {}",
            names.len(),
            summary.required,
            names.join(", ")
        );
        return Err(Failure::new(Code::NotReached, message)
            .why("a state that no run reaches is a state that no checker watches")
            .next("more seeds, or a fault or chance point that leads there")
            .detail("missing", names));
    }
    Ok(0)
}

/// Whether to stop, and who says so.
struct Halt {
    stop: AtomicBool,
    reason: OnceLock<Reason>,
}

impl Halt {
    /// A first signal ends the sweep after the runs under way, a second one at once.
    fn listen() -> Result<Arc<Self>> {
        let halt = Arc::new(Self { stop: AtomicBool::new(false), reason: OnceLock::new() });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::io("start the runtime", &error))?;
        let mut signals = {
            let _inside = runtime.enter();
            Signals::new()?
        };
        let told = halt.clone();
        std::thread::spawn(move || {
            let reason = runtime.block_on(signals.wait());
            // The first one counts.
            let _ = told.reason.set(reason);
            told.stop.store(true, Ordering::Relaxed);
            let reason = runtime.block_on(signals.wait());
            std::process::exit(i32::from(reason.failure().code().exit()));
        });
        Ok(halt)
    }
}

/// How far it is: a line that is redrawn on a terminal, a line now and then in a log.
struct Progress {
    bar: ProgressBar,
    total: u64,
    what: &'static str,
    done: u64,
    sim_ns: u64,
    began: Instant,
    /// When a log got its last line.
    last_line: Instant,
}

impl Progress {
    fn new(total: u64, what: &'static str) -> Self {
        let bar = ProgressBar::new(total);
        let style = ProgressStyle::with_template("{bar:20} {wide_msg}");
        let bar = style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style));
        let now = Instant::now();
        Self { bar, total, what, done: 0, sim_ns: 0, began: now, last_line: now }
    }

    fn ran(&mut self, verdict: &Verdict) {
        self.done += 1;
        self.sim_ns += verdict.sim_ns;
    }

    fn show(&mut self, failed: u64, halt: &Halt) {
        let terminal = !self.bar.is_hidden();
        if !terminal && self.last_line.elapsed() < LINE_INTERVAL {
            return;
        }
        let line = if halt.reason.get().is_some() {
            "ending the runs under way; once more ends at once".to_owned()
        } else {
            line(self.done, self.total, self.what, failed, self.sim_ns, self.began.elapsed())
        };
        if terminal {
            self.bar.set_position(self.done);
            self.bar.set_message(line);
        } else {
            self.last_line = Instant::now();
            eprintln!("{line}");
        }
    }

    /// A line that does not tear the bar.
    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn end(self) {
        self.bar.finish_and_clear();
    }
}

fn line(done: u64, total: u64, what: &str, failed: u64, sim_ns: u64, elapsed: Duration) -> String {
    let wall = elapsed.as_secs_f64().max(1e-3);
    let left = match done {
        0 => String::new(),
        _ => format!(", {:.0} s left", wall / done as f64 * (total - done) as f64),
    };
    format!(
        "{done}/{total} {what}, {failed} failed, {:.1} a second, {:.0} simulated seconds a second{left}",
        done as f64 / wall,
        sim_ns as f64 / 1e9 / wall
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_how_far_it_is() {
        assert_eq!(
            line(50, 200, "seeds", 1, 1_000_000_000_000, Duration::from_secs(10)),
            "50/200 seeds, 1 failed, 5.0 a second, 100 simulated seconds a second, 30 s left"
        );
        assert!(!line(0, 200, "seeds", 0, 0, Duration::ZERO).contains("left"));
    }
}
