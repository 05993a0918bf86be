//! Changes of regions that are under way, and what would become of a topology event if it were published now.
//!
//! Our stores publish no plans, see `docs/design/003-splits-without-plans.md`: a change is under way when the region
//! itself says so, in its descriptor or in what its leader reports. Plans that others have published are shown, and
//! respected, as the reference does.

use crate::view::View;
use nokv_proto::coordinator::v1::{
    RegionReport, TransitionAssessment, TransitionDecision, TransitionEntry, TransitionKind,
    TransitionReason, TransitionRetryClass, TransitionStatus,
};
use nokv_proto::meta::v1::{
    DescriptorLineageKind, RegionDescriptor, RegionPeer, RegionReplicaState, RootEvent, RootEventKind,
    RootPendingPeerChange, RootPendingPeerChangeKind, RootPendingRangeChange, RootPendingRangeChangeKind,
    root_event,
};
use std::collections::{BTreeMap, BTreeSet};

/// What the leader of each region reports.
type Reports<'a> = BTreeMap<u64, (RegionPeer, &'a RegionReport)>;

/// Changes under way: those that were planned at the root, and those that regions tell of.
pub fn list(view: &View, reports: &Reports<'_>) -> Vec<TransitionEntry> {
    let mut entries = planned(view);
    let known: BTreeSet<String> = entries.iter().map(|entry| entry.transition_id.clone()).collect();
    let told = view
        .regions()
        .flat_map(|region| under_way(region, reports.get(&region.region_id).map(|(_, report)| *report)));
    entries.extend(told.filter(|entry| !known.contains(&entry.transition_id)));
    entries
}

/// What a region is going through by itself, as the root and its leader know it.
fn under_way(known: &RegionDescriptor, report: Option<&RegionReport>) -> Vec<TransitionEntry> {
    let told = report.and_then(|report| report.descriptor.as_ref());
    let region = told.filter(|told| told.epoch_pair() >= known.epoch_pair()).unwrap_or(known);
    let (id, leaving) = (region.region_id, region.leaving_peer_id);
    let learners = report.map(|report| &report.learners[..]).unwrap_or_default();
    let coming = learners.iter().filter(|peer| **peer != leaving);
    let changes = coming.map(|peer| (*peer, RootPendingPeerChangeKind::Addition));
    let changes = changes.chain((leaving != 0).then_some((leaving, RootPendingPeerChangeKind::Removal)));
    let peers = changes.filter_map(|(peer, kind)| {
        let RegionPeer { store_id, peer_id } = *region.peer(peer)?;
        let base = Some(region.clone());
        let change =
            RootPendingPeerChange { region_id: id, store_id, peer_id, kind: kind.into(), target: None, base };
        Some(peer_entry(&change))
    });
    let targets = region.lineage.iter().filter(|ref_| ref_.kind() == DescriptorLineageKind::MergeTarget);
    let merges = targets.filter(|_| region.state() == RegionReplicaState::Merging).map(|target| {
        let change = RootPendingRangeChange {
            region_id: id,
            kind: RootPendingRangeChangeKind::Merge.into(),
            left_region_id: id,
            right_region_id: target.region_id,
            base_left: Some(region.clone()),
            ..RootPendingRangeChange::default()
        };
        range_entry(&change)
    });
    let entries = peers.chain(merges);
    entries.map(|entry| TransitionEntry { reason: TransitionReason::None.into(), ..entry }).collect()
}

fn pending(key: u64, kind: TransitionKind, transition_id: String) -> TransitionEntry {
    TransitionEntry {
        key,
        kind: kind as i32,
        status: TransitionStatus::Pending as i32,
        reason: TransitionReason::MatchingPending as i32,
        transition_id,
        ..TransitionEntry::default()
    }
}

fn peer_entry(change: &RootPendingPeerChange) -> TransitionEntry {
    let verb = if change.kind() == RootPendingPeerChangeKind::Removal { "remove" } else { "add" };
    let id = format!("peer:{}:{verb}:{}:{}", change.region_id, change.store_id, change.peer_id);
    TransitionEntry {
        pending_peer_change: Some(change.clone()),
        ..pending(change.region_id, TransitionKind::PeerChange, id)
    }
}

