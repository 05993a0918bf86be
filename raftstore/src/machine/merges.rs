//! Steps of a merge as entries: see [`crate::merge`] for what each makes of the regions.

use super::{Hosted, Reply, StoreMachine, fatal, refused};
use crate::catalog::{self, Position};
use crate::command::{self, LogEntry};
use crate::merge;
use crate::pending;
use crate::region::Region;
use bytes::Bytes;
use nokv_engine::WriteBatch;
use nokv_proto::error::v1::RegionError;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_proto::raft::v1::{MergeCommand, MergeStep};
use nokv_replica::{Fatal, GroupId, Needed, Role};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Hosted {
    /// The region's bytes for a step, if the step fits the region as it is.
    pub(super) fn propose_merge(
        &mut self,
        term: u64,
        index: u64,
        merge: MergeCommand,
    ) -> Result<Bytes, Reply> {
        match self.stepped(&merge) {
            Ok(_) => {
                if merge.step() == MergeStep::Freeze {
                    self.freezing = (term, index);
                }
                Ok(command::encode_merge(merge))
            }
            Err(error) => refused(error),
        }
    }

    /// What a step makes of this region.
    fn stepped(&self, merge: &MergeCommand) -> Result<RegionDescriptor, Box<RegionError>> {
        let region = self.region.descriptor();
        match merge.step() {
            MergeStep::Freeze => merge::freeze(&region, &self.members, merge),
            MergeStep::Thaw => merge::thaw(&region, merge),
            MergeStep::Refuse => merge::turn_down(&region, merge),
            MergeStep::Unite | MergeStep::Unspecified => {
                merge::unite(&region, &self.members, merge).map(|union| union.merged)
            }
        }
    }

    /// The members must stay as they are: the region is frozen, or will be by an entry that is not applied yet.
    pub(super) fn is_freezing(&self) -> bool {
        let state = self.region.state();
        let (term, index) = self.freezing;
        merge::is_frozen(&state.descriptor) || (state.role.term == term && index > state.applied.index)
    }
}

impl StoreMachine {
    /// Before a target takes its source over, the source here must have come to where it was frozen.
    pub(super) fn needs_of_merge(&self, group: GroupId, data: &Bytes) -> Option<Needed> {
        if !command::is_admin(data) || self.is_gone(group) {
            return None;
        }
        let Ok(LogEntry::Merge(merge)) = LogEntry::decode(data) else { return None };
        let hosted = self.hosted.get(&group.0)?;
        if merge.step() != MergeStep::Unite || hosted.stepped(&merge).is_err() {
            return None;
        }
        let source = GroupId(merge.source_region_id);
        Some(Needed { group: source, index: merge.frozen_index, term: merge.frozen_term })
    }

    /// Takes a step of a merge, or leaves all as it is when the step does not fit.
    pub(super) fn apply_merge(
        &mut self,
        group: GroupId,
        at: Position,
        merge: &MergeCommand,
    ) -> Result<Reply, Fatal> {
        let hosted = self.hosted(group)?;
        let now = match hosted.stepped(merge) {
            Ok(now) => now,
            Err(error) => {
                self.env.probe("store.merge.step_refused");
                self.commit(group, at, WriteBatch::new())?;
                return Ok(Reply::Outcome(Err(error)));
            }
        };
        let region = hosted.region.clone();
        let mut batch = WriteBatch::new();
        match merge.step() {
            MergeStep::Freeze => self.env.probe("store.merge.frozen"),
            MergeStep::Thaw => {
                self.env.probe("store.merge.thawed");
                self.pending.add(&mut batch, pending::published(&now));
            }
            MergeStep::Refuse => {
                self.env.probe("store.merge.refused");
                self.pending.add(&mut batch, pending::published(&now));
            }
            MergeStep::Unite | MergeStep::Unspecified => {
                self.take_source(group, merge, &mut batch)?;
                self.env.probe("store.merge.united");
            }
        }
        catalog::put_region(&mut batch, &now);
        region.set_descriptor(now.clone(), self.store_id);
        region.tell(&self.env);
        self.commit(group, at, batch)?;
        self.bells.merges.notify_one();
        self.bells.publish.notify_one();
        Ok(Reply::Merge(Box::new(now)))
    }

