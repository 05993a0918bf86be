//! What is left of peers that left this store: found, remembered, cleared away.
//!
//! A peer learns that it is gone from its own log; or, when it was cut off at that moment, from a message to a later peer
//! of its region on this store, or from the coordinators: a peer without a leader asks whether the meta-root still knows it
//! as a member. In each case the region's state machine
//! first writes a tombstone in place of the region; then, in this order, so that a crash in between can be followed up:
//!
//! 1. the engine is flushed: from now on the store will not start the peer again;
//! 2. the rows are deleted, in one step and durably, while the group still stands in the way of a new peer;
//! 3. the raft group goes, with its log and votes.
//!
//! The tombstone stays, and refuses messages that are older than it. A later peer of the region, with a higher
//! configuration version, takes its place.

use crate::merge;
use crate::mvcc::stored_bounds;
use crate::region::{Region, is_tombstone};
use crate::snapshot::rows::FAMILIES;
use crate::store::Shared;
use futures_util::future::select;
use nokv_engine::Db;
use nokv_env::{ClockExt, Env};
use nokv_proto::coordinator::v1::ListRegionsRequest;
use nokv_proto::key::KeyRange;
use nokv_proto::meta::v1::RegionDescriptor;
use nokv_replica::AdminError;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Pause after a clearance that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Clears away what is left of peers that are gone, for ever. After a start it looks at all tombstones.
pub(crate) async fn clear(shared: &Shared) {
    // Which tombstone of each region; another peer may have come and gone since.
    let mut cleared: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    loop {
        let mut failed = false;
        for region in shared.door.regions.all() {
            let descriptor = region.descriptor();
            let left = descriptor.epoch_pair();
            if is_tombstone(&descriptor) && cleared.get(&region.id) != Some(&left) {
                match clear_one(shared, &region).await {
                    Ok(()) => {
                        shared.env.probe("store.peer.cleared");
                        cleared.insert(region.id, left);
                    }
                    Err(why) => {
                        tracing::warn!(
                            region = region.id,
                            why,
                            "what is left of a removed peer stays for now"
                        );
                        failed = true;
                    }
                }
            }
        }
        if failed {
            shared.env.clock.sleep(RETRY).await;
        } else {
            shared.bells.graves.notified().await;
        }
    }
}

