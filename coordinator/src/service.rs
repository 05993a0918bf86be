//! The coordinator's front door: `nokv.coordinator.v1.Coordinator`.

use crate::{Error, Shared, handover, route, transition};
use nokv_proto::coordinator::v1 as pb;
use nokv_proto::coordinator::v1::coordinator_server::Coordinator;
use nokv_proto::meta::v1 as meta;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// Answers the RPCs.
#[derive(Clone)]
pub(crate) struct Service(pub(crate) Arc<Shared>);

type Reply<T> = Result<Response<T>, Status>;

fn required(id: u64, what: &str) -> Result<u64, Error> {
    if id == 0 { Err(Error::InvalidRequest(format!("{what} is 0"))) } else { Ok(id) }
}

#[tonic::async_trait]
impl Coordinator for Service {
    async fn store_heartbeat(
        &self,
        request: Request<pb::StoreHeartbeatRequest>,
    ) -> Reply<pb::StoreHeartbeatResponse> {
        let heartbeat = request.into_inner();
        let store = required(heartbeat.store_id, "store id")?;
        let shared = &self.0;
        let now = shared.env.clock.now();
        let mut view = shared.view();
        view.heard(heartbeat, now);
        let operations = shared.orders(&view, store, now);
        let generation = shared.lease().generation(now);
        let gc_target = generation.map_or(0, |generation| shared.gc().target(generation));
        Ok(Response::new(pb::StoreHeartbeatResponse {
            accepted: true,
            operations,
            gc_target,
            gc_safe_point: view.state.gc_safe_point,
        }))
    }

    async fn region_liveness(
        &self,
        request: Request<pb::RegionLivenessRequest>,
    ) -> Reply<pb::RegionLivenessResponse> {
        let region = required(request.into_inner().region_id, "region id")?;
        let accepted = self.0.view().region(region).is_some();
        Ok(Response::new(pb::RegionLivenessResponse { accepted }))
    }

    async fn publish_root_event(
        &self,
        request: Request<pb::PublishRootEventRequest>,
    ) -> Reply<pb::PublishRootEventResponse> {
        let request = request.into_inner();
        let event = request.event.ok_or_else(|| Error::InvalidRequest("no event".into()))?;
        if event.kind() == meta::RootEventKind::Unspecified || event.payload.is_none() {
            return Err(Error::InvalidRequest("unknown event kind".into()).into());
        }
        let assessment = transition::assess(&self.0.view(), &event);
        if assessment.decision() == pb::TransitionDecision::Skip {
            return Ok(Response::new(pb::PublishRootEventResponse {
                accepted: true,
                assessment: Some(assessment),
            }));
        }
        self.0.append(event, request.expected_cluster_epoch).await?;
        Ok(Response::new(pb::PublishRootEventResponse { accepted: true, assessment: Some(assessment) }))
    }

    async fn list_transitions(
        &self,
        _request: Request<pb::ListTransitionsRequest>,
    ) -> Reply<pb::ListTransitionsResponse> {
        let view = self.0.view();
        let reports = view.leader_reports(self.0.env.clock.now(), self.0.config.store_down_after);
        let entries = transition::list(&view, &reports);
        Ok(Response::new(pb::ListTransitionsResponse { entries }))
    }

    async fn assess_root_event(
        &self,
        request: Request<pb::AssessRootEventRequest>,
    ) -> Reply<pb::AssessRootEventResponse> {
        let event = request.into_inner().event.ok_or_else(|| Error::InvalidRequest("no event".into()))?;
        let assessment = Some(transition::assess(&self.0.view(), &event));
        Ok(Response::new(pb::AssessRootEventResponse { assessment }))
    }

    async fn remove_region(
        &self,
        request: Request<pb::RemoveRegionRequest>,
    ) -> Reply<pb::RemoveRegionResponse> {
        let request = request.into_inner();
        let region_id = required(request.region_id, "region id")?;
        if self.0.view().region(region_id).is_none() {
            return Ok(Response::new(pb::RemoveRegionResponse { removed: false }));
        }
        let event = meta::RootEvent {
            kind: meta::RootEventKind::RegionTombstoned as i32,
            payload: Some(meta::root_event::Payload::RegionRemoval(meta::RootRegionRemoval { region_id })),
        };
        self.0.append(event, request.expected_cluster_epoch).await?;
        Ok(Response::new(pb::RemoveRegionResponse { removed: true }))
    }