fn range_entry(change: &RootPendingRangeChange) -> TransitionEntry {
    let (key, id) = if change.parent_region_id != 0 {
        let key = change.parent_region_id;
        (key, format!("split:{key}:{}:{}", change.left_region_id, change.right_region_id))
    } else {
        let key = change.left_region_id;
        (key, format!("merge:{key}:{}", change.right_region_id))
    };
    TransitionEntry {
        pending_range_change: Some(change.clone()),
        ..pending(key, TransitionKind::RangeChange, id)
    }
}

/// Changes under way, as the root records them.
fn planned(view: &View) -> Vec<TransitionEntry> {
    let peers = view.pending_peer_changes.values().map(peer_entry);
    peers.chain(view.pending_range_changes.iter().map(range_entry)).collect()
}
/// Assesses `event` against the view; the root's own state machine has the last word when it is published.
pub fn assess(view: &View, event: &RootEvent) -> TransitionAssessment {
    let (key, kind, transition_id, targets) = subject(event);
    let judged = |status: TransitionStatus, reason: TransitionReason, decision: TransitionDecision| {
        let retry_class = if status == TransitionStatus::Conflict {
            TransitionRetryClass::Conflict
        } else {
            TransitionRetryClass::None
        };
        TransitionAssessment {
            key,
            kind: kind as i32,
            status: status as i32,
            retry_class: retry_class as i32,
            reason: reason as i32,
            decision: decision as i32,
            transition_id: transition_id.clone(),
        }
    };
    use TransitionDecision::{Apply, Skip};
    use TransitionReason as Reason;
    use TransitionStatus as Status;
    let pending =
        planned(view).into_iter().find(|entry| entry.key == key && kind != TransitionKind::Unspecified);
    let matches = pending.as_ref().is_some_and(|entry| entry.transition_id == transition_id);
    match (Class::of(event.kind()), pending.is_some(), matches) {
        (Class::Planned, _, true) => judged(Status::Pending, Reason::MatchingPending, Skip),
        (Class::Terminal | Class::Cancel, _, true) => judged(Status::Pending, Reason::MatchingPending, Apply),
        (Class::Planned | Class::Terminal | Class::Cancel, true, false) => {
            judged(Status::Conflict, Reason::ConflictingPending, Apply)
        }
        (Class::Cancel, false, _) if reached(view, &targets) => {
            judged(Status::Aborted, Reason::AbortedApply, Apply)
        }
        (Class::Cancel, false, _) => judged(Status::Cancelled, Reason::CancelledTarget, Skip),
        (Class::Planned | Class::Terminal, false, _) if reached(view, &targets) => {
            judged(Status::Completed, Reason::AlreadyCompleted, Skip)
        }
        (Class::Planned, false, _) if superseded(view, &targets) => {
            judged(Status::Superseded, Reason::SupersededTarget, Skip)
        }
        (Class::Terminal, false, _) if superseded(view, &targets) => {
            judged(Status::Aborted, Reason::AbortedApply, Apply)
        }
        // A replica that tells late what the root has heard of from others, and more.
        (Class::Other, ..) if overtaken(view, &targets) => {
            judged(Status::Superseded, Reason::SupersededTarget, Skip)
        }
        _ => judged(Status::Open, Reason::OpenApply, Apply),
    }
}

enum Class {
    Planned,
    Terminal,
    Cancel,
    Other,
}

impl Class {
    fn of(kind: RootEventKind) -> Class {
        use RootEventKind as Kind;
        match kind {
            Kind::RegionSplitPlanned
            | Kind::RegionMergePlanned
            | Kind::PeerAdditionPlanned
            | Kind::PeerRemovalPlanned => Class::Planned,
            Kind::RegionSplitCommitted | Kind::RegionMerged | Kind::PeerAdded | Kind::PeerRemoved => {
                Class::Terminal
            }
            Kind::RegionSplitCancelled
            | Kind::RegionMergeCancelled
            | Kind::PeerAdditionCancelled
            | Kind::PeerRemovalCancelled => Class::Cancel,
            _ => Class::Other,
        }
    }
}

