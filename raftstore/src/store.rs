//! One store: many regions under one raft driver, one engine, one port.

use crate::admin::AdminService;
use crate::admission::Door;
use crate::auto_split;
use crate::bells::Bells;
use crate::catalog::{self, Entry};
use crate::check::{self, Checks};
use crate::control::Coordinators;
use crate::heartbeat;
use crate::identity::{self, Identity};
use crate::machine::{Proposal, Reply, StoreMachine};
use crate::mode::{self, Mode};
use crate::operations::{self, Operations};
use crate::pending::PendingEvents;
use crate::publish::{self, Publications};
use crate::region::{Regions, is_tombstone};
use crate::resolve::StoreAddresses;
use crate::service::KvService;
use crate::slow::SlowLog;
use crate::snapshot::{self, SnapshotService, Snapshots};
use crate::split::{self, Halves};
use crate::stats::{self, StatsSnapshot};
use crate::status::{self, StoreStatus};
use crate::topology::Topology;
use crate::{Config, Error, Result};
use crate::{gc, graves, members, merging, migrate, room};
use bytes::Bytes;
use futures_util::future::{Either, select};
use nokv_engine::Db;
use nokv_env::net::MESSAGE_BYTES_MAX;
use nokv_env::task::Stop;
use nokv_env::{ClockExt, Env, ServerHandle, TasksExt};
use nokv_proto::admin::v1::raft_admin_server::RaftAdminServer;
use nokv_proto::kv::v1::no_kv_server::NoKvServer;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::region_snapshots_server::RegionSnapshotsServer;
use nokv_replica::{Driver, GroupConfig, GroupId, Handle, ProposeError, Resolver};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tonic::Status;
use tonic::service::Routes;

/// How often the engine is asked whether it still works.
const ENGINE_WATCH: Duration = Duration::from_millis(500);

/// A running store.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    server: Box<dyn ServerHandle>,
}

/// What the services and loops of a store share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) config: Config,
    pub(crate) db: Db,
    pub(crate) raft: Handle<StoreMachine>,
    pub(crate) door: Door,
    pub(crate) coordinators: Coordinators,
    pub(crate) bells: Arc<Bells>,
    pub(crate) publications: Publications,
    pub(crate) pending: PendingEvents,
    pub(crate) points: gc::Points,
    pub(crate) addresses: Arc<StoreAddresses>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) checks: Arc<Checks>,
    pub(crate) operations: Operations,
    pub(crate) identity: Identity,
    pub(crate) topology: Topology,
    pub(crate) room: room::Room,
    pub(crate) slow: SlowLog,
    /// The address in use, once the port is open.
    served: OnceLock<String>,
    pub(crate) stop: Stop,
}

impl Store {
    /// Opens the store in `config.workdir` and serves it. Returns once the port is open; leaders, and the control
    /// plane's knowledge of this store, follow.
    pub async fn start(env: Env, config: Config) -> Result<Store> {
        config.validate()?;
        let io = |doing, source| Error::Io { path: config.workdir.clone(), doing, source };
        env.disk.create_dir_all(&config.workdir).map_err(|error| io("create it", error))?;
        let state = mode::admit(&*env.disk, &config.workdir, config.store_id)?;
        let options = nokv_engine::Options { is_owner: true, ..config.engine.clone() };
        let drop_ballast = || {
            let dropped = room::drop_ballast(&*env.disk, &config.workdir);
            dropped.map_err(|error| io("remove the ballast", error))
        };
        let db = match Db::open(&env, &config.workdir, options.clone()).await {
            // To start takes room. What the ballast leaves may be all there is.
            Err(error) if error.is_disk_full() => {
                drop_ballast()?;
                Db::open(&env, &config.workdir, options).await?
            }
            opened => opened?,
        };
        drop_ballast()?;
        let started = Self::start_on(&env, &config, &state, &db).await;
        if started.is_err() {
            // The first error is the one to tell.
            _ = db.close().await;
        }
        started
    }

