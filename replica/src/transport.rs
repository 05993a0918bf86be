//! Raft messages between nodes: one lane for each other node, so that a slow or dead one delays nobody else.
//!
//! ```text
//! driver ── send ──> lane of n2: bounded queue ──> task: one client-streaming call ──> RaftService on n2
//!                    lane of n3: ...
//!        ── snapshot ──> a call of its own, whose end tells whether it arrived
//! ```
//! Raft copes with every loss, so nothing waits: a full queue drops what is sent next and reports the node as
//! unreachable, which makes leaders probe instead of sending on. A broken stream is opened again after a pause.
//!
//! A stream can also die without an error, when packets vanish. The sender cannot see that, but raft always talks
//! both ways: whoever gets messages answers. So a stream is given up when nothing was heard from its node for the
//! stall timeout although messages went out, and when it takes nothing more for that long.

use crate::config::{Config, GroupId};
use crate::error::StepError;
use crate::inbox::{Delivery, Mailbox};
use crate::shared::{Counters, Shared, lock};
use crate::wire::{self, Incoming};
use futures_util::future::{Either, select};
use nokv_env::net::MESSAGE_BYTES_MAX;
use nokv_env::{Channel, ClockExt, Env, Instant, TasksExt};
use nokv_proto::raft::v1::raft_transport_client::RaftTransportClient;
use nokv_proto::raft::v1::raft_transport_server::RaftTransport;
use nokv_proto::raft::v1::{RaftBatch, RaftEnvelope, RaftStreamDone};
use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Where nodes are. Asked at every connection, so addresses may change.
pub trait Resolver: Send + Sync {
    /// The address (`host:port`) of a node, if known.
    fn address(&self, node: u64) -> Option<String>;
}

/// Envelopes of one batch, in bytes, unless one alone is larger.
const BATCH_BYTES: u64 = 1 << 20;
/// Envelopes of one batch.
const BATCH_ENVELOPES: usize = 1024;
/// Batches that a stream takes ahead of the network.
const STREAM_BATCHES: usize = 4;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// What an envelope weighs besides its message.
const ENVELOPE_BYTES: u64 = 64;

/// What all lanes share.
struct Links {
    env: Env,
    config: Config,
    resolver: Arc<dyn Resolver>,
    mailbox: Mailbox,
    shared: Arc<Shared>,
    /// When something was last heard from each node.
    heard: Mutex<BTreeMap<u64, Instant>>,
}

/// The sending side, owned by the driver.
pub(crate) struct Transport {
    links: Arc<Links>,
    lanes: BTreeMap<u64, Arc<Lane>>,
}

/// The way to one node.
struct Lane {
    node: u64,
    queue: Mutex<Queue>,
    bell: Notify,
}

#[derive(Default)]
struct Queue {
    envelopes: VecDeque<RaftEnvelope>,
    bytes: u64,
    /// An overflow was reported and the queue was not emptied since.
    overflowing: bool,
    /// A batch is to go out even without envelopes.
    beat: bool,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.envelopes.is_empty() && !self.beat
    }
}

impl Transport {
    /// The two ends of a driver's transport.
    pub(crate) fn new(
        env: &Env,
        config: &Config,
        resolver: Arc<dyn Resolver>,
        mailbox: Mailbox,
        shared: Arc<Shared>,
    ) -> (Transport, RaftService) {
        let links = Arc::new(Links {
            env: env.clone(),
            config: config.clone(),
            resolver,
            mailbox,
            shared,
            heard: Mutex::default(),
        });
        (Transport { links: links.clone(), lanes: BTreeMap::new() }, RaftService { links })
    }

    /// Sends a message, or drops it if too much waits for that node.
    pub(crate) fn send(&mut self, node: u64, envelope: RaftEnvelope) {
        let lane = self.lane(node);
        let room = lane.push(envelope, self.links.config.outgoing_bytes_max);
        let counters = &self.links.shared.counters;
        match room {
            Push::Taken => Counters::add(&counters.messages_sent, 1),
            Push::Full { first } => {
                Counters::add(&counters.messages_dropped, 1);
                if first {
                    self.links.env.probe("replica.transport.full");
                    self.links.mailbox.report(Delivery::Unreachable { node });
                }
            }
        }
    }

    /// Says that this node lives, by whatever goes to `node` next, or by an empty batch.
    pub(crate) fn beat(&mut self, node: u64) {
        let lane = self.lane(node);
        lock(&lane.queue).beat = true;
        lane.bell.notify_one();
    }

