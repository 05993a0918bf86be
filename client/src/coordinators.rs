//! Asking the coordinators: any one of them for routes, the lease holder for ids and timestamps.
//!
//! The endpoint that answered last is asked first. A refusal that another endpoint may not share (lease not
//! held, unreachable, root unavailable) moves on to the next one; a full round without success waits, unless nobody in
//! it was trusted or trusted us: time does not help then. A standby says
//! where the lease holder serves, so one known coordinator is enough to find the one that hands out timestamps.

use crate::attempt::Attempt;
use crate::client::Shared;
use crate::error::{ClientError, Result};
use crate::retry::{Wait, describe_status};
use crate::verify::{Grant, Verifier};
use nokv_env::net::{MESSAGE_BYTES_MAX, TlsFailure};
use nokv_env::{BoxFuture, Channel, ClockExt, Duty, Env, Fact, Instant};
use nokv_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use nokv_proto::coordinator::v1::{
    AllocIdRequest, Freshness, GetRegionByKeyRequest, GetRegionByKeyResponse, HoldSafePointRequest,
    HoldSafePointResponse, ListOperatorsRequest, ListOperatorsResponse, ListRegionsRequest,
    ListStoresRequest, ListStoresResponse, ListTransitionsRequest, PublishRootEventRequest, RegionRoute,
    StoreInfo, TransitionEntry, TsoRequest,
};
use nokv_proto::meta::v1::RootEvent;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use tonic::{Code, Response, Status};

type Stub = CoordinatorClient<Channel>;
/// A call under way.
type Reply<T> = BoxFuture<'static, std::result::Result<T, Status>>;

/// The coordinator endpoints of one cluster.
pub(crate) struct Coordinators {
    /// Configured endpoints, then those that standbys pointed at. Only grows.
    endpoints: Mutex<Vec<(String, Stub)>>,
    env: Env,
    /// Who answered last about routes.
    view: AtomicUsize,
    /// Who held the lease last.
    holder: AtomicUsize,
    verifier: Mutex<Verifier>,
    /// Tells this client from others on its node, for whoever watches.
    client: u64,
    /// Why the last refused request was refused; for callers whose patience ends before their request's.
    problem: Mutex<String>,
}

/// Regions asked for per page of a listing.
const LIST_PAGE: u32 = 1000;
/// More coordinators than anybody runs: a bound on what pointers may add.
const ENDPOINTS_MAX: usize = 16;

impl Coordinators {
    pub(crate) fn new(env: &Env, addresses: &[String], name: &str) -> Self {
        let endpoints = addresses.iter().map(|addr| (addr.clone(), stub(env, addr))).collect();
        Self {
            endpoints: Mutex::new(endpoints),
            env: env.clone(),
            view: AtomicUsize::new(0),
            holder: AtomicUsize::new(0),
            verifier: Mutex::default(),
            client: env.rng.pure(name, 0),
            problem: Mutex::default(),
        }
    }

    /// The last refusal in words.
    pub(crate) fn problem(&self) -> String {
        lock(&self.problem).clone()
    }

    /// The first of `count` fresh timestamps.
    ///
    /// Only the batcher calls this, one request at a time: a later grant must be above all earlier ones.
    pub(crate) async fn tso(&self, shared: &Shared, count: u64, attempt: &mut Attempt<'_>) -> Result<u64> {
        let call = |mut stub: Stub| -> Reply<_> {
            Box::pin(async move { stub.tso(TsoRequest { count }).await.map(Response::into_inner) })
        };
        let check = |reply: &nokv_proto::coordinator::v1::TsoResponse| {
            let grant = Grant {
                first: reply.timestamp,
                count: reply.count,
                generation: reply.cert_generation,
                frontier: reply.consumed_frontier,
                sealed: reply.observed_seal_generation,
            };
            self.accept(Duty::Timestamps, &grant, count)
        };
        Ok(self.ask(shared, &self.holder, attempt, call, check).await?.timestamp)
    }

    /// The first of `count` fresh ids.
    pub(crate) async fn alloc_id(
        &self,
        shared: &Shared,
        count: u64,
        attempt: &mut Attempt<'_>,
    ) -> Result<u64> {
        let call = |mut stub: Stub| -> Reply<_> {
            Box::pin(async move { stub.alloc_id(AllocIdRequest { count }).await.map(Response::into_inner) })
        };
        let check = |reply: &nokv_proto::coordinator::v1::AllocIdResponse| {
            let grant = Grant {
                first: reply.first_id,
                count: reply.count,
                generation: reply.cert_generation,
                frontier: reply.consumed_frontier,
                sealed: reply.observed_seal_generation,
            };
            self.accept(Duty::Ids, &grant, count)
        };
        Ok(self.ask(shared, &self.holder, attempt, call, check).await?.first_id)
    }

