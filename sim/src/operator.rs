//! What an operator does while faults happen: admin calls from outside the cluster.

use crate::services::Role;
use crate::world::World;
use nokv_env::ClockExt;
use nokv_proto::admin::v1::TransferLeaderRequest;
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use std::time::Duration;

/// Asks every store to hand leadership of `region` to the peer on `store`; only the leader will.
pub fn transfer_leader(world: &World, region: u64, store: u64) {
    let Some(node) = world.nodes().find(|node| world.role(*node) == Role::Client(1)) else { return };
    let peer = region * 100 + store;
    for other in 1..=u64::from(world.config.stores) {
        let env = world.env(node);
        let channel = env.net.connect(&Role::Store(other).addr());
        let clock = env.clock.clone();
        world.go_on(node, "operator", async move {
            let mut admin = RaftAdminClient::new(channel);
            let request = TransferLeaderRequest { region_id: region, peer_id: peer };
            let _ = clock.timeout(Duration::from_secs(2), admin.transfer_leader(request)).await;
        });
    }
}
