//! Splits and merges: planned, then done or cancelled.
//!
//! Both are one shape: some regions (`from`) give their keys to others (`into`) that cover exactly the same
//! range. A plan exchanges the descriptors at once and remembers the old ones; while it is pending nobody is
//! routed to the regions involved. A region may take part in one change at a time.

use super::regions::{checked, same};
use super::{Effect, Refusal, RootState};
use nokv_proto::meta::v1::{
    RegionDescriptor, RootEvent, RootEventKind, RootPendingRangeChange, RootPendingRangeChangeKind,
    RootRangeMerge, RootRangeSplit,
};

enum Step {
    Planned,
    Done,
    Cancelled,
}

/// A split or a merge, seen as an exchange of descriptors.
struct Exchange {
    /// As it will be recorded, bases still empty.
    record: RootPendingRangeChange,
    from: Vec<u64>,
    /// Descriptors that the caller believes are current, when it said so.
    bases: Vec<Option<RegionDescriptor>>,
    into: Vec<RegionDescriptor>,
}

impl RootState {
    pub(super) fn range_split(
        &mut self,
        event: &RootEvent,
        kind: RootEventKind,
        split: &RootRangeSplit,
    ) -> Effect {
        use RootEventKind as Kind;
        let step = match kind {
            Kind::RegionSplitPlanned => Step::Planned,
            Kind::RegionSplitCommitted => Step::Done,
            Kind::RegionSplitCancelled => Step::Cancelled,
            _ => return Err(Refusal::invalid(format!("{} with a range split", kind.as_str_name()))),
        };
        let (left, right) = (checked(split.left.as_ref())?, checked(split.right.as_ref())?);
        if split.parent_region_id == 0 || left.region_id == right.region_id {
            return Err(Refusal::invalid("a split names a parent and two different children"));
        }
        if left.end_key != split.split_key || right.start_key != split.split_key || split.split_key.is_empty()
        {
            return Err(Refusal::invalid("the children of a split must meet at the split key"));
        }
        let record = RootPendingRangeChange {
            kind: RootPendingRangeChangeKind::Split as i32,
            parent_region_id: split.parent_region_id,
            left_region_id: left.region_id,
            right_region_id: right.region_id,
            left: split.left.clone(),
            right: split.right.clone(),
            ..Default::default()
        };
        let exchange = Exchange {
            record,
            from: vec![split.parent_region_id],
            bases: vec![split.base_parent.clone()],
            into: vec![left.clone(), right.clone()],
        };
        self.range_change(event, step, exchange)
    }

    pub(super) fn range_merge(
        &mut self,
        event: &RootEvent,
        kind: RootEventKind,
        merge: &RootRangeMerge,
    ) -> Effect {
        use RootEventKind as Kind;
        let step = match kind {
            Kind::RegionMergePlanned => Step::Planned,
            Kind::RegionMerged => Step::Done,
            Kind::RegionMergeCancelled => Step::Cancelled,
            _ => return Err(Refusal::invalid(format!("{} with a range merge", kind.as_str_name()))),
        };
        let merged = checked(merge.merged.as_ref())?;
        let (left, right) = (merge.left_region_id, merge.right_region_id);
        if left == 0 || right == 0 || left == right {
            return Err(Refusal::invalid("a merge names two different regions"));
        }
        let record = RootPendingRangeChange {
            region_id: merged.region_id,
            kind: RootPendingRangeChangeKind::Merge as i32,
            left_region_id: left,
            right_region_id: right,
            merged: merge.merged.clone(),
            ..Default::default()
        };
        let exchange = Exchange {
            record,
            from: vec![left, right],
            bases: vec![merge.base_left.clone(), merge.base_right.clone()],
            into: vec![merged.clone()],
        };
        self.range_change(event, step, exchange)
    }

