//! Merging a region into a neighbour, as pure functions: what each entry of a merge makes of the regions.
//!
//! ```text
//!                     source, region 9 [m ─── z)                  target, region 7 [a ─── m)
//! "freeze"  9's log   version 4 → 5, serves nothing any more      version 6
//!                     every peer has 9's log up to here
//! "unite"   7's log   gone                                        version 7 [a ─────── z), took 9 over at version 5
//! or
//! "refuse"  7's log                                               version 7, as it was
//! "thaw"    9's log   version 6, serves again
//! ```
//!
//! The target's log decides. "unite" takes effect only in the very epoch of the target that "freeze" names, and whatever takes
//! effect moves the epoch on, "refuse" included. A region remembers what it took over, and what that had taken over. So of a
//! target past that epoch anybody can tell whether it took the source over or never will ([`verdict`]); only then
//! may the source thaw. See `docs/design/011`.

use crate::catalog::{Gc, Members};
use crate::region::refuse;
use nokv_proto::error::v1::RegionError;
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{
    DescriptorLineageKind as Lineage, DescriptorLineageRef, RegionDescriptor, RegionEpoch,
    RegionReplicaState, RootEvent, RootEventKind, RootRangeMerge,
};
use nokv_proto::raft::v1::{MergeCommand, MergeStep};
use std::collections::BTreeSet;

/// What "unite" makes of two regions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Union {
    /// The target, larger.
    pub(crate) merged: RegionDescriptor,
    /// The frozen source.
    pub(crate) source: RegionDescriptor,
    /// Whether the source lay left of the target.
    source_is_left: bool,
}

impl Union {
    /// What the meta-root must hear.
    pub(crate) fn event(&self) -> RootEvent {
        let (source, target) = (self.source.region_id, self.merged.region_id);
        let (left, right) = if self.source_is_left { (source, target) } else { (target, source) };
        let merge = RootRangeMerge {
            left_region_id: left,
            right_region_id: right,
            merged: Some(self.merged.clone()),
            ..RootRangeMerge::default()
        };
        RootEvent { kind: RootEventKind::RegionMerged.into(), payload: Some(Payload::RangeMerge(merge)) }
    }
}

/// What became of a merge, as far as some regions tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The target may still take the source over.
    Open,
    /// It did.
    United,
    /// It never will.
    Refused,
}

/// Whether a region serves nothing because a neighbour may take it over at any moment.
pub(crate) fn is_frozen(region: &RegionDescriptor) -> bool {
    region.state() == RegionReplicaState::Merging
}

/// Who is to take a frozen region over, in which epoch.
pub(crate) fn target_of(region: &RegionDescriptor) -> Option<&DescriptorLineageRef> {
    region.lineage.iter().find(|origin| origin.kind() == Lineage::MergeTarget)
}

/// At which epoch `region` took another one over, if it did.
pub(crate) fn taken_over(region: &RegionDescriptor, source: u64) -> Option<RegionEpoch> {
    let taken =
        |origin: &&DescriptorLineageRef| origin.kind() == Lineage::MergeSource && origin.region_id == source;
    region.lineage.iter().find(taken).and_then(|origin| origin.epoch)
}

/// Whether the state of a region that `known` shows, or a later one, is part of `region` now.
pub(crate) fn is_part_of(known: &RegionDescriptor, region: &RegionDescriptor) -> bool {
    taken_over(region, known.region_id).is_some_and(|at| known.epoch_pair().0 <= at.version)
}

/// Whether a region that stands on a store goes when `region` comes there, which has taken it over.
pub(crate) fn is_absorbed(other: &RegionDescriptor, region: &RegionDescriptor) -> bool {
    is_part_of(other, region) && other.state() != RegionReplicaState::Tombstone
}

/// What is left of `part` on a store that has `region`, which took it over.
pub(crate) fn tombstone(part: &RegionDescriptor, region: &RegionDescriptor) -> RegionDescriptor {
    let mut last = part.clone();
    last.epoch = taken_over(region, part.region_id).or(last.epoch);
    last.set_state(RegionReplicaState::Tombstone);
    last
}

