//! How a read becomes linearizable.
//!
//! ```text
//! admission → max_read_ts rises to the read's version   so that no later commit in one round trip undercuts it
//!           → read index, and the newest such commit      we lead, and everything acknowledged is applied here
//!           → engine snapshot → epoch once more           the snapshot is of the region the caller meant
//!           → transaction rules, in the caller's task
//! ```
//!
//! The epoch is looked at after the snapshot was taken: a change of the region shows in its descriptor before it
//! shows in the engine. Had it changed later than that, the snapshot is from before the change, and good.

use crate::admission::{Admitted, Refused};
use crate::machine::StoreMachine;
use crate::region::{Region, epoch_matches, is_tombstone, refuse};
use nokv_engine as engine;
use nokv_engine::Db;
use nokv_env::{Env, Fact};
use nokv_replica::{Handle, ReadError};
use tonic::Status;

/// A moment of the engine at which a read of the region at `version` sees everything it must.
pub(crate) async fn moment(
    env: &Env,
    db: &Db,
    raft: &Handle<StoreMachine>,
    admitted: &Admitted,
    version: u64,
) -> Result<engine::Snapshot, Refused> {
    let region = &admitted.region;
    let read = asked(env, region);
    index(env, raft, admitted, version).await?;
    let snapshot = db.snapshot();
    served(env, region, read);
    let now = region.descriptor();
    if is_tombstone(&now) {
        return Err(refuse::not_found(region.id).into());
    }
    if !epoch_matches(&now, admitted.descriptor.epoch.as_ref()) {
        env.probe("store.read.epoch_changed");
        return Err(refuse::epoch(&now).into());
    }
    Ok(snapshot)
}

/// Confirms that this store leads the region, and gives what must be applied for a read at `version`; it is, here.
pub(crate) async fn index(
    env: &Env,
    raft: &Handle<StoreMachine>,
    admitted: &Admitted,
    version: u64,
) -> Result<u64, Refused> {
    let region = &admitted.region;
    let at_least = region.one_pc().admit_read(version);
    if at_least > region.state().applied.index {
        env.probe("store.read.waited_one_pc");
    }
    let index = raft.read_index(region.group(), at_least).await.map_err(|error| refused(admitted, error))?;
    Ok(index.max(at_least))
}

/// Tells whoever watches that a read arrived, and gives it a number.
pub(crate) fn asked(env: &Env, region: &Region) -> u64 {
    if !env.watching() {
        return 0;
    }
    let (state, read) = (region.state(), region.next_read());
    if let Some(peer) = state.peer {
        env.fact(Fact::ReadAsked { peer: region.told_peer(peer), read });
    }
    read
}

/// Tells whoever watches that a read looks at the state now.
pub(crate) fn served(env: &Env, region: &Region, read: u64) {
    if !env.watching() {
        return;
    }
    let state = region.state();
    if let Some(peer) = state.peer {
        // The term may be another by now than the one in which leadership was confirmed.
        env.fact(Fact::ReadServed {
            peer: region.told_peer(peer),
            read,
            applied: state.applied.index,
            term: 0,
        });
    }
}

fn refused(admitted: &Admitted, error: ReadError) -> Refused {
    let state = admitted.region.state();
    match error {
        ReadError::NotLeader { leader } => {
            let mut state = state;
            state.role.leader = leader.or(state.role.leader.filter(|peer| Some(*peer) != state.peer));
            refuse::not_leader(&state).into()
        }
        ReadError::NotHosted => refuse::not_found(admitted.region.id).into(),
        ReadError::Busy => Status::resource_exhausted("too many requests wait for this store's raft").into(),
        ReadError::Stopped => Status::unavailable("the store is stopping").into(),
        ReadError::Timeout => Status::deadline_exceeded("leadership could not be confirmed in time").into(),
    }
}