    async fn get_region_by_key(
        &self,
        request: Request<pb::GetRegionByKeyRequest>,
    ) -> Reply<pb::GetRegionByKeyResponse> {
        let request = request.get_ref();
        let strong = request.freshness() == pb::Freshness::Strong;
        if strong {
            let deadline = self.0.env.clock.now() + self.0.config.request_timeout;
            if let Err(error) = self.0.catch_up(deadline).await {
                tracing::debug!(%error, "no strong route");
                return Err(route::unavailable().into());
            }
            self.0.env.probe("coordinator.route.strong");
        }
        let reply = route::answer(&self.0.view(), request, strong)?;
        if reply.degraded_mode() != pb::DegradedMode::Healthy {
            self.0.env.probe("coordinator.route.degraded");
        }
        Ok(Response::new(reply))
    }

    async fn alloc_id(&self, request: Request<pb::AllocIdRequest>) -> Reply<pb::AllocIdResponse> {
        let grant = self.0.ids.take(request.into_inner().count).await?;
        Ok(Response::new(pb::AllocIdResponse {
            first_id: grant.first,
            count: grant.count,
            cert_generation: grant.generation,
            consumed_frontier: grant.last(),
            observed_seal_generation: handover::sealed_generation(&self.0.view().state),
        }))
    }

    async fn tso(&self, request: Request<pb::TsoRequest>) -> Reply<pb::TsoResponse> {
        let grant = self.0.timestamps.take(request.into_inner().count).await?;
        Ok(Response::new(pb::TsoResponse {
            timestamp: grant.first,
            count: grant.count,
            cert_generation: grant.generation,
            consumed_frontier: grant.last(),
            observed_seal_generation: handover::sealed_generation(&self.0.view().state),
        }))
    }

    async fn list_stores(&self, _request: Request<pb::ListStoresRequest>) -> Reply<pb::ListStoresResponse> {
        let now = self.0.env.clock.now();
        let view = self.0.view();
        let stores = view.stores(now, self.0.config.store_down_after);
        Ok(Response::new(pb::ListStoresResponse { stores, cluster_id: view.state.cluster_id }))
    }

    async fn list_regions(&self, request: Request<pb::ListRegionsRequest>) -> Reply<pb::ListRegionsResponse> {
        let request = request.into_inner();
        let (now, down_after) = (self.0.env.clock.now(), self.0.config.store_down_after);
        let view = self.0.view();
        let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
        let traffic = view.traffic(now, down_after);
        let reports = view.leader_reports(now, down_after);
        let regions = view
            .regions_from(&request.start_key)
            .take(limit)
            .map(|region| pb::RegionRoute {
                descriptor: Some(region.clone()),
                leader: view.leader(region.region_id),
                traffic: traffic.get(&region.region_id).copied(),
                bytes: reports.get(&region.region_id).map_or(0, |(_, report)| report.bytes),
            })
            .collect();
        Ok(Response::new(pb::ListRegionsResponse { regions }))
    }

    async fn hold_safe_point(
        &self,
        request: Request<pb::HoldSafePointRequest>,
    ) -> Reply<pb::HoldSafePointResponse> {
        let request = request.into_inner();
        let shared = &self.0;
        if request.holder.is_empty() {
            return Err(Error::InvalidRequest("a hold without a holder".into()).into());
        }
        let holds = || {
            let lease = shared.lease();
            lease.generation(shared.env.clock.now()).ok_or_else(|| Error::LeaseNotHeld(lease.reason()))
        };
        let generation = holds()?;
        shared.open_gc(generation, shared.env.clock.now() + shared.config.request_timeout).await?;
        if holds()? != generation {
            return Err(Error::LeaseNotHeld("it has just changed hands".into()).into());
        }
        let now = shared.env.clock.now();
        let mut gc = shared.gc();
        let ttl = Duration::from_millis(request.ttl_ms).min(shared.config.gc_hold_ttl_max);
        if request.version == 0 {
            gc.release(&request.holder);
            return Ok(Response::new(pb::HoldSafePointResponse { accepted: true, ..Default::default() }));
        }
        let held = gc.hold(request.holder, request.version, now + ttl);
        if held.is_ok() {
            shared.env.probe("coordinator.gc.held");
        } else {
            shared.env.probe("coordinator.gc.hold_refused");
        }
        Ok(Response::new(pb::HoldSafePointResponse {
            accepted: held.is_ok(),
            safe_point: gc.target(generation),
            ttl_ms: ttl.as_millis() as u64,
        }))
    }

    async fn list_operators(
        &self,
        request: Request<pb::ListOperatorsRequest>,
    ) -> Reply<pb::ListOperatorsResponse> {
        Ok(Response::new(self.0.operators(request.into_inner().region_id)?))
    }

