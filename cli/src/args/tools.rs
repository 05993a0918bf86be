//! Flags of the commands around the cluster: demo, configuration, simulation, help.

use super::Scope;
use super::values::{id, positive_duration};
use clap::{Args, Subcommand};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// `nokv demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// Where the data lives; running again with the same directory goes on with the same data
    #[arg(long, value_name = "DIR", default_value = "./nokv-demo")]
    pub dir: PathBuf,
    /// Added to every port
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=40_000))]
    pub port_offset: u16,
    /// How long the cluster may take to become ready
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub ready_timeout: Duration,
}

/// The file that all `nokv config` commands read.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// Cluster description (raft_config.json)
    #[arg(long, env = "NOKV_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
}

/// `nokv config`.
#[derive(Debug, Clone, Subcommand)]
pub enum Config {
    /// Report every problem of the file in one run
    Check(ConfigFile),
    /// List stores: id listen_addr addr docker_listen_addr docker_addr work_dir docker_work_dir
    Stores(ConfigFile),
    /// List regions: id start end version conf_version store:peer,... leader_store
    Regions(ConfigFile),
    /// List coordinators, one address a line
    Coordinators {
        /// The file.
        #[command(flatten)]
        file: ConfigFile,
        /// Which addresses of the file to use
        #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host")]
        scope: Scope,
    },
    /// List meta-roots: node_id addr transport_addr work_dir
    MetaRoots {
        /// The file.
        #[command(flatten)]
        file: ConfigFile,
        /// Which addresses of the file to use
        #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host")]
        scope: Scope,
    },
    /// Write the file's regions into the fresh directory of one store
    Seed(Seed),
}

/// `nokv config seed`.
#[derive(Debug, Clone, Args)]
pub struct Seed {
    /// The file.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Which directories of the file to use
    #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host")]
    pub scope: Scope,
    /// The store whose directory is seeded
    #[arg(long, env = "NOKV_STORE_ID", value_name = "N", value_parser = id)]
    pub store_id: u64,
    /// The directory [default: from the file]
    #[arg(long, env = "NOKV_WORKDIR", value_name = "DIR")]
    pub workdir: Option<PathBuf>,
}

/// `nokv sim`.
#[derive(Debug, Clone, Subcommand)]
pub enum Sim {
    /// Run seeds; exit 1 when one breaks an invariant
    Run(SimRun),
    /// Run every saved case of a directory
    Cases {
        /// Directory of *.json cases
        dir: PathBuf,
        /// Runs at once
        #[arg(long, value_name = "J", value_parser = clap::value_parser!(u32).range(1..=1024))]
        jobs: Option<u32>,
    },
    /// Make a failing seed small, as a case that can be saved
    Shrink(SimShrink),
    /// Write one run as one page of HTML: who did what when, and what is wrong
    Report(SimReport),
}

/// `nokv sim report`.
#[derive(Debug, Clone, Args)]
pub struct SimReport {
    /// A saved case
    #[arg(value_name = "CASE", required_unless_present = "seed", conflicts_with_all = ["seed", "duration"])]
    pub case: Option<PathBuf>,
    /// A seed
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Length of the faulty phase, as it was given to `sim run`
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub duration: Option<Duration>,
    /// Where to write [default: the name of the case or seed, .html]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `nokv sim shrink`.
#[derive(Debug, Clone, Args)]
pub struct SimShrink {
    /// The failing case
    #[arg(value_name = "CASE", required_unless_present = "seed", conflicts_with_all = ["seed", "duration"])]
    pub case: Option<PathBuf>,
    /// The failing seed
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Length of the faulty phase, as it was given to `sim run`
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub duration: Option<Duration>,
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

/// `nokv sim run`.
#[derive(Debug, Clone, Args)]
pub struct SimRun {
    /// One seed
    #[arg(long, value_name = "S", conflicts_with = "seeds", required_unless_present = "seeds")]
    pub seed: Option<u64>,
    /// Seeds from A up to, but not including, B
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    pub seeds: Option<Range<u64>>,
    /// Runs at once [default: one a processor]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
    /// Run every seed twice and compare the traces
    #[arg(long)]
    pub check_determinism: bool,
    /// Length of the faulty phase, in simulated time
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub duration: Option<Duration>,
    /// Replay this fault plan instead of the seed's own
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Print the fault plan as JSON and run nothing
    #[arg(long, conflicts_with_all = ["check_determinism", "hashes"])]
    pub print_plan: bool,
    /// Print only `seed hash`, one line a seed
    #[arg(long)]
    pub hashes: bool,
    /// Stop at the first seed that fails
    #[arg(long)]
    pub fail_fast: bool,
}

/// `nokv help`.
#[derive(Debug, Clone, Args)]
pub struct Help {
    /// A command, or `errors`
    #[arg(value_name = "COMMAND")]
    pub topic: Vec<String>,
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
