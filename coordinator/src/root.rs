//! Talking to the three meta-roots: follow the leader, never wait for a dead one.
//!
//! Every call is tried on the endpoint that served last, then where a "not leader" answer points, then on
//! the others, each attempt bounded, all of them inside the caller's deadline. Reads of the tail go to any
//! endpoint: events are the same on every node, a follower is only later.

use crate::Error;
use nokv_env::{BoxFuture, Channel, ClockExt, Env, Instant};
use nokv_proto::meta::v1 as meta;
use nokv_proto::meta::v1::metadata_root_client::MetadataRootClient;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::{Code, Response, Status};

/// One attempt on one endpoint. Longer than a crowded machine stands still now and then.
const ATTEMPT: Duration = Duration::from_millis(2_500);
/// Pause before the same endpoints are asked again.
const PAUSE: Duration = Duration::from_millis(100);

type Client = MetadataRootClient<Channel>;

/// Client of the meta-root group.
pub struct RootClient {
    env: Env,
    endpoints: BTreeMap<u64, Client>,
    addresses: BTreeMap<u64, String>,
    /// Node that answered last; asked first.
    preferred: Mutex<u64>,
    /// Nodes that could not be reached the last time, and why.
    dead: Mutex<BTreeMap<u64, String>>,
    /// Node that answered last what only the leader answers; 0: none has yet.
    leader: Mutex<u64>,
}