    async fn status(
        &self,
        _request: Request<pb::CoordinatorStatusRequest>,
    ) -> Reply<pb::CoordinatorStatusResponse> {
        let view = self.0.view();
        let lease = view.state.coordinator_lease.clone().unwrap_or_default();
        let own = self.0.lease().generation(self.0.env.clock.now());
        Ok(Response::new(pb::CoordinatorStatusResponse {
            coordinator_id: self.0.config.coordinator_id.clone(),
            holds_lease: own.is_some(),
            lease_holder: lease.holder_id,
            lease_holder_addr: lease.address,
            lease_generation: own.unwrap_or(lease.cert_generation),
            lease_phase: handover::phase(&view.state).name().to_owned(),
            sealed_generation: handover::sealed_generation(&view.state),
            root_leader_id: 0,
            root_lag: view.root_lag(),
            root_available: view.token.is_some() && view.root_error.is_none(),
            console_addr: self.0.config.console_addr.clone(),
        }))
    }
}

impl Shared {
    async fn append(&self, event: meta::RootEvent, expected_cluster_epoch: u64) -> Result<(), Error> {
        let deadline = self.env.clock.now() + self.config.request_timeout;
        let expected = (expected_cluster_epoch != 0).then_some(expected_cluster_epoch);
        let reply = self.root.append(deadline, event, expected).await?;
        // The tail brings the event itself a moment later; until then routes say that they lag behind.
        let revision = reply.cursor.map_or(0, |cursor| cursor.index);
        self.view().saw(&meta::RootTailToken { cursor: reply.cursor, revision });
        Ok(())
    }
}

/// The metadata root is always another process.
const ROOT_MODE: &str = "remote";

/// The object under `nokv_coordinator` in `/debug/vars`.
pub(crate) fn status_json(shared: &Shared) -> serde_json::Value {
    let view = shared.view();
    let now = shared.env.clock.now();
    let own = shared.lease().generation(now);
    let lease = view.state.coordinator_lease.clone().unwrap_or_default();
    let phase = handover::phase(&view.state);
    let token = |token: &meta::RootTailToken| {
        let cursor = token.cursor.unwrap_or_default();
        json!({"term": cursor.term, "index": cursor.index, "revision": token.revision})
    };
    let (id_current, id_high) = shared.ids.window();
    let (tso_current, tso_high) = shared.timestamps.window();
    let cursor = lease.issued_cursor.unwrap_or_default();
    let frontiers: Vec<_> = [(1u32, "alloc_id", id_high), (2, "tso", tso_high)]
        .iter()
        .map(|(mask, name, frontier)| json!({"duty_mask": mask, "duty_name": name, "frontier": frontier}))
        .collect();
    let available = view.token.is_some() && view.root_error.is_none();
    let (leader, served_by_leader) = shared.root.leader();
    let (catch_up_state, degraded_mode) = route::health(&view);
    let mut state = json!({
        "regions": view.region_count(),
        "allocator": {"id_current": id_current, "id_window_high": id_high,
                      "tso_current": tso_current, "tso_window_high": tso_high},
        "root": {
            "configured": true,
            "root_mode": ROOT_MODE,
            "available": available,
            "served_token": token(&view.token.unwrap_or_default()),
            "current_token": token(&view.newest_token),
            "root_lag": view.root_lag(),
            "catch_up_state": catch_up_state,
            "degraded_mode": degraded_mode,
            // Whether the answers of late came from the node that leads the meta-roots; both say the same here, because
            // the coordinator has no storage of its own.
            "served_by_leader": served_by_leader,
            "storage_is_leader": served_by_leader,
            "storage_leader_id": leader,
            "last_reload_unix_nano": view.looked_unix_nano,
            "last_reload_error": view.root_error.clone().unwrap_or_default(),
            // What is read is what was reloaded.
            "read_state_load_error": view.root_error.clone().unwrap_or_default(),
        },
        "lease": {
            "enabled": true,
            "coordinator_id": shared.config.coordinator_id,
            "ttl_nanos": shared.config.lease_ttl.as_nanos() as u64,
            "renew_before_nanos": shared.config.lease_renew_before.as_nanos() as u64,
            "holder_id": lease.holder_id,
            "expires_unix_nano": lease.expires_unix_nano,
            // Wall clocks are never compared.
            "clock_skew_nanos": 0,
            "active": phase == handover::Phase::Active,
            "phase": phase.name(),
            "held_by_self": lease.holder_id == shared.config.coordinator_id,
            "usable_by_self": own.is_some(),
            "cert_generation": lease.cert_generation,
            "issued_cursor": {"term": cursor.term, "index": cursor.index},
            "duty_mask": lease.duty_mask,
            "frontiers": frontiers,
        },
        "gc": {
            "target": own.map_or(0, |generation| shared.gc().target(generation)),
            "safe_point": view.state.gc_safe_point,
            "holds": shared.gc().hold_count(),
            "life_ms": shared.config.gc_life.as_millis() as u64,
        },
    });
    if let (Value::Object(state), Value::Object(evidence)) = (&mut state, handover::evidence(&view.state)) {
        state.extend(evidence);
    }
    json!({"root_mode": ROOT_MODE, "state": state})
}
