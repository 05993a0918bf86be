//! Where everything that the driver reacts to waits for it: two bounded queues and one bell.
//!
//! Raft messages have a queue of their own, so that a flood of proposals cannot push out the heartbeats that keep the
//! leader in office.

use crate::config::{Config, GroupConfig, GroupId};
use crate::error::{AdminError, ProposeError, ReadError, StepError};
use crate::machine::{ConfChange, Machine, MachineSnapshot};
use crate::shared::GroupStatus;
use crate::wire::Incoming;
use nokv_env::Instant;
use nokv_proto::meta::v1::RegionDescriptor;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, mpsc, oneshot};

/// Where the answer of a proposal goes, and where is noted how far the proposal is.
pub(crate) struct ProposeReply<M: Machine> {
    answer: oneshot::Sender<Result<M::Reply, ProposeError>>,
    marks: Option<Arc<Marks>>,
}

impl<M: Machine> ProposeReply<M> {
    pub(crate) fn new(
        answer: oneshot::Sender<Result<M::Reply, ProposeError>>,
        marks: Option<Arc<Marks>>,
    ) -> Self {
        Self { answer, marks }
    }

    pub(crate) fn send(
        self,
        answer: Result<M::Reply, ProposeError>,
    ) -> Result<(), Result<M::Reply, ProposeError>> {
        self.answer.send(answer)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.answer.is_closed()
    }

    pub(crate) fn marks(&self) -> Option<&Marks> {
        self.marks.as_deref()
    }
}

/// When a proposal passed which point of its way. Whoever proposed it may look at any time, also if it never ends.
#[derive(Debug, Default)]
pub struct Marks {
    appended: AtomicU64,
    committed: AtomicU64,
}

impl Marks {
    /// When the driver put it into the log; `None`: not yet.
    pub fn appended(&self) -> Option<Instant> {
        Self::read(&self.appended)
    }

    /// When the driver found it committed and began to apply it; `None`: not yet.
    pub fn committed(&self) -> Option<Instant> {
        Self::read(&self.committed)
    }

    pub(crate) fn append(&self, now: Instant) {
        self.appended.store(now.0.max(1), Ordering::Relaxed);
    }

    pub(crate) fn commit(&self, now: Instant) {
        self.committed.store(now.0.max(1), Ordering::Relaxed);
    }

    fn read(mark: &AtomicU64) -> Option<Instant> {
        Some(mark.load(Ordering::Relaxed)).filter(|nanos| *nanos > 0).map(Instant)
    }
}
/// Answer of a read.
pub(crate) type ReadReply = oneshot::Sender<Result<u64, ReadError>>;
/// Answer of an administrative request.
pub(crate) type AdminReply = oneshot::Sender<Result<(), AdminError>>;

/// Something a handle asks for.
pub(crate) enum Request<M: Machine> {
    Propose { group: GroupId, proposal: M::Proposal, reply: ProposeReply<M> },
    ConfChange { group: GroupId, change: ConfChange, reply: ProposeReply<M> },
    Read { group: GroupId, at_least: u64, reply: ReadReply },
    TransferLeader { group: GroupId, peer: u64, reply: AdminReply },
    Campaign { group: GroupId, reply: AdminReply },
    UpdatePeers { group: GroupId, peers: BTreeMap<u64, u64>, reply: AdminReply },
    AddGroup { config: GroupConfig, reply: AdminReply },
    RemoveGroup { group: GroupId, reply: AdminReply },
    Retire { group: GroupId, region: RegionDescriptor, reply: AdminReply },
    Import { import: Import, reply: AdminReply },
    Status { group: GroupId, reply: oneshot::Sender<Option<GroupStatus>> },
    SnapshotFetched { group: GroupId },
}

/// A snapshot that comes by another way than from a leader: the first one of a peer.
pub(crate) struct Import {
    pub(crate) region: RegionDescriptor,
    pub(crate) peer: u64,
    pub(crate) snapshot: MachineSnapshot,
    /// Its content was fetched; else the machine is to expect it.
    pub(crate) is_here: bool,
}

/// Something the transport brings.
pub(crate) enum Delivery {
    /// Messages from a node.
    Messages { from_node: u64, messages: Vec<Incoming>, bytes: u64 },
    /// Messages to a node were lost.
    Unreachable { node: u64 },
    /// A snapshot was lost on its way.
    SnapshotLost { group: GroupId, peer: u64 },
}