/// Key, kind, id and target descriptors of the transition that an event belongs to.
fn subject(event: &RootEvent) -> (u64, TransitionKind, String, Vec<&RegionDescriptor>) {
    use RootEventKind as Kind;
    match &event.payload {
        Some(root_event::Payload::PeerChange(change)) => {
            let removal = matches!(
                event.kind(),
                Kind::PeerRemovalPlanned | Kind::PeerRemoved | Kind::PeerRemovalCancelled
            );
            let verb = if removal { "remove" } else { "add" };
            let id = format!("peer:{}:{verb}:{}:{}", change.region_id, change.store_id, change.peer_id);
            (change.region_id, TransitionKind::PeerChange, id, change.target.iter().collect())
        }
        Some(root_event::Payload::RangeSplit(split)) => {
            let id_of = |side: &Option<RegionDescriptor>| side.as_ref().map_or(0, |region| region.region_id);
            let key = split.parent_region_id;
            let id = format!("split:{key}:{}:{}", id_of(&split.left), id_of(&split.right));
            (key, TransitionKind::RangeChange, id, split.left.iter().chain(&split.right).collect())
        }
        Some(root_event::Payload::RangeMerge(merge)) => {
            let key = merge.left_region_id;
            let id = format!("merge:{key}:{}", merge.right_region_id);
            (key, TransitionKind::RangeChange, id, merge.merged.iter().collect())
        }
        Some(root_event::Payload::RegionDescriptor(region)) => {
            let targets: Vec<_> = region.descriptor.iter().collect();
            let key = targets.first().map_or(0, |region| region.region_id);
            (key, TransitionKind::Unspecified, String::new(), targets)
        }
        _ => (0, TransitionKind::Unspecified, String::new(), Vec::new()),
    }
}

fn reached(view: &View, targets: &[&RegionDescriptor]) -> bool {
    !targets.is_empty()
        && targets.iter().all(|target| {
            view.region(target.region_id).is_some_and(|known| {
                known.epoch == target.epoch && known.peers == target.peers && known.range() == target.range()
            })
        })
}

/// Whether the root knows later states of all these regions.
fn overtaken(view: &View, targets: &[&RegionDescriptor]) -> bool {
    !targets.is_empty()
        && targets.iter().all(|target| {
            view.region(target.region_id).is_some_and(|known| {
                let (known, target) = (known.epoch_pair(), target.epoch_pair());
                known != target && known.0 >= target.0 && known.1 >= target.1
            })
        })
}

