//! Answering "which region holds this key?" with the evidence of how fresh the answer is.
//!
//! Any coordinator answers, lease or not: routes are facts of the root, a stale one is corrected by the
//! store's own epoch check. What the lease adds is only the generation in the reply, which lets a client
//! refuse answers older than ones it has seen; between two holders it is 0.
//!
//! *Strong* answers know all that was committed before the question: the coordinator asks the leader of the meta-roots first,
//! and says so (`served_by_leader`). *Bounded* ones know how far behind the newest token that this coordinator has heard of
//! they are, and are refused beyond the bound. *Best effort* answers always, and says what it is worth. Tokens are places in
//! the meta-root's log, so they mean the same on every node.

use crate::view::View;
use crate::{Error, handover};
use nokv_proto::coordinator::v1 as pb;
use nokv_proto::meta::v1 as meta;

/// Nobody could be asked for what a strong or bounded answer needs.
pub fn unavailable() -> Error {
    Error::Refused("coordinator root unavailable".to_owned())
}

/// Decides one request; the order of the checks is part of the interface. `confirmed`: the view holds all that was committed
/// before the question.
pub fn answer(
    view: &View,
    request: &pb::GetRegionByKeyRequest,
    confirmed: bool,
) -> Result<pb::GetRegionByKeyResponse, Error> {
    let freshness = pb::Freshness::try_from(request.freshness).unwrap_or(pb::Freshness::Unspecified);
    let strong = freshness == pb::Freshness::Strong;
    let bounded = freshness == pb::Freshness::Bounded;
    let state = RootView::of(view);
    if state == RootView::Unavailable && bounded || strong && !(confirmed && view.token.is_some()) {
        return Err(unavailable());
    }
    if state == RootView::Missing && bounded {
        return refuse("bootstrap required before bounded freshness");
    }
    let served = view.token.unwrap_or_default();
    if let Some(required) = &request.required_root_token
        && (served.revision, cursor(&served)) < (required.revision, (required.term, required.index))
    {
        return refuse("required rooted token not satisfied");
    }
    let lag = view.root_lag();
    if bounded && request.max_root_lag.is_some_and(|bound| lag > bound) {
        return refuse("root lag exceeds bound");
    }
    if strong && lag > 0 {
        return refuse("root lag exceeds strong freshness");
    }
    let mut reply = evidence(view, freshness, state, confirmed && lag == 0);
    reply.required_descriptor_revision = request.required_descriptor_revision;
    let Some(region) = view.region_of(&request.key) else {
        reply.not_found = true;
        return Ok(reply);
    };
    if let Some(pending) = view.pending_range_change(region.region_id) {
        return refuse(&pending);
    }
    if region.root_epoch < request.required_descriptor_revision {
        return refuse("required descriptor revision not satisfied");
    }
    reply.descriptor_revision = region.root_epoch;
    reply.leader = view.leader(region.region_id);
    reply.stores = view.addresses_of(region);
    reply.region_descriptor = Some(region.clone());
    Ok(reply)
}

fn refuse<T>(why: &str) -> Result<T, Error> {
    Err(Error::Refused(why.to_owned()))
}

fn cursor(token: &meta::RootTailToken) -> (u64, u64) {
    token.cursor.as_ref().map_or((0, 0), |cursor| (cursor.term, cursor.index))
}

/// What a view is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RootView {
    /// Nothing newer has been heard of.
    Fresh,
    /// Something newer has been heard of.
    Lagging,
    /// Nothing has been learned yet.
    Missing,
    /// No meta-root has answered lately.
    Unavailable,
}

impl RootView {
    fn of(view: &View) -> Self {
        match (view.root_error.is_some(), view.token.is_some()) {
            (true, _) => RootView::Unavailable,
            (false, false) => RootView::Missing,
            (false, true) if view.root_lag() > 0 => RootView::Lagging,
            (false, true) => RootView::Fresh,
        }
    }
}

/// How far a view has caught up, and what that makes of it; as names for `/debug/vars`.
pub fn health(view: &View) -> (&'static str, &'static str) {
    let evidence = evidence(view, pb::Freshness::BestEffort, RootView::of(view), false);
    (evidence.catch_up_state().as_str_name(), evidence.degraded_mode().as_str_name())
}

