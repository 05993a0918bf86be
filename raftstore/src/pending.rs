//! Root events that this store owes the meta-root: what regions decided in their logs, and the meta-root has yet to hear.
//!
//! An event is written in the same engine batch as the change it tells of, so neither is there without the other. It
//! stays until the meta-root has taken it; every replica tells it, and the meta-root takes what it knows already as
//! done. So it is heard even when all but one of the replicas are lost.

use crate::catalog;
use crate::region::lock;
use nokv_engine::{Db, WriteBatch};
use nokv_proto::meta::v1::root_event::Payload;
use nokv_proto::meta::v1::{RegionDescriptor, RootEvent, RootEventKind, RootRegionDescriptor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The events, by number. Within a region later changes have higher numbers.
#[derive(Clone, Default)]
pub(crate) struct PendingEvents(Arc<Mutex<BTreeMap<u64, RootEvent>>>);

impl PendingEvents {
    /// What the catalog holds.
    pub(crate) fn new(events: BTreeMap<u64, RootEvent>) -> Self {
        Self(Arc::new(Mutex::new(events)))
    }

    /// Adds an event to the batch that carries out what it tells of.
    pub(crate) fn add(&self, batch: &mut WriteBatch, event: RootEvent) {
        let mut events = lock(&self.0);
        let number = events.last_key_value().map_or(1, |(last, _)| last + 1);
        catalog::put_pending(batch, number, &event);
        events.insert(number, event);
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> Vec<(u64, RootEvent)> {
        lock(&self.0).iter().map(|(number, event)| (*number, event.clone())).collect()
    }

    /// The meta-root has it. If a crash undoes this, it is told once more.
    pub(crate) fn done(&self, db: &Db, number: u64) -> nokv_engine::Result<()> {
        let mut batch = WriteBatch::new();
        catalog::delete_pending(&mut batch, number);
        db.apply(batch)?;
        lock(&self.0).remove(&number);
        Ok(())
    }
}

/// The regions that an event speaks of. Events of one region are told in order: a region whose peers changed after a
/// split must not be told before the split.
pub(crate) fn subjects(event: &RootEvent) -> Vec<u64> {
    match &event.payload {
        Some(Payload::RangeSplit(split)) => {
            let sides = [&split.left, &split.right].into_iter().flatten();
            sides.map(|region| region.region_id).collect()
        }
        Some(Payload::RangeMerge(merge)) => vec![merge.left_region_id, merge.right_region_id],
        Some(Payload::RegionDescriptor(published)) => {
            published.descriptor.iter().map(|region| region.region_id).collect()
        }
        _ => Vec::new(),
    }
}

/// The name of the transition that an event ends.
pub(crate) fn transition_id(event: &RootEvent) -> String {
    match &event.payload {
        Some(Payload::RangeSplit(split)) => {
            let id = |side: &Option<RegionDescriptor>| side.as_ref().map_or(0, |region| region.region_id);
            format!("split:{}:{}:{}", split.parent_region_id, id(&split.left), id(&split.right))
        }
        Some(Payload::RangeMerge(merge)) => {
            format!("merge:{}:{}", merge.left_region_id, merge.right_region_id)
        }
        Some(Payload::RegionDescriptor(RootRegionDescriptor { descriptor: Some(region) })) => {
            let (version, conf_version) = region.epoch_pair();
            format!("region:{}:{version}:{conf_version}", region.region_id)
        }
        _ => String::new(),
    }
}

/// What kind of change it was.
pub(crate) fn action(event: &RootEvent) -> &'static str {
    match &event.payload {
        Some(Payload::RangeSplit(_)) => "split",
        Some(Payload::RangeMerge(_)) => "merge",
        _ => "peer change",
    }
}

/// What the meta-root must hear of a region whose peers changed.
pub(crate) fn published(region: &RegionDescriptor) -> RootEvent {
    let descriptor = RootRegionDescriptor { descriptor: Some(region.clone()) };
    RootEvent {
        kind: RootEventKind::RegionDescriptorPublished.into(),
        payload: Some(Payload::RegionDescriptor(descriptor)),
    }
}
