//! Engines side by side: the same work, durability and memory for ours and its peers, measured on noisy machines.
//!
//! [`run`] starts a process for each engine and [`workload::Phase`], in turns; [`phase`] is what happens in one;
//! [`report`] and [`plot`] make tables and pictures of the [`record`]s that came of it.

mod data;
mod engine;
mod engines;
mod measure;
mod phase;
mod plot;
mod record;
mod report;
mod run;
mod workload;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use mimalloc::MiMalloc;
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Parser)]
#[command(about = "Engines side by side", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure engines in turns, and report.
    Run(run::Plan),
    /// Run one phase in this process and print its record; for `run`, and for profilers.
    Phase(phase::Order),
    /// Make the table and the plots anew from records.
    Report {
        /// JSON lines that `run` wrote.
        records: PathBuf,
        /// Directory for the plots.
        #[arg(long)]
        plots: Option<PathBuf>,
    },
}

/// What every phase of a run has in common.
#[derive(Debug, Clone, Args)]
pub struct Setup {
    /// Directory for databases; they are removed.
    #[arg(long, default_value = "bench-data")]
    dir: PathBuf,
    /// Size of the data set in MiB.
    #[arg(long, default_value_t = 1024)]
    data_mib: u64,
    /// More keys than this make no data set.
    #[arg(long, default_value_t = 4_000_000)]
    keys_max: u64,
    /// Block cache in MiB.
    #[arg(long, default_value_t = 256)]
    cache_mib: u64,
    /// Memtable in MiB.
    #[arg(long, default_value_t = 64)]
    memtable_mib: u64,
    /// Point operations of phases that do not go through all keys.
    #[arg(long, default_value_t = 400_000)]
    operations: u64,
    /// Seconds after which such a phase ends in any case.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Threads, where the phase does not say.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Share of each value that compresses away.
    #[arg(long, default_value_t = 0.0)]
    compressible: f64,
    /// Compress tables with LZ4, in engines that can.
    #[arg(long)]
    lz4: bool,
}

impl Setup {
    /// Keys of the data set with values of this size.
    fn keys(&self, value_bytes: usize) -> u64 {
        ((self.data_mib << 20) / (data::KEY_BYTES + value_bytes) as u64).clamp(1000, self.keys_max)
    }

    /// The same as arguments, for another process.
    fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--data-mib={}", self.data_mib),
            format!("--keys-max={}", self.keys_max),
            format!("--cache-mib={}", self.cache_mib),
            format!("--memtable-mib={}", self.memtable_mib),
            format!("--operations={}", self.operations),
            format!("--seconds={}", self.seconds),
            format!("--threads={}", self.threads),
            format!("--compressible={}", self.compressible),
        ];
        arguments.extend(self.lz4.then(|| "--lz4".to_owned()));
        arguments
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(plan) => plan.run(),
        Command::Phase(order) => {
            println!("{}", serde_json::to_string(&order.run()?)?);
            Ok(())
        }
        Command::Report { records, plots } => report::report(&record::read(&records)?, plots.as_deref()),
    }
}