fn superseded(view: &View, targets: &[&RegionDescriptor]) -> bool {
    targets.iter().any(|target| {
        view.region(target.region_id).is_some_and(|known| {
            let (known, target) = (known.epoch_pair(), target.epoch_pair());
            known.0 > target.0 || known.1 > target.1
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::meta::v1::{
        DescriptorLineageRef, RegionEpoch, RootCheckpoint, RootPeerChange, RootRegionDescriptor,
        RootTailToken,
    };

    fn region(version: u64, conf_version: u64) -> RegionDescriptor {
        let epoch = Some(RegionEpoch { version, conf_version });
        RegionDescriptor { region_id: 1, epoch, ..RegionDescriptor::default() }
    }

    fn decision(version: u64, conf_version: u64) -> TransitionDecision {
        let mut view = View::default();
        let known = RootCheckpoint { descriptors: vec![region(2, 3)], ..RootCheckpoint::default() };
        view.install(known, RootTailToken::default());
        let descriptor = Some(region(version, conf_version));
        let payload = root_event::Payload::RegionDescriptor(RootRegionDescriptor { descriptor });
        let event =
            RootEvent { kind: RootEventKind::RegionDescriptorPublished.into(), payload: Some(payload) };
        assess(&view, &event).decision()
    }

    /// The root knows region 1 at (2, 3), and perhaps a pending change that adds peer 9.
    fn peer_change(
        kind: RootEventKind,
        conf_version: u64,
        pending: Option<u64>,
    ) -> (TransitionStatus, TransitionDecision) {
        let change = |peer_id| RootPendingPeerChange {
            region_id: 1,
            store_id: 4,
            peer_id,
            kind: RootPendingPeerChangeKind::Addition.into(),
            ..RootPendingPeerChange::default()
        };
        let mut view = View::default();
        let known = RootCheckpoint {
            descriptors: vec![region(2, 3)],
            pending_peer_changes: pending.map(change).into_iter().collect(),
            ..RootCheckpoint::default()
        };
        view.install(known, RootTailToken::default());
        let change = RootPeerChange {
            region_id: 1,
            store_id: 4,
            peer_id: 9,
            target: Some(region(2, conf_version)),
            base: None,
        };
        let event = RootEvent { kind: kind.into(), payload: Some(root_event::Payload::PeerChange(change)) };
        let assessment = assess(&view, &event);
        (assessment.status(), assessment.decision())
    }

    #[test]
    fn every_class_of_event_is_assessed_as_the_table_says() {
        use RootEventKind::{PeerAdded, PeerAdditionCancelled, PeerAdditionPlanned};
        use TransitionDecision::{Apply, Skip};
        use TransitionStatus as Status;
        assert_eq!(peer_change(PeerAdditionPlanned, 4, Some(9)), (Status::Pending, Skip));
        assert_eq!(peer_change(PeerAdditionPlanned, 3, None), (Status::Completed, Skip));
        assert_eq!(peer_change(PeerAdditionPlanned, 2, None), (Status::Superseded, Skip));
        assert_eq!(peer_change(PeerAdditionPlanned, 4, Some(8)), (Status::Conflict, Apply));
        assert_eq!(peer_change(PeerAdditionPlanned, 4, None), (Status::Open, Apply));
        assert_eq!(peer_change(PeerAdded, 4, Some(9)), (Status::Pending, Apply));
        assert_eq!(peer_change(PeerAdded, 3, None), (Status::Completed, Skip));
        assert_eq!(peer_change(PeerAdded, 2, None), (Status::Aborted, Apply));
        assert_eq!(peer_change(PeerAdded, 4, Some(8)), (Status::Conflict, Apply));
        assert_eq!(peer_change(PeerAdded, 4, None), (Status::Open, Apply));
        assert_eq!(peer_change(PeerAdditionCancelled, 4, Some(9)), (Status::Pending, Apply));
        assert_eq!(peer_change(PeerAdditionCancelled, 4, Some(8)), (Status::Conflict, Apply));
        assert_eq!(peer_change(PeerAdditionCancelled, 4, None), (Status::Cancelled, Skip));
        assert_eq!(peer_change(PeerAdditionCancelled, 3, None), (Status::Aborted, Apply), "it has happened");
    }

    #[test]
    fn what_the_root_has_gone_past_is_accepted_and_not_written() {
        assert_eq!(decision(2, 2), TransitionDecision::Skip);
        assert_eq!(decision(1, 3), TransitionDecision::Skip);
        assert_eq!(decision(2, 4), TransitionDecision::Apply);
        assert_eq!(decision(3, 2), TransitionDecision::Apply, "the root decides what is not clear");
    }

    #[test]
    fn what_a_region_goes_through_is_a_transition() {
        let peer = |store_id| RegionPeer { store_id, peer_id: store_id + 100 };
        let known = RegionDescriptor { peers: vec![peer(1), peer(2), peer(3)], ..region(2, 3) };
        let ids = |region: &RegionDescriptor, report: Option<&RegionReport>| {
            under_way(region, report).into_iter().map(|entry| entry.transition_id).collect::<Vec<_>>()
        };
        assert!(ids(&known, None).is_empty());
        let moved = RegionDescriptor {
            peers: vec![peer(1), peer(2), peer(3), peer(4)],
            leaving_peer_id: 102,
            ..region(2, 4)
        };
        let report = RegionReport { descriptor: Some(moved), learners: vec![104], ..RegionReport::default() };
        assert_eq!(ids(&known, Some(&report)), ["peer:1:add:4:104", "peer:1:remove:2:102"]);
        let late = RegionDescriptor { epoch: region(2, 5).epoch, ..known.clone() };
        assert!(ids(&late, Some(&report)).is_empty(), "the root has heard of what came after");
        let mut frozen = RegionDescriptor { state: RegionReplicaState::Merging.into(), ..known };
        let kind = DescriptorLineageKind::MergeTarget.into();
        frozen.lineage.push(DescriptorLineageRef { region_id: 9, kind, ..DescriptorLineageRef::default() });
        assert_eq!(ids(&frozen, None), ["merge:1:9"]);
    }
}
