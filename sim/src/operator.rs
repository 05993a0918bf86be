//! What an operator does while faults happen: admin calls from outside the cluster.

use crate::services::{Role, coordinators};
use crate::world::World;
use bytes::Bytes;
use nokv_env::{Channel, ClockExt};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{
    AddPeerRequest, MergeRegionsRequest, RemovePeerRequest, SplitRegionRequest, TransferLeaderRequest,
};
use nokv_proto::coordinator::v1::PublishRootEventRequest;
use nokv_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{RootEvent, RootEventKind, RootStoreMembership};
use std::time::Duration;

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks every store; only the leader of the region will do it.
fn ask_all<F>(world: &World, call: impl Fn(RaftAdminClient<Channel>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(node) = world.outside() else { return };
    for store in 1..=u64::from(world.config.stores) {
        let env = world.env(node);
        let channel = env.net.connect(&Role::Store(store).addr());
        let (clock, asked) = (env.clock.clone(), call(RaftAdminClient::new(channel)));
        world.go_on(node, "operator", async move {
            let _ = clock.timeout(PATIENCE, asked).await;
        });
    }
}

/// Hands leadership of the region number `number`, in order of ids, to its peer on `store`.
pub fn transfer_leader(world: &World, number: u64, store: u64) {
    let regions = world.regions();
    let Some(region) = regions.values().nth(number as usize % regions.len().max(1)) else { return };
    let Some(peer) = region.peer_on_store(store) else { return };
    let request = TransferLeaderRequest { region_id: region.region_id, peer_id: peer.peer_id };
    ask_all(world, |mut admin| async move { drop(admin.transfer_leader(request).await) });
}

/// Splits the region that holds `key` there.
pub fn split(world: &World, key: &str) {
    let split_key = Bytes::copy_from_slice(key.as_bytes());
    let regions = world.regions();
    let Some(region) = regions.values().find(|region| region.contains(&split_key)) else { return };
    let region_id = region.region_id;
    ask_all(world, |mut admin| {
        let request = SplitRegionRequest { region_id, split_key: split_key.clone() };
        async move { drop(admin.split_region(request).await) }
    });
}

/// One step of merging the two regions that meet at `border`: brings the source to the stores of its target, then merges.
/// True when nothing is left to do.
pub fn merge(world: &World, border: &Bytes, into_left: bool) -> bool {
    let regions = world.regions();
    let left = regions.values().find(|region| region.end_key == *border);
    let right = regions.values().find(|region| region.start_key == *border);
    let (Some(left), Some(right)) = (left, right) else { return true };
    let (source, target) = if into_left { (right, left) } else { (left, right) };
    let (source_region_id, target_region_id) = (source.region_id, target.region_id);
    let lacking = target.peers.iter().find(|peer| source.peer_on_store(peer.store_id).is_none());
    let surplus = source.peers.iter().find(|peer| target.peer_on_store(peer.store_id).is_none());
    if let Some(peer) = lacking {
        let request = AddPeerRequest {
            region_id: source_region_id,
            store_id: peer.store_id,
            ..AddPeerRequest::default()
        };
        ask_all(world, |mut admin| async move { drop(admin.add_peer(request).await) });
    } else if let Some(peer) = surplus {
        let conf_version = source.epoch_pair().1;
        let request = RemovePeerRequest { region_id: source_region_id, peer_id: peer.peer_id, conf_version };
        ask_all(world, |mut admin| async move { drop(admin.remove_peer(request).await) });
    } else {
        let request = MergeRegionsRequest { source_region_id, target_region_id };
        ask_all(world, |mut admin| async move { drop(admin.merge_regions(request).await) });
    }
    false
}

/// Has a store emptied, or takes that back: asks every coordinator, one is enough.
pub fn decommission(world: &World, store_id: u64, wanted: bool) {
    let Some(node) = world.outside() else { return };
    let kind = if wanted { RootEventKind::StoreDecommissioned } else { RootEventKind::StoreRecommissioned };
    let membership = RootStoreMembership { store_id, address: String::new() };
    let event = RootEvent { kind: kind.into(), payload: Some(Payload::StoreMembership(membership)) };
    let request = PublishRootEventRequest { event: Some(event), expected_cluster_epoch: 0 };
    for addr in coordinators(&world.config) {
        let env = world.env(node);
        let (mut client, request) = (CoordinatorClient::new(env.net.connect(&addr)), request.clone());
        world.go_on(node, "operator", async move {
            let _ = env.clock.timeout(PATIENCE, client.publish_root_event(request)).await;
        });
    }
}

/// One step of moving a peer of a region to `store`: adds the new one, for half of all `which` in place of an old one, and
/// once it has its vote removes the one that is number `which` among the others. True when nothing is left to do.
pub fn move_peer(world: &World, region_id: u64, which: u64, store: u64) -> bool {
    let Some(region) = world.regions().remove(&region_id) else { return true };
    let others: Vec<u64> =
        region.peers.iter().filter(|peer| peer.store_id != store).map(|peer| peer.peer_id).collect();
    let Some(peer_id) = others.get(which as usize % others.len().max(1)).copied() else { return true };
    if region.peer_on_store(store).is_none() {
        let replaced_peer_id = if which.is_multiple_of(2) { 0 } else { peer_id };
        let request = AddPeerRequest { region_id, store_id: store, peer_id: 0, replaced_peer_id };
        ask_all(world, |mut admin| async move { drop(admin.add_peer(request).await) });
        return false;
    }
    if region.peers.len() <= usize::from(world.config.replicas) {
        return true;
    }
    // Others move peers, too, and messages arrive late and twice.
    let conf_version = region.epoch_pair().1;
    let request = RemovePeerRequest { region_id, peer_id, conf_version };
    ask_all(world, |mut admin| async move { drop(admin.remove_peer(request).await) });
    false
}
