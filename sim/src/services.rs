//! The product's services as the world starts and stops them: the same front doors that the binary uses.

use crate::check::replicas::Replica;
use crate::config::WorldConfig;
use crate::workload::keys;
use bytes::Bytes;
use nokv_coordinator::Coordinator;
use nokv_engine::{Db, Options, WriteBatch, WriteOptions};
use nokv_env::Env;
use nokv_metaroot::MetaRoot;
use nokv_proto::key::{KeyRange, encode_key};
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer};
use nokv_raftstore::Store;
use nokv_raftstore::migrate;
use nokv_raftstore::mode::{self, Mode};
use nokv_raftstore::mvcc::{CF_DEFAULT, CF_LOCK, CF_WRITE};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::PathBuf;
use std::time::Duration;

/// What a node runs, and its number among its kind, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A meta-root peer.
    Root(u64),
    /// A coordinator.
    Coordinator(u64),
    /// A store.
    Store(u64),
    /// A client node: nothing of its own, sessions run on it.
    Client(u64),
}

impl Role {
    /// All nodes of a world, in the order of their indexes from 1.
    pub fn all(config: &WorldConfig) -> Vec<Role> {
        let numbers = |count: u16| 1..=u64::from(count);
        numbers(config.roots)
            .map(Role::Root)
            .chain(numbers(config.coordinators).map(Role::Coordinator))
            .chain(numbers(config.stores).map(Role::Store))
            .chain(numbers(config.clients).map(Role::Client))
            .collect()
    }

    /// Host name of the node.
    pub fn host(self) -> String {
        let (kind, number) = match self {
            Role::Root(number) => (1, number),
            Role::Coordinator(number) => (2, number),
            Role::Store(number) => (3, number),
            Role::Client(number) => (4, number),
        };
        format!("10.0.{kind}.{number}")
    }

    /// Address of its gRPC service.
    pub fn addr(self) -> String {
        format!("{}:4000", self.host())
    }

    /// Address of a root's raft transport.
    fn transport_addr(self) -> String {
        format!("{}:4001", self.host())
    }
}

/// Where services keep their files on their node's disk.
pub fn workdir() -> PathBuf {
    PathBuf::from("/data")
}

/// The regions that the world is born with: one peer on every store.
pub fn regions(config: &WorldConfig) -> Vec<RegionDescriptor> {
    let borders = keys::borders(config.regions);
    let border = |index: u64| borders.get(index as usize).cloned().unwrap_or_default();
    (1..=config.regions)
        .map(|id| RegionDescriptor {
            region_id: id,
            start_key: if id == 1 { Bytes::new() } else { border(id - 2) },
            end_key: border(id - 1),
            epoch: Some(RegionEpoch { version: 1, conf_version: 1 }),
            peers: (1..=u64::from(config.replicas.min(config.stores)))
                .map(|store| RegionPeer { store_id: store, peer_id: id * 100 + store })
                .collect(),
            ..RegionDescriptor::default()
        })
        .collect()
}

/// gRPC addresses of all coordinators.
pub fn coordinators(config: &WorldConfig) -> Vec<String> {
    (1..=u64::from(config.coordinators)).map(|number| Role::Coordinator(number).addr()).collect()
}

fn roots(config: &WorldConfig, addr: impl Fn(Role) -> String) -> BTreeMap<u64, String> {
    (1..=u64::from(config.roots)).map(|number| (number, addr(Role::Root(number)))).collect()
}

/// A running service.
pub enum Service {
    /// A meta-root peer.
    Root(MetaRoot),
    /// A coordinator.
    Coordinator(Coordinator),
    /// A store.
    Store(Box<Store>),
    /// A client node.
    Client,
}

impl Service {
    /// Starts what `role` runs. The error is what the process would have died of.
    pub async fn start(role: Role, env: Env, config: &WorldConfig) -> Result<Service, String> {
        match role {
            Role::Root(number) => start_root(number, env, config).await.map(Service::Root),
            Role::Coordinator(number) => {
                start_coordinator(number, env, config).await.map(Service::Coordinator)
            }
            Role::Store(number) => {
                start_store(number, env, config).await.map(|store| Service::Store(Box::new(store)))
            }
            Role::Client(_) => Ok(Service::Client),
        }
    }