    async fn start_on(env: &Env, config: &Config, state: &mode::State, db: &Db) -> Result<Store> {
        let io =
            |source| Error::Io { path: config.workdir.clone(), doing: "sweep unfinished snapshots", source };
        snapshot::sweep(env, &config.workdir).map_err(io)?;
        let entries = catalog::read_entries(db)?;
        let descriptors: Vec<_> = entries.iter().map(|entry| entry.region.clone()).collect();
        graves::clear_rows(env, db, &descriptors).await?;
        let regions = Regions::new(&entries, config.store_id);
        regions.restore_gc(catalog::read_gcs(db)?);
        let bells = Arc::new(Bells::new(config.coordinators.len()));
        let addresses = Arc::new(StoreAddresses::new(config.store_addrs.clone()));
        let pending = PendingEvents::new(catalog::read_pending(db)?);
        let machine = StoreMachine::new(env, db, config.store_id, &regions, &entries, &bells, &pending);
        let snapshots = machine.snapshots().clone();
        let checks = machine.checks().clone();
        let group = |entry| {
            let config = group_config(entry, config.store_id)?;
            let born = config.born || migrate::is_origin(&state.seed, &entry.region, config.peer);
            Some(GroupConfig { born, ..config })
        };
        let groups = entries.iter().filter_map(group).collect();
        let raft =
            Driver::start(env.clone(), raft_config(config), machine, addresses.clone(), groups).await?;
        let shared = Arc::new(Shared {
            coordinators: Coordinators::new(env, &config.coordinators, config.coordinator_timeout),
            door: Door::new(config.store_id, regions),
            env: env.clone(),
            config: config.clone(),
            db: db.clone(),
            raft: raft.clone(),
            bells,
            publications: Publications::default(),
            pending,
            points: gc::Points::default(),
            operations: Operations::default(),
            identity: Identity::begin(&*env.net, state.cluster_id),
            topology: Topology::default(),
            room: room::Room::default(),
            slow: SlowLog::default(),
            addresses,
            snapshots,
            checks,
            served: OnceLock::new(),
            stop: Stop::new(),
        });
        let server = match env.net.serve(&config.listen_addr, routes(&shared)).await {
            Ok(server) => server,
            Err(source) => {
                raft.stop().await;
                return Err(Error::Listen { addr: config.listen_addr.clone(), source });
            }
        };
        shared.served.get_or_init(|| server.local_addr());
        if room::matters(config) {
            room::look(&shared);
        }
        // Before anybody else writes the file.
        if state.mode != Mode::Cluster {
            let promoted = mode::State {
                mode: Mode::Cluster,
                store_id: config.store_id,
                region_id: 0,
                peer_id: 0,
                ..state.clone()
            };
            if let Err(error) = mode::write(&*env.disk, &config.workdir, &promoted) {
                Store { shared, server }.stop().await;
                return Err(error);
            }
        }
        spawn_loops(&shared);
        Ok(Store { shared, server })
    }

    /// The address in use.
    pub fn addr(&self) -> String {
        self.server.local_addr()
    }

    /// The regions that run here.
    pub fn regions(&self) -> Vec<RegionDescriptor> {
        let states = self.shared.door.regions.all().into_iter().map(|region| region.state());
        states.filter(|state| state.is_hosted()).map(|state| (*state.descriptor).clone()).collect()
    }

    /// The engine under the store, for looking only.
    pub fn engine(&self) -> &Db {
        &self.shared.db
    }

    /// Of the regions that this store leads and has rid of garbage: the keys that have some all the same.
    pub fn leftover_garbage(&self) -> crate::mvcc::Result<Vec<(u64, Bytes)>> {
        let snapshot = self.shared.db.snapshot();
        let mut found = Vec::new();
        for region in
            self.shared.door.regions.all().into_iter().filter(|region| region.state().role.is_leader)
        {
            let (descriptor, safe_point) = (region.descriptor(), region.gc().safe_point);
            if safe_point == 0 || !region.swept().is_rid_of(descriptor.epoch_pair().0, safe_point) {
                continue;
            }
            let mut from = Some(Bytes::new());
            while let Some(start) = from {
                let (keys, next) =
                    crate::mvcc::garbage(&snapshot, &descriptor.range(), &start, safe_point, usize::MAX)?;
                found.extend(keys.into_iter().map(|key| (region.id, key)));
                from = next;
            }
        }
        Ok(found)
    }

    /// The store in numbers.
    pub fn status(&self) -> StoreStatus {
        status::collect(&self.shared)
    }

