//! Telling the coordinators about this store, and doing what they ask.
//!
//! One loop a coordinator sends heartbeats, so that a dead coordinator holds up nobody else. One loop fetches a timestamp
//! for every new leadership, which opens it for commits in one round trip. What the meta-root must know is told elsewhere,
//! see [`crate::publish`].

use crate::auto_split::bytes_on_disk;
use crate::publish::Backoff;
use crate::room::Level;
use crate::store::Shared;
use futures_util::future::select;
use nokv_env::{ClockExt, Duty, Fact};
use nokv_proto::coordinator::v1::{RegionReport, StoreHeartbeatRequest, TsoRequest};
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_replica::GroupStatus;
use rand_core::Rng;
use std::pin::pin;
use std::time::Duration;

const TSO_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Heartbeats that follow a change of leadership keep this distance: one for many changes.
const BEAT_DISTANCE: Duration = Duration::from_millis(50);

/// Sends heartbeats to the coordinator number `at`, for ever.
pub(crate) async fn beat(shared: &Shared, at: usize) {
    let mut accepted = false;
    loop {
        if shared.env.chance("store.heartbeat.skip", 0.05) {
            shared.env.clock.sleep(shared.config.heartbeat_interval).await;
            continue;
        }
        let heartbeat = heartbeat(shared);
        let reply = shared
            .coordinators
            .call(at, |mut client| async move { client.store_heartbeat(heartbeat).await })
            .await;
        match reply {
            Ok(reply) => {
                if !accepted {
                    tracing::info!(coordinator = shared.coordinators.addr(at), "heartbeats are accepted");
                }
                accepted = true;
                shared.coordinators.heard(at, shared.env.clock.now());
                if shared.points.learn(reply.gc_target, reply.gc_safe_point) {
                    shared.bells.gc.notify_one();
                }
                shared.operations.take(reply.operations);
            }
            Err(error) => {
                if accepted {
                    tracing::warn!(coordinator = shared.coordinators.addr(at), %error, "heartbeats fail");
                }
                accepted = false;
                shared.coordinators.missed(at, shared.env.clock.now(), error.message());
            }
        }
        shared.env.clock.sleep(BEAT_DISTANCE).await;
        let pause = shared.env.clock.sleep(shared.config.heartbeat_interval.saturating_sub(BEAT_DISTANCE));
        select(pin!(shared.bells.beat(at).notified()), pause).await;
    }
}

fn heartbeat(shared: &Shared) -> StoreHeartbeatRequest {
    let (mut regions, now) = (Vec::new(), shared.env.clock.now());
    for region in shared.door.regions.all() {
        let state = region.state();
        if !state.is_hosted() {
            continue;
        }
        let raft = shared.raft.status(region.group()).filter(|_| state.role.is_leader);
        let (learners, silent) = raft.map(|raft| unwell(&state.descriptor, &raft)).unwrap_or_default();
        let version = state.descriptor.epoch_pair().0;
        regions.push(RegionReport {
            learners,
            silent,
            bytes: bytes_on_disk(&shared.db, &state.descriptor),
            fill: if state.role.is_leader { region.fill().at(version) } else { 0 },
            descriptor: Some((*state.descriptor).clone()),
            leader: state.role.is_leader,
            term: state.role.term,
            applied_index: state.applied.index,
            peer_id: state.peer.unwrap_or(0),
            gc_resolved: region.swept().resolved(version),
            traffic: region.traffic().rates(now),
        });
    }
    let disk = &shared.env.disk;
    StoreHeartbeatRequest {
        store_id: shared.config.store_id,
        region_num: regions.len() as u64,
        leader_num: regions.iter().filter(|region| region.leader).count() as u64,
        capacity: disk.total_space(&shared.config.workdir).unwrap_or(0),
        available: disk.free_space(&shared.config.workdir).unwrap_or(0),
        dropped_operations: shared.operations.dropped(),
        address: shared.advertised(),
        regions,
        read_only: shared.room.level() > Level::Open,
        disk_reserve: shared.room.needed(&shared.config),
    }
}

/// Of the peers of a region that is led here: those without a vote, and those that nothing was heard of lately.
fn unwell(region: &RegionDescriptor, raft: &GroupStatus) -> (Vec<u64>, Vec<u64>) {
    let peers = region.peers.iter().map(|peer| peer.peer_id);
    let silent = peers.filter(|peer| !raft.active.contains(peer) && *peer != raft.peer);
    (raft.learners.clone(), silent.collect())
}

/// Fetches a timestamp whenever a region begins to lead, for ever.
pub(crate) async fn fetch_timestamps(shared: &Shared) {
    let mut rng = shared.env.rng.stream("store-timestamps");
    let mut backoff = Backoff::new(TSO_PAUSE_MAX);
    let (mut generation, mut sealed) = (0, 0);
    loop {
        let leading: Vec<_> =
            shared.door.regions.all().into_iter().filter(|r| r.state().role.is_leader).collect();
        // Wanted before the timestamp is drawn: it must be later than the election.
        let wanted: Vec<_> = leading
            .into_iter()
            .filter_map(|region| region.one_pc().wants().map(|want| (region.clone(), want)))
            .collect();
        if wanted.is_empty() {
            backoff = Backoff::new(TSO_PAUSE_MAX);
            shared.bells.timestamps.notified().await;
            continue;
        }
        let reply = shared
            .coordinators
            .first(|mut client| async move { client.tso(TsoRequest { count: 1 }).await })
            .await;
        match reply {
            // A coordinator of an older generation than one heard before has lost its lease without knowing; a sealed one
            // has answered before its end.
            Ok(reply)
                if reply.timestamp != 0
                    && reply.cert_generation >= generation
                    && (sealed == 0 || reply.cert_generation > sealed) =>
            {
                generation = reply.cert_generation;
                sealed = sealed.max(reply.observed_seal_generation);
                shared.env.fact(Fact::Accepted {
                    client: 0,
                    duty: Duty::Timestamps,
                    generation,
                    sealed: reply.observed_seal_generation,
                    first: reply.timestamp,
                    count: 1,
                });
                for (region, want) in wanted {
                    region.one_pc().enable(want, reply.timestamp);
                    shared.env.probe("store.one_pc.enabled");
                }
            }
            Ok(_) => shared.env.clock.sleep(backoff.pause(rng.next_u64())).await,
            Err(error) => {
                tracing::debug!(%error, "no timestamp for new leaders yet");
                shared.env.clock.sleep(backoff.pause(rng.next_u64())).await;
            }
        }
    }
}