    fn range_change(&mut self, event: &RootEvent, step: Step, mut exchange: Exchange) -> Effect {
        if exchange.record.region_id == 0 {
            exchange.record.region_id = key_of(&exchange.record);
        }
        let key = key_of(&exchange.record);
        let matches = match self.pending_ranges.get(&key) {
            Some(pending) if is_match(pending, &exchange.record) => true,
            Some(_) => {
                return Err(Refusal::precondition(format!("region {key}: another range change is pending")));
            }
            None => false,
        };
        let changed = match step {
            Step::Planned if matches => false,
            Step::Planned => self.start_range_change(&exchange, true)?,
            Step::Done if matches => self.finish_planned(key),
            Step::Done => self.start_range_change(&exchange, false)?,
            Step::Cancelled if matches => self.cancel_range_change(key)?,
            Step::Cancelled => self.check_no_range_change_to_cancel(&exchange)?,
        };
        Ok(changed.then(|| event.clone()))
    }

    /// Exchanges the descriptors; false if that happened already.
    fn start_range_change(&mut self, exchange: &Exchange, remember: bool) -> Result<bool, Refusal> {
        if self.has_happened(exchange) {
            return Ok(false);
        }
        let bases = self.check_exchange(exchange)?;
        if remember {
            let mut record = exchange.record.clone();
            match &bases[..] {
                [parent] => record.base_parent = Some(parent.clone()),
                [left, right] => {
                    record.base_left = Some(left.clone());
                    record.base_right = Some(right.clone());
                }
                _ => return Err(Refusal::invalid("a range change starts from one region or two")),
            }
            self.pending_ranges.insert(key_of(&record), record);
        }
        self.cluster_epoch += 1;
        for base in &bases {
            self.regions.remove(&base.region_id);
        }
        for region in &exchange.into {
            self.install(region);
        }
        if !remember {
            self.retire(&exchange.from);
        }
        Ok(true)
    }

    /// Everything that must hold before the exchange; returns the current descriptors of the givers.
    fn check_exchange(&self, exchange: &Exchange) -> Result<Vec<RegionDescriptor>, Refusal> {
        let mut bases = Vec::new();
        for (&id, believed) in exchange.from.iter().zip(&exchange.bases) {
            let current = self.known(id)?;
            if believed.as_ref().is_some_and(|believed| !same(believed, current)) {
                let why = format!("region {id}: the change starts from a descriptor that is not current");
                return Err(Refusal::precondition(why));
            }
            if self.pending_peers.contains_key(&id) {
                return Err(Refusal::precondition(format!("region {id}: a peer change is pending")));
            }
            self.check_no_pending_range(id)?;
            bases.push(current.clone());
        }
        check_cover(&bases, &exchange.into)?;
        for region in &exchange.into {
            match self.regions.get(&region.region_id) {
                Some(_) if !exchange.from.contains(&region.region_id) => {
                    let id = region.region_id;
                    return Err(Refusal::precondition(format!("region {id} exists already")));
                }
                Some(known) if region.epoch_pair().0 <= known.epoch_pair().0 => {
                    let why = format!("region {}: another range needs a higher version", known.region_id);
                    return Err(Refusal::precondition(why));
                }
                _ => self.check_room(region, &exchange.from)?,
            }
        }
        Ok(bases)
    }

    /// Whether the takers are there, at the wanted version or later, and the givers that do not live on are gone.
    fn has_happened(&self, exchange: &Exchange) -> bool {
        let arrived = exchange.into.iter().all(|region| {
            self.removed.contains(&region.region_id)
                || self
                    .regions
                    .get(&region.region_id)
                    .is_some_and(|known| known.epoch_pair().0 >= region.epoch_pair().0)
        });
        let lives_on = |id: &u64| exchange.into.iter().any(|region| region.region_id == *id);
        arrived && exchange.from.iter().all(|id| lives_on(id) || !self.regions.contains_key(id))
    }

    fn finish_planned(&mut self, key: u64) -> bool {
        let Some(pending) = self.pending_ranges.remove(&key) else { return false };
        let bases: Vec<u64> = bases_of(&pending).map(|base| base.region_id).collect();
        self.retire(&bases);
        true
    }