    /// Region, leader and store addresses for a key.
    pub(crate) async fn region_by_key(
        &self,
        shared: &Shared,
        key: &[u8],
        attempt: &mut Attempt<'_>,
    ) -> Result<GetRegionByKeyResponse> {
        let request = GetRegionByKeyRequest {
            key: key.to_vec().into(),
            freshness: Freshness::BestEffort.into(),
            ..Default::default()
        };
        let call = |mut stub: Stub| -> Reply<_> {
            let request = request.clone();
            Box::pin(async move { stub.get_region_by_key(request).await.map(Response::into_inner) })
        };
        let check = |reply: &GetRegionByKeyResponse| {
            lock(&self.verifier).route(reply)?;
            self.env.fact(Fact::Accepted {
                client: self.client,
                duty: Duty::Routes,
                generation: reply.cert_generation,
                sealed: reply.observed_seal_generation,
                first: 0,
                count: 0,
            });
            Ok(())
        };
        self.ask(shared, &self.view, attempt, call, check).await
    }

    /// Every region, in key order.
    pub(crate) async fn regions(
        &self,
        shared: &Shared,
        attempt: &mut Attempt<'_>,
    ) -> Result<Vec<RegionRoute>> {
        let mut all: Vec<RegionRoute> = Vec::new();
        let mut request = ListRegionsRequest { start_key: bytes::Bytes::new(), limit: LIST_PAGE };
        loop {
            let call = |mut stub: Stub| -> Reply<_> {
                let request = request.clone();
                Box::pin(async move { stub.list_regions(request).await.map(Response::into_inner) })
            };
            let page = self.ask(shared, &self.view, attempt, call, |_| Ok(())).await?.regions;
            let end = page
                .last()
                .and_then(|r| r.descriptor.as_ref())
                .map(|d| d.end_key.clone())
                .unwrap_or_default();
            all.extend(page);
            if end.is_empty() || end <= request.start_key {
                return Ok(all);
            }
            request.start_key = end;
        }
    }

    /// Every store that a coordinator has heard of.
    pub(crate) async fn stores(&self, shared: &Shared, attempt: &mut Attempt<'_>) -> Result<Vec<StoreInfo>> {
        Ok(self.store_list(shared, attempt).await?.stores)
    }

    /// The id of the cluster; 0 when it is not known yet.
    pub(crate) async fn cluster_id(&self, shared: &Shared, attempt: &mut Attempt<'_>) -> Result<u64> {
        Ok(self.store_list(shared, attempt).await?.cluster_id)
    }

    async fn store_list(&self, shared: &Shared, attempt: &mut Attempt<'_>) -> Result<ListStoresResponse> {
        let call = |mut stub: Stub| -> Reply<_> {
            Box::pin(async move { stub.list_stores(ListStoresRequest {}).await.map(Response::into_inner) })
        };
        self.ask(shared, &self.view, attempt, call, |_| Ok(())).await
    }

    /// Asks the lease holder to keep the safe point where it is. Also gives when the request was sent that it answered.
    pub(crate) async fn hold(
        &self,
        shared: &Shared,
        request: HoldSafePointRequest,
        attempt: &mut Attempt<'_>,
    ) -> Result<(Instant, HoldSafePointResponse)> {
        let call = |mut stub: Stub| -> Reply<_> {
            let (request, sent) = (request.clone(), shared.env.clock.now());
            Box::pin(async move { Ok((sent, stub.hold_safe_point(request).await?.into_inner())) })
        };
        self.ask(shared, &self.holder, attempt, call, |_| Ok(())).await
    }

    /// What the scheduler does and did. Only the lease holder knows.
    pub(crate) async fn operators(
        &self,
        shared: &Shared,
        region_id: u64,
        attempt: &mut Attempt<'_>,
    ) -> Result<ListOperatorsResponse> {
        let call = |mut stub: Stub| -> Reply<_> {
            let request = ListOperatorsRequest { region_id };
            Box::pin(async move { stub.list_operators(request).await.map(Response::into_inner) })
        };
        self.ask(shared, &self.holder, attempt, call, |_| Ok(())).await
    }

    /// Changes of regions that are under way.
    pub(crate) async fn transitions(
        &self,
        shared: &Shared,
        attempt: &mut Attempt<'_>,
    ) -> Result<Vec<TransitionEntry>> {
        let call = |mut stub: Stub| -> Reply<_> {
            let request = ListTransitionsRequest::default();
            Box::pin(async move { stub.list_transitions(request).await.map(Response::into_inner) })
        };
        Ok(self.ask(shared, &self.view, attempt, call, |_| Ok(())).await?.entries)
    }

    /// Has the meta-root take `event`. A refusal by the state of the cluster is final.
    pub(crate) async fn publish(
        &self,
        shared: &Shared,
        event: RootEvent,
        attempt: &mut Attempt<'_>,
    ) -> Result<()> {
        let request = PublishRootEventRequest { event: Some(event), expected_cluster_epoch: 0 };
        let call = |mut stub: Stub| -> Reply<_> {
            let request = request.clone();
            Box::pin(async move {
                match stub.publish_root_event(request).await {
                    Ok(_) => Ok(Ok(())),
                    Err(status) if status.code() == Code::FailedPrecondition => Ok(Err(status)),
                    Err(status) => Err(status),
                }
            })
        };
        let refused = self.ask(shared, &self.view, attempt, call, |_| Ok(())).await?;
        refused.map_err(|status| ClientError::InvalidArgument(status.message().to_owned()))
    }

