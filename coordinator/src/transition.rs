//! What would become of a topology event if it were published now: the pure assessment of transitions.

use crate::view::View;
use nokv_proto::coordinator::v1::{
    TransitionAssessment, TransitionDecision, TransitionEntry, TransitionKind, TransitionReason,
    TransitionRetryClass, TransitionStatus,
};
use nokv_proto::meta::v1::{
    RegionDescriptor, RootEvent, RootEventKind, RootPendingPeerChangeKind, root_event,
};

/// Changes under way, as the root records them.
pub fn list(view: &View) -> Vec<TransitionEntry> {
    let pending = |key, kind: TransitionKind, transition_id| TransitionEntry {
        key,
        kind: kind as i32,
        status: TransitionStatus::Pending as i32,
        reason: TransitionReason::MatchingPending as i32,
        transition_id,
        ..Default::default()
    };
    let peers = view.pending_peer_changes.values().map(|change| {
        let verb = if change.kind() == RootPendingPeerChangeKind::Removal { "remove" } else { "add" };
        let id = format!("peer:{}:{verb}:{}:{}", change.region_id, change.store_id, change.peer_id);
        TransitionEntry {
            pending_peer_change: Some(change.clone()),
            ..pending(change.region_id, TransitionKind::PeerChange, id)
        }
    });
    let ranges = view.pending_range_changes.iter().map(|change| {
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
    });
    peers.chain(ranges).collect()
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
        list(view).into_iter().find(|entry| entry.key == key && kind != TransitionKind::Unspecified);
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
        RegionEpoch, RootCheckpoint, RootPeerChange, RootPendingPeerChange, RootRegionDescriptor,
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
}