    /// Regions that gave all their keys away never come back.
    fn retire(&mut self, givers: &[u64]) {
        let gone = givers.iter().filter(|id| !self.regions.contains_key(id));
        self.removed.extend(gone);
    }

    fn cancel_range_change(&mut self, key: u64) -> Result<bool, Refusal> {
        let Some(pending) = self.pending_ranges.get(&key).cloned() else { return Ok(false) };
        for taker in takers_of(&pending) {
            let current = self.known(taker.region_id)?;
            if !same(current, taker) {
                let why = format!("region {} has moved on; the change cannot be cancelled", taker.region_id);
                return Err(Refusal::precondition(why));
            }
        }
        self.pending_ranges.remove(&key);
        self.cluster_epoch += 1;
        for taker in takers_of(&pending) {
            self.regions.remove(&taker.region_id);
        }
        for base in bases_of(&pending) {
            self.install(base);
        }
        Ok(true)
    }

    fn check_no_range_change_to_cancel(&self, exchange: &Exchange) -> Result<bool, Refusal> {
        if self.has_happened(exchange) {
            return Err(Refusal::precondition("the range change is done and cannot be cancelled"));
        }
        Ok(false)
    }

    /// Refuses when `region` takes part in a split or merge under way.
    pub(super) fn check_no_pending_range(&self, region: u64) -> Result<(), Refusal> {
        let Some(change) = self.pending_ranges.values().find(|change| involves(change, region)) else {
            return Ok(());
        };
        let (left, right) = (change.left_region_id, change.right_region_id);
        Err(Refusal::precondition(if change.parent_region_id != 0 {
            let parent = change.parent_region_id;
            format!("rooted range change still pending: split parent={parent} left={left} right={right}")
        } else {
            let merged = change.region_id;
            format!("rooted range change still pending: merge left={left} right={right} merged={merged}")
        }))
    }
}

/// Key of a change among the pending ones.
pub(super) fn key_of(change: &RootPendingRangeChange) -> u64 {
    if change.parent_region_id != 0 { change.parent_region_id } else { change.left_region_id }
}

fn involves(change: &RootPendingRangeChange, region: u64) -> bool {
    [change.region_id, change.parent_region_id, change.left_region_id, change.right_region_id]
        .contains(&region)
}

fn bases_of(change: &RootPendingRangeChange) -> impl Iterator<Item = &RegionDescriptor> {
    change.base_parent.iter().chain(&change.base_left).chain(&change.base_right)
}

fn takers_of(change: &RootPendingRangeChange) -> impl Iterator<Item = &RegionDescriptor> {
    change.left.iter().chain(&change.right).chain(&change.merged)
}

/// Whether `record` speaks of the pending change.
fn is_match(pending: &RootPendingRangeChange, record: &RootPendingRangeChange) -> bool {
    let (ours, theirs): (Vec<_>, Vec<_>) = (takers_of(pending).collect(), takers_of(record).collect());
    pending.kind == record.kind
        && pending.left_region_id == record.left_region_id
        && pending.right_region_id == record.right_region_id
        && ours.len() == theirs.len()
        && ours.iter().zip(theirs).all(|(a, b)| same(a, b))
}

/// Givers in key order must touch each other, and the takers must cover exactly what they covered.
fn check_cover(from: &[RegionDescriptor], into: &[RegionDescriptor]) -> Result<(), Refusal> {
    let touching = |regions: &[RegionDescriptor]| {
        regions.windows(2).all(|pair| !pair[0].end_key.is_empty() && pair[0].end_key == pair[1].start_key)
    };
    let ends = |regions: &[RegionDescriptor]| {
        regions
            .first()
            .zip(regions.last())
            .map(|(first, last)| (first.start_key.clone(), last.end_key.clone()))
    };
    if touching(from) && touching(into) && ends(from) == ends(into) {
        return Ok(());
    }
    Err(Refusal::precondition("a range change must keep exactly the keys it starts from"))
}
