//! A meta-root's metrics and checks.

use super::exposition::Exposition;
use super::{Check, Watch, hangs, process};
use nokv_metaroot::{Observation, Status};
use nokv_proto::id::Timestamp;

/// What is looked at; nothing while the node is being taken down.
pub type Look = (Status, Observation);

pub fn watch(look: impl Fn() -> Option<Look> + Send + Sync + 'static) -> Watch {
    Watch::new(
        look,
        |page, look| {
            if let Some((status, node)) = look {
                metrics(page, status, node);
            }
        },
        |look| look.as_ref().map(|(_, node)| live(node)).unwrap_or_default(),
        |look| look.as_ref().map(|(status, node)| ready(status.leader_id, node)).unwrap_or_default(),
    )
}

fn live(node: &Observation) -> Vec<Check> {
    let failed = node.raft.failed.as_ref().map(|why| format!("it has ended: {why}"));
    vec![Check::new("raft-loop", failed.or_else(|| hangs(node.raft.turned_ago)))]
}

fn ready(leader_id: u64, node: &Observation) -> Vec<Check> {
    let leader = (leader_id == 0).then(|| "no leader is known; an election may be under way".to_owned());
    let quorum = node
        .heard_peers
        .filter(|heard| heard * 2 <= node.peers)
        .map(|heard| format!("only {heard} of {} meta-roots are heard of, this one included", node.peers));
    vec![
        Check::new("raft", node.raft.failed.clone().or_else(|| hangs(node.raft.turned_ago))),
        Check::new("leader", leader),
        Check::new("quorum", quorum),
    ]
}

pub fn metrics(page: &mut Exposition, status: &Status, node: &Observation) {
    page.gauge("nokv_root_is_leader", "1: this node leads the meta-roots.", status.is_leader);
    page.gauge("nokv_root_has_leader", "1: a leader is known here.", status.leader_id != 0);
    page.gauge("nokv_root_term", "Raft term.", status.term);
    page.gauge("nokv_root_commit_index", "Last log entry committed.", node.commit_index);
    page.gauge("nokv_root_applied_index", "Last log entry applied.", status.applied_index);
    page.gauge("nokv_root_last_index", "Last log entry.", node.last_index);
    page.gauge("nokv_root_peers", "Meta-roots that vote.", node.peers);
    page.gauge(
        "nokv_root_heard_peers",
        "On the leader: meta-roots heard of lately, itself included.",
        node.heard_peers,
    );
    page.gauge(
        "nokv_root_last_event_index",
        "Place of the newest event in the log.",
        status.last_committed.index,
    );
    page.gauge("nokv_root_cluster_epoch", "Grows with every change of regions.", status.cluster_epoch);
    page.gauge("nokv_root_membership_epoch", "Grows with every change of stores.", status.membership_epoch);
    page.gauge("nokv_root_regions", "Regions on record.", status.descriptor_count as u64);
    page.gauge(
        "nokv_root_pending_peer_changes",
        "Changes of membership under way.",
        status.pending_peer_changes as u64,
    );
    page.gauge(
        "nokv_root_pending_range_changes",
        "Splits and merges under way.",
        status.pending_range_changes as u64,
    );
    page.gauge(
        "nokv_root_decommissioned_stores",
        "Stores that are to be emptied.",
        status.decommissioned_stores.len() as u64,
    );
    page.gauge("nokv_root_id_fence", "Ids up to here may have been handed out.", status.id_fence);
    let at = |timestamp| (timestamp != 0).then(|| Timestamp(timestamp).physical_ms() as f64 / 1e3);
    page.gauge(
        "nokv_root_timestamp_fence_seconds",
        "Timestamps up to this time, since the Unix epoch, may have been handed out.",
        at(status.tso_fence),
    );
    page.gauge(
        "nokv_root_safe_point_seconds",
        "The safe point, since the Unix epoch.",
        at(status.gc_safe_point),
    );
    page.gauge(
        "nokv_root_lease_generation",
        "The newest generation of the coordinator lease.",
        status.lease_generation,
    );
    page.gauge(
        "nokv_root_sealed_generation",
        "The newest generation of the coordinator lease that has ended.",
        status.sealed_generation,
    );
    process::disk(page, node.disk_free_bytes, node.disk_total_bytes);
    process::raft(page, &node.raft);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_node_without_leader_or_quorum_is_not_ready() {
        let failed = |leader, node: &Observation| -> Vec<&'static str> {
            let checks = ready(leader, node);
            checks.iter().filter(|check| check.problem.is_some()).map(|check| check.name).collect()
        };
        let mut node = Observation { peers: 3, ..Default::default() };
        assert_eq!(failed(2, &node), [""; 0], "a follower");
        assert_eq!(failed(0, &node), ["leader"]);
        node.heard_peers = Some(2);
        assert_eq!(failed(1, &node), [""; 0]);
        node.heard_peers = Some(1);
        assert_eq!(failed(1, &node), ["quorum"]);
        node.raft.turned_ago = Some(Duration::from_secs(99));
        assert_eq!(failed(1, &node), ["raft", "quorum"]);
        assert!(live(&node)[0].problem.is_some());
    }
}