    /// The source's part of "unite": its rows stay where they are, all else of it goes.
    fn take_source(
        &mut self,
        group: GroupId,
        merge: &MergeCommand,
        batch: &mut WriteBatch,
    ) -> Result<(), Fatal> {
        let hosted = self.hosted(group)?;
        let target = hosted.region.clone();
        let union = merge::unite(&target.descriptor(), &hosted.members, merge)
            .map_err(|_| fatal(group, "a merge that fitted does not fit"))?;
        let source = self.hosted.get(&union.source.region_id).map(|source| source.region.clone());
        // It was frozen in this state, was brought there by `needs`, and leaves it only when no target takes it.
        let source = source
            .filter(|source| {
                merge::is_frozen(&source.descriptor()) && source.descriptor().epoch == union.source.epoch
            })
            .ok_or_else(|| {
                fatal(group, format!("region {} is not as it was frozen", union.source.region_id))
            })?;
        let gc = merge::stricter(target.gc(), source.gc());
        // Before the larger range shows: who writes there must find that much is unknown of reads there.
        target.one_pc().merged();
        target.set_gc(gc);
        catalog::put_gc(batch, group.0, gc);
        self.pending.add(batch, union.event());
        let tombstone = merge::tombstone(&union.source, &union.merged);
        catalog::put_tombstone(batch, &tombstone);
        self.absorb(&source, tombstone);
        self.bells.timestamps.notify_one();
        self.bells.gc.notify_one();
        Ok(())
    }

    /// A region is part of another one from here on; `tombstone` is what is left of it.
    fn absorb(&mut self, region: &Arc<Region>, tombstone: RegionDescriptor) {
        region.set_descriptor(tombstone, self.store_id);
        region.set_role(Role::default());
        region.advanced().notify_waiters();
        self.hosted.remove(&region.id);
        self.snapshots.dismiss(region.id);
        self.absorbed.push(region.group());
        self.bells.graves.notify_one();
    }

    /// The regions here that `region` took over.
    fn parts(&self, region: &RegionDescriptor) -> Vec<Arc<Region>> {
        let others = self.hosted.values().map(|other| other.region.clone());
        others.filter(|other| merge::is_absorbed(&other.descriptor(), region)).collect()
    }

    /// What `region` took over and is still here goes, for `region` comes in one piece, with their tombstones.
    pub(super) fn absorb_parts(&mut self, region: &RegionDescriptor) {
        for part in self.parts(region) {
            self.env.probe("store.merge.came_in_one_piece");
            self.absorb(&part, merge::tombstone(&part.descriptor(), region));
        }
    }

    /// What `region` took over is still here, and `region` left this store before it was seen here: nobody else will end
    /// them. All go at once, for one of them may yet take another one over, after a restart.
    pub(super) fn retire_leftovers(&mut self, region: &RegionDescriptor) -> Result<(), Fatal> {
        let coming: BTreeSet<u64> = self.snapshots.arriving().into_iter().map(|(id, _)| id).collect();
        if self.hosted.contains_key(&region.region_id) || merge::family(region).any(|id| coming.contains(&id))
        {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        for part in self.parts(region) {
            self.env.probe("store.merge.leftover");
            let tombstone = merge::tombstone(&part.descriptor(), region);
            catalog::put_tombstone(&mut batch, &tombstone);
            part.set_descriptor(tombstone, self.store_id);
        }
        self.db.apply(batch).map_err(|error| fatal(GroupId(region.region_id), error))?;
        self.bells.graves.notify_one();
        Ok(())
    }
}
