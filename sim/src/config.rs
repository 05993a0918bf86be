//! What one world is made of, drawn from the seed (swarm testing).
//!
//! No single configuration reaches everything: small memtables flush often but hide what big ones show, many
//! faults hide what a quiet run shows. So each seed draws its own mix, and a sweep covers the combinations.

use crate::draw::Draw;
use crate::net::Latency;
use nokv_env::mem_disk::LatencyModel;
use serde::{Deserialize, Serialize};

/// Disk speed of all nodes, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpeed {
    /// A read.
    pub read_us: u64,
    /// A write into the page cache.
    pub write_us: u64,
    /// A sync.
    pub sync_us: u64,
}

impl DiskSpeed {
    /// As the disk wants it; `slowness` multiplies.
    pub fn model(self, slowness: u64) -> LatencyModel {
        LatencyModel {
            read_ns: self.read_us * 1_000 * slowness,
            write_ns: self.write_us * 1_000 * slowness,
            sync_ns: self.sync_us * 1_000 * slowness,
            kib_ns: 500 * slowness,
            ..LatencyModel::default()
        }
    }
}

/// Kinds of faults a plan may use; a seed enables some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it; plan.rs describes each fault")]
pub enum FaultClass {
    Kill,
    Restart,
    Pause,
    SlowCpu,
    Partition,
    Isolate,
    SlowLink,
    Loss,
    Reset,
    DiskSlow,
    DiskCrash,
    DiskError,
    WallClock,
    Blackout,
    TransferLeader,
    AtEvent,
    Rot,
    NoSpace,
    ShortRead,
    Wipe,
    Rolling,
    CrashAtBoot,
    Split,
    MovePeer,
    Decommission,
    Lose,
    Merge,
}

impl FaultClass {
    /// Every class.
    pub const ALL: [FaultClass; 27] = [
        FaultClass::Kill,
        FaultClass::Restart,
        FaultClass::Pause,
        FaultClass::SlowCpu,
        FaultClass::Partition,
        FaultClass::Isolate,
        FaultClass::SlowLink,
        FaultClass::Loss,
        FaultClass::Reset,
        FaultClass::DiskSlow,
        FaultClass::DiskCrash,
        FaultClass::DiskError,
        FaultClass::WallClock,
        FaultClass::Blackout,
        FaultClass::TransferLeader,
        FaultClass::AtEvent,
        FaultClass::Rot,
        FaultClass::NoSpace,
        FaultClass::ShortRead,
        FaultClass::Wipe,
        FaultClass::Rolling,
        FaultClass::CrashAtBoot,
        FaultClass::Split,
        FaultClass::MovePeer,
        FaultClass::Decommission,
        FaultClass::Lose,
        FaultClass::Merge,
    ];
}

