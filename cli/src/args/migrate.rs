//! Flags of `nokv migrate`.

use super::security::ClientSecurity;
use super::values::{address, duration, id, positive_duration};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// `nokv migrate`.
#[derive(Debug, Clone, Subcommand)]
pub enum Migrate {
    /// Say whether a stand-alone database can become a cluster; changes nothing
    Plan(Plan),
    /// Turn a stand-alone database into a store directory that holds it as one region
    Init(Init),
    /// Show what a directory is, how far its migration came, and what comes next
    Status(Status),
    /// The same with a summary and the steps that are left
    Report(Status),
    /// Bring a region to more stores, one after the other; run again, it goes on
    Expand(Expand),
    /// Take a peer of a region away
    RemovePeer(OnePeer),
    /// Have another peer lead a region
    TransferLeader(OnePeer),
}

/// `nokv migrate plan`.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// Directory of the database
    #[arg(long, env = "NOKV_WORKDIR", value_name = "DIR")]
    pub workdir: PathBuf,
}

/// `nokv migrate init`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  nokv migrate init --workdir ./db --store 1 --region 1 --peer 101\n\n\
    Keep a copy of the directory until the cluster has replicas: there is no way back.\n\
    Interrupted, run the same command again.")]
pub struct Init {
    /// Directory of the database
    #[arg(long, env = "NOKV_WORKDIR", value_name = "DIR")]
    pub workdir: PathBuf,
    /// Store that the directory will belong to
    #[arg(long, value_name = "ID", value_parser = id)]
    pub store: u64,
    /// Region that will hold all keys
    #[arg(long, value_name = "ID", value_parser = id)]
    pub region: u64,
    /// Its peer on the store
    #[arg(long, value_name = "ID", value_parser = id)]
    pub peer: u64,
}

/// `nokv migrate status`, `nokv migrate report`.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// The directory
    #[arg(long, env = "NOKV_WORKDIR", value_name = "DIR")]
    pub workdir: PathBuf,
    /// Also ask the store that serves here how the region is
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub addr: Option<String>,
    /// The region to ask for; 0: the one of the directory
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub region: u64,
    /// How long the store may take to answer
    #[arg(long, env = "NOKV_TIMEOUT", value_name = "DURATION", default_value = "3s", value_parser = positive_duration)]
    pub timeout: Duration,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
}

/// How long to wait for a change.
#[derive(Debug, Clone, Args)]
pub struct Patience {
    /// Also note the progress in MIGRATION_PROGRESS.json of this directory
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// How long all of it may take; 0: ask and do not wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
    /// Pause between two looks
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = positive_duration)]
    pub poll_interval: Duration,
}

/// `nokv migrate expand`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  nokv migrate expand --addr 127.0.0.1:20170 --region 1 \\\n    \
    --target 2:201@127.0.0.1:20171 --target 3:301@127.0.0.1:20172\n\n\
    A store that has a peer of the region already is left as it is, also when the scheduler\n\
    put it there under another id.")]
pub struct Expand {
    /// A store that hosts the region, best its leader
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub addr: String,
    /// The region
    #[arg(long, value_name = "ID", value_parser = id)]
    pub region: u64,
    /// Store and id of a new peer, and where that store answers; repeatable, in this order
    #[arg(long, value_name = "STORE:PEER[@HOST:PORT]", required = true)]
    pub target: Vec<String>,
    /// How long.
    #[command(flatten)]
    pub patience: Patience,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
}

/// `nokv migrate remove-peer`, `nokv migrate transfer-leader`.
#[derive(Debug, Clone, Args)]
pub struct OnePeer {
    /// A store that hosts the region, best its leader
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub addr: String,
    /// The store of the peer, to see that the change has reached it
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub target_addr: Option<String>,
    /// The region
    #[arg(long, value_name = "ID", value_parser = id)]
    pub region: u64,
    /// The peer
    #[arg(long, value_name = "ID", value_parser = id)]
    pub peer: u64,
    /// How long.
    #[command(flatten)]
    pub patience: Patience,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
}