    /// Sends a snapshot beside the other messages.
    pub(crate) fn send_snapshot(&mut self, node: u64, envelope: RaftEnvelope) {
        let links = self.links.clone();
        Counters::add(&links.shared.counters.snapshots_sent, 1);
        self.links.env.tasks.go("raft-snapshot", async move {
            let (group, peer) = (GroupId(envelope.group_id), envelope.to_peer);
            if !links.carry_snapshot(node, envelope).await {
                links.mailbox.report(Delivery::SnapshotLost { group, peer });
            }
        });
    }

    fn lane(&mut self, node: u64) -> Arc<Lane> {
        let links = &self.links;
        let lane = self.lanes.entry(node).or_insert_with(|| {
            let lane = Arc::new(Lane { node, queue: Mutex::default(), bell: Notify::new() });
            links.env.tasks.go("raft-send", links.clone().run_lane(lane.clone()));
            lane
        });
        lane.clone()
    }
}

enum Push {
    Taken,
    /// No room; `first` since there last was.
    Full {
        first: bool,
    },
}

impl Lane {
    fn push(&self, envelope: RaftEnvelope, bytes_max: u64) -> Push {
        let mut queue = lock(&self.queue);
        if queue.bytes > bytes_max {
            return Push::Full { first: !std::mem::replace(&mut queue.overflowing, true) };
        }
        queue.bytes += weight(&envelope);
        queue.envelopes.push_back(envelope);
        drop(queue);
        self.bell.notify_one();
        Push::Taken
    }

    /// The next envelopes that travel together; none for a mere beat.
    async fn take(&self) -> Vec<RaftEnvelope> {
        self.wait().await;
        self.take_waiting()
    }

    fn take_waiting(&self) -> Vec<RaftEnvelope> {
        let mut queue = lock(&self.queue);
        let mut taken = Vec::with_capacity(queue.envelopes.len().min(BATCH_ENVELOPES));
        let mut bytes = 0;
        while let Some(envelope) = queue.envelopes.front() {
            let weight = weight(envelope);
            if !taken.is_empty() && (bytes + weight > BATCH_BYTES || taken.len() == BATCH_ENVELOPES) {
                break;
            }
            bytes += weight;
            taken.extend(queue.envelopes.pop_front());
        }
        queue.bytes -= bytes;
        queue.beat = false;
        if queue.envelopes.is_empty() {
            queue.overflowing = false;
        }
        taken
    }

    fn clear(&self) -> u64 {
        let queue = std::mem::take(&mut *lock(&self.queue));
        queue.envelopes.len() as u64
    }

    async fn wait(&self) {
        while lock(&self.queue).is_idle() {
            self.bell.notified().await;
        }
    }
}

fn weight(envelope: &RaftEnvelope) -> u64 {
    envelope.message.len() as u64 + ENVELOPE_BYTES
}

impl Links {
    /// Carries what is put into `lane` until the driver stops.
    async fn run_lane(self: Arc<Self>, lane: Arc<Lane>) {
        let work = pin!(self.carry(&lane));
        let stopped = pin!(self.shared.stop.stopped());
        select(work, stopped).await;
    }