/// `region`, and everything it took over.
pub(crate) fn family(region: &RegionDescriptor) -> impl Iterator<Item = u64> {
    let taken = region.lineage.iter().filter(|origin| origin.kind() == Lineage::MergeSource);
    std::iter::once(region.region_id).chain(taken.map(|origin| origin.region_id))
}

/// What became of the merge that `frozen` waits for, as `known` regions tell, each in a state that was applied somewhere.
pub(crate) fn verdict<'a>(
    frozen: &RegionDescriptor,
    known: impl Iterator<Item = &'a RegionDescriptor> + Clone,
) -> Verdict {
    let Some(target) = target_of(frozen) else { return Verdict::Open };
    if known.clone().any(|region| is_part_of(frozen, region)) {
        return Verdict::United;
    }
    let is_past = |epoch: (u64, u64)| epoch.0 > epoch_of(target).0 || epoch.1 > epoch_of(target).1;
    let moved_on = |region: &RegionDescriptor| {
        let itself = region.region_id == target.region_id && is_past(region.epoch_pair());
        // Whoever took the target over knows what the target had taken over.
        let within =
            taken_over(region, target.region_id).is_some_and(|at| is_past((at.version, at.conf_version)));
        itself || within
    };
    let mut known = known;
    if known.any(moved_on) { Verdict::Refused } else { Verdict::Open }
}

fn epoch_of(origin: &DescriptorLineageRef) -> (u64, u64) {
    origin.epoch.map_or((0, 0), |epoch| (epoch.version, epoch.conf_version))
}

fn command(source: u64, target: u64, step: MergeStep) -> MergeCommand {
    MergeCommand {
        source_region_id: source,
        target_region_id: target,
        step: step.into(),
        ..MergeCommand::default()
    }
}

/// The entry that freezes `source` for `target`.
pub(crate) fn to_freeze(source: &RegionDescriptor, target: &RegionDescriptor) -> MergeCommand {
    MergeCommand {
        source_epoch: source.epoch,
        target_epoch: target.epoch,
        ..command(source.region_id, target.region_id, MergeStep::Freeze)
    }
}

/// The entry that lets a frozen region serve again.
pub(crate) fn to_thaw(frozen: &RegionDescriptor) -> MergeCommand {
    let target = target_of(frozen).map_or(0, |target| target.region_id);
    MergeCommand { source_epoch: frozen.epoch, ..command(frozen.region_id, target, MergeStep::Thaw) }
}

/// The entry that lets the target take `frozen` over, which was frozen by the entry at (index, term).
pub(crate) fn to_unite(frozen: &RegionDescriptor, index: u64, term: u64) -> Option<MergeCommand> {
    let target = target_of(frozen)?;
    Some(MergeCommand {
        source_epoch: frozen.epoch,
        target_epoch: target.epoch,
        source: Some(frozen.clone()),
        frozen_index: index,
        frozen_term: term,
        ..command(frozen.region_id, target.region_id, MergeStep::Unite)
    })
}

/// The entry after which the target cannot take `frozen` over any more.
pub(crate) fn to_refuse(frozen: &RegionDescriptor) -> Option<MergeCommand> {
    let target = target_of(frozen)?;
    Some(MergeCommand {
        source_epoch: frozen.epoch,
        target_epoch: target.epoch,
        ..command(frozen.region_id, target.region_id, MergeStep::Refuse)
    })
}

type Outcome<T> = Result<T, Box<RegionError>>;

