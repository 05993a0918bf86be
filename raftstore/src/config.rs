//! What a store needs to know to start.

use crate::{Error, SplitLimits};
use nokv_engine as engine;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one store process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Identity of the store, for ever bound to `workdir`. Not zero.
    pub store_id: u64,
    /// Directory of everything the store keeps.
    pub workdir: PathBuf,
    /// Address to serve on, `host:port`.
    pub listen_addr: String,
    /// Address that others are told; empty: the one in use.
    pub advertise_addr: String,
    /// gRPC addresses of the coordinators. Empty: nobody learns of this store.
    pub coordinators: Vec<String>,
    /// Addresses of other stores that go before what coordinators say.
    pub store_addrs: BTreeMap<u64, String>,
    /// Length of a raft tick.
    pub tick: Duration,
    /// Ticks without a leader before an election. Shorter: faster fail-over; too short: elections for a slow disk.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Ticks without activity after which a region hibernates: no ticks, no heartbeats; 0: never.
    pub hibernate_after_ticks: u64,
    /// Ticks after which a hibernating follower looks whether it still belongs to its region.
    pub hibernate_ticks_max: u64,
    /// Bytes of entries in one raft message (at least one entry).
    pub max_message_bytes: u64,
    /// Raft messages to one follower that may be unacknowledged.
    pub max_inflight: usize,
    /// Size of a raft log segment.
    pub log_segment_bytes: u64,
    /// Applied entries kept in a region's log for slow followers; who is further behind gets a snapshot.
    pub log_keep_entries: u64,
    /// Snapshots travel in chunks of about this many bytes, one at a time; a row is never cut.
    pub snapshot_chunk_bytes: usize,
    /// Snapshots that are fetched at once.
    pub snapshot_fetches_max: usize,
    /// The engine's settings.
    pub engine: engine::Options,
    /// Time between two heartbeats to each coordinator.
    pub heartbeat_interval: Duration,
    /// How long one call to a coordinator may take.
    pub coordinator_timeout: Duration,
    /// How long a request of a client may take here.
    pub command_timeout: Duration,
    /// A request that takes at least this long is told of in the log; zero: none is.
    pub slow_log: Duration,
    /// Time between two looks at the coordinators' list of store addresses.
    pub address_refresh: Duration,
    /// A peer that has known no leader for this long asks the coordinators whether it is still a member.
    pub orphan_after: Duration,
    /// When regions are split by themselves.
    pub split: SplitLimits,
    /// The replicas of each region are compared once in this time; zero: when asked for only. It costs each store a read of
    /// all its data.
    pub check_interval: Duration,
    /// Bytes of the disk that are kept free: below, no new data is taken. 0: the disk may fill up.
    pub disk_reserve: u64,
    /// Bytes that a file holds for the moment in which the disk is full all the same; see `room`. 0: there is no such file.
    pub disk_ballast: u64,
}

impl Config {
    /// The defaults of the command line.
    pub fn new(
        store_id: u64,
        workdir: impl Into<PathBuf>,
        listen_addr: impl Into<String>,
        coordinators: Vec<String>,
    ) -> Self {
        Self {
            store_id,
            workdir: workdir.into(),
            listen_addr: listen_addr.into(),
            advertise_addr: String::new(),
            coordinators,
            store_addrs: BTreeMap::new(),
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 2,
            hibernate_after_ticks: 100,
            hibernate_ticks_max: 6000,
            max_message_bytes: 1 << 20,
            max_inflight: 256,
            log_segment_bytes: 64 << 20,
            log_keep_entries: 4096,
            snapshot_chunk_bytes: 1 << 20,
            snapshot_fetches_max: 4,
            engine: engine::Options {
                lock_owner: format!("nokv store {store_id}"),
                ..engine::Options::default()
            },
            heartbeat_interval: Duration::from_secs(3),
            coordinator_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_secs(3),
            slow_log: Duration::from_millis(300),
            address_refresh: Duration::from_secs(5),
            orphan_after: Duration::from_secs(30),
            split: SplitLimits::default(),
            check_interval: Duration::from_secs(24 * 60 * 60),
            disk_reserve: 0,
            disk_ballast: 8 << 20,
        }
    }

    /// Refuses settings that cannot work.
    pub fn validate(&self) -> Result<(), Error> {
        let problem = if self.store_id == 0 {
            "the store id is 0"
        } else if self.workdir.as_os_str().is_empty() {
            "the working directory is empty"
        } else if self.listen_addr.is_empty() {
            "the listen address is empty"
        } else if self.tick.is_zero() || self.heartbeat_ticks == 0 {
            "the raft tick and the heartbeat ticks must be positive"
        } else if self.snapshot_chunk_bytes == 0 || self.snapshot_fetches_max == 0 {
            "snapshots need chunks, and somebody to fetch them"
        } else if self.election_ticks <= self.heartbeat_ticks {
            "the election ticks must exceed the heartbeat ticks"
        } else if self.heartbeat_interval.is_zero()
            || self.coordinator_timeout.is_zero()
            || self.command_timeout.is_zero()
            || self.address_refresh.is_zero()
            || self.orphan_after.is_zero()
            || self.split.interval.is_zero()
        {
            "intervals and timeouts must be positive"
        } else {
            return Ok(());
        };
        Err(Error::Config(problem.to_owned()))
    }
}
