//! Flags of the commands of daily work: export, backup, shell, bundles, completions, manual pages.

use super::Scope;
use super::client::{Cluster, ImportFormat};
use super::security::ClientSecurity;
use super::values::{Addresses, IdAddress, address, addresses, id_address, positive_duration};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Which keys; all of them when nothing is given.
#[derive(Debug, Clone, Args)]
pub struct Keys {
    /// Only keys that begin with this
    #[arg(long, value_name = "KEY", conflicts_with_all = ["start", "end"], help_heading = "Keys")]
    pub prefix: Option<OsString>,
    /// First key
    #[arg(long, value_name = "KEY", help_heading = "Keys")]
    pub start: Option<OsString>,
    /// First key that is left out again
    #[arg(long, value_name = "KEY", help_heading = "Keys")]
    pub end: Option<OsString>,
    /// These keys are written as hexadecimal digits
    #[arg(long, help_heading = "Keys")]
    pub hex: bool,
}

/// `nokv export`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The file shows the range as of one timestamp, whatever is written meanwhile, and `nokv import` reads it back exactly. \
    jsonl and csv hold any bytes; tsv refuses keys and values that it cannot hold. The file appears under its name when it is whole; \
    an export that was interrupted begins anew (`nokv backup` goes on)."
)]
pub struct Export {
    /// Which keys.
    #[command(flatten)]
    pub keys: Keys,
    /// As of this timestamp, as `put` and `scan -o json` print it [default: now]
    #[arg(long, value_name = "TS", value_parser = clap::value_parser!(u64).range(1..))]
    pub at: Option<u64>,
    /// Format of the file, as `import` takes it
    #[arg(long, value_enum, default_value = "jsonl")]
    pub format: ImportFormat,
    /// The file to write, or `-` for standard output
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Replace the file if it exists, once the new one is whole
    #[arg(long)]
    pub force: bool,
    /// Give up when nothing could be read for this long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub retry_for: Duration,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv backup`.
#[derive(Debug, Clone, Subcommand)]
pub enum Backup {
    /// Save keys and values as of one timestamp to a directory; may be interrupted and run again
    Create(BackupCreate),
    /// Check every byte of a backup; no cluster is needed
    Verify(BackupAt),
    /// Write a backup into a range without keys; may be interrupted and run again
    Restore(BackupRestore),
    /// Print what a backup holds
    Show(BackupAt),
}

/// `nokv backup create`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The backup shows all keys as of one timestamp, whatever is written meanwhile. While it is made, the versions of \
    that timestamp are kept. After an interruption run the same command again within the coordinator's --gc-life: it goes on, at the same timestamp."
)]
pub struct BackupCreate {
    /// The directory, new or empty, or the one of an interrupted run
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// As of this timestamp, as `put` and `scan -o json` print it [default: now]
    #[arg(long, value_name = "TS", value_parser = clap::value_parser!(u64).range(1..))]
    pub at: Option<u64>,
    /// Which keys.
    #[command(flatten)]
    pub keys: Keys,
    /// Throw away what an interrupted run has left, and begin anew
    #[arg(long)]
    pub restart: bool,
    /// Do not compress
    #[arg(long)]
    pub no_compression: bool,
    /// Keys and values of one file; an interruption costs at most one file
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1..=4 << 30))]
    pub file_bytes: u64,
    /// Leave this much of the file system free
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20)]
    pub min_free: u64,
    /// Give up when nothing could be read for this long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub retry_for: Duration,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv backup verify` and `nokv backup show`.
#[derive(Debug, Clone, Args)]
pub struct BackupAt {
    /// The directory of the backup
    pub dir: PathBuf,
}

/// `nokv backup restore`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Keys and values become what they were at the backup's timestamp, under new commit timestamps. The whole backup is checked \
    before anything is written, and the range must hold no keys. After an interruption run the same command again: it goes on."
)]
pub struct BackupRestore {
    /// The directory of the backup
    pub dir: PathBuf,
    /// Where progress is kept [default: DIR.nokv-restore]
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Pairs in one transaction
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Transactions under way at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: u32,
    /// Do not read everything back and compare it in the end
    #[arg(long)]
    pub no_check: bool,
    /// Give up when nothing could be written for this long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub retry_for: Duration,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv shell`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Commands: get, put, insert, del, scan, prefix, begin, commit, rollback, status, help, exit. When standard input is no terminal it is \
    read as a script, a command a line; the exit code is that of the first command that failed."
)]
pub struct Shell {
    /// Of a script: end at the first command that fails
    #[arg(long)]
    pub stop_on_error: bool,
    /// Neither read nor write the history file
    #[arg(long)]
    pub no_history: bool,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv debug`.
#[derive(Debug, Clone, Subcommand)]
pub enum Debug {
    /// Put configuration, status, regions, operators, metrics and logs into one archive
    Bundle(Bundle),
}

/// `nokv debug bundle`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "What could not be had, from a process that is down for example, is listed in the archive's MANIFEST.json and on standard \
    error; the exit code is 0 all the same."
)]
pub struct Bundle {
    /// The archive to write: FILE.tar, or FILE.tar.gz or FILE.tgz to have it compressed; it must not exist
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Replace keys, values, host names and ids by tokens that are the same throughout the archive
    #[arg(long)]
    pub redact: bool,
    /// A process's --metrics-addr; repeatable
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = address)]
    pub metrics_addr: Vec<String>,
    /// A log file; of a long one the end is taken; repeatable
    #[arg(long, value_name = "FILE")]
    pub log: Vec<PathBuf>,
    /// A meta-root's gRPC address [default: from --config]
    #[arg(long, env = "NOKV_ROOT_PEER", value_delimiter = ',', value_name = "NODE=HOST:PORT", value_parser = id_address, help_heading = "Cluster")]
    pub root_peer: Vec<IdAddress>,
    /// Coordinators, comma separated [default: from --config, else 127.0.0.1:2379]
    #[arg(long, env = "NOKV_COORDINATOR_ADDR", value_name = "HOST:PORT,...", value_parser = addresses, help_heading = "Cluster")]
    pub coordinator_addr: Option<Addresses>,
    /// Cluster description (raft_config.json), which goes into the archive
    #[arg(long, env = "NOKV_CONFIG", value_name = "FILE", help_heading = "Cluster")]
    pub config: Option<PathBuf>,
    /// Which addresses of the file to use
    #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host", help_heading = "Cluster")]
    pub scope: Scope,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration, help_heading = "Cluster")]
    pub timeout: Duration,
}

/// `nokv completions`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "bash: nokv completions bash > ~/.local/share/bash-completion/completions/nokv\n\
    zsh:  nokv completions zsh > DIR/_nokv, where DIR is in $fpath\n\
    fish: nokv completions fish > ~/.config/fish/completions/nokv.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `nokv man`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  nokv man | man -l -")]
pub struct Man {
    /// Write nokv.1 and a page for each command to this directory
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}