    /// Stops it cleanly.
    pub async fn stop(self) {
        match self {
            Service::Root(root) => root.stop().await,
            Service::Coordinator(coordinator) => coordinator.stop().await,
            Service::Store(store) => store.stop().await,
            Service::Client => {}
        }
    }

    /// The replicas of raft groups that it holds.
    pub fn replicas(&self, node: &str) -> Vec<Replica> {
        match self {
            Service::Root(root) => vec![root_replica(&root.status(), node)],
            Service::Store(store) => store_replicas(store, node),
            Service::Coordinator(_) | Service::Client => Vec::new(),
        }
    }

    /// The newest event that it has applied, if this is a meta-root.
    pub fn root_revision(&self) -> Option<u64> {
        match self {
            Service::Root(root) => Some(root.status().last_committed.index),
            Service::Store(_) | Service::Coordinator(_) | Service::Client => None,
        }
    }

    /// How many operators the scheduler has under way, if this is the coordinator that schedules.
    pub fn operators_under_way(&self) -> Option<usize> {
        match self {
            Service::Coordinator(coordinator) => coordinator.operators_under_way(),
            Service::Root(_) | Service::Store(_) | Service::Client => None,
        }
    }

    /// What the scheduler has under way, in words.
    pub fn operators(&self) -> Vec<String> {
        match self {
            Service::Coordinator(coordinator) => coordinator.operators_in_words(),
            Service::Root(_) | Service::Store(_) | Service::Client => Vec::new(),
        }
    }

    /// Stores that are to be emptied, and the place in the log that says so, if this is a meta-root.
    pub fn decommissioned(&self) -> Option<(u64, Vec<u64>)> {
        match self {
            Service::Root(root) => {
                let status = root.status();
                Some((status.applied_index, status.decommissioned_stores))
            }
            Service::Store(_) | Service::Coordinator(_) | Service::Client => None,
        }
    }

    /// The regions that it hosts.
    pub fn regions(&self) -> Vec<RegionDescriptor> {
        match self {
            Service::Store(store) => store.regions(),
            Service::Root(_) | Service::Coordinator(_) | Service::Client => Vec::new(),
        }
    }

    /// Completes with the reason when the service gives up on its own.
    pub async fn failed(&self) -> String {
        match self {
            Service::Root(root) => root.failed().await,
            Service::Store(store) => store.failed().await,
            Service::Coordinator(_) | Service::Client => std::future::pending().await,
        }
    }
}

/// A meta-root as a replica of "region 0"; its facts in place of rows.
fn root_replica(status: &nokv_metaroot::Status, node: &str) -> Replica {
    let facts = [
        ("cluster epoch", status.cluster_epoch),
        ("membership epoch", status.membership_epoch),
        ("id fence", status.id_fence),
        ("timestamp fence", status.tso_fence),
        ("safe point", status.gc_safe_point),
        ("last committed", status.last_committed.index),
        ("descriptors", status.descriptor_count as u64),
        ("peer changes", status.pending_peer_changes as u64),
        ("range changes", status.pending_range_changes as u64),
        ("lease generation", status.lease_generation),
        ("sealed generation", status.sealed_generation),
    ];
    let rows = facts.map(|(name, value)| (0, name.as_bytes().to_vec(), value.to_be_bytes().to_vec()));
    Replica {
        region: 0,
        node: node.to_owned(),
        applied: status.applied_index,
        range: KeyRange { start: Bytes::new(), end: Bytes::new() },
        rows: rows.to_vec(),
        unreadable: None,
        home: None,
        garbage: None,
    }
}