/// The members that say how much the answer is worth. Clients recompute `serving_class` and `sync_health`
/// from the others, so these derivations are part of the interface.
fn evidence(
    view: &View,
    freshness: pb::Freshness,
    state: RootView,
    served_by_leader: bool,
) -> pb::GetRegionByKeyResponse {
    use pb::{CatchUpState, DegradedMode, Freshness, ServingClass, SyncHealth};
    let (degraded, catch_up, health) = match state {
        RootView::Unavailable => {
            (DegradedMode::RootUnavailable, CatchUpState::Unavailable, SyncHealth::RootUnavailable)
        }
        RootView::Missing => {
            (DegradedMode::RootLagging, CatchUpState::BootstrapRequired, SyncHealth::BootstrapRequired)
        }
        RootView::Lagging => (DegradedMode::RootLagging, CatchUpState::Lagging, SyncHealth::Lagging),
        RootView::Fresh => (DegradedMode::Healthy, CatchUpState::Fresh, SyncHealth::Healthy),
    };
    let lag = view.root_lag();
    let class = match state {
        RootView::Unavailable | RootView::Missing => ServingClass::Degraded,
        _ if lag == 0 && served_by_leader => ServingClass::Authoritative,
        _ => ServingClass::BoundedStale,
    };
    let served_freshness =
        if freshness == Freshness::Unspecified { Freshness::BestEffort } else { freshness };
    let token = |token: &meta::RootTailToken| {
        let (term, index) = cursor(token);
        pb::RootToken { term, index, revision: token.revision }
    };
    pb::GetRegionByKeyResponse {
        served_root_token: Some(token(&view.token.unwrap_or_default())),
        current_root_token: Some(token(&view.newest_token)),
        served_freshness: served_freshness as i32,
        degraded_mode: degraded as i32,
        served_by_leader,
        root_lag: lag,
        catch_up_state: catch_up as i32,
        serving_class: class as i32,
        sync_health: health as i32,
        cert_generation: handover::active_generation(&view.state),
        observed_seal_generation: view.state.coordinator_seal.as_ref().map_or(0, |seal| seal.cert_generation),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &str, end: &str) -> meta::RegionDescriptor {
        meta::RegionDescriptor {
            region_id: id,
            start_key: start.as_bytes().to_vec().into(),
            end_key: end.as_bytes().to_vec().into(),
            root_epoch: id,
            ..Default::default()
        }
    }

    fn token(revision: u64) -> meta::RootTailToken {
        meta::RootTailToken { cursor: Some(meta::RootCursor { term: 1, index: revision }), revision }
    }

    fn view() -> View {
        let mut view = View::default();
        let checkpoint = meta::RootCheckpoint {
            descriptors: vec![region(1, "", "m"), region(2, "m", "")],
            ..Default::default()
        };
        view.install(checkpoint, token(9));
        view
    }

    fn ask(key: &str, freshness: pb::Freshness) -> pb::GetRegionByKeyRequest {
        pb::GetRegionByKeyRequest {
            key: key.as_bytes().to_vec().into(),
            freshness: freshness as i32,
            ..Default::default()
        }
    }

    fn found(view: &View, key: &str) -> u64 {
        let reply = answer(view, &ask(key, pb::Freshness::Strong), true).unwrap();
        assert_eq!(reply.serving_class(), pb::ServingClass::Authoritative);
        reply.region_descriptor.unwrap().region_id
    }

    #[test]
    fn a_key_belongs_to_the_half_open_range() {
        let view = view();
        assert_eq!(
            (found(&view, "a"), found(&view, "lzzz"), found(&view, "m"), found(&view, "z")),
            (1, 1, 2, 2)
        );
    }

    #[test]
    fn a_lagging_view_serves_best_effort_only_and_says_so() {
        let mut view = view();
        view.saw(&token(11));
        assert!(answer(&view, &ask("a", pb::Freshness::Strong), true).is_err());
        let reply = answer(&view, &ask("a", pb::Freshness::BestEffort), false).unwrap();
        assert_eq!((reply.root_lag, reply.serving_class()), (2, pb::ServingClass::BoundedStale));
        let bounded = |bound| pb::GetRegionByKeyRequest {
            max_root_lag: Some(bound),
            ..ask("a", pb::Freshness::Bounded)
        };
        assert!(answer(&view, &bounded(1), false).is_err());
        assert!(answer(&view, &bounded(2), false).is_ok());
    }

    #[test]
    fn without_a_root_only_best_effort_answers() {
        let mut view = view();
        view.root_error = Some("gone".into());
        assert!(answer(&view, &ask("a", pb::Freshness::Bounded), false).is_err());
        let reply = answer(&view, &ask("a", pb::Freshness::Unspecified), false).unwrap();
        assert_eq!(reply.degraded_mode(), pb::DegradedMode::RootUnavailable);
        assert!(reply.region_descriptor.is_some());
    }

    #[test]
    fn only_the_leader_of_the_roots_makes_an_answer_strong() {
        let view = view();
        let refused = answer(&view, &ask("a", pb::Freshness::Strong), false).unwrap_err();
        assert_eq!(refused.to_string(), "coordinator root unavailable");
        let reply = answer(&view, &ask("a", pb::Freshness::BestEffort), false).unwrap();
        assert_eq!(reply.serving_class(), pb::ServingClass::BoundedStale);
        assert!(!reply.served_by_leader && reply.catch_up_state() == pb::CatchUpState::Fresh);
    }

    #[test]
    fn a_coordinator_that_has_learned_nothing_yet_says_so() {
        let view = View::default();
        let refused = answer(&view, &ask("a", pb::Freshness::Bounded), false).unwrap_err();
        assert_eq!(refused.to_string(), "bootstrap required before bounded freshness");
        let reply = answer(&view, &ask("a", pb::Freshness::BestEffort), false).unwrap();
        assert!(reply.not_found);
        assert_eq!(reply.catch_up_state(), pb::CatchUpState::BootstrapRequired);
        assert_eq!(reply.serving_class(), pb::ServingClass::Degraded);
    }

    #[test]
    fn an_unmet_token_or_revision_is_refused() {
        let view = view();
        let mut request = ask("a", pb::Freshness::BestEffort);
        request.required_descriptor_revision = 2;
        assert!(answer(&view, &request, false).is_err(), "region 1 was published at epoch 1");
        let mut request = ask("a", pb::Freshness::BestEffort);
        request.required_root_token = Some(pb::RootToken { term: 1, index: 10, revision: 10 });
        assert!(answer(&view, &request, false).is_err());
    }
}