    /// A handle that gives the `NoKV.Stats` of `/debug/vars`, also after the store itself moved elsewhere.
    pub fn stats_source(&self) -> impl Fn() -> StatsSnapshot + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || stats::collect(&shared)
    }

    /// A handle that answers [`Store::status`] after the store itself moved elsewhere.
    pub fn status_source(&self) -> impl Fn() -> StoreStatus + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || status::collect(&shared)
    }

    /// Stops serving, hands nothing over ([`Store::hand_over`] does), and closes the directory so that it can be opened again.
    pub async fn stop(self) {
        self.shared.stop.stop();
        self.server.stop().await;
        self.shared.raft.stop().await;
        // Spares the next start the replay of the raft log. Without it nothing is lost.
        if let Err(error) = self.shared.db.flush().await {
            tracing::warn!(%error, "the last flush failed");
        }
        if let Err(error) = self.shared.db.close().await {
            tracing::warn!(%error, "closing the engine failed");
        }
    }

    /// Completes with the reason when the store cannot go on: its disk failed, or its data makes no sense.
    pub async fn failed(&self) -> String {
        match select(pin!(self.shared.raft.failed()), pin!(self.engine_failed())).await {
            Either::Left((reason, _)) | Either::Right((reason, _)) => reason,
        }
    }

    async fn engine_failed(&self) -> String {
        loop {
            if let Some(reason) = self.shared.db.failed() {
                return reason;
            }
            self.shared.env.clock.sleep(ENGINE_WATCH).await;
        }
    }
}