/// The regions of a store, as one instant shows them.
fn store_replicas(store: &Store, node: &str) -> Vec<Replica> {
    let snapshot = store.engine().snapshot();
    let status = store.status();
    // Rows that cannot be read are found below.
    let garbage = store.leftover_garbage().unwrap_or_default();
    let applied = |id: u64| {
        let region = status.regions.iter().find(|region| region.region_id == id);
        region.map_or(0, |region| region.applied_index)
    };
    let rows_of = |region: &RegionDescriptor| {
        let start = Bytes::from(encode_key(&region.start_key));
        let end = Bytes::from(encode_key(&region.end_key));
        let (mut rows, mut unreadable) = (Vec::new(), None);
        for family in [CF_DEFAULT, CF_LOCK, CF_WRITE] {
            let bounds = if region.end_key.is_empty() { Unbounded } else { Excluded(end.clone()) };
            for row in snapshot.iter(family, (Included(start.clone()), bounds)) {
                match row {
                    Ok((key, value)) => rows.push((family.0, key.to_vec(), value.to_vec())),
                    Err(error) => unreadable = Some(error.to_string()),
                }
            }
        }
        (rows, unreadable)
    };
    store
        .regions()
        .iter()
        .map(|region| {
            let (rows, unreadable) = rows_of(region);
            let applied = applied(region.region_id);
            let homes = region.peers.iter().map(|peer| format!("store{}", peer.store_id)).collect();
            let home = Some((region.epoch_pair().1, homes));
            let garbage = garbage.iter().find(|(id, _)| *id == region.region_id).map(|(_, key)| key.to_vec());
            let (range, region, node) = (region.range(), region.region_id, node.to_owned());
            Replica { region, node, applied, range, rows, unreadable, home, garbage }
        })
        .collect()
}

async fn start_root(number: u64, env: Env, config: &WorldConfig) -> Result<MetaRoot, String> {
    let role = Role::Root(number);
    let mut settings = nokv_metaroot::Config::new(
        number,
        workdir(),
        role.addr(),
        role.transport_addr(),
        roots(config, Role::transport_addr),
    );
    settings.tick = Duration::from_millis(config.tick_ms);
    settings.message_bytes_max = config.message_bytes;
    settings.inflight_max = config.inflight;
    settings.log_segment_bytes = config.log_segment_bytes;
    settings.log_keep_entries = config.log_keep_entries;
    settings.checkpoint_entries = config.checkpoint_entries;
    settings.tail_events = config.tail_events;
    MetaRoot::start(env, settings).await.map_err(|error| error.to_string())
}

async fn start_coordinator(number: u64, env: Env, config: &WorldConfig) -> Result<Coordinator, String> {
    let role = Role::Coordinator(number);
    let mut settings =
        nokv_coordinator::Config::new(&format!("coord{number}"), &role.addr(), roots(config, Role::addr));
    settings.lease_ttl = Duration::from_millis(config.lease_ttl_ms);
    settings.lease_renew_before = Duration::from_millis(config.lease_ttl_ms / 3);
    settings.tso_ahead = Duration::from_millis(config.tso_ahead_ms);
    settings.id_window = config.id_window;
    settings.root_refresh = Duration::from_millis(config.root_refresh_ms);
    settings.gc_life = Duration::from_millis(config.gc_life_ms);
    settings.gc_interval = Duration::from_millis((config.gc_life_ms / 4).clamp(200, 20_000));
    settings.gc_hold_ttl_max = Duration::from_millis(config.gc_hold_ms);
    settings.store_down_after = Duration::from_millis(4 * config.heartbeat_ms.max(1_000));
    let repair_after = Duration::from_millis(config.repair_after_ms);
    settings.schedule = nokv_coordinator::Limits {
        interval: Duration::from_millis(config.schedule_ms),
        replicas: usize::from(config.replicas),
        repair_after,
        settle_after: repair_after,
        missing_after: repair_after,
        merge_after: Duration::from_millis(config.merge_after_ms),
        cooldown: Duration::from_secs(1),
        give_up_after: Duration::from_secs(20),
        small_bytes: config.memtable_bytes,
        ..nokv_coordinator::Limits::default()
    };
    Coordinator::start(env, settings).await.map_err(|error| error.to_string())
}

