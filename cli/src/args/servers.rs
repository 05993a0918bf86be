//! Flags of the three long-running roles.

use super::Scope;
use super::security::ServerSecurity;
use super::values::{
    Addresses, IdAddress, address, addresses, duration, duration_or_off, id, id_address, positive_duration,
};
use clap::{ArgAction, Args};
use std::path::PathBuf;
use std::time::Duration;

/// Where missing flags are looked up.
#[derive(Debug, Clone, Args)]
pub struct FromFile {
    /// Cluster description (raft_config.json); flags win over it
    #[arg(long, env = "NOKV_CONFIG", value_name = "FILE", help_heading = "Configuration file")]
    pub config: Option<PathBuf>,
    /// Which addresses of the file to use
    #[arg(long, env = "NOKV_SCOPE", value_enum, default_value = "host", help_heading = "Configuration file")]
    pub scope: Scope,
}

/// `nokv serve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  nokv serve --config ./raft_config.example.json --store-id 1\n\n\
    Hosted regions come from the store directory, never from the file; see `nokv config seed`.")]
pub struct Serve {
    /// Id of this store; fixed for a directory once it is used
    #[arg(long, env = "NOKV_STORE_ID", value_name = "N", value_parser = id)]
    pub store_id: u64,
    /// Store directory [default: from --config]
    #[arg(long, env = "NOKV_WORKDIR", value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// gRPC listen address [default: from --config, else 127.0.0.1:20160]
    #[arg(long, env = "NOKV_ADDR", value_name = "HOST:PORT", value_parser = address)]
    pub addr: Option<String>,
    /// Address that others use to reach this store [default: from --config, else the listen address]
    #[arg(long, env = "NOKV_ADVERTISE_ADDR", value_name = "HOST:PORT", value_parser = address)]
    pub advertise_addr: Option<String>,
    /// Coordinators, comma separated [default: from --config]
    #[arg(long, env = "NOKV_COORDINATOR_ADDR", value_name = "HOST:PORT,...", value_parser = addresses)]
    pub coordinator_addr: Option<Addresses>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub file: FromFile,
    /// Address of another store, overriding what coordinators say; repeatable
    #[arg(long, env = "NOKV_STORE_ADDR", value_delimiter = ',', value_name = "ID=HOST:PORT", value_parser = id_address)]
    pub store_addr: Vec<IdAddress>,
    /// Ticks without a leader before an election
    #[arg(long, env = "NOKV_ELECTION_TICK", value_name = "TICKS", default_value_t = 10)]
    pub election_tick: usize,
    /// Ticks between a leader's heartbeats
    #[arg(long, env = "NOKV_HEARTBEAT_TICK", value_name = "TICKS", default_value_t = 2)]
    pub heartbeat_tick: usize,
    /// Most bytes of entries in one raft message
    #[arg(long, env = "NOKV_RAFT_MAX_MSG_BYTES", value_name = "BYTES", default_value_t = 1 << 20)]
    pub raft_max_msg_bytes: u64,
    /// Most raft messages in flight to one peer
    #[arg(long, env = "NOKV_RAFT_MAX_INFLIGHT", value_name = "N", default_value_t = 256)]
    pub raft_max_inflight: usize,
    /// Length of a tick; 0 means 100ms
    #[arg(long, env = "NOKV_RAFT_TICK_INTERVAL", value_name = "DURATION", default_value = "0", value_parser = duration, hide_default_value = true)]
    pub raft_tick_interval: Duration,
    /// Log what raft does
    #[arg(long, env = "NOKV_RAFT_DEBUG_LOG", value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
          require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true)]
    pub raft_debug_log: bool,
    /// Split a region in the middle when its keys and values take this many bytes; 0: never
    #[arg(long, env = "NOKV_SPLIT_BYTES", value_name = "BYTES", default_value_t = 96 << 20)]
    pub split_bytes: u64,
    /// Split a region when it gets this many requests a second for 10 s; 0: never
    #[arg(long, env = "NOKV_SPLIT_REQUESTS", value_name = "N", default_value_t = 5_000)]
    pub split_requests: u64,
    /// Compare the replicas of each region that this store leads once in this time; 0: never
    #[arg(long, env = "NOKV_CHECK_INTERVAL", value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub check_interval: Duration,
    /// Bytes that flushes, compactions and the like read and write in a second, all together, as long as
    /// writers need not wait for them; 0: no limit
    #[arg(long, env = "NOKV_BACKGROUND_BYTES_PER_SECOND", value_name = "BYTES", default_value_t = 0)]
    pub background_bytes_per_second: u64,
    /// Bytes of the disk to keep free; with less, new data is refused [default: 512 MiB or a twentieth of the disk,
    /// whichever is less]; 0: none, and the disk may fill up
    #[arg(long, env = "NOKV_DISK_RESERVE", value_name = "BYTES")]
    pub disk_reserve: Option<u64>,
    /// Log requests that take at least this long here, with where the time went, ten a second at most; 0 or off: none
    #[arg(long, env = "NOKV_SLOW_LOG", value_name = "DURATION", default_value = "300ms", value_parser = duration_or_off)]
    pub slow_log: Duration,
    /// Patience with one request to a coordinator
    #[arg(long, env = "NOKV_COORDINATOR_TIMEOUT", value_name = "DURATION", default_value = "2s", value_parser = positive_duration)]
    pub coordinator_timeout: Duration,
    /// Serve /metrics, /livez, /readyz and /debug/vars on this address; off when not given
    #[arg(long, env = "NOKV_METRICS_ADDR", value_name = "HOST:PORT", value_parser = address)]
    pub metrics_addr: Option<String>,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ServerSecurity,
}

