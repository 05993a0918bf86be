//! One running meta-root node: its files, its raft group, its two servers.

use crate::machine::{GROUP, Machine, Shared};
use crate::service::Service;
use crate::workdir::Workdir;
use crate::{Config, Error};
use futures_util::future::join;
use nokv_env::disk::LockGuard;
use nokv_env::net::{MESSAGE_BYTES_MAX, ServerHandle};
use nokv_env::task::Stop;
use nokv_env::{ClockExt, Env};
use nokv_proto::meta::v1::metadata_root_server::MetadataRootServer;
use nokv_replica::{Driver, GroupConfig, Handle, RaftObservation, Resolver};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

/// How long a leader that stops waits for another to take over.
const HANDOVER: Duration = Duration::from_millis(500);
/// How often it looks.
const HANDOVER_STEP: Duration = Duration::from_millis(20);

/// A running meta-root node.
pub struct MetaRoot {
    env: Env,
    node_id: u64,
    workdir: PathBuf,
    handle: Handle<Machine>,
    shared: Arc<Shared>,
    stop: Stop,
    service: Box<dyn ServerHandle>,
    transport: Box<dyn ServerHandle>,
    _lock: Box<dyn LockGuard>,
}

/// What a node says of itself under `nokv_meta_root` in `/debug/vars`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// gRPC address in use.
    pub addr: String,
    /// This node.
    pub node_id: u64,
    /// Which cluster this is, in hexadecimal digits; empty before it is born.
    pub cluster_id: String,
    /// Grows with every change of regions.
    pub cluster_epoch: u64,
    /// Grows with every change of stores.
    pub membership_epoch: u64,
    /// Ids up to here may have been handed out.
    pub id_fence: u64,
    /// Timestamps up to here may have been handed out.
    pub tso_fence: u64,
    /// Versions that no read at or above it can see may be gone.
    pub gc_safe_point: u64,
    /// Place of the newest event.
    pub last_committed: Cursor,
    /// How many regions there are.
    pub descriptor_count: usize,
    /// How many membership changes are under way.
    pub pending_peer_changes: usize,
    /// How many splits and merges are under way.
    pub pending_range_changes: usize,
    /// Whether this node leads the group.
    pub is_leader: bool,
    /// Who leads it, 0 when unknown.
    pub leader_id: u64,
    /// Raft term.
    pub term: u64,
    /// Last log entry applied.
    pub applied_index: u64,
    /// Who holds or held the coordinator lease.
    pub lease_holder: String,
    /// Generation of that lease.
    pub lease_generation: u64,
    /// The newest generation that has ended; 0: none.
    pub sealed_generation: u64,
    /// Stores that are to be emptied.
    pub decommissioned_stores: Vec<u64>,
}

/// A node in numbers, for whoever watches it. Counters run from the start.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// On the leader: how many nodes it has heard of lately, itself included.
    pub heard_peers: Option<u64>,
    /// Nodes that vote.
    pub peers: u64,
    /// Last index committed.
    pub commit_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// The raft loop.
    pub raft: RaftObservation,
    /// Bytes still free on the file system of the work directory.
    pub disk_free_bytes: Option<u64>,
    /// Its size.
    pub disk_total_bytes: Option<u64>,
}

/// A place in the raft log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Cursor {
    /// Raft term.
    pub term: u64,
    /// Raft index.
    pub index: u64,
}

impl MetaRoot {
    /// Opens the work directory, joins the raft group and serves.
    pub async fn start(env: Env, config: Config) -> Result<MetaRoot, Error> {
        config.validate()?;
        let workdir = Workdir::new(env.disk.clone(), &config.workdir);
        let lock = workdir.lock(&config.lock_owner)?;
        let image = workdir.open(&config)?;
        let applied = image.applied;
        let shared = Arc::new(Shared::new(image, env.clock.now()));
        let group = GroupConfig {
            group: GROUP,
            peer: config.node_id,
            applied_index: applied.index,
            applied_term: applied.term,
            voters: config.peers.keys().copied().collect(),
            peers: config.peers.keys().map(|&node| (node, node)).collect(),
            ..Default::default()
        };
        let resolver = Arc::new(Addresses(config.peers.clone()));
        let raft = raft_config(&config, &workdir);
        let machine = Machine::new(&env, &config, workdir, shared.clone());
        let handle = Driver::start(env.clone(), raft, machine, resolver, vec![group]).await?;
        let stop = Stop::new();
        let service = Service {
            env: env.clone(),
            node_id: config.node_id,
            handle: handle.clone(),
            shared: shared.clone(),
            stop: stop.clone(),
            request_timeout: config.request_timeout,
        };
        let service = MetadataRootServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let started = serve(&env, &config, Routes::new(service), Routes::new(handle.raft_service())).await;
        let (service, transport) = match started {
            Ok(servers) => servers,
            Err(error) => {
                handle.stop().await;
                return Err(error);
            }
        };
        tracing::info!(node = config.node_id, addr = service.local_addr(), "meta-root serving");
        let (node_id, workdir) = (config.node_id, config.workdir);
        Ok(MetaRoot { env, node_id, workdir, handle, shared, stop, service, transport, _lock: lock })
    }