/// The source after "freeze".
pub(crate) fn freeze(
    source: &RegionDescriptor,
    members: &Members,
    merge: &MergeCommand,
) -> Outcome<RegionDescriptor> {
    if source.epoch != merge.source_epoch || !is_settled(source, members) || merge.target_epoch.is_none() {
        return Err(refuse::epoch(source));
    }
    let mut frozen = source.clone();
    frozen.set_state(RegionReplicaState::Merging);
    frozen.epoch = Some(next_version(source));
    frozen.lineage.push(DescriptorLineageRef {
        region_id: merge.target_region_id,
        epoch: merge.target_epoch,
        kind: Lineage::MergeTarget.into(),
        ..DescriptorLineageRef::default()
    });
    Ok(frozen)
}

/// The source after "thaw".
pub(crate) fn thaw(source: &RegionDescriptor, merge: &MergeCommand) -> Outcome<RegionDescriptor> {
    if source.epoch != merge.source_epoch || !is_frozen(source) {
        return Err(refuse::epoch(source));
    }
    let mut thawed = source.clone();
    thawed.set_state(RegionReplicaState::Running);
    thawed.epoch = Some(next_version(source));
    thawed.lineage.retain(|origin| origin.kind() != Lineage::MergeTarget);
    Ok(thawed)
}

/// The target after "refuse".
pub(crate) fn turn_down(target: &RegionDescriptor, merge: &MergeCommand) -> Outcome<RegionDescriptor> {
    if target.epoch != merge.target_epoch || is_frozen(target) {
        return Err(refuse::epoch(target));
    }
    Ok(RegionDescriptor { epoch: Some(next_version(target)), ..target.clone() })
}

/// What "unite" makes of `target`, or why the target is not what the merge was made for.
pub(crate) fn unite(target: &RegionDescriptor, members: &Members, merge: &MergeCommand) -> Outcome<Union> {
    let Some(source) = &merge.source else { return Err(refuse::epoch(target)) };
    let fits = target.epoch == merge.target_epoch
        && is_settled(target, members)
        && is_frozen(source)
        && source.epoch == merge.source_epoch
        && source.problem().is_none()
        && same_stores(source, target);
    let (Some(source_is_left), true) = (is_left_of(source, target), fits) else {
        return Err(refuse::epoch(target));
    };
    let (start_key, end_key) = if source_is_left {
        (source.start_key.clone(), target.end_key.clone())
    } else {
        (target.start_key.clone(), source.end_key.clone())
    };
    let version = target.epoch_pair().0.max(source.epoch_pair().0) + 1;
    let mut merged = RegionDescriptor {
        start_key,
        end_key,
        epoch: Some(RegionEpoch { version, conf_version: target.epoch_pair().1 }),
        ..target.clone()
    };
    let taken = source.lineage.iter().filter(|origin| origin.kind() == Lineage::MergeSource);
    merged.lineage.extend(taken.cloned());
    merged.lineage.push(DescriptorLineageRef {
        region_id: source.region_id,
        epoch: source.epoch,
        kind: Lineage::MergeSource.into(),
        ..DescriptorLineageRef::default()
    });
    Ok(Union { merged, source: source.clone(), source_is_left })
}

/// What is closed or gone in one of the two counts for both.
pub(crate) fn stricter(a: Gc, b: Gc) -> Gc {
    Gc { fence: a.fence.max(b.fence), safe_point: a.safe_point.max(b.safe_point) }
}

/// Whether the two could be merged now, as far as their descriptors tell; the error says why not.
pub(crate) fn may_merge(source: &RegionDescriptor, target: &RegionDescriptor) -> Result<(), String> {
    let (from, into) = (source.region_id, target.region_id);
    if from == into {
        return Err(format!("region {from} cannot be merged into itself"));
    }
    if is_left_of(source, target).is_none() {
        return Err(format!("regions {from} and {into} are no neighbours"));
    }
    if !same_stores(source, target) {
        return Err(format!("regions {from} and {into} are not on the same stores"));
    }
    for region in [source, target] {
        if is_frozen(region) {
            return Err(format!("region {} is being merged", region.region_id));
        }
    }
    Ok(())
}