impl Delivery {
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Delivery::Messages { bytes, .. } => *bytes,
            Delivery::Unreachable { .. } | Delivery::SnapshotLost { .. } => 0,
        }
    }
}

/// The driver's end.
pub(crate) struct Inbox<M: Machine> {
    pub(crate) deliveries: mpsc::Receiver<Delivery>,
    pub(crate) requests: mpsc::Receiver<Request<M>>,
    pub(crate) bell: Arc<Notify>,
    waiting_bytes: Arc<AtomicU64>,
}

/// Puts deliveries in. Does not depend on the machine, so the transport does not either.
#[derive(Clone)]
pub(crate) struct Mailbox {
    deliveries: mpsc::Sender<Delivery>,
    bell: Arc<Notify>,
    waiting_bytes: Arc<AtomicU64>,
    bytes_max: u64,
}

/// Puts requests in.
pub(crate) struct Desk<M: Machine> {
    requests: mpsc::Sender<Request<M>>,
    bell: Arc<Notify>,
}

impl<M: Machine> Clone for Desk<M> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), bell: self.bell.clone() }
    }
}

/// The queues of a new driver.
pub(crate) fn open<M: Machine>(config: &Config) -> (Inbox<M>, Mailbox, Desk<M>) {
    let (delivery_sender, deliveries) = mpsc::channel(config.messages_max);
    let (request_sender, requests) = mpsc::channel(config.requests_max);
    let bell = Arc::new(Notify::new());
    let waiting_bytes = Arc::new(AtomicU64::new(0));
    let mailbox = Mailbox {
        deliveries: delivery_sender,
        bell: bell.clone(),
        waiting_bytes: waiting_bytes.clone(),
        bytes_max: config.messages_bytes_max,
    };
    let desk = Desk { requests: request_sender, bell: bell.clone() };
    (Inbox { deliveries, requests, bell, waiting_bytes }, mailbox, desk)
}

impl<M: Machine> Inbox<M> {
    /// The next delivery, if any waits.
    pub(crate) fn delivery(&mut self) -> Option<Delivery> {
        let delivery = self.deliveries.try_recv().ok()?;
        self.waiting_bytes.fetch_sub(delivery.bytes(), Ordering::Relaxed);
        Some(delivery)
    }

    /// The next request, if any waits.
    pub(crate) fn request(&mut self) -> Option<Request<M>> {
        self.requests.try_recv().ok()
    }

    /// Nobody can put anything in any more.
    pub(crate) fn close(&mut self) {
        self.deliveries.close();
        self.requests.close();
    }
}

impl Mailbox {
    /// Puts in messages if there is room; `Ok(false)` when not.
    pub(crate) fn offer(
        &self,
        from_node: u64,
        messages: Vec<Incoming>,
        bytes: u64,
    ) -> Result<bool, StepError> {
        if self.waiting_bytes.load(Ordering::Relaxed) > self.bytes_max {
            return Ok(false);
        }
        match self.deliveries.try_reserve() {
            Ok(permit) => {
                self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
                permit.send(Delivery::Messages { from_node, messages, bytes });
                self.bell.notify_one();
                Ok(true)
            }
            Err(mpsc::error::TrySendError::Full(())) => Ok(false),
            Err(mpsc::error::TrySendError::Closed(())) => Err(StepError::Stopped),
        }
    }

    /// Puts in messages, waiting for room: snapshots are too dear to drop.
    pub(crate) async fn deliver(
        &self,
        from_node: u64,
        messages: Vec<Incoming>,
        bytes: u64,
    ) -> Result<(), StepError> {
        let permit = self.deliveries.reserve().await.map_err(|_| StepError::Stopped)?;
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        permit.send(Delivery::Messages { from_node, messages, bytes });
        self.bell.notify_one();
        Ok(())
    }

    /// Puts in a report of the transport. Lost when there is no room: raft finds out by itself, later.
    pub(crate) fn report(&self, delivery: Delivery) {
        if self.deliveries.try_send(delivery).is_ok() {
            self.bell.notify_one();
        }
    }
}

/// Why a request did not get in.
pub(crate) enum Refused {
    Full,
    Closed,
}

impl<M: Machine> Desk<M> {
    /// Puts in a request if there is room.
    pub(crate) fn ask(&self, request: Request<M>) -> Result<(), Refused> {
        match self.requests.try_send(request) {
            Ok(()) => {
                self.bell.notify_one();
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(Refused::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Refused::Closed),
        }
    }
}
