//! Flags of the commands that look at a directory or a running process and change neither.

use super::values::positive_duration;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// `nokv stats`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  nokv stats --workdir ./artifacts/cluster/store-1 --json | jq .flush.queue_length\n  \
    nokv stats --expvar 127.0.0.1:9200\n\n\
    Of a directory, numbers that live in a running process only are 0 and listed as unavailable."
)]
pub struct Stats {
    /// Read this store directory, changing nothing; also while its store runs
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// Ask the process that serves /debug/vars here (its --metrics-addr); wins over --workdir
    #[arg(long, value_name = "URL")]
    pub expvar: Option<String>,
    /// Do not count regions
    #[arg(long)]
    pub no_region_metrics: bool,
    /// How long the process may take to answer
    #[arg(long, env = "NOKV_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = positive_duration)]
    pub timeout: Duration,
}

/// `nokv manifest`.
#[derive(Debug, Clone, Args)]
pub struct Manifest {
    /// Store directory; it is read only
    #[arg(long, value_name = "DIR")]
    pub workdir: PathBuf,
}

/// `nokv vlog`.
#[derive(Debug, Clone, Args)]
pub struct Vlog {
    /// Store directory; it is read only
    #[arg(long, value_name = "DIR")]
    pub workdir: PathBuf,
}

/// `nokv check`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  nokv check --deep ./artifacts/cluster/store-1\n\n\
    Exit code 0: all is sound; 6: damage, listed with file and offset.")]
pub struct Check {
    /// Store directory; it is read only
    #[arg(value_name = "DIR", required_unless_present = "workdir")]
    pub dir: Option<PathBuf>,
    /// The same as DIR
    #[arg(long, value_name = "DIR", conflicts_with = "dir")]
    pub workdir: Option<PathBuf>,
    /// Also decode everything and compare: order and number of keys, filters, batches
    #[arg(long)]
    pub deep: bool,
}
