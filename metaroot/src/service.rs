//! `nokv.meta.v1.MetadataRoot`: commands go through the log, reads come from what this node has applied.
//!
//! Any node answers reads; a follower is only later. `Snapshot` on the leader is linearizable (read index).
//! A token's revision is the raft index of the newest event, so tokens of different nodes compare.
//! `ObserveTail` is too when it is asked to be: then only the leader answers. It and `WaitTail` leave the checkpoint out when nothing has changed since the caller's token.
//!
//! Commands on a follower fail with `metadata root not leader (leader_id=N)`; the caller goes there itself.

use crate::image::Image;
use crate::machine::{GROUP, Machine, Shared};
use crate::state::{Refusal, Reply};
use nokv_env::task::Stop;
use nokv_env::{ClockExt, Env};
use nokv_proto::meta::v1::metadata_root_server::MetadataRoot;
use nokv_proto::meta::v1::root_command::{Append, Closure, Command, Fence, Lease};
use nokv_proto::meta::v1::{self as meta, RootCommand, RootCommittedTail, RootTailToken};
use nokv_replica::{Handle, ProposeError, ReadError};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// WaitTail waits this long when the caller does not say.
const WAIT_DEFAULT: Duration = Duration::from_millis(200);
/// And never longer than this.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Answers the RPCs.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) env: Env,
    pub(crate) node_id: u64,
    pub(crate) handle: Handle<Machine>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: Stop,
    pub(crate) request_timeout: Duration,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MetadataRoot for Service {
    async fn snapshot(
        &self,
        _request: Request<meta::MetadataRootSnapshotRequest>,
    ) -> Answer<meta::MetadataRootSnapshotResponse> {
        if self.is_leader() {
            // A node that leads no more answers as the follower that it is.
            let _ = self.catch_up().await?;
        }
        let checkpoint = Some(self.shared.lock().image.state.checkpoint());
        Ok(Response::new(meta::MetadataRootSnapshotResponse { checkpoint }))
    }

    async fn append(
        &self,
        request: Request<meta::MetadataRootAppendRequest>,
    ) -> Answer<meta::MetadataRootAppendResponse> {
        let request = request.into_inner();
        let append =
            Append { events: request.events, expected_cluster_epoch: request.expected_cluster_epoch };
        match self.propose(Command::Append(append)).await? {
            Reply::Appended { cursor, state } => Ok(Response::new(meta::MetadataRootAppendResponse {
                cursor: Some(cursor),
                state: Some(*state),
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn fence_allocator(
        &self,
        request: Request<meta::MetadataRootFenceAllocatorRequest>,
    ) -> Answer<meta::MetadataRootFenceAllocatorResponse> {
        let request = request.into_inner();
        let fence = Fence {
            kind: request.kind,
            minimum: request.minimum,
            holder_id: request.holder_id,
            cert_generation: request.cert_generation,
        };
        match self.propose(Command::Fence(fence)).await? {
            Reply::Fenced { current } => {
                Ok(Response::new(meta::MetadataRootFenceAllocatorResponse { current }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn status(
        &self,
        _request: Request<meta::MetadataRootStatusRequest>,
    ) -> Answer<meta::MetadataRootStatusResponse> {
        let status = self.handle.status(GROUP);
        Ok(Response::new(meta::MetadataRootStatusResponse {
            is_leader: status.as_ref().is_some_and(|status| status.is_leader),
            leader_id: self.leader(),
            node_id: self.node_id,
            term: status.as_ref().map_or(0, |status| status.term),
            applied_index: self.shared.lock().image.applied.index,
        }))
    }

    async fn apply_coordinator_lease(
        &self,
        request: Request<meta::MetadataRootApplyCoordinatorLeaseRequest>,
    ) -> Answer<meta::MetadataRootApplyCoordinatorLeaseResponse> {
        let lease = Lease { command: request.into_inner().command, ..Default::default() };
        match self.propose(Command::Lease(lease)).await? {
            Reply::Lease { protocol, granted } => {
                let status = if granted {
                    meta::RootCoordinatorLeaseStatus::Granted
                } else {
                    meta::RootCoordinatorLeaseStatus::Held
                };
                Ok(Response::new(meta::MetadataRootApplyCoordinatorLeaseResponse {
                    state: Some(*protocol),
                    status: status as i32,
                }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn apply_coordinator_closure(
        &self,
        request: Request<meta::MetadataRootApplyCoordinatorClosureRequest>,
    ) -> Answer<meta::MetadataRootApplyCoordinatorClosureResponse> {
        let closure = Closure { command: request.into_inner().command };
        match self.propose(Command::Closure(closure)).await? {
            Reply::Closure { protocol } => {
                Ok(Response::new(meta::MetadataRootApplyCoordinatorClosureResponse {
                    state: Some(*protocol),
                }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn observe_committed(
        &self,
        request: Request<meta::MetadataRootObserveCommittedRequest>,
    ) -> Answer<meta::MetadataRootObserveCommittedResponse> {
        let offset = request.into_inner().requested_offset;
        let core = self.shared.lock();
        Ok(Response::new(meta::MetadataRootObserveCommittedResponse {
            checkpoint: Some(core.image.state.checkpoint()),
            tail: Some(tail(&core.image, offset)),
        }))
    }

    async fn observe_tail(
        &self,
        request: Request<meta::MetadataRootObserveTailRequest>,
    ) -> Answer<meta::MetadataRootObserveTailResponse> {
        let request = request.into_inner();
        if request.linearizable {
            self.catch_up().await?.map_err(not_leader)?;
        }
        let seen = self.observe(request.after);
        Ok(Response::new(meta::MetadataRootObserveTailResponse {
            after: seen.after,
            token: seen.token,
            checkpoint: seen.checkpoint,
            tail: seen.tail,
        }))
    }

    async fn wait_tail(
        &self,
        request: Request<meta::MetadataRootWaitTailRequest>,
    ) -> Answer<meta::MetadataRootWaitTailResponse> {
        let request = request.into_inner();
        let wait = match request.timeout_millis {
            0 => WAIT_DEFAULT,
            millis => Duration::from_millis(millis).min(WAIT_MAX),
        };
        let wait = if self.env.chance("metaroot.tail.early", 0.02) { Duration::ZERO } else { wait };
        let news = self.news(request.after.map_or(0, |after| after.revision));
        let waited = self.env.clock.timeout(wait, until_stop(&self.stop, news)).await;
        if waited == Ok(Err(Stopping)) {
            return Err(stopping());
        }
        Ok(Response::new(self.observe(request.after)))
    }
}

impl Service {
    async fn propose(&self, command: Command) -> Result<Reply, Status> {
        let command = RootCommand { command: Some(command), ..RootCommand::default() };
        let proposal = until_stop(&self.stop, self.handle.propose(GROUP, command));
        let reply = match self.env.clock.timeout(self.request_timeout, proposal).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(Stopping)) => return Err(stopping()),
            Err(_) => {
                return Err(Status::unavailable("metadata root: no quorum in time; the outcome is unknown"));
            }
        };
        match reply {
            Ok(Reply::Refused(Refusal::Invalid(why))) => Err(Status::invalid_argument(why)),
            Ok(Reply::Refused(Refusal::Precondition(why))) => Err(Status::failed_precondition(why)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.proposal_failed(error)),
        }
    }

    fn proposal_failed(&self, error: ProposeError) -> Status {
        match error {
            ProposeError::NotLeader { leader } => not_leader(leader.unwrap_or(0)),
            // It lost its place in the log to another leader, so it has no effect and may be sent there.
            ProposeError::Dropped => not_leader(self.leader()),
            ProposeError::Busy => Status::resource_exhausted("metadata root: too many requests under way"),
            ProposeError::TooLarge { .. } => Status::invalid_argument(format!("metadata root: {error}")),
            ProposeError::Refused(why) => Status::failed_precondition(why),
            ProposeError::NotHosted | ProposeError::Unknown => {
                Status::unavailable("metadata root is stopping; the outcome is unknown")
            }
        }
    }

    /// Waits until everything committed before the call is applied here. Only the leader can; another node says who that
    /// is, 0 when it does not know.
    async fn catch_up(&self) -> Result<Result<(), u64>, Status> {
        let read = until_stop(&self.stop, self.handle.read_index(GROUP, 0));
        match self.env.clock.timeout(self.request_timeout, read).await {
            Ok(Ok(Ok(_))) => Ok(Ok(())),
            Ok(Ok(Err(ReadError::NotLeader { leader }))) => Ok(Err(leader.unwrap_or(0))),
            Ok(Err(Stopping)) => Err(stopping()),
            Ok(Ok(Err(error))) => Err(Status::unavailable(format!("metadata root: {error}"))),
            Err(_) => Err(Status::unavailable("metadata root: no quorum in time")),
        }
    }

    /// Completes when there is an event above `index`.
    async fn news(&self, index: u64) {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            if self.shared.lock().image.state.last_committed().index > index {
                return;
            }
            changed.await;
        }
    }

    /// What a reader that knows `after` should hear now.
    fn observe(&self, after: Option<RootTailToken>) -> meta::MetadataRootWaitTailResponse {
        let core = self.shared.lock();
        let cursor = core.image.state.last_committed();
        let changed = after.is_none_or(|after| after.revision != cursor.index);
        meta::MetadataRootWaitTailResponse {
            after,
            token: Some(RootTailToken { cursor: Some(cursor), revision: cursor.index }),
            checkpoint: changed.then(|| core.image.state.checkpoint()),
            tail: Some(tail(&core.image, after.map_or(0, |after| after.revision as i64))),
        }
    }

    fn is_leader(&self) -> bool {
        self.handle.status(GROUP).is_some_and(|status| status.is_leader)
    }

    fn leader(&self) -> u64 {
        self.handle.status(GROUP).and_then(|status| status.leader).unwrap_or(0)
    }
}

/// Retained events above `offset`; offsets are raft indexes. A start above the request tells the reader that
/// older events are gone, so that it must take the checkpoint.
fn tail(image: &Image, offset: i64) -> RootCommittedTail {
    let from = u64::try_from(offset).unwrap_or(0).max(image.tail.floor().index);
    RootCommittedTail {
        requested_offset: offset,
        start_offset: from as i64,
        end_offset: image.state.last_committed().index as i64,
        records: image.tail.after(from),
    }
}

/// The node is going down.
#[derive(Debug, PartialEq, Eq)]
struct Stopping;

/// Runs `work` unless the node stops first.
async fn until_stop<T>(stop: &Stop, work: impl Future<Output = T>) -> Result<T, Stopping> {
    use futures_util::future::{Either, select};
    match select(pin!(work), pin!(stop.stopped())).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(((), _)) => Err(Stopping),
    }
}

fn stopping() -> Status {
    Status::unavailable("metadata root is stopping")
}

fn not_leader(leader: u64) -> Status {
    Status::failed_precondition(format!("metadata root not leader (leader_id={leader})"))
}

fn unexpected(reply: &Reply) -> Status {
    Status::internal(format!("metadata root answered another question: {reply:?}"))
}
