//! What the scheduler asks of this store: taken in with answers to heartbeats, carried out one after the other.
//!
//! An order names the configuration version for which it was made. One that arrives twice, late, or after somebody
//! else has changed the region finds another version and does nothing; the scheduler sees what the region has become
//! and asks again if it still wants something. Nothing is kept over a restart for the same reason.

use crate::members::NewPeer;
use crate::region::lock;
use crate::store::Shared;
use crate::topology::{self, Outcome};
use nokv_proto::coordinator::v1::{SchedulerOperation, SchedulerOperationType};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tonic::Status;

/// Orders that may wait. More are asked for again anyway.
const WAITING_MAX: usize = 64;

/// Orders that wait to be carried out.
#[derive(Default)]
pub(crate) struct Operations {
    waiting: Mutex<VecDeque<SchedulerOperation>>,
    bell: Notify,
    dropped: AtomicU64,
}

impl Operations {
    /// Takes orders in. Every heartbeat repeats what is not done yet, so equal ones are one.
    pub(crate) fn take(&self, orders: Vec<SchedulerOperation>) {
        let mut waiting = lock(&self.waiting);
        for order in orders {
            if waiting.contains(&order) {
                continue;
            }
            if waiting.len() >= WAITING_MAX {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            waiting.push_back(order);
        }
        if !waiting.is_empty() {
            self.bell.notify_one();
        }
    }

    /// Orders that were thrown away because too many waited, since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many wait, the one under way included.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.waiting).len()
    }

    fn first(&self) -> Option<SchedulerOperation> {
        lock(&self.waiting).front().copied()
    }

    fn done(&self) {
        lock(&self.waiting).pop_front();
    }
}

/// Carries out what waits, for ever.
pub(crate) async fn carry_out(shared: &Shared) {
    loop {
        let Some(order) = shared.operations.first() else {
            shared.operations.bell.notified().await;
            continue;
        };
        let region = order.region_id;
        if let Err(error) = one(shared, &order).await {
            tracing::info!(region, %error, "an order of the scheduler was not carried out");
        }
        shared.operations.done();
    }
}

async fn one(shared: &Shared, order: &SchedulerOperation) -> Result<(), Status> {
    let (region_id, peer) = (order.region_id, order.target_peer_id);
    let state = shared.door.regions.get(region_id).map(|region| region.state());
    let Some(state) =
        state.filter(|state| order.source_peer_id == 0 || state.peer == Some(order.source_peer_id))
    else {
        return Err(Status::not_found("it was meant for a peer that is not here"));
    };
    let now = state.descriptor.epoch_pair().1;
    if order.conf_version != 0 && order.conf_version != now {
        shared.env.probe("store.operation.outdated");
        let text = format!("it was made for configuration version {}, this is {now}", order.conf_version);
        return Err(Status::failed_precondition(text));
    }
    match order.r#type() {
        SchedulerOperationType::LeaderTransfer => {
            shared.env.probe("store.operation.transfer_leader");
            let result = shared.transfer_leader(region_id, peer).await.map_err(Status::failed_precondition);
            topology::note(shared, topology::leader(region_id, peer), region_id, Outcome::of(&result));
            result.map(|_| ())
        }
        SchedulerOperationType::AddPeer => {
            shared.env.probe("store.operation.add_peer");
            let store = order.target_store_id;
            let wanted = NewPeer {
                region_id,
                store_id: store,
                peer_id: peer,
                replaced: order.replaced_peer_id,
                made_for: order.conf_version,
            };
            let result = shared.add_peer(wanted).await;
            topology::note(
                shared,
                topology::add(&result, region_id, store, peer),
                region_id,
                Outcome::of(&result),
            );
            result.map(|_| ())
        }
        SchedulerOperationType::RemovePeer => {
            shared.env.probe("store.operation.remove_peer");
            let transition = topology::remove(&state.descriptor, peer);
            let result = shared.remove_peer(region_id, peer, order.conf_version).await;
            topology::note(shared, transition, region_id, Outcome::of(&result));
            result.map(|_| ())
        }
        SchedulerOperationType::Merge => {
            shared.env.probe("store.operation.merge");
            let into = order.target_region_id;
            let result = shared.merge(region_id, into).await;
            topology::note(shared, topology::merge(region_id, into), region_id, Outcome::of(&result));
            result.map(|_| ())
        }
        SchedulerOperationType::None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(region_id: u64) -> SchedulerOperation {
        SchedulerOperation { region_id, ..SchedulerOperation::default() }
    }

    #[test]
    fn orders_wait_once_and_not_without_end() {
        let operations = Operations::default();
        operations.take(vec![order(1), order(2), order(1)]);
        operations.take(vec![order(2)]);
        assert_eq!((operations.waiting(), operations.dropped()), (2, 0));
        operations.take((1..=100).map(order).collect());
        assert_eq!((operations.waiting(), operations.dropped()), (WAITING_MAX, 36));
        assert_eq!(operations.first(), Some(order(1)));
        operations.done();
        assert_eq!(operations.first(), Some(order(2)));
    }
}