    async fn carry(&self, lane: &Lane) {
        let mut backoff = BACKOFF_MIN;
        loop {
            lane.wait().await;
            let opened = self.env.clock.now();
            self.stream(lane).await;
            self.env.probe("replica.transport.lost");
            let counters = &self.shared.counters;
            Counters::add(&counters.streams_lost, 1);
            counters.stream_lost_unix_ms.store(self.env.clock.unix_millis(), Ordering::Relaxed);
            Counters::add(&self.shared.counters.messages_dropped, lane.clear());
            self.mailbox.report(Delivery::Unreachable { node: lane.node });
            if self.env.clock.now().since(opened) > BACKOFF_MAX {
                backoff = BACKOFF_MIN;
            }
            self.env.clock.sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// One stream, from its opening until it breaks.
    async fn stream(&self, lane: &Lane) {
        let Some(mut client) = self.connect(lane.node) else { return };
        Counters::add(&self.shared.counters.streams, 1);
        let (sender, receiver) = mpsc::channel(STREAM_BATCHES);
        let call = pin!(client.stream(ReceiverStream::new(receiver)));
        let pump = pin!(self.pump(lane, sender));
        if let Either::Left((Err(status), _)) = select(call, pump).await {
            tracing::debug!(node = lane.node, %status, "raft stream ended");
        }
    }

    /// Feeds a stream until it stalls or nobody takes from it any more.
    async fn pump(&self, lane: &Lane, stream: mpsc::Sender<RaftBatch>) {
        let opened = self.env.clock.now();
        loop {
            let envelopes = lane.take().await;
            let reserved = match stream.try_reserve() {
                Err(TrySendError::Full(())) => {
                    self.env.clock.timeout(self.config.stall_timeout, stream.reserve()).await
                }
                // Seldom is it full: no timer for each batch.
                at_once => Ok(at_once.map_err(|_| SendError(()))),
            };
            match reserved {
                Ok(Ok(permit)) => permit.send(self.batch(lane.node, envelopes)),
                Ok(Err(_)) => return,
                Err(_) => break,
            }
            if self.is_silent(lane.node, opened) {
                break;
            }
        }
        self.env.probe("replica.transport.stalled");
        tracing::debug!(node = lane.node, "raft stream stalled");
    }

    /// Nothing was heard from `node` for too long, though messages go out since `since`.
    fn is_silent(&self, node: u64, since: Instant) -> bool {
        let heard = lock(&self.heard).get(&node).copied().unwrap_or_default().max(since);
        self.env.clock.now().since(heard) > self.config.stall_timeout
    }

    /// Whether a snapshot reached the other driver's queue.
    async fn carry_snapshot(&self, node: u64, envelope: RaftEnvelope) -> bool {
        let Some(mut client) = self.connect(node) else { return false };
        let batch = self.batch(node, vec![envelope]);
        let call = client.stream(tokio_stream::once(batch));
        let call = pin!(self.env.clock.timeout(self.config.snapshot_timeout, call));
        let stopped = pin!(self.shared.stop.stopped());
        match select(call, stopped).await {
            Either::Left((outcome, _)) => matches!(outcome, Ok(Ok(_))),
            Either::Right(_) => false,
        }
    }

    fn connect(&self, node: u64) -> Option<RaftTransportClient<Channel>> {
        let address = self.resolver.address(node)?;
        let client = RaftTransportClient::new(self.env.net.connect(&address));
        Some(client.max_encoding_message_size(MESSAGE_BYTES_MAX).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn batch(&self, to_node: u64, envelopes: Vec<RaftEnvelope>) -> RaftBatch {
        RaftBatch { domain: self.config.domain.to_owned(), from_node: self.config.node, to_node, envelopes }
    }
}

/// The receiving side: checks that messages are for this node and hands them to the driver.
#[derive(Clone)]
pub struct RaftService {
    links: Arc<Links>,
}

impl RaftService {
    /// Takes a batch. When the driver is behind, messages are dropped, but snapshots waited with.
    pub(crate) async fn take(&self, batch: RaftBatch) -> Result<(), StepError> {
        let links = &self.links;
        if batch.domain != links.config.domain {
            return Err(StepError::WrongDomain { got: batch.domain, want: links.config.domain });
        }
        if batch.to_node != links.config.node {
            return Err(StepError::WrongNode { got: batch.to_node, want: links.config.node });
        }
        let from_node = batch.from_node;
        lock(&links.heard).insert(from_node, links.env.clock.now());
        let (messages, bytes, refused) = wire::decode(batch);
        links.shared.counters.messages_received.fetch_add(messages.len() as u64, Ordering::Relaxed);
        Counters::add(&links.shared.counters.messages_refused, refused);
        if messages.iter().any(Incoming::is_snapshot) {
            return links.mailbox.deliver(from_node, messages, bytes).await;
        }
        let count = messages.len() as u64;
        if !links.mailbox.offer(from_node, messages, bytes)? {
            links.env.probe("replica.inbox.full");
            Counters::add(&links.shared.counters.messages_refused, count);
        }
        Ok(())
    }

    async fn take_all(&self, mut batches: Streaming<RaftBatch>) -> Result<Response<RaftStreamDone>, Status> {
        while let Some(batch) = batches.message().await? {
            self.take(batch).await.map_err(|error| match error {
                StepError::Stopped => Status::unavailable(error.to_string()),
                _ => Status::failed_precondition(error.to_string()),
            })?;
        }
        Ok(Response::new(RaftStreamDone {}))
    }
}

#[tonic::async_trait]
impl RaftTransport for RaftService {
    async fn stream(
        &self,
        request: Request<Streaming<RaftBatch>>,
    ) -> Result<Response<RaftStreamDone>, Status> {
        let work = pin!(self.take_all(request.into_inner()));
        let stopped = pin!(self.links.shared.stop.stopped());
        match select(work, stopped).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => Err(Status::unavailable("the node stops")),
        }
    }
}
