//! Flags of `nokv sim`.

use super::values::positive_duration;
use clap::{Args, Subcommand};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// `nokv sim`.
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "From a failure to its cause:
  nokv sim sweep --seeds 0..1000 --out sweep
      find a seed that fails
  nokv sim run --seed 42
      see which checker says so, and what happened before
  nokv sim shrink --seed 42 --out case.json
      leave out what does not matter
  nokv sim report case.json
      see the rest as a page
  nokv sim cases case.json
      run it again after the fix; keep it in sim/cases")]
pub enum Sim {
    /// Run seeds, one verdict line each; exit 1 when one breaks an invariant
    Run(Run),
    /// Run many seeds and sum up what failed, what was reached and what was not
    Sweep(Sweep),
    /// Run saved cases
    Cases(Cases),
    /// Make a failing run small, as a case that can be saved
    Shrink(Shrink),
    /// Write one run as one page of HTML: who did what when, and what is wrong
    Report(Report),
    /// Find the first event in which two runs differ
    Diverge(Diverge),
}

/// What may be asked for besides a seed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Given {
    /// Length of the faulty phase, in simulated time [default: drawn from the seed]
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    duration: Option<Duration>,
    /// Let data rot on any number of nodes: unavailability is legal then, wrong answers are not
    #[arg(long)]
    unlimited_damage: bool,
}

impl From<Given> for nokv_sim::Given {
    fn from(given: Given) -> Self {
        Self { duration: given.duration, unlimited_damage: given.unlimited_damage }
    }
}

/// `nokv sim run`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nokv sim run --seed 42
      one world; a failure shows what happened before it
  nokv sim run --seeds 0..50 --fail-fast
      the first seed that fails
  nokv sim run --seed 42 --check-determinism
      twice; where the two runs part, if they do
  nokv sim run --seed 42 --print-plan > p.json
      the faults, to be edited and given back with --plan p.json
  nokv sim run --seed 42 --print-case > c.json
      everything, to be edited and run with `nokv sim cases c.json`
  nokv sim run --seed 42 --record a.events
      every event, for `nokv sim diverge`")]
pub struct Run {
    /// One seed
    #[arg(long, value_name = "S", conflicts_with = "seeds", required_unless_present = "seeds")]
    pub seed: Option<u64>,
    /// Seeds from A up to, but not including, B
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    pub seeds: Option<Range<u64>>,
    /// Runs at once [default: one a processor]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
    /// Run every seed twice and show where the two runs part
    #[arg(long)]
    pub check_determinism: bool,
    #[command(flatten)]
    pub given: Given,
    /// Replay this fault plan instead of the seed's own
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Print the fault plan as JSON and run nothing
    #[arg(long, conflicts_with_all = ["check_determinism", "hashes", "record"])]
    pub print_plan: bool,
    /// Run, and print everything that it was, decisions too, as a case: JSON for `nokv sim cases`
    #[arg(long, conflicts_with_all = ["check_determinism", "hashes", "record", "print_plan"])]
    pub print_case: bool,
    /// Write every event of the run to a file
    #[arg(long, value_name = "FILE", conflicts_with = "seeds")]
    pub record: Option<PathBuf>,
    /// Print only `seed hash`, one line a seed
    #[arg(long)]
    pub hashes: bool,
    /// Stop at the first seed that fails
    #[arg(long)]
    pub fail_fast: bool,
}

/// `nokv sim sweep`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Ctrl-C ends a sweep early, with the summary of what has run.

Examples:
  nokv sim sweep --seeds 0..2000 --out sweep
      the summary as sweep/summary.html and sweep/summary.json
  nokv sim sweep --seeds 0..200 --require sim/required-probes.txt
      fails too when a state that is listed is not reached
  nokv sim sweep --seeds 0..100 --repeat-percent 100
      every seed twice: is anything left to chance?
  nokv sim sweep --seeds 0..200 --json | jq .never
      what no run reached")]
pub struct Sweep {
    /// Seeds from A up to, but not including, B
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    pub seeds: Range<u64>,
    /// Runs at once [default: one a processor]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
    /// Share of the seeds that run a second time, on another thread and in the opposite order
    #[arg(long, value_name = "P", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub repeat_percent: u64,
    /// Where summary.json and summary.html are written
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Stop at the first seed that fails
    #[arg(long)]
    pub fail_fast: bool,
    /// Probes, chance points and fault:KIND that some run must reach, one a line
    #[arg(long, value_name = "FILE")]
    pub require: Option<PathBuf>,
    #[command(flatten)]
    pub given: Given,
}

/// `nokv sim cases`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nokv sim cases sim/cases
      everything that once failed
  nokv sim cases case.json
      one")]
pub struct Cases {
    /// Directory of *.json cases, or one case
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Runs at once [default: one a processor]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
}

/// `nokv sim shrink`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nokv sim shrink --seed 42 --out case.json
      a seed that fails
  nokv sim shrink case.json --out smaller.json
      a case, once more")]
pub struct Shrink {
    /// The failing case
    #[arg(value_name = "CASE", required_unless_present = "seed", conflicts_with_all = ["seed", "duration", "unlimited_damage"])]
    pub case: Option<PathBuf>,
    /// The failing seed
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub given: Given,
    /// Runs to spend
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    pub tries: u64,
    /// Runs at once [default: one a processor]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
    /// Where to save the case [default: print it]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `nokv sim report`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nokv sim report case.json
      case.html
  nokv sim report --seed 42 --out run.html
      also of a run that passes")]
pub struct Report {
    /// A saved case
    #[arg(value_name = "CASE", required_unless_present = "seed", conflicts_with_all = ["seed", "duration", "unlimited_damage"])]
    pub case: Option<PathBuf>,
    /// A seed
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub given: Given,
    /// Where to write [default: the name of the case or seed, .html]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `nokv sim diverge`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nokv sim diverge 42 42
      does the seed repeat itself?
  nokv sim diverge case.json smaller.json
      what does the difference between two cases change first?
  nokv sim run --seed 42 --record a.events
      with one build ..
  nokv sim diverge a.events 42
      .. and with another: which event differs first?

Exit 0 when the runs are equal, 1 when they differ.")]
pub struct Diverge {
    /// A seed, a case, or a recording of `nokv sim run --record`
    #[arg(value_name = "A")]
    pub first: String,
    /// The run to compare it with
    #[arg(value_name = "B")]
    pub second: String,
    /// Events to show before and after
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub around: u32,
    #[command(flatten)]
    pub given: Given,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || format!("'{text}' is not a range of seeds; want A..B, like 0..1000");
    let (start, end) = text.split_once("..").ok_or_else(wrong)?;
    let range = start.parse().map_err(|_| wrong())?..end.parse().map_err(|_| wrong())?;
    if range.is_empty() { Err(format!("'{text}' holds no seed")) } else { Ok(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_ranges() {
        assert_eq!(seeds("3..7"), Ok(3..7));
        assert!(seeds("3").is_err() && seeds("7..3").is_err() && seeds("a..b").is_err());
    }
}
