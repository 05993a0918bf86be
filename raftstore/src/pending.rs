//! Root events that this store owes the meta-root: what regions decided in their logs, and the meta-root has yet to hear.
//!
//! An event is written in the same engine batch as the change it tells of, so neither is there without the other. It
//! stays until the meta-root has taken it; every replica tells it, and the meta-root takes what it knows already as
//! done. So it is heard even when all but one of the replicas are lost.

use crate::catalog;
use crate::region::lock;
use nokv_engine::{Db, WriteBatch};
use nokv_proto::meta::v1::RootEvent;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The events, by the id of the region that is new with them. Ids grow, so older changes come first.
#[derive(Clone, Default)]
pub(crate) struct PendingEvents(Arc<Mutex<BTreeMap<u64, RootEvent>>>);

impl PendingEvents {
    /// What the catalog holds.
    pub(crate) fn new(events: BTreeMap<u64, RootEvent>) -> Self {
        Self(Arc::new(Mutex::new(events)))
    }

    /// Adds an event to the batch that carries out what it tells of.
    pub(crate) fn add(&self, batch: &mut WriteBatch, region_id: u64, event: RootEvent) {
        catalog::put_pending(batch, region_id, &event);
        lock(&self.0).insert(region_id, event);
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> Vec<(u64, RootEvent)> {
        lock(&self.0).iter().map(|(id, event)| (*id, event.clone())).collect()
    }

    /// The meta-root has it. If a crash undoes this, it is told once more.
    pub(crate) fn done(&self, db: &Db, region_id: u64) -> nokv_engine::Result<()> {
        let mut batch = WriteBatch::new();
        catalog::delete_pending(&mut batch, region_id);
        db.apply(batch)?;
        lock(&self.0).remove(&region_id);
        Ok(())
    }
}