/// The configuration of one world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldConfig {
    /// Meta-root peers.
    pub roots: u16,
    /// Coordinators.
    pub coordinators: u16,
    /// Stores.
    pub stores: u16,
    /// Stores that hold the regions at birth: the first ones. The others start empty.
    pub replicas: u16,
    /// Client nodes.
    pub clients: u16,
    /// Data regions seeded at birth.
    pub regions: u64,
    /// Latency of healthy links.
    pub latency: Latency,
    /// Disk speed.
    pub disk: DiskSpeed,
    /// Engine memtable, in bytes.
    pub memtable_bytes: u64,
    /// Segments of engine log and raft log, in bytes.
    pub log_segment_bytes: u64,
    /// Level-0 tables that start a compaction.
    pub level0_tables: usize,
    /// Raft log entries kept for slow followers.
    pub log_keep_entries: u64,
    /// Largest raft message of entries, in bytes.
    pub message_bytes: u64,
    /// Raft messages under way to one follower.
    pub inflight: usize,
    /// Entries between two checkpoints of a meta-root.
    pub checkpoint_entries: u64,
    /// Events that a meta-root keeps for readers that are behind.
    pub tail_events: usize,
    /// Memory for table blocks, in bytes.
    pub block_cache_bytes: u64,
    /// Raft tick of stores and roots, in milliseconds.
    pub tick_ms: u64,
    /// Ticks without activity after which a region hibernates; 0: never.
    pub hibernate_ticks: u64,
    /// Pause between two heartbeats of a store, in milliseconds.
    pub heartbeat_ms: u64,
    /// Lease of coordinators, in milliseconds.
    pub lease_ttl_ms: u64,
    /// Clock rates differ by at most this, in parts per million.
    pub clock_rate_ppm: u64,
    /// Wall clocks start off by at most this, in milliseconds.
    pub wall_skew_ms: u64,
    /// Share of chance points in the product that are on, in percent.
    pub chance_percent: u64,
    /// Deadline of client operations, in milliseconds.
    pub deadline_ms: u64,
    /// Life of the locks of a transaction, in milliseconds.
    pub lock_ttl_ms: u64,
    /// Longest wait for somebody else's lock while holding locks, in milliseconds.
    pub lock_wait_ms: u64,
    /// Clients' patience with one request to a store or coordinator, in milliseconds.
    pub patience_ms: u64,
    /// Mutations of one region travel in prewrites of at most about this many bytes.
    pub prewrite_bytes: usize,
    /// Keys asked for per scan request.
    pub scan_page: u32,
    /// How far ahead of the clock the timestamp fence is committed, in milliseconds.
    pub tso_ahead_ms: u64,
    /// How many ids are fenced at once.
    pub id_window: u64,
    /// Longest time between two looks of a coordinator at the root's tail, in milliseconds.
    pub root_refresh_ms: u64,
    /// Old versions live so long, in milliseconds.
    pub gc_life_ms: u64,
    /// Longest hold of the safe point without renewal, in milliseconds.
    pub gc_hold_ms: u64,
    /// Clients read from any replica.
    pub follower_reads: bool,
    /// Pause between two questions of the client that only asks for routes, in milliseconds; 0: there is none.
    pub routes_ms: u64,
    /// Snapshots travel in chunks of about this many bytes.
    pub snapshot_chunk_bytes: usize,
    /// Pause between two looks of the scheduler, in milliseconds; 0: it is off.
    pub schedule_ms: u64,
    /// How long a store is down before the scheduler replaces its replicas, in milliseconds; the same for a region with
    /// too many or too few.
    pub repair_after_ms: u64,
    /// Neighbours that have been small for this long are merged, in milliseconds; 0: never.
    pub merge_after_ms: u64,
    /// The replicas of every region are compared once in this time, in milliseconds; 0: never.
    pub check_ms: u64,
    /// The world is born from a stand-alone database of this many rows, which its first store migrates into the one region
    /// there is; the scheduler brings the other replicas. 0: it is born empty, with all replicas.
    pub migrated_rows: u32,
    /// The last store is one of another cluster that was started here by mistake.
    pub stranger: bool,
    /// Regions of this many bytes are split by themselves; 0: none.
    pub split_bytes: u64,
    /// Regions that get this many requests a second are split by themselves; 0: none.
    pub split_requests: u64,
    /// A store that hosts this many regions splits none: every one costs the run time.
    pub split_regions_max: usize,
    /// More may be damaged than can be recovered: unavailability is legal then, wrong answers are not.
    pub unlimited_damage: bool,
    /// Fault classes in use.
    pub faults: Vec<FaultClass>,
    /// Mean pause between two faults, in milliseconds.
    pub fault_pause_ms: u64,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self::plain()
    }
}