    /// Hands leadership over, stops serving, and lets go of the work directory.
    pub async fn stop(self) {
        self.hand_over().await;
        self.stop.stop();
        self.handle.stop().await;
        join(self.service.stop(), self.transport.stop()).await;
    }

    /// The gRPC address in use.
    pub fn addr(&self) -> String {
        self.service.local_addr()
    }

    /// Completes, with the reason, when the node cannot go on; it must then be stopped.
    pub async fn failed(&self) -> String {
        self.handle.failed().await
    }

    /// What the node knows now.
    pub fn status(&self) -> Status {
        let raft = self.handle.status(GROUP);
        let core = self.shared.lock();
        let state = core.image.state.summary();
        let (descriptor_count, pending_peer_changes, pending_range_changes) = core.image.state.counts();
        let cursor = state.last_committed.unwrap_or_default();
        let lease = state.coordinator_lease.unwrap_or_default();
        Status {
            addr: self.addr(),
            node_id: self.node_id,
            cluster_id: match state.cluster_id {
                0 => String::new(),
                id => nokv_env::cluster::show_cluster(id),
            },
            cluster_epoch: state.cluster_epoch,
            membership_epoch: state.membership_epoch,
            id_fence: state.id_fence,
            tso_fence: state.tso_fence,
            gc_safe_point: state.gc_safe_point,
            last_committed: Cursor { term: cursor.term, index: cursor.index },
            descriptor_count,
            pending_peer_changes,
            pending_range_changes,
            is_leader: raft.as_ref().is_some_and(|raft| raft.is_leader),
            leader_id: raft.as_ref().and_then(|raft| raft.leader).unwrap_or(0),
            term: raft.as_ref().map_or(0, |raft| raft.term),
            applied_index: core.image.applied.index,
            lease_holder: lease.holder_id,
            lease_generation: lease.cert_generation,
            sealed_generation: state.coordinator_seal.map_or(0, |seal| seal.cert_generation),
            decommissioned_stores: core.image.state.decommissioned(),
        }
    }

    /// The node in numbers that [`Status`] leaves out.
    pub fn observe(&self) -> Observation {
        let raft = self.handle.status(GROUP).unwrap_or_default();
        Observation {
            heard_peers: raft.is_leader.then_some(raft.active.len() as u64),
            peers: raft.voters.len() as u64,
            commit_index: raft.commit,
            last_index: raft.last_index,
            raft: self.handle.observe(self.env.clock.now()),
            disk_free_bytes: self.env.disk.free_space(&self.workdir).ok(),
            disk_total_bytes: self.env.disk.total_space(&self.workdir).ok(),
        }
    }

    /// A leader that goes saves the others an election timeout: it names the follower that has most of the log.
    async fn hand_over(&self) {
        let Some(status) = self.handle.status(GROUP).filter(|status| status.is_leader) else { return };
        let others = status.matched.iter().filter(|(peer, _)| **peer != self.node_id);
        let Some((&successor, _)) = others.max_by_key(|(_, matched)| **matched) else { return };
        let done = async {
            if self.handle.transfer_leader(GROUP, successor).await.is_err() {
                return;
            }
            while self.handle.status(GROUP).is_some_and(|status| status.is_leader) {
                self.env.clock.sleep(HANDOVER_STEP).await;
            }
        };
        // If nobody takes over in time, an election will find somebody.
        let _ = self.env.clock.timeout(HANDOVER, done).await;
    }
}

/// Fixed addresses of the three nodes.
struct Addresses(BTreeMap<u64, String>);

impl Resolver for Addresses {
    fn address(&self, node: u64) -> Option<String> {
        self.0.get(&node).cloned()
    }
}

fn raft_config(config: &Config, workdir: &Workdir) -> nokv_replica::Config {
    nokv_replica::Config {
        log_segment_bytes: config.log_segment_bytes,
        tick: config.tick,
        election_ticks: config.election_ticks,
        heartbeat_ticks: config.heartbeat_ticks,
        max_message_bytes: config.message_bytes_max,
        max_inflight: config.inflight_max,
        log_keep_entries: config.log_keep_entries,
        ..nokv_replica::Config::new("root", config.node_id, workdir.raft_dir())
    }
}

type Servers = (Box<dyn ServerHandle>, Box<dyn ServerHandle>);

async fn serve(env: &Env, config: &Config, service: Routes, transport: Routes) -> Result<Servers, Error> {
    let listen = |addr: &str, source| Error::Listen { addr: addr.to_owned(), source };
    let transport = env
        .net
        .serve(&config.transport_addr, transport)
        .await
        .map_err(|source| listen(&config.transport_addr, source))?;
    match env.net.serve(&config.listen_addr, service).await {
        Ok(service) => Ok((service, transport)),
        Err(source) => {
            transport.stop().await;
            Err(listen(&config.listen_addr, source))
        }
    }
}
