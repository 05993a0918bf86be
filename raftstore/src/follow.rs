//! Reads that any replica may answer, because the request's context says so.
//!
//! ```text
//! preference FOLLOWER_PREFER     as good as a read of the leader: the leader is asked how far its region is, and the
//!                                replica waits until it has applied as much
//! consistency BOUNDED_STALE      max_stale_read_ms: an answer of the leader's that is no older will do;
//!                                max_stale_read_index: so many entries may be missing. Neither: as good as the leader
//! ```
//!
//! The leader answers as it admits a read of its own (see [`crate::read`]): it notes the read's timestamp, so that no later
//! commit in one round trip undercuts it, and confirms that it leads. How old an answer is counts from when it was asked
//! for, on the replica's own clock, so only the clock's rate matters. A bounded stale read may show at one timestamp
//! what a later one at the same timestamp does not; whoever wants a snapshot does not ask for one.

use crate::admission::{Admitted, Refused};
use crate::read::{self, asked, served};
use crate::region::{Region, epoch_matches, refuse};
use crate::store::Shared;
use nokv_engine::Snapshot;
use nokv_env::Instant;
use nokv_proto::kv::v1::no_kv_client::NoKvClient;
use nokv_proto::kv::v1::{Context, KvReadIndexRequest, ReadConsistency, ReadIndexRequest, ReadPreference};
use nokv_replica::Resolver;
use std::pin::pin;
use std::time::Duration;
use tonic::Status;

/// How a read may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// By any replica.
    pub(crate) anywhere: bool,
    /// With an answer of the leader's this old.
    stale: Duration,
    /// With so many entries missing.
    behind: u64,
}

impl Terms {
    /// What the context asks for.
    pub(crate) fn of(context: Option<&Context>) -> Self {
        let mut terms = Self { anywhere: false, stale: Duration::ZERO, behind: 0 };
        let Some(context) = context else { return terms };
        if context.read_consistency() == ReadConsistency::BoundedStale {
            terms.anywhere = true;
            terms.stale = Duration::from_millis(context.max_stale_read_ms);
            terms.behind = context.max_stale_read_index;
        }
        terms.anywhere |= context.read_preference() == ReadPreference::FollowerPrefer;
        terms
    }

    /// Whether nothing may be missing.
    pub(crate) fn is_strong(&self) -> bool {
        self.stale.is_zero() && self.behind == 0
    }
}

/// An answer of the leader's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Confirmed {
    /// When it was asked for.
    at: Instant,
    /// What had to be applied then.
    index: u64,
}

/// A moment of this replica at which a read at `version` sees what its terms promise.
pub(crate) async fn moment(
    shared: &Shared,
    admitted: &Admitted,
    terms: Terms,
    version: u64,
) -> Result<Snapshot, Refused> {
    let (env, region) = (&shared.env, &admitted.region);
    let read = if terms.is_strong() { asked(env, region) } else { 0 };
    let now = env.clock.now();
    let known = region.confirmed();
    let index = if known.index != 0 && now.since(known.at) < terms.stale {
        env.probe("store.read.stale");
        known.index
    } else {
        let version = if terms.is_strong() { version } else { 0 };
        let index = leader_index(shared, admitted, version).await?;
        region.confirm(Confirmed { at: now, index });
        index
    };
    applied(region, index.saturating_sub(terms.behind)).await;
    let snapshot = shared.db.snapshot();
    if terms.is_strong() {
        env.probe("store.read.follower");
        served(env, region, read);
    }
    let now = region.state();
    if !now.is_hosted() {
        return Err(refuse::not_found(region.id).into());
    }
    if !epoch_matches(&now.descriptor, admitted.descriptor.epoch.as_ref()) {
        return Err(refuse::epoch(&now.descriptor).into());
    }
    Ok(snapshot)
}

/// Waits until the region has applied `index` here. The caller's patience ends it.
async fn applied(region: &Region, index: u64) {
    loop {
        let mut advanced = pin!(region.advanced().notified());
        advanced.as_mut().enable();
        if region.state().applied.index >= index {
            return;
        }
        advanced.await;
    }
}

/// Asks the leader up to where a read at `version` must have applied. This store may lead by now.
async fn leader_index(shared: &Shared, admitted: &Admitted, version: u64) -> Result<u64, Refused> {
    let state = admitted.region.state();
    if state.role.is_leader {
        return read::index(&shared.env, &shared.raft, admitted, version).await;
    }
    let leader = state.leader().filter(|leader| leader.store_id != shared.config.store_id);
    let Some(leader) = leader else { return Err(refuse::not_leader(&state).into()) };
    let Some(addr) = shared.addresses.address(leader.store_id) else {
        return Err(
            Status::unavailable(format!("the address of store {} is not known", leader.store_id)).into()
        );
    };
    let context = Context {
        region_id: admitted.region.id,
        region_epoch: admitted.descriptor.epoch,
        peer: Some(leader),
        ..Default::default()
    };
    let request = KvReadIndexRequest { context: Some(context), request: Some(ReadIndexRequest { version }) };
    let mut client = NoKvClient::new(shared.env.net.connect(&addr));
    let reply = client.kv_read_index(request).await?.into_inner();
    match (reply.region_error, reply.response) {
        (Some(error), _) => Err(Refused::Region(Box::new(error))),
        (None, Some(response)) => Ok(response.index),
        (None, None) => Err(Status::internal("the leader's answer is empty").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(consistency: ReadConsistency, preference: ReadPreference, ms: u64, index: u64) -> Context {
        Context {
            read_consistency: consistency.into(),
            read_preference: preference.into(),
            max_stale_read_ms: ms,
            max_stale_read_index: index,
            ..Default::default()
        }
    }

    #[test]
    fn the_context_says_who_may_answer_and_how_old() {
        use ReadConsistency::{BoundedStale, Strong};
        use ReadPreference::{FollowerPrefer, LeaderOnly};
        let terms = |context: Context| Terms::of(Some(&context));
        assert!(!Terms::of(None).anywhere && !terms(Context::default()).anywhere);
        let bounds_of_a_strong_read = terms(context(Strong, LeaderOnly, 500, 7));
        assert!(!bounds_of_a_strong_read.anywhere && bounds_of_a_strong_read.is_strong());
        let follower = terms(context(Strong, FollowerPrefer, 500, 7));
        assert!(follower.anywhere && follower.is_strong());
        let stale = terms(context(BoundedStale, LeaderOnly, 500, 7));
        assert!(stale.anywhere && !stale.is_strong());
        assert_eq!((stale.stale, stale.behind), (Duration::from_millis(500), 7));
        assert!(terms(context(BoundedStale, LeaderOnly, 0, 0)).is_strong(), "no bound allows nothing");
    }
}
