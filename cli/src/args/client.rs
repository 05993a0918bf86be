//! Flags of the commands that talk to a live cluster.

use super::Scope;
use super::security::ClientSecurity;
use super::values::{Addresses, IdAddress, address, addresses, id, id_address, positive_duration, trace_id};
use clap::{Args, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach the cluster.
#[derive(Debug, Clone, Args)]
pub struct Cluster {
    /// Coordinators, comma separated [default: from --config, else 127.0.0.1:2379]
    #[arg(long, env = "NOKV_COORDINATOR_ADDR", value_name = "HOST:PORT,...", value_parser = addresses, help_heading = "Cluster")]
    pub coordinator_addr: Option<Addresses>,
    /// Cluster description (raft_config.json) that names the coordinators
    #[arg(long, env = "NOKV_CONFIG", value_name = "FILE", help_heading = "Cluster")]
    pub config: Option<PathBuf>,
    /// Which addresses of the file to use
    #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host", help_heading = "Cluster")]
    pub scope: Scope,
    /// How long one operation may take, retries included
    #[arg(long, env = "NOKV_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = positive_duration, help_heading = "Cluster")]
    pub timeout: Duration,
    /// What stores call the requests of this command in their slow logs [default: drawn, and part of an error]
    #[arg(long, env = "NOKV_TRACE_ID", value_name = "ID", value_parser = trace_id, help_heading = "Cluster")]
    pub trace_id: Option<String>,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
}

/// `nokv get`.
#[derive(Debug, Clone, Args)]
pub struct Get {
    /// The key
    pub key: OsString,
    /// Keys and values are written as hexadecimal digits
    #[arg(long)]
    pub hex: bool,
    /// Work on this stand-alone database instead of a cluster
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv put`.
#[derive(Debug, Clone, Args)]
pub struct Put {
    /// The key
    pub key: OsString,
    /// The value
    #[arg(required_unless_present = "value_file")]
    pub value: Option<OsString>,
    /// Read the value from a file, or from standard input when it is `-`
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    pub value_file: Option<PathBuf>,
    /// Key and value are written as hexadecimal digits
    #[arg(long)]
    pub hex: bool,
    /// Work on this stand-alone database instead of a cluster
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv del`.
#[derive(Debug, Clone, Args)]
pub struct Del {
    /// The key
    pub key: OsString,
    /// The key is written as hexadecimal digits
    #[arg(long)]
    pub hex: bool,
    /// Work on this stand-alone database instead of a cluster
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv scan`.
#[derive(Debug, Clone, Args)]
pub struct Scan {
    /// Only keys that begin with this
    #[arg(long, value_name = "KEY", conflicts_with_all = ["start", "end"])]
    pub prefix: Option<OsString>,
    /// First key
    #[arg(long, value_name = "KEY")]
    pub start: Option<OsString>,
    /// First key that is not printed any more
    #[arg(long, value_name = "KEY")]
    pub end: Option<OsString>,
    /// Most rows; 0 = all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u64,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
    /// Keys and values are written as hexadecimal digits
    #[arg(long)]
    pub hex: bool,
    /// Work on this stand-alone database instead of a cluster
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv txn`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  nokv txn 'get a; put a 1; put b 2'")]
pub struct Txn {
    /// Statements between `;` or newlines: get K, put K V, insert K V, del K, scan START END and perhaps a limit; standard
    /// input when not given. Writes become visible all at once, at the end
    pub script: Option<String>,
    /// How often to run it again when another writer was first
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub retries: u32,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// Formats that `nokv import` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// key TAB value, one record a line, taken as they are
    Tsv,
    /// key,value with RFC 4180 quotes; no header
    Csv,
    /// {"key": "...", "value": "..."}, one object a line; key_base64 and value_base64 for binary
    Jsonl,
}

/// `nokv import`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Progress is kept in the state file: after an interruption run the same command again. Writing a record\n\
    twice is harmless, and of equal keys the last one in the file wins."
)]
pub struct Import {
    /// File to load, or `-` for standard input (which cannot be resumed)
    pub file: PathBuf,
    /// Format of the file
    #[arg(long, value_enum)]
    pub format: ImportFormat,
    /// Records in one transaction
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Transactions under way at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: u32,
    /// Where progress is kept [default: FILE.nokv-import]
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Give up when nothing could be written for this long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub retry_for: Duration,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv bench load`.
#[derive(Debug, Clone, Args)]
pub struct BenchLoad {
    /// Directory of the database; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub workdir: PathBuf,
    /// Number of keys
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Size of values
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub value_size: usize,
    /// All keys begin with this
    #[arg(long, value_name = "KEY", default_value = "bench/")]
    pub prefix: String,
    /// Keys written together
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub batch: u32,
    /// Sync every batch, not only the last
    #[arg(long)]
    pub sync: bool,
}

/// What `nokv bench` does besides measuring a cluster.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Fill a stand-alone database
    Load(BenchLoad),
}

/// `nokv bench`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    /// Something else than measuring a live cluster.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub clients: u32,
    /// Length of each phase
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Size of values
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub value_size: usize,
    /// Number of different keys
    #[arg(long, value_name = "K", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Phases to run, in this order
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put,get")]
    pub phases: Vec<Phase>,
    /// All keys begin with this; they stay in the database
    #[arg(long, value_name = "KEY", default_value = "bench/")]
    pub prefix: String,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// What `nokv bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Single-key writes
    Put,
    /// Single-key linearizable reads
    Get,
}

impl Phase {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Put => "put",
            Phase::Get => "get",
        }
    }
}