impl WorldConfig {
    /// Draws the configuration of `seed`.
    pub fn draw(seed: u64) -> Self {
        let mut draw = Draw::new(seed, "config");
        let quiet = draw.one_in(20);
        let keep_percent = draw.pick(&[30, 60, 100]);
        // Merges have a stream of their own: worlds without them stay what they were before there were any.
        let merges = Draw::new(seed, "config-merge").percent(keep_percent);
        let is_kept = |class: &FaultClass| match class {
            FaultClass::Merge => merges,
            _ => draw.percent(keep_percent),
        };
        let faults = FaultClass::ALL.into_iter().filter(is_kept).collect();
        Self {
            roots: 3,
            coordinators: 2,
            stores: Draw::new(seed, "config-stores").pick(&[3, 3, 4, 4, 5]),
            replicas: 3,
            clients: draw.between(2, 4) as u16,
            regions: draw.between(1, 4),
            latency: Latency {
                base_us: draw.pick(&[50, 150, 500, 2_000, 5_000]),
                jitter_us: draw.pick(&[50, 350, 350, 2_000]),
                spike_one_in: draw.pick(&[0, 100, 500, 500]),
                again_one_in: Draw::new(seed, "config-again").pick(&[0, 300, 60, 10]),
            },
            disk: DiskSpeed {
                read_us: draw.pick(&[5, 20, 80]),
                write_us: draw.pick(&[1, 3, 10]),
                sync_us: draw.pick(&[50, 200, 500, 3_000]),
            },
            memtable_bytes: draw.pick(&[8 << 10, 32 << 10, 128 << 10, 1 << 20]),
            log_segment_bytes: draw.pick(&[8 << 10, 32 << 10, 128 << 10, 1 << 20]),
            level0_tables: draw.pick(&[2, 4]),
            log_keep_entries: draw.pick(&[0, 10, 100, 1000]),
            message_bytes: draw.pick(&[512, 16 << 10, 1 << 20]),
            inflight: draw.pick(&[2, 16, 256]),
            checkpoint_entries: draw.pick(&[4, 32, 1024]),
            tail_events: draw.pick(&[2, 16, 128]), // longer ones make every checkpoint dear and reach nothing else
            block_cache_bytes: draw.pick(&[64 << 10, 1 << 20, 16 << 20]),
            tick_ms: draw.pick(&[50, 100, 100, 100]),
            hibernate_ticks: Draw::new(seed, "config-hibernate").pick(&[0, 3, 10, 30]),
            heartbeat_ms: draw.pick(&[300, 1_000, 3_000]),
            lease_ttl_ms: draw.pick(&[2_000, 5_000, 10_000]),
            clock_rate_ppm: draw.pick(&[0, 200, 10_000]),
            wall_skew_ms: draw.pick(&[0, 100, 10_000]),
            chance_percent: draw.pick(&[0, 30, 60]),
            deadline_ms: draw.pick(&[1_000, 3_000, 8_000]),
            lock_ttl_ms: draw.pick(&[30, 200, 1_000, 3_000]),
            lock_wait_ms: draw.pick(&[50, 500, 1_500]),
            patience_ms: draw.pick(&[100, 500, 2_000, 2_000]),
            prewrite_bytes: draw.pick(&[64, 1 << 10, 4 << 20]),
            scan_page: draw.pick(&[1, 7, 1_000]),
            tso_ahead_ms: draw.pick(&[50, 1_000, 3_000, 30_000]),
            id_window: draw.pick(&[2, 100, 10_000]),
            root_refresh_ms: draw.pick(&[50, 200, 2_000]),
            gc_life_ms: Draw::new(seed, "config-gc").pick(&[1_500, 1_500, 4_000, 600_000]),
            gc_hold_ms: Draw::new(seed, "config-gc-hold").pick(&[1_000, 3_000]),
            follower_reads: Draw::new(seed, "config-follower-reads").one_in(3),
            routes_ms: Draw::new(seed, "config-routes").pick(&[0, 100, 400]),
            snapshot_chunk_bytes: Draw::new(seed, "config-snapshot").pick(&[500, 2_000, 2_000, 64 << 10]),
            schedule_ms: Draw::new(seed, "config-schedule").pick(&[0, 200, 1_000]),
            repair_after_ms: Draw::new(seed, "config-repair").pick(&[500, 3_000, 10_000]),
            merge_after_ms: Draw::new(seed, "config-merge").pick(&[0, 1_000, 3_000]),
            check_ms: Draw::new(seed, "config-check").pick(&[0, 500, 3_000]),
            migrated_rows: Draw::new(seed, "config-migrated").pick(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 300]),
            stranger: Draw::new(seed, "config-stranger").one_in(12),
            split_bytes: Draw::new(seed, "config-split").pick(&[0, 0, 4 << 10, 16 << 10, 64 << 10]),
            split_requests: Draw::new(seed, "config-split-load").pick(&[0, 0, 0, 5, 20]),
            split_regions_max: Draw::new(seed, "config-split-max").pick(&[4, 6, 9]),
            unlimited_damage: false,
            faults: if quiet { Vec::new() } else { faults },
            fault_pause_ms: draw.pick(&[400, 1_500, 1_500, 4_000]),
        }
        .within_reason()
    }

    /// A window of timestamps must outlast the round trip that extends it, or nothing is ever served. A snapshot must
    /// outlast a scan of what the sessions write, key by key; whoever reads the rows of a migration too has to hold it.
    fn within_reason(mut self) -> Self {
        let round_us = 8 * self.latency.base_us + 2 * self.latency.jitter_us + 4 * self.disk.sync_us;
        self.tso_ahead_ms = self.tso_ahead_ms.max(4 * round_us / 1_000);
        self.gc_life_ms = self.gc_life_ms.max(100 * round_us / 1_000);
        self.stranger &= self.stores > self.replicas && self.migrated_rows == 0;
        if self.stranger {
            // Nobody may count on it.
            let counts_on_all = |class: &FaultClass| {
                matches!(class, FaultClass::MovePeer | FaultClass::Lose | FaultClass::Decommission)
            };
            self.faults.retain(|class| !counts_on_all(class));
        }
        if self.migrated_rows > 0 {
            self.regions = 1;
            self.schedule_ms = self.schedule_ms.max(200);
            // What has one replica does not survive the loss of it.
            let loses_data = |class: &FaultClass| {
                matches!(class, FaultClass::Rot | FaultClass::Lose | FaultClass::Decommission)
            };
            self.faults.retain(|class| !loses_data(class));
        }
        self
    }

    /// The store that is of another cluster: the last one, if any.
    pub fn stranger(&self) -> Option<u64> {
        self.stranger.then_some(u64::from(self.stores))
    }

    /// The least remarkable world: what shrinking leads to.
    pub fn plain() -> Self {
        Self {
            roots: 3,
            coordinators: 2,
            stores: 3,
            replicas: 3,
            clients: 1,
            regions: 1,
            latency: Latency { base_us: 150, jitter_us: 350, spike_one_in: 500, again_one_in: 0 },
            disk: DiskSpeed { read_us: 20, write_us: 3, sync_us: 200 },
            memtable_bytes: 1 << 20,
            log_segment_bytes: 1 << 20,
            level0_tables: 4,
            log_keep_entries: 1000,
            message_bytes: 1 << 20,
            inflight: 256,
            checkpoint_entries: 1024,
            tail_events: 4096,
            block_cache_bytes: 16 << 20,
            tick_ms: 100,
            hibernate_ticks: 0,
            heartbeat_ms: 1_000,
            lease_ttl_ms: 5_000,
            clock_rate_ppm: 0,
            wall_skew_ms: 0,
            chance_percent: 0,
            deadline_ms: 3_000,
            lock_ttl_ms: 3_000,
            lock_wait_ms: 1_500,
            patience_ms: 2_000,
            prewrite_bytes: 4 << 20,
            scan_page: 1_000,
            tso_ahead_ms: 3_000,
            id_window: 10_000,
            root_refresh_ms: 200,
            gc_life_ms: 600_000,
            gc_hold_ms: 3_000,
            follower_reads: false,
            routes_ms: 0,
            snapshot_chunk_bytes: 1 << 20,
            schedule_ms: 0,
            repair_after_ms: 3_000,
            merge_after_ms: 0,
            migrated_rows: 0,
            stranger: false,
            check_ms: 0,
            split_bytes: 0,
            split_requests: 0,
            split_regions_max: 9,
            unlimited_damage: false,
            faults: Vec::new(),
            fault_pause_ms: 1_500,
        }
    }

    /// Nodes of the world, the supervisor included.
    pub fn nodes(&self) -> u16 {
        1 + self.roots + self.coordinators + self.stores + self.clients
    }
}
