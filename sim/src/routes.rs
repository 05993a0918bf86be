//! A client that asks every coordinator for routes, over and over, and knows what the meta-roots have committed.
//!
//! - *Strong* answers know all that any meta-root had applied before the question.
//! - *Best effort* is answered by every coordinator that can be reached, lease or not.
//! - At equal tokens, coordinators know equal routes.
//! - What an answer says of its worth fits together.

use crate::check::Violation;
use crate::services::coordinators;
use crate::workload::keys;
use crate::world::World;
use bytes::Bytes;
use nokv_env::ClockExt;
use nokv_env::task::Stop;
use nokv_proto::coordinator::v1::coordinator_client::CoordinatorClient;
use nokv_proto::coordinator::v1::{
    CatchUpState, DegradedMode, Freshness, GetRegionByKeyRequest, GetRegionByKeyResponse, ServingClass,
};
use nokv_proto::meta::v1::RegionDescriptor;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

/// How long it waits for an answer: longer than a coordinator waits for the leader of the meta-roots.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks until `stop`, on the first client node.
pub fn ask(world: &Arc<World>, stop: Stop) {
    let pause = Duration::from_millis(world.config.routes_ms);
    if pause.is_zero() {
        return;
    }
    let Some(node) = world.outside() else { return };
    let (world, env) = (world.clone(), world.env(node));
    let asked = world.clone();
    asked.go_on(node, "routes", async move {
        let addrs = coordinators(&world.config);
        let mut borders = keys::borders(world.config.regions.max(2));
        borders.push(Bytes::new());
        let mut known = Known::default();
        for turn in 0usize.. {
            if stop.is_stopped() {
                return;
            }
            let (round, at) = (turn / addrs.len(), turn % addrs.len());
            let freshness = if round.is_multiple_of(2) { Freshness::Strong } else { Freshness::BestEffort };
            let request = GetRegionByKeyRequest {
                key: borders[round / 2 % borders.len()].clone(),
                freshness: freshness.into(),
                ..GetRegionByKeyRequest::default()
            };
            let floor = world.root_revision();
            let mut client = CoordinatorClient::new(env.net.connect(&addrs[at]));
            let key = request.key.clone();
            let answer = env.clock.timeout(PATIENCE, client.get_region_by_key(request)).await;
            let judged = match answer {
                Ok(Ok(reply)) => known.judge(&key, freshness, floor, reply.get_ref()),
                Ok(Err(status)) if freshness == Freshness::BestEffort => {
                    judge_refusal(status.code(), status.message())
                }
                Ok(Err(_)) | Err(_) => Ok(()),
            };
            if let Err(broken) = judged {
                let facts = format!("coord{}: {broken}", at + 1);
                world.around.watch.fail(world.now(), Violation::new("routes", facts));
                return;
            }
            env.clock.sleep(pause).await;
        }
    });
}

/// A coordinator that can be reached may lack time, but not the right to answer.
fn judge_refusal(code: Code, why: &str) -> Result<(), String> {
    let is_refusal = matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::Internal);
    if is_refusal { Err(format!("refuses a route at best effort: {why}")) } else { Ok(()) }
}

/// Routes by token.
#[derive(Debug, Default)]
struct Known(BTreeMap<(u64, Bytes), Option<RegionDescriptor>>);

impl Known {
    fn judge(
        &mut self,
        key: &Bytes,
        freshness: Freshness,
        floor: u64,
        reply: &GetRegionByKeyResponse,
    ) -> Result<(), String> {
        let served = reply.served_root_token.map_or(0, |token| token.revision);
        if freshness == Freshness::Strong && served < floor {
            return Err(format!(
                "a strong answer from revision {served}; {floor} was committed before the question"
            ));
        }
        let worth = (reply.serving_class(), reply.degraded_mode(), reply.catch_up_state());
        let newest = reply.current_root_token.map_or(0, |token| token.revision);
        let fits = match worth {
            (ServingClass::Authoritative, DegradedMode::Healthy, CatchUpState::Fresh) => {
                reply.served_by_leader && reply.root_lag == 0
            }
            (ServingClass::BoundedStale, DegradedMode::Healthy, CatchUpState::Fresh) => reply.root_lag == 0,
            (ServingClass::BoundedStale, DegradedMode::RootLagging, CatchUpState::Lagging) => {
                reply.root_lag > 0
            }
            (ServingClass::Degraded, DegradedMode::RootUnavailable, CatchUpState::Unavailable) => true,
            (ServingClass::Degraded, DegradedMode::RootLagging, CatchUpState::BootstrapRequired) => {
                served == 0
            }
            _ => false,
        };
        if !fits || newest.saturating_sub(served) != reply.root_lag {
            return Err(format!(
                "what it says of its answer does not fit: {worth:?}, lag {}",
                reply.root_lag
            ));
        }
        if served == 0 {
            return Ok(());
        }
        let route = &reply.region_descriptor;
        let before = self.0.entry((served, key.clone())).or_insert_with(|| route.clone());
        if before != route {
            return Err(format!(
                "at revision {served} the key {key:?} is in {route:?}, and another answer said {before:?}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::coordinator::v1::RootToken;

    fn reply(served: u64, newest: u64, region_id: u64) -> GetRegionByKeyResponse {
        let token = |revision| Some(RootToken { term: 1, index: revision, revision });
        let (degraded, catch_up) = if served < newest {
            (DegradedMode::RootLagging, CatchUpState::Lagging)
        } else {
            (DegradedMode::Healthy, CatchUpState::Fresh)
        };
        GetRegionByKeyResponse {
            region_descriptor: Some(RegionDescriptor { region_id, ..RegionDescriptor::default() }),
            served_root_token: token(served),
            current_root_token: token(newest),
            root_lag: newest - served,
            degraded_mode: degraded.into(),
            catch_up_state: catch_up.into(),
            serving_class: ServingClass::BoundedStale.into(),
            ..GetRegionByKeyResponse::default()
        }
    }

    #[test]
    fn answers_are_measured_by_what_was_committed_and_by_each_other() {
        let mut known = Known::default();
        let mut judge = |freshness, floor, reply: &GetRegionByKeyResponse| {
            known.judge(&Bytes::from_static(b"k"), freshness, floor, reply)
        };
        assert_eq!(judge(Freshness::Strong, 7, &reply(7, 7, 1)), Ok(()));
        assert_eq!(judge(Freshness::BestEffort, 9, &reply(7, 8, 1)), Ok(()));
        let stale = judge(Freshness::Strong, 8, &reply(7, 7, 1)).expect_err("stale");
        assert!(stale.contains("8 was committed"), "{stale}");
        let other = judge(Freshness::BestEffort, 7, &reply(7, 7, 2)).expect_err("another region");
        assert!(other.contains("another answer said"), "{other}");
        let odd = GetRegionByKeyResponse { root_lag: 3, ..reply(7, 7, 1) };
        assert!(judge(Freshness::BestEffort, 7, &odd).is_err());
        assert!(judge_refusal(Code::FailedPrecondition, "lease not held").is_err());
        assert!(judge_refusal(Code::Unavailable, "down").is_ok());
    }
}