/// `nokv status`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit code: 0 healthy, 11 degraded (it serves, but something is down), 12 unavailable."
)]
pub struct Status {
    /// Look again and again, until Ctrl-C; the exit code is that of the last look
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s", value_parser = positive_duration)]
    pub watch: Option<Duration>,
    /// Also show the regions with most requests, so many of them; with -o table or csv, only these
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub hot: Option<u32>,
    /// A meta-root's gRPC address [default: from --config]
    #[arg(long, env = "NOKV_ROOT_PEER", value_delimiter = ',', value_name = "NODE=HOST:PORT", value_parser = id_address, help_heading = "Cluster")]
    pub root_peer: Vec<IdAddress>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// By what regions are sorted. What is measured comes largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RegionOrder {
    /// Their ids
    Id,
    /// Their first keys
    Start,
    /// Bytes on the leader's disk
    Size,
    /// Requests a second, of any kind
    Requests,
    /// Keys read a second
    Read,
    /// Keys written a second
    Write,
    /// Bytes read a second
    ReadBytes,
    /// Bytes written a second
    WriteBytes,
}

/// `nokv regions`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  nokv regions --sort write -o table\n\nRates are those of the last ten seconds, as stores report them every three."
)]
pub struct Regions {
    /// Read the catalog of this store directory, changing nothing
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// In which order, and with what of it in the text; a directory knows ids and first keys only
    #[arg(long, value_enum, value_name = "ORDER", default_value = "id")]
    pub sort: RegionOrder,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv region`.
#[derive(Debug, Clone, Subcommand)]
pub enum Region {
    /// Split the region that holds a key, so that the key begins a new one
    Split(RegionSplit),
    /// Merge a region into a neighbour, which keeps its id
    Merge(RegionMerge),
    /// Move the leader of a region to another store
    #[command(mut_arg("store", |store| store.help("The store that shall lead it")))]
    TransferLeader(RegionOnStore),
    /// Give a region a peer on another store, and wait until it votes
    #[command(mut_arg("store", |store| store.help("The store that gets a peer")))]
    AddPeer(RegionAddPeer),
    /// Take a region's peer off a store
    #[command(mut_arg("store", |store| store.help("The store whose peer goes")))]
    RemovePeer(RegionOnStore),
    /// Compare what the replicas of a region hold, or those of all regions
    Check(RegionCheck),
    /// Write a replica of a region to a file
    Export(RegionExport),
    /// Give a learner of a region its first snapshot from such a file
    Import(RegionImport),
    /// Have a store never again tell the meta-root what that refuses
    ForgetEvent(RegionForgetEvent),
}

/// `nokv region split`.
#[derive(Debug, Clone, Args)]
pub struct RegionSplit {
    /// First key of the new region
    pub key: OsString,
    /// The key is written as hexadecimal digits
    #[arg(long)]
    pub hex: bool,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv region merge`.
#[derive(Debug, Clone, Args)]
pub struct RegionMerge {
    /// The region that goes
    #[arg(value_name = "SOURCE", value_parser = id)]
    pub source: u64,
    /// The neighbour, left or right, that gets its keys
    #[arg(value_name = "TARGET", value_parser = id)]
    pub target: u64,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv region transfer-leader` and `nokv region remove-peer`.
#[derive(Debug, Clone, Args)]
pub struct RegionOnStore {
    /// The region
    #[arg(long, value_name = "ID", value_parser = id)]
    pub region: u64,
    /// The store
    #[arg(long, value_name = "ID", value_parser = id)]
    pub store: u64,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv region add-peer`.
#[derive(Debug, Clone, Args)]
pub struct RegionAddPeer {
    /// Where.
    #[command(flatten)]
    pub on: RegionOnStore,
    /// The id of the new peer [default: one from the coordinator]
    #[arg(long, value_name = "ID", value_parser = id)]
    pub peer: Option<u64>,
    /// Take the place of the peer on this store, which goes when the new one has caught up
    #[arg(long, value_name = "STORE", value_parser = id)]
    pub in_place_of: Option<u64>,
}

/// `nokv region check`.
#[derive(Debug, Clone, Args)]
#[command(
    group(clap::ArgGroup::new("which").required(true).args(["region", "all"])),
    after_help = "Replicas add up what they hold as of one entry of the region's log. One that differs from most others goes into \
    quarantine: it serves nothing, and the scheduler replaces it. Exit code 6 when any differs, 9 when one did not answer. Stores do this by \
    themselves, too, see `nokv serve --check-interval`."
)]
pub struct RegionCheck {
    /// The region
    #[arg(long, value_name = "ID", value_parser = id)]
    pub region: Option<u64>,
    /// Every region, one after the other
    #[arg(long)]
    pub all: bool,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv region export`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The file holds the region as the store asked has applied it, which may be behind; its leader has the newest. A \
    store that is in quarantine for the region, or merges it, refuses."
)]
pub struct RegionExport {
    /// gRPC address of a store that hosts the region
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub addr: String,
    /// The region
    #[arg(long, value_name = "ID", value_parser = id)]
    pub region: u64,
    /// The file to write, which must not exist
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// How long the store may be silent
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub timeout: Duration,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
}

/// `nokv region import`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "For a peer that was added (`nokv region add-peer`) and that its leader cannot fill. Export the region after that.     The store takes the snapshot only if its peer is a learner without a log, the cluster knows the region as it is in the file, and \
    nobody else has the keys there. The file is checked before any of it is sent."
)]
pub struct RegionImport {
    /// A file that `nokv region export` wrote
    pub file: PathBuf,
    /// gRPC address of the store that gets the region
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub addr: String,
    /// How long the store may be silent
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = positive_duration)]
    pub timeout: Duration,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
}

/// `nokv region forget-event`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Events that the meta-root has refused for a minute are shown by `nokv execution` as terminal-blocked, with \
    the reason. Most refusals end by themselves, when another store tells what came before; look at the reason first."
)]
pub struct RegionForgetEvent {
    /// gRPC address of the store
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub addr: String,
    /// The event's number, as `nokv execution` shows it
    #[arg(long, value_name = "NUMBER", value_parser = id)]
    pub event: u64,
    /// How long the store may take to answer
    #[arg(long, env = "NOKV_TIMEOUT", value_name = "DURATION", default_value = "3s", value_parser = positive_duration)]
    pub timeout: Duration,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
}

/// `nokv mvcc`.
#[derive(Debug, Clone, Subcommand)]
pub enum Mvcc {
    /// Show all versions, the lock and the rollback records of a key
    Get(MvccGet),
}

/// `nokv mvcc get`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Without --store the leader of the key's region answers, as of now. A replica answers as it is, which may be behind."
)]
pub struct MvccGet {
    /// The key
    pub key: OsString,
    /// Key and values are written as hexadecimal digits
    #[arg(long)]
    pub hex: bool,
    /// Ask the replica on this store
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub store: Option<u64>,
    /// Most records, newest first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv operators`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The coordinator that holds the lease remembers the last 256; another holder begins with none."
)]
pub struct Operators {
    /// Only those of this region
    #[arg(long, value_name = "ID", value_parser = id)]
    pub region: Option<u64>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv store`.
#[derive(Debug, Clone, Subcommand)]
pub enum Store {
    /// List the stores, with what they hold and serve
    List(StoreList),
    /// Have everything moved off a store; it goes on serving what it still has
    Decommission(Decommission),
}

/// `nokv store list`.
#[derive(Debug, Clone, Args)]
pub struct StoreList {
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv store decommission`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "The order survives restarts of the store and of coordinators. With --wait the command ends when the \
    store is empty, or with exit code 9 when time is up; run it again to go on waiting."
)]
pub struct Decommission {
    /// The store
    #[arg(value_name = "ID", value_parser = id)]
    pub store: u64,
    /// Take the order back
    #[arg(long, conflicts_with = "wait")]
    pub cancel: bool,
    /// Wait until the store holds nothing any more, at most this long
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub wait: Option<Duration>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv transitions`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A change is under way when a region says so: it has a peer that catches up, one that leaves, or is about to \
    be merged. Splits are never under way: they have happened or they have not."
)]
pub struct Transitions {
    /// Only those of this region
    #[arg(long, value_name = "ID", value_parser = id)]
    pub region: Option<u64>,
    /// How to reach the cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// `nokv execution`.
#[derive(Debug, Clone, Args)]
pub struct Execution {
    /// gRPC address of the store
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub addr: String,
    /// Only changes of this region; 0: of all
    #[arg(long, value_name = "ID", default_value_t = 0, hide_default_value = true)]
    pub region: u64,
    /// Only this transition
    #[arg(long, value_name = "ID", default_value = "")]
    pub transition: String,
    /// How long the store may take to answer
    #[arg(long, env = "NOKV_TIMEOUT", value_name = "DURATION", default_value = "3s", value_parser = positive_duration)]
    pub timeout: Duration,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ClientSecurity,
}