/// `nokv coordinator`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  nokv coordinator --coordinator-id c1 --root-peer 1=127.0.0.1:2380 \\\n    \
    --root-peer 2=127.0.0.1:2381 --root-peer 3=127.0.0.1:2382"
)]
pub struct Coordinator {
    /// Stable id as lease holder; no two running coordinators may share it
    #[arg(long, env = "NOKV_COORDINATOR_ID", value_name = "ID", value_parser = name)]
    pub coordinator_id: String,
    /// A meta-root's gRPC address; exactly 3 [default: from --config]
    #[arg(long, env = "NOKV_ROOT_PEER", value_delimiter = ',', value_name = "NODE=HOST:PORT", value_parser = id_address)]
    pub root_peer: Vec<IdAddress>,
    /// gRPC listen address [default: from --config, else 127.0.0.1:2379]
    #[arg(long, env = "NOKV_ADDR", value_name = "HOST:PORT", value_parser = address)]
    pub addr: Option<String>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub file: FromFile,
    /// Life of the lease without renewal
    #[arg(long, env = "NOKV_LEASE_TTL", value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    pub lease_ttl: Duration,
    /// How long before its end the lease is renewed at the latest
    #[arg(long, env = "NOKV_LEASE_RENEW_BEFORE", value_name = "DURATION", default_value = "3s", value_parser = positive_duration)]
    pub lease_renew_before: Duration,
    /// Longest time between two looks at the meta-root's events
    #[arg(long, env = "NOKV_ROOT_REFRESH", value_name = "DURATION", default_value = "200ms", value_parser = positive_duration)]
    pub root_refresh: Duration,
    /// Age from which versions that nobody reads any more may be removed; transactions older than that are refused
    #[arg(long, env = "NOKV_GC_LIFE", value_name = "DURATION", default_value = "10m", value_parser = positive_duration)]
    pub gc_life: Duration,
    /// First id, when the meta-root has handed out none
    #[arg(long, env = "NOKV_ID_START", value_name = "N", default_value_t = 1)]
    pub id_start: u64,
    /// First timestamp, when the meta-root has handed out none
    #[arg(long, env = "NOKV_TS_START", value_name = "N", default_value_t = 1)]
    pub ts_start: u64,
    /// Do not move healthy replicas and leaders to even out stores; lost ones are still replaced
    #[arg(long, env = "NOKV_NO_BALANCE")]
    pub no_balance: bool,
    /// Decide nothing about regions: no repair, no balance, no merges. For those who place replicas by hand
    #[arg(long, env = "NOKV_NO_SCHEDULER", conflicts_with = "no_balance")]
    pub no_scheduler: bool,
    /// How many replicas a region should have
    #[arg(long, env = "NOKV_REPLICAS", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=15))]
    pub replicas: u64,
    /// The replicas of a store that is down for this long are replaced
    #[arg(long, env = "NOKV_REPAIR_AFTER", value_name = "DURATION", default_value = "30m", value_parser = positive_duration)]
    pub repair_after: Duration,
    /// Neighbours that together stay below a quarter of what splits a region for this long are merged; 0s: never
    #[arg(long, env = "NOKV_MERGE_AFTER", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub merge_after: Duration,
    /// Snapshots that one store may send or take in at a time
    #[arg(long, env = "NOKV_SNAPSHOTS_PER_STORE", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub snapshots_per_store: u64,
    /// Serve the console at http://HOST:PORT/, and /metrics, /livez, /readyz, /debug/vars; off when not given
    #[arg(long, env = "NOKV_METRICS_ADDR", value_name = "HOST:PORT", value_parser = address)]
    pub metrics_addr: Option<String>,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ServerSecurity,
}

/// `nokv meta-root`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  nokv meta-root --workdir ./meta-root-1 --node-id 1 --transport-addr 127.0.0.1:3380 \\\n    \
    --peer 1=127.0.0.1:3380 --peer 2=127.0.0.1:3381 --peer 3=127.0.0.1:3382"
)]
pub struct MetaRoot {
    /// Id of this node, one of the three peers
    #[arg(long, env = "NOKV_NODE_ID", value_name = "N", value_parser = id)]
    pub node_id: u64,
    /// Directory of this node [default: from --config]
    #[arg(long, env = "NOKV_WORKDIR", value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// Address for raft traffic, the one that --peer lists for this node [default: from --config]
    #[arg(long, env = "NOKV_TRANSPORT_ADDR", value_name = "HOST:PORT", value_parser = address)]
    pub transport_addr: Option<String>,
    /// A meta-root's transport address, this node included; exactly 3 [default: from --config]
    #[arg(long, env = "NOKV_PEER", value_delimiter = ',', value_name = "NODE=HOST:PORT", value_parser = id_address)]
    pub peer: Vec<IdAddress>,
    /// gRPC listen address [default: from --config, else 127.0.0.1:2380]
    #[arg(long, env = "NOKV_ADDR", value_name = "HOST:PORT", value_parser = address)]
    pub addr: Option<String>,
    /// Where the configuration comes from.
    #[command(flatten)]
    pub file: FromFile,
    /// Length of a raft tick
    #[arg(long, env = "NOKV_TICK_INTERVAL", value_name = "DURATION", default_value = "100ms", value_parser = positive_duration)]
    pub tick_interval: Duration,
    /// Serve /metrics, /livez, /readyz and /debug/vars on this address; off when not given
    #[arg(long, env = "NOKV_METRICS_ADDR", value_name = "HOST:PORT", value_parser = address)]
    pub metrics_addr: Option<String>,
    /// Whom to trust, and who we are.
    #[command(flatten)]
    pub security: ServerSecurity,
}

fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("is empty".into()) } else { Ok(text.to_owned()) }
}