    /// Takes a grant for good, or says what is wrong with it. Timestamps are asked for one request at a time.
    fn accept(&self, duty: Duty, grant: &Grant, count: u64) -> std::result::Result<(), String> {
        lock(&self.verifier).number(duty, grant, count)?;
        let &Grant { generation, sealed, first, .. } = grant;
        self.env.fact(Fact::Accepted { client: self.client, duty, generation, sealed, first, count });
        Ok(())
    }

    fn count(&self) -> usize {
        lock(&self.endpoints).len()
    }

    fn endpoint(&self, turn: usize) -> (String, Stub) {
        let endpoints = lock(&self.endpoints);
        endpoints[turn % endpoints.len()].clone()
    }

    /// The place of `addr` among the endpoints, which it joins when it is new.
    fn learn(&self, addr: &str) -> Option<usize> {
        let mut endpoints = lock(&self.endpoints);
        if let Some(known) = endpoints.iter().position(|(known, _)| known == addr) {
            return Some(known);
        }
        if endpoints.len() >= ENDPOINTS_MAX {
            return None;
        }
        endpoints.push((addr.to_owned(), stub(&self.env, addr)));
        Some(endpoints.len() - 1)
    }

    /// Asks one endpoint after the other until one gives a reply that `check` accepts.
    async fn ask<T>(
        &self,
        shared: &Shared,
        preferred: &AtomicUsize,
        attempt: &mut Attempt<'_>,
        call: impl Fn(Stub) -> Reply<T> + Send + Sync,
        check: impl Fn(&T) -> std::result::Result<(), String> + Send + Sync,
    ) -> Result<T> {
        if self.count() == 0 {
            return Err(ClientError::InvalidArgument("no coordinator address was given".into()));
        }
        loop {
            let count = self.count();
            let mut distrusted = 0;
            for asked in 0..count {
                let turn = preferred.load(Ordering::Relaxed);
                let (addr, stub) = self.endpoint(turn);
                // A dead endpoint must not use up the patience that the others of this round need.
                let share = attempt.share((count - asked) as u32)?;
                let limit = share.min(shared.config.coordinator_timeout);
                let problem = match shared.env.clock.timeout(limit, call(stub.clone())).await {
                    Ok(Ok(reply)) => match check(&reply) {
                        Ok(()) => return Ok(reply),
                        Err(wrong) => format!("its reply is stale or broken ({wrong})"),
                    },
                    Ok(Err(status)) => {
                        let reason = refusal(&addr, &status)?;
                        if let Some(failure) = TlsFailure::of(&status) {
                            distrusted += 1;
                            if distrusted == count {
                                return Err(ClientError::Tls(failure.clone()));
                            }
                        }
                        if let Some(there) = pointer(status.message()).and_then(|at| self.learn(at)) {
                            let _ =
                                preferred.compare_exchange(turn, there, Ordering::Relaxed, Ordering::Relaxed);
                        }
                        reason
                    }
                    Err(_) => format!("no answer within {limit:?}"),
                };
                tracing::debug!(addr, problem, "coordinator did not serve");
                attempt.note(format!("coordinator {addr}: {problem}"));
                attempt.cause().clone_into(&mut lock(&self.problem));
                // Only if nobody else (or a pointer) has moved on in the meantime.
                let _ = preferred.compare_exchange(
                    turn,
                    turn.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            let cause = attempt.cause().to_owned();
            attempt.pause(Wait::Backoff, cause).await?;
        }
    }
}

fn stub(env: &Env, addr: &str) -> Stub {
    Stub::new(env.net.connect(addr))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The address in `coordinator lease not held: held by ID at ADDRESS`.
fn pointer(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("lease not held: held by ")?;
    rest.rsplit_once(" at ").map(|(_, addr)| addr).filter(|addr| addr.contains(':'))
}

/// What a refusal says, or the error when no other endpoint would answer differently.
fn refusal(addr: &str, status: &Status) -> Result<String> {
    match status.code() {
        Code::InvalidArgument => Err(ClientError::InvalidArgument(status.message().to_owned())),
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
            Err(ClientError::Refused { addr: addr.to_owned(), reason: describe_status(status) })
        }
        _ => Ok(describe_status(status)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_points_at_the_holder() {
        assert_eq!(pointer("coordinator lease not held: held by c 1 at host:2378"), Some("host:2378"));
        assert_eq!(pointer("coordinator lease not held: held by c1"), None);
        assert_eq!(pointer("coordinator lease not held: not granted yet"), None);
    }
}