async fn clear_one(shared: &Shared, region: &Arc<Region>) -> Result<(), String> {
    let left = region.descriptor().epoch_pair();
    // The tombstone shows before it is in the engine; once the driver answers, it is there.
    shared.raft.status_now(region.group()).await.map_err(|error| error.to_string())?;
    shared.db.flush().await.map_err(|error| error.to_string())?;
    // A later peer may have come meanwhile. Its descriptor is set before its status shows, so the status is asked first.
    let status = shared.raft.status(region.group());
    let now = region.descriptor();
    if !is_tombstone(&now) || now.epoch_pair() != left {
        return Ok(());
    }
    // Without a group in the way the range may belong to somebody by now; then the rows went before the last restart. A
    // group that has nothing is a later peer's.
    if status.is_some_and(|status| status.last_index > 0) {
        delete_rows(&shared.env, &shared.db, &[now.range()]).await.map_err(|error| error.to_string())?;
    }
    match shared.raft.remove_group(region.group()).await {
        Ok(()) | Err(AdminError::NotHosted) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Before the regions run: deletes the rows of removed peers that a crash left behind. On a full disk they stay until the
/// next start; they are in nobody's way, because whoever comes to have their range brings a snapshot that replaces them.
pub(crate) async fn clear_rows(env: &Env, db: &Db, regions: &[RegionDescriptor]) -> nokv_engine::Result<()> {
    let (gone, here): (Vec<_>, Vec<_>) = regions.iter().partition(|region| is_tombstone(region));
    let here: Vec<KeyRange> = here.into_iter().map(RegionDescriptor::range).collect();
    let left: Vec<KeyRange> = gone.into_iter().flat_map(|region| region.range().without(&here)).collect();
    match delete_rows(env, db, &left).await {
        Err(error) if error.is_disk_full() => {
            tracing::warn!(%error, "rows of removed peers stay until the next start");
            Ok(())
        }
        deleted => deleted,
    }
}

async fn delete_rows(env: &Env, db: &Db, ranges: &[KeyRange]) -> nokv_engine::Result<()> {
    let in_all_families = |range| FAMILIES.map(|cf| (cf, stored_bounds(range)));
    let ranges: Vec<_> = ranges.iter().flat_map(in_all_families).collect();
    let deleted = db.delete_ranges(&ranges).await?;
    if deleted.tables + deleted.tombstones > 0 {
        env.probe("store.peer.rows_deleted");
    }
    Ok(())
}

/// Looks for peers here that were removed without their knowledge, for ever.
pub(crate) async fn find(shared: &Shared) {
    let mut silent: BTreeSet<u64> = BTreeSet::new();
    loop {
        shared.env.clock.sleep(shared.config.orphan_after).await;
        let is_silent = |region: &Arc<Region>| {
            let (state, status) = (region.state(), shared.raft.status(region.group()));
            // A learner stands for no election, so it does not notice that its leader is silent.
            let learns =
                status.is_some_and(|status| state.peer.is_some_and(|peer| status.learners.contains(&peer)));
            state.is_hosted() && (state.role.leader.is_none() || learns)
        };
        let regions = shared.door.regions.all().into_iter();
        let now: BTreeSet<u64> = regions.filter(is_silent).map(|region| region.id).collect();
        // Twice in a row: an election takes less.
        let suspects: Vec<u64> = now.intersection(&silent).copied().collect();
        silent = now;
        if suspects.is_empty() {
            continue;
        }
        let look = shared
            .coordinators
            .first(|mut client| async move { client.list_regions(ListRegionsRequest::default()).await });
        let stop = shared.env.clock.sleep(shared.config.orphan_after);
        let Ok(reply) = (match select(pin!(look), stop).await {
            futures_util::future::Either::Left((reply, _)) => reply,
            futures_util::future::Either::Right(_) => continue,
        }) else {
            continue;
        };
        for known in reply.regions.into_iter().filter_map(|route| route.descriptor) {
            // The machine compares: whoever is still a member stays, and what a region that is here took over.
            for suspect in merge::family(&known).filter(|id| suspects.contains(id)) {
                let group = nokv_replica::GroupId(suspect);
                if let Err(error) = shared.raft.retire(group, known.clone()).await {
                    tracing::warn!(%group, %error, "a removed peer could not be retired");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, World};
    use nokv_engine::{Options, WriteBatch};
    use nokv_env::mem_disk::{CrashMode, MemDisk};
    use nokv_proto::key::encode_key;
    use nokv_proto::meta::v1::RegionReplicaState;
    use std::path::Path;

    fn region(id: u64, start: &'static str, end: &'static str) -> RegionDescriptor {
        let (start_key, end_key) = (start.into(), end.into());
        RegionDescriptor { region_id: id, start_key, end_key, ..testing::region(&[1]) }
    }

    fn tombstone(id: u64, start: &'static str, end: &'static str) -> RegionDescriptor {
        let mut region = region(id, start, end);
        region.set_state(RegionReplicaState::Tombstone);
        region
    }

    /// The first letters of the keys in a family.
    fn letters(db: &Db, cf: nokv_engine::Cf) -> String {
        db.snapshot().iter(cf, ..).map(|row| row.unwrap().0[0] as char).collect()
    }

    #[test]
    fn what_a_crash_left_goes_and_what_others_have_stays() {
        let (world, platter) = (World::default(), MemDisk::new(1));
        let open = || {
            let env = world.env(1, &platter);
            (world.run(Db::open(&env, Path::new("/s"), Options::tiny())).unwrap(), env)
        };
        let (db, env) = open();
        for letter in 'a'..='z' {
            let mut batch = WriteBatch::new();
            for cf in FAMILIES {
                batch.put(cf, encode_key(letter.to_string().as_bytes()), "row".repeat(40));
            }
            batch.put(crate::catalog::CF_META, letter.to_string(), "record");
            db.apply(batch).unwrap();
        }
        // Two that are gone, of which one had more than what is left of it; and who has parts of that by now.
        let regions = [
            tombstone(1, "c", "m"),
            region(2, "e", "g"),
            region(3, "k", "p"),
            tombstone(4, "t", ""),
            region(5, "x", "y"),
        ];
        world.run(clear_rows(&env, &db, &regions)).unwrap();
        let is_as_expected = |db: &Db| {
            for cf in FAMILIES {
                assert_eq!(letters(db, cf), "abefklmnopqrsx", "family {}", cf.0);
            }
            assert_eq!(letters(db, crate::catalog::CF_META).len(), 26);
        };
        is_as_expected(&db);
        drop(db);
        platter.crash(CrashMode::PowerLossWorst);
        let (db, env) = open();
        is_as_expected(&db);
        // There is nothing left to do.
        world.run(clear_rows(&env, &db, &regions)).unwrap();
        assert_eq!((db.stats().range_tables, db.stats().range_tombstones), (0, 0));
        is_as_expected(&db);
    }
}