/// Makes the directory one of a store that has met another cluster.
fn come_from_elsewhere(env: &Env, number: u64) -> Result<(), String> {
    env.disk.create_dir_all(&workdir()).map_err(|error| error.to_string())?;
    let there =
        mode::State { mode: Mode::Cluster, store_id: number, cluster_id: 1, ..mode::State::default() };
    mode::write(&*env.disk, &workdir(), &there).map_err(|error| error.to_string())
}

/// Makes the first store's directory out of a stand-alone database. Whoever restarts the process repeats all of it.
async fn become_a_store(env: &Env, config: &WorldConfig) -> Result<(), String> {
    let options = engine_options(config);
    if mode::read(&*env.disk, &workdir()).map_err(|error| error.to_string())?.mode == Mode::Standalone {
        let db = Db::open(env, &workdir(), options.clone()).await.map_err(|error| error.to_string())?;
        let mut batch = WriteBatch::new();
        keys::old_rows(config.migrated_rows).for_each(|(key, value)| batch.put(CF_DEFAULT, key, value));
        let written = db.write(batch, WriteOptions { sync: true }).await;
        db.close().await.and(written.map(drop)).map_err(|error| error.to_string())?;
    }
    let ids = migrate::Ids { store: 1, region: 1, peer: 101 };
    migrate::init(env, &workdir(), ids, &options).await.map(drop).map_err(|error| error.to_string())
}

/// The engine's settings in this world.
fn engine_options(config: &WorldConfig) -> Options {
    Options {
        memtable_bytes: config.memtable_bytes as usize,
        wal_segment_bytes: config.log_segment_bytes,
        table_bytes: config.memtable_bytes,
        level_bytes_base: config.memtable_bytes * 4,
        level0_tables_compact: config.level0_tables,
        block_cache_bytes: config.block_cache_bytes,
        ..Options::default()
    }
}

async fn start_store(number: u64, env: Env, config: &WorldConfig) -> Result<Store, String> {
    let role = Role::Store(number);
    if config.stranger() == Some(number) {
        come_from_elsewhere(&env, number)?;
    } else if number == 1 && config.migrated_rows > 0 {
        become_a_store(&env, config).await?;
    } else if config.migrated_rows == 0 && number <= u64::from(config.replicas) {
        nokv_raftstore::seed::seed_regions(&env, &workdir(), number, &regions(config))
            .await
            .map_err(|error| error.to_string())?;
    }
    let mut settings = nokv_raftstore::Config::new(number, workdir(), role.addr(), coordinators(config));
    settings.tick = Duration::from_millis(config.tick_ms);
    settings.hibernate_after_ticks = config.hibernate_ticks;
    settings.hibernate_ticks_max = 5 * config.hibernate_ticks;
    settings.max_message_bytes = config.message_bytes;
    settings.max_inflight = config.inflight;
    settings.log_segment_bytes = config.log_segment_bytes;
    settings.log_keep_entries = config.log_keep_entries;
    settings.snapshot_chunk_bytes = config.snapshot_chunk_bytes;
    settings.orphan_after = Duration::from_millis(20 * config.tick_ms);
    settings.heartbeat_interval = Duration::from_millis(config.heartbeat_ms);
    settings.check_interval = Duration::from_millis(config.check_ms);
    settings.split = nokv_raftstore::SplitLimits {
        bytes: config.split_bytes,
        requests: config.split_requests,
        requests_for: Duration::from_secs(1),
        interval: Duration::from_millis(500),
        rest: Duration::from_secs(1),
        regions_max: config.split_regions_max,
    };
    // Some have nothing to fall back on when their disk is full: they wait.
    settings.disk_ballast = if number.is_multiple_of(2) { 0 } else { 64 << 10 };
    settings.engine = Options { lock_owner: settings.engine.lock_owner, ..engine_options(config) };
    Store::start(env, settings).await.map_err(|error| error.to_string())
}