fn routes(shared: &Arc<Shared>) -> Routes {
    let kv = NoKvServer::new(KvService(shared.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = RaftAdminServer::new(AdminService(shared.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let snapshots = RegionSnapshotsServer::new(SnapshotService(shared.clone()))
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(kv).add_service(admin).add_service(snapshots).add_service(shared.raft.raft_service())
}

fn raft_config(config: &Config) -> nokv_replica::Config {
    let mut raft = nokv_replica::Config::new("region", config.store_id, config.workdir.join(stats::RAFT_DIR));
    raft.log_segment_bytes = config.log_segment_bytes;
    raft.tick = config.tick;
    raft.election_ticks = config.election_ticks;
    raft.heartbeat_ticks = config.heartbeat_ticks;
    raft.hibernate_after_ticks = config.hibernate_after_ticks;
    raft.hibernate_ticks_max = config.hibernate_ticks_max;
    raft.max_message_bytes = config.max_message_bytes;
    raft.max_inflight = config.max_inflight;
    raft.log_keep_entries = config.log_keep_entries;
    raft
}

/// The raft group of a region that runs on this store.
pub(crate) fn group_config(entry: &Entry, store_id: u64) -> Option<GroupConfig> {
    let peer = entry.region.peer_on_store(store_id).filter(|_| !is_tombstone(&entry.region))?;
    let members = entry.members.clone();
    Some(GroupConfig {
        group: GroupId(entry.region.region_id),
        peer: peer.peer_id,
        applied_index: entry.applied.index,
        applied_term: entry.applied.term,
        voters: members.voters,
        learners: members.learners,
        joint: nokv_replica::Joint {
            voters_outgoing: members.voters_outgoing,
            learners_next: members.learners_next,
            auto_leave: members.auto_leave,
        },
        peers: entry.region.peers.iter().map(|peer| (peer.peer_id, peer.store_id)).collect(),
        born: split::is_child(&entry.region),
    })
}

/// Starts the background loops; they end with the store.
fn spawn_loops(shared: &Arc<Shared>) {
    spawn(shared, "store-members", |shared| async move { members::settle(&shared).await });
    spawn(shared, "store-checks", |shared| async move { check::add_up(&shared).await });
    spawn(shared, "store-patrol", |shared| async move { check::patrol(&shared).await });
    spawn(shared, "store-merges", |shared| async move { merging::run(&shared).await });
    spawn(shared, "store-snapshots", |shared| async move { snapshot::run(&shared).await });
    spawn(shared, "store-graves", |shared| async move { graves::clear(&shared).await });
    if room::matters(&shared.config) {
        spawn(shared, "store-room", |shared| async move { room::watch(&shared).await });
    }
    if shared.coordinators.len() == 0 {
        return;
    }
    spawn(shared, "store-split", |shared| async move { auto_split::run(&shared).await });
    spawn(shared, "store-gc", |shared| async move { gc::run(&shared).await });
    spawn(shared, "store-orphans", |shared| async move { graves::find(&shared).await });
    spawn(shared, "store-identity", |shared| async move { identity::learn(&shared).await });
    // Nobody is told of a store that may be of another cluster.
    for at in 0..shared.coordinators.len() {
        spawn(shared, "store-heartbeat", move |shared| async move {
            shared.identity.known().await;
            heartbeat::beat(&shared, at).await;
        });
    }
    spawn(shared, "store-operations", |shared| async move { operations::carry_out(&shared).await });
    spawn(shared, "store-publish", |shared| async move {
        shared.identity.known().await;
        publish::publish(&shared).await;
    });
    spawn(shared, "store-timestamps", |shared| async move { heartbeat::fetch_timestamps(&shared).await });
    spawn(shared, "store-addresses", |shared| async move {
        let refresh = shared.config.address_refresh;
        shared.addresses.follow(&shared.env, &shared.coordinators, refresh).await;
    });
}

fn spawn<F, W>(shared: &Arc<Shared>, name: &'static str, work: W)
where
    W: FnOnce(Arc<Shared>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let stop = shared.stop.clone();
    let work = work(shared.clone());
    shared.env.tasks.go(name, async move {
        select(pin!(work), pin!(stop.stopped())).await;
    });
}

impl Shared {
    /// The address that others are told.
    pub(crate) fn advertised(&self) -> String {
        if !self.config.advertise_addr.is_empty() {
            return self.config.advertise_addr.clone();
        }
        self.served.get().unwrap_or(&self.config.listen_addr).clone()
    }

    /// Where a store serves, if that is known.
    pub(crate) fn address_of(&self, store_id: u64) -> Option<String> {
        if store_id == self.config.store_id {
            Some(self.advertised())
        } else {
            self.addresses.address(store_id)
        }
    }

    /// Starts to hand the leadership of a region over; the region as it is now. The error says why not.
    pub(crate) async fn transfer_leader(
        &self,
        region_id: u64,
        peer_id: u64,
    ) -> Result<RegionDescriptor, String> {
        let region =
            self.door.regions.get(region_id).ok_or_else(|| format!("region {region_id} is not here"))?;
        let state = region.state();
        if !state.role.is_leader {
            return Err(match state.leader() {
                Some(leader) => format!("region {region_id} is led by store {}", leader.store_id),
                None => format!("region {region_id} has no known leader"),
            });
        }
        if state.descriptor.peer(peer_id).is_none() {
            return Err(format!("region {region_id} has no peer {peer_id}"));
        }
        if state.peer != Some(peer_id) {
            let started = self
                .env
                .clock
                .timeout(self.config.command_timeout, self.raft.transfer_leader(region.group(), peer_id));
            started
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("region {region_id}: {error}"))?;
        }
        Ok((*state.descriptor).clone())
    }

    /// Splits a region at `key`, which becomes the first of the new one. Errors are of the caller's or the moment's
    /// making; after `DeadlineExceeded` and `Unavailable` the split may still happen.
    pub(crate) async fn split(&self, region_id: u64, key: &Bytes) -> Result<Halves, Status> {
        let missing = || Status::not_found(format!("region {region_id} is not here"));
        let region = self.door.regions.get(region_id).ok_or_else(missing)?;
        let state = region.state();
        if !state.role.is_leader {
            return Err(Status::failed_precondition(match state.leader() {
                Some(leader) => format!("region {region_id} is led by store {}", leader.store_id),
                None => format!("region {region_id} has no known leader"),
            }));
        }
        let parent = &state.descriptor;
        // Not the caller's mistake: whoever looked the region up may have been told of it before its last split.
        if !parent.contains(key) || *key == parent.start_key {
            let text = format!("the key is not inside of region {region_id}, or is its first; look again");
            return Err(Status::failed_precondition(text));
        }
        self.known_to_root(region_id, parent)?;
        let first = self.new_ids(1 + parent.peers.len() as u64).await?;
        let split = split::command(parent, key, first, first + 1..);
        let proposal = self.raft.propose(region.group(), Proposal::Split(split));
        match self.env.clock.timeout(self.config.command_timeout, proposal).await {
            Ok(Ok(Reply::Split(halves))) => Ok(*halves),
            Ok(Ok(Reply::Outcome(Err(_)))) => {
                Err(Status::aborted(format!("region {region_id} changed meanwhile; look again")))
            }
            Ok(Ok(Reply::Gone)) => {
                Err(Status::unavailable("the peer was removed meanwhile; the split may still happen"))
            }
            Ok(Ok(_)) => Err(Status::internal("a split was answered as something else")),
            Ok(Err(ProposeError::Unknown)) => Err(Status::unavailable("the store is stopping")),
            Ok(Err(error)) => Err(Status::failed_precondition(format!("region {region_id}: {error}"))),
            Err(_) => Err(Status::deadline_exceeded("not done in time; the split may still happen")),
        }
    }
}