/// Serves, and everybody in it votes, for one thing at a time.
fn is_settled(region: &RegionDescriptor, members: &Members) -> bool {
    !is_frozen(region)
        && region.quarantined_peer_ids.is_empty()
        && members.learners.is_empty()
        && members.voters_outgoing.is_empty()
        && members.learners_next.is_empty()
}

/// Whether `source` touches `target` from the left (`true`) or from the right; `None`: it does not.
fn is_left_of(source: &RegionDescriptor, target: &RegionDescriptor) -> Option<bool> {
    let touch = |left: &RegionDescriptor, right: &RegionDescriptor| {
        !left.end_key.is_empty() && left.end_key == right.start_key
    };
    match (touch(source, target), touch(target, source)) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    }
}

fn same_stores(a: &RegionDescriptor, b: &RegionDescriptor) -> bool {
    let stores =
        |region: &RegionDescriptor| region.peers.iter().map(|peer| peer.store_id).collect::<BTreeSet<_>>();
    stores(a) == stores(b)
}

fn next_version(region: &RegionDescriptor) -> RegionEpoch {
    let (version, conf_version) = region.epoch_pair();
    RegionEpoch { version: version + 1, conf_version }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::region;

    fn part(id: u64, start: &'static str, end: &'static str, version: u64) -> RegionDescriptor {
        let mut part = region(&[1, 2, 3]);
        part.region_id = id;
        (part.start_key, part.end_key) = (start.into(), end.into());
        part.epoch = Some(RegionEpoch { version, conf_version: 1 });
        for peer in &mut part.peers {
            peer.peer_id = peer.store_id * 100 + id;
        }
        part
    }

    fn voters(region: &RegionDescriptor) -> Members {
        Members::all_vote(region)
    }

    fn frozen(source: &RegionDescriptor, target: &RegionDescriptor) -> RegionDescriptor {
        freeze(source, &voters(source), &to_freeze(source, target)).expect("frozen")
    }

    fn united(source: &RegionDescriptor, target: &RegionDescriptor) -> Union {
        let merge = to_unite(&frozen(source, target), 10, 2).expect("has a target");
        unite(target, &voters(target), &merge).expect("united")
    }

    #[test]
    fn a_neighbour_is_taken_over_from_either_side() {
        let (left, right) = (part(7, "", "m", 6), part(9, "m", "", 4));
        let into_left = united(&right, &left);
        let merged = &into_left.merged;
        assert_eq!((merged.region_id, merged.epoch_pair()), (7, (7, 1)));
        assert_eq!((&merged.start_key[..], &merged.end_key[..]), (&b""[..], &b""[..]));
        assert_eq!(taken_over(merged, 9), Some(RegionEpoch { version: 5, conf_version: 1 }));
        let into_right = united(&left, &right);
        assert_eq!((into_right.merged.region_id, into_right.merged.epoch_pair()), (9, (8, 1)));
        for union in [into_left, into_right] {
            let Some(Payload::RangeMerge(merge)) = union.event().payload else { panic!("a merge") };
            assert_eq!((merge.left_region_id, merge.right_region_id), (7, 9), "by place, whoever takes over");
        }
    }

    #[test]
    fn a_merge_made_for_another_state_of_the_target_is_refused() {
        let (source, target) = (part(9, "m", "", 4), part(7, "", "m", 6));
        let merge = to_unite(&frozen(&source, &target), 10, 2).expect("has a target");
        let refused = |target: &RegionDescriptor, members: &Members| unite(target, members, &merge).is_err();
        assert!(!refused(&target, &voters(&target)));
        assert!(refused(&part(7, "", "m", 7), &voters(&target)), "its version moved on");
        let other_members =
            RegionDescriptor { epoch: Some(RegionEpoch { version: 6, conf_version: 2 }), ..target.clone() };
        assert!(refused(&other_members, &voters(&target)));
        assert!(refused(&part(7, "", "k", 6), &voters(&target)), "no neighbour");
        assert!(refused(&united(&source, &target).merged, &voters(&target)), "it has happened");
        let learns = Members { learners: vec![307], ..voters(&target) };
        assert!(refused(&target, &learns));
        let mut elsewhere = target.clone();
        elsewhere.peers[0].store_id = 4;
        assert!(refused(&elsewhere, &voters(&target)));
    }

    #[test]
    fn freezing_is_for_one_state_of_the_source_and_can_be_undone_once() {
        let (source, target) = (part(9, "m", "", 4), part(7, "", "m", 6));
        let cold = frozen(&source, &target);
        assert!(is_frozen(&cold) && cold.epoch_pair() == (5, 1));
        assert_eq!(target_of(&cold).map(|target| target.region_id), Some(7));
        assert!(freeze(&cold, &voters(&cold), &to_freeze(&source, &target)).is_err(), "again");
        let moved = part(9, "m", "", 5);
        assert!(freeze(&moved, &voters(&moved), &to_freeze(&source, &target)).is_err());
        let thawed = thaw(&cold, &to_thaw(&cold)).expect("thawed");
        assert!(!is_frozen(&thawed) && thawed.epoch_pair() == (6, 1) && target_of(&thawed).is_none());
        assert!(thaw(&thawed, &to_thaw(&cold)).is_err(), "again");
    }

    #[test]
    fn the_target_past_its_epoch_tells_what_became_of_the_source() {
        let (source, target) = (part(9, "m", "", 4), part(7, "", "m", 6));
        let cold = frozen(&source, &target);
        let says = |known: &[&RegionDescriptor]| verdict(&cold, known.iter().copied());
        assert_eq!(says(&[]), Verdict::Open);
        assert_eq!(says(&[&target, &cold]), Verdict::Open);
        let merged = united(&source, &target).merged;
        assert_eq!(says(&[&merged]), Verdict::United);
        let turned_down = turn_down(&target, &to_refuse(&cold).expect("has a target")).expect("refused");
        assert_eq!(says(&[&turned_down]), Verdict::Refused);
        assert!(turn_down(&merged, &to_refuse(&cold).expect("has a target")).is_err(), "too late");
        assert_eq!(says(&[&part(7, "", "f", 7)]), Verdict::Refused, "it was split");
        let mut shrunk = merged.clone();
        (shrunk.end_key, shrunk.epoch) = ("m".into(), Some(RegionEpoch { version: 8, conf_version: 3 }));
        assert_eq!(says(&[&shrunk]), Verdict::United, "it gave away again what it took");
    }

    #[test]
    fn who_takes_the_target_over_inherits_what_it_took() {
        let (a, b, c) = (part(5, "", "g", 3), part(7, "g", "m", 6), part(9, "m", "", 4));
        let cold = frozen(&c, &b);
        let all = united(&united(&c, &b).merged, &a).merged;
        assert_eq!(family(&all).collect::<Vec<_>>(), [5, 9, 7]);
        assert_eq!(verdict(&cold, std::iter::once(&all)), Verdict::United);
        let without = united(&b, &a).merged;
        assert_eq!(verdict(&cold, std::iter::once(&without)), Verdict::Refused);
        assert!(is_part_of(&cold, &all) && !is_part_of(&part(9, "m", "", 6), &all), "a later state is not");
    }

    #[test]
    fn only_settled_neighbours_on_the_same_stores_merge() {
        let (left, right) = (part(7, "", "m", 6), part(9, "m", "", 4));
        assert!(may_merge(&left, &right).is_ok() && may_merge(&right, &left).is_ok());
        assert!(may_merge(&left, &left).is_err());
        assert!(may_merge(&part(7, "", "k", 6), &right).is_err());
        let mut fewer = right.clone();
        fewer.peers.pop();
        assert!(may_merge(&left, &fewer).is_err());
        assert!(may_merge(&frozen(&right, &left), &left).is_err());
        let learns = Members { learners: vec![309], ..Members::default() };
        assert!(freeze(&right, &learns, &to_freeze(&right, &left)).is_err());
    }
}