impl RootClient {
    /// A client of the meta-roots at `peers`. Connects at first use.
    pub fn new(env: &Env, peers: &BTreeMap<u64, String>) -> Self {
        let endpoints: BTreeMap<u64, Client> = peers
            .iter()
            .map(|(&node, addr)| {
                let client = Client::new(env.net.connect(addr))
                    .max_decoding_message_size(nokv_env::net::MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(nokv_env::net::MESSAGE_BYTES_MAX);
                (node, client)
            })
            .collect();
        let first = endpoints.keys().next().copied().unwrap_or_default();
        let (preferred, dead, leader) = (Mutex::new(first), Mutex::default(), Mutex::new(0));
        Self { env: env.clone(), endpoints, addresses: peers.clone(), preferred, dead, leader }
    }

    /// Raises an allocator fence to at least `minimum` and returns it.
    pub async fn fence(
        &self,
        deadline: Instant,
        request: meta::MetadataRootFenceAllocatorRequest,
    ) -> Result<u64, Error> {
        let reply = self
            .call_leader(deadline, move |mut client| {
                let request = request.clone();
                Box::pin(async move { client.fence_allocator(request).await })
            })
            .await?;
        Ok(reply.current)
    }

    /// Seals a generation of the coordinator lease.
    pub async fn closure(
        &self,
        deadline: Instant,
        command: meta::RootCoordinatorClosureCommand,
    ) -> Result<meta::MetadataRootApplyCoordinatorClosureResponse, Error> {
        self.call_leader(deadline, move |mut client| {
            let request = meta::MetadataRootApplyCoordinatorClosureRequest { command: Some(command.clone()) };
            Box::pin(async move { client.apply_coordinator_closure(request).await })
        })
        .await
    }

    /// Issues or renews the coordinator lease.
    pub async fn lease(
        &self,
        deadline: Instant,
        command: meta::RootCoordinatorLeaseCommand,
    ) -> Result<meta::MetadataRootApplyCoordinatorLeaseResponse, Error> {
        self.call_leader(deadline, move |mut client| {
            let request = meta::MetadataRootApplyCoordinatorLeaseRequest { command: Some(command.clone()) };
            Box::pin(async move { client.apply_coordinator_lease(request).await })
        })
        .await
    }

    /// Appends one event; the root validates it.
    pub async fn append(
        &self,
        deadline: Instant,
        event: meta::RootEvent,
        expected_cluster_epoch: Option<u64>,
    ) -> Result<meta::MetadataRootAppendResponse, Error> {
        self.call_leader(deadline, move |mut client| {
            let request =
                meta::MetadataRootAppendRequest { events: vec![event.clone()], expected_cluster_epoch };
            Box::pin(async move { client.append(request).await })
        })
        .await
    }

    /// The whole state, as fresh as the answering node has it.
    pub async fn snapshot(&self, deadline: Instant) -> Result<meta::RootCheckpoint, Error> {
        let reply = self
            .call(deadline, |mut client| {
                Box::pin(async move { client.snapshot(meta::MetadataRootSnapshotRequest {}).await })
            })
            .await?;
        reply.checkpoint.ok_or_else(|| Error::RootUnavailable("snapshot without a checkpoint".into()))
    }

    /// Waits up to `wait` for events after `after`; less when a silent node would be taken for a dead one before.
    pub async fn wait_tail(
        &self,
        deadline: Instant,
        after: Option<meta::RootTailToken>,
        wait: Duration,
    ) -> Result<meta::MetadataRootWaitTailResponse, Error> {
        let timeout_millis = wait.min(ATTEMPT / 2).as_millis() as u64;
        self.call(deadline, move |mut client| {
            Box::pin(async move {
                client.wait_tail(meta::MetadataRootWaitTailRequest { after, timeout_millis }).await
            })
        })
        .await
    }

    /// What is new since `after` when it is asked: nothing is missing that was committed before the call.
    pub async fn newest(
        &self,
        deadline: Instant,
        after: Option<meta::RootTailToken>,
    ) -> Result<meta::MetadataRootObserveTailResponse, Error> {
        self.call_leader(deadline, move |mut client| {
            let request = meta::MetadataRootObserveTailRequest { after, linearizable: true };
            Box::pin(async move { client.observe_tail(request).await })
        })
        .await
    }

    /// Runs `attempt` on one endpoint after the other until one answers or the deadline passes.
    async fn call<R, F>(&self, deadline: Instant, attempt: F) -> Result<R, Error>
    where
        F: Fn(Client) -> BoxFuture<'static, Result<Response<R>, Status>>,
    {
        let mut node = self.preferred();
        let mut tried = 0;
        let mut last = String::from("deadline passed before the first attempt");
        while self.env.clock.now() < deadline {
            let Some(client) = self.endpoints.get(&node) else {
                node = self.after(node);
                continue;
            };
            let until = deadline.min(self.env.clock.now() + ATTEMPT);
            let next = match self.env.clock.timeout_at(until, attempt(client.clone())).await {
                Ok(Ok(response)) => {
                    self.lives(node);
                    self.prefer(node);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) if is_not_leader(&status) => {
                    self.lives(node);
                    last = format!("node {node}: {}", status.message());
                    leader_hint(&status).filter(|hint| *hint != node && self.endpoints.contains_key(hint))
                }
                Ok(Err(status)) if is_passing(&status) => {
                    if status.code() == Code::Unavailable {
                        self.died(node, status.message());
                    }
                    last = format!("node {node}: {}", status.message());
                    None
                }
                Ok(Err(status)) => {
                    self.lives(node);
                    return Err(Error::RootRefused(status));
                }
                Err(_) => {
                    last = format!("node {node}: no answer in {ATTEMPT:?}");
                    // The caller's patience may have been shorter.
                    if until < deadline {
                        self.died(node, "no answer");
                    }
                    None
                }
            };
            tried += 1;
            node = next.unwrap_or_else(|| self.after(node));
            if tried % self.endpoints.len() == 0 {
                self.env.clock.sleep(PAUSE).await;
            }
        }
        self.prefer(node);
        Err(Error::RootUnavailable(self.quorum_lost().unwrap_or(last)))
    }

    fn lives(&self, node: u64) {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    fn died(&self, node: u64, why: &str) {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).insert(node, why.to_owned());
    }

    /// Names the nodes that could not be reached, if the others are no majority.
    fn quorum_lost(&self) -> Option<String> {
        let dead = self.dead.lock().unwrap_or_else(PoisonError::into_inner);
        if dead.len() * 2 < self.endpoints.len() {
            return None;
        }
        let address = |node| self.addresses.get(node).map_or("?", String::as_str);
        let named: Vec<_> =
            dead.iter().map(|(node, why)| format!("meta-root-{node} ({}): {why}", address(node))).collect();
        Some(format!("root_quorum_lost: {}", named.join("; ")))
    }

    /// The node that answered last, and whether it is the one that was the leader when it was last asked as such.
    pub fn leader(&self) -> (u64, bool) {
        let leader = *self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        (leader, leader != 0 && leader == self.preferred())
    }

    /// Calls what only the leader answers.
    async fn call_leader<R, F>(&self, deadline: Instant, attempt: F) -> Result<R, Error>
    where
        F: Fn(Client) -> BoxFuture<'static, Result<Response<R>, Status>>,
    {
        let reply = self.call(deadline, attempt).await?;
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = self.preferred();
        Ok(reply)
    }

    fn preferred(&self) -> u64 {
        *self.preferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefer(&self, node: u64) {
        *self.preferred.lock().unwrap_or_else(PoisonError::into_inner) = node;
    }

    /// The node after `node`, in a ring.
    fn after(&self, node: u64) -> u64 {
        let next = self.endpoints.range(node + 1..).next().or_else(|| self.endpoints.iter().next());
        next.map_or(node, |(&id, _)| id)
    }
}

fn is_not_leader(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.message().contains("not leader")
}

/// Whether another endpoint, or the same one later, may do better.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Aborted
            | Code::ResourceExhausted
    )
}

/// The node id in `metadata root not leader (leader_id=N)`.
fn leader_hint(status: &Status) -> Option<u64> {
    let (_, rest) = status.message().split_once("leader_id=")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_hint_is_read_from_the_error_text() {
        let status = |text: &str| Status::failed_precondition(text);
        assert_eq!(leader_hint(&status("metadata root not leader (leader_id=3)")), Some(3));
        assert_eq!(leader_hint(&status("metadata root not leader (leader_id=0)")), None);
        assert_eq!(leader_hint(&status("metadata root not leader")), None);
    }
}
