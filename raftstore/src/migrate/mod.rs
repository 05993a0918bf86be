//! How a stand-alone database becomes the first region of a cluster, in place.
//!
//! ```text
//! standalone ──[1]──► preparing ──[2]── rows and catalog ──[3]── seed snapshot ──[4]──► seeded ──Store::start──► cluster
//! ```
//!
//! 1. `MODE.json` says `preparing` and the ids; from here on nobody opens the directory but [`init`].
//! 2. Every key and value of the default family becomes what a transaction would have left ([`crate::mvcc::settled`]), and
//!    the catalog gets one region of all keys. All of it is one table that joins the engine in one step
//!    ([`nokv_engine::Db::adopt`]): either the directory holds the old rows, or the new ones and the region.
//! 3. The region is exported to `RAFTSTORE_SNAPSHOTS`: what was migrated, as a file that `nokv region import` reads.
//! 4. `MODE.json` says `seeded`.
//!
//! Each step finds out by itself whether it has been done, so [`init`] with the same ids goes on from any crash. The raft log
//! begins at [`nokv_replica::BIRTH`], as for a region that came out of a split: no entry of the log brings the rows, so
//! whoever joins later needs a snapshot. `MODE.json` remembers the ids in `seed` ([`is_origin`]), so the log may be made by
//! the store's first start.
//!
//! Nothing is migrated online, and there is no way back: the copy to go back to is made by the operator before.

pub mod plan;
pub mod progress;
mod rows;
pub mod seed_snapshot;

use crate::catalog::{self, Entry, Gc, Members, Position};
use crate::mode::{self, Mode, State};
use crate::{Error, Result};
use nokv_engine::{Db, Options};
use nokv_env::Env;
use nokv_proto::limits::FIRST_ALLOCATED_ID;
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer, RegionReplicaState};
use nokv_replica::BIRTH;
pub use plan::{Plan, plan};
use progress::{Checkpoint, Stage};
use std::path::Path;

/// What the directory becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// The store that the directory will belong to.
    pub store: u64,
    /// The region of all keys.
    pub region: u64,
    /// Its first peer, on this store.
    pub peer: u64,
}

/// What [`init`] found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// The directory was stand-alone, or half way.
    Migrated,
    /// It had these ids already; nothing was done.
    Already(Mode),
}

impl Ids {
    /// Refuses ids that a cluster may hand out itself, and 0.
    fn check(self) -> Result<()> {
        for (what, id) in [("store", self.store), ("region", self.region), ("peer", self.peer)] {
            if id == 0 {
                return Err(Error::Config(format!("the {what} id is 0")));
            }
        }
        for (what, id) in [("region", self.region), ("peer", self.peer)] {
            if id >= FIRST_ALLOCATED_ID {
                let text =
                    format!("{what} id {id}: ids from {FIRST_ALLOCATED_ID} on are handed out by the cluster");
                return Err(Error::Config(text));
            }
        }
        Ok(())
    }

    /// Those of a mode file.
    fn of(state: &State) -> Self {
        Self { store: state.store_id, region: state.region_id, peer: state.peer_id }
    }

    fn seed_name(self) -> String {
        format!("migrated-{}-{}", self.region, self.peer)
    }

    fn state(self, mode: Mode) -> State {
        let seed = self.seed_name();
        State { mode, store_id: self.store, region_id: self.region, peer_id: self.peer, seed, cluster_id: 0 }
    }

    /// The region, as it begins.
    pub fn region(self) -> RegionDescriptor {
        RegionDescriptor {
            region_id: self.region,
            epoch: Some(RegionEpoch { version: 1, conf_version: 1 }),
            peers: vec![RegionPeer { store_id: self.store, peer_id: self.peer }],
            state: RegionReplicaState::Running.into(),
            ..RegionDescriptor::default()
        }
    }

    fn entry(self) -> Entry {
        let region = self.region();
        let applied = Position { index: BIRTH.0, term: BIRTH.1 };
        Entry { members: Members::all_vote(&region), region, applied }
    }
}

/// Whether peer `peer` of `region` is the one that `seed` of a mode file names as migrated.
pub(crate) fn is_origin(seed: &str, region: &RegionDescriptor, peer: u64) -> bool {
    seed == Ids { store: 0, region: region.region_id, peer }.seed_name()
}

/// Turns the stand-alone database in `workdir` into a store directory that holds all of it as one region.
///
/// A directory that is not stand-alone, or holds what cannot be migrated, is refused before anything is written. Interrupted,
/// it is repeated with the same ids and goes on; done, repeating it does nothing. `options` are the engine's.
pub async fn init(env: &Env, workdir: &Path, ids: Ids, options: &Options) -> Result<Done> {
    ids.check()?;
    let state = mode::read(&*env.disk, workdir)?;
    let options = Options {
        lock_owner: format!("nokv store {}, migrating", ids.store),
        is_owner: state.mode != Mode::Standalone,
        ..options.clone()
    };
    match state.mode {
        Mode::Standalone => {
            let planned = plan(env.disk.clone(), workdir)?;
            if !planned.is_eligible() {
                return Err(Error::NotEligible { workdir: workdir.to_owned(), blockers: planned.blockers });
            }
            // Whoever takes the lock first has the directory: a program that is still writing there, or we.
            let db = Db::open(env, workdir, options.clone()).await?;
            let prepared = prepare(env, &db, workdir, ids, &planned);
            closing(&db, prepared).await?;
        }
        Mode::Preparing if Ids::of(&state) == ids => env.probe("store.migrate.resumed"),
        Mode::Seeded | Mode::Cluster if state.store_id == ids.store && state.seed == ids.seed_name() => {
            // A crash may have come between the last two files.
            let noted = progress::read(&*env.disk, workdir)?.map(|checkpoint| checkpoint.stage);
            if state.mode == Mode::Seeded && noted != Some(Stage::SeededFinalized) {
                note(env, workdir, ids, Stage::SeededFinalized)?;
            }
            return Ok(Done::Already(state.mode));
        }
        Mode::Preparing | Mode::Seeded | Mode::Cluster => {
            let workdir = workdir.to_owned();
            return Err(if state.seed.starts_with("migrated-") {
                Error::AlreadySeeded { workdir, state }
            } else {
                Error::NotEligible {
                    workdir,
                    blockers: vec!["it belongs to a store that was not migrated".into()],
                }
            });
        }
    }
    let db = Db::open(env, workdir, Options { is_owner: true, ..options }).await?;
    let moved = carry_out(env, &db, workdir, ids).await;
    closing(&db, moved).await?;
    mode::write(&*env.disk, workdir, &ids.state(Mode::Seeded))?;
    note(env, workdir, ids, Stage::SeededFinalized)?;
    Ok(Done::Migrated)
}

/// Closes the engine whatever happened; the first error is the one to tell.
async fn closing<T>(db: &Db, result: Result<T>) -> Result<T> {
    let closed = db.close().await;
    let value = result?;
    closed?;
    Ok(value)
}

/// Step 1.
fn prepare(env: &Env, db: &Db, workdir: &Path, ids: Ids, planned: &Plan) -> Result<()> {
    if db.last_sequence() != planned.sequence {
        let blockers = vec!["it was written to a moment ago; stop the program that uses it".into()];
        return Err(Error::NotEligible { workdir: workdir.to_owned(), blockers });
    }
    mode::write(&*env.disk, workdir, &ids.state(Mode::Preparing))?;
    note(env, workdir, ids, Stage::ModePreparingWritten)
}

/// Steps 2 and 3.
async fn carry_out(env: &Env, db: &Db, workdir: &Path, ids: Ids) -> Result<()> {
    let entries = catalog::read_entries(db)?;
    if entries.is_empty() {
        rows::convert(env, db, workdir, &catalog::records(&ids.entry(), Gc::default())).await?;
    } else if entries != [ids.entry()] {
        let blockers = vec!["its catalog holds other regions".into()];
        return Err(Error::NotEligible { workdir: workdir.to_owned(), blockers });
    }
    note(env, workdir, ids, Stage::LocalCatalogPersisted)?;
    seed_snapshot::write(env, db, workdir, ids)?;
    note(env, workdir, ids, Stage::SeedSnapshotExported)
}

fn note(env: &Env, workdir: &Path, ids: Ids, stage: Stage) -> Result<()> {
    progress::write(env, workdir, &Checkpoint::new(stage, ids))
}

#[cfg(test)]
mod tests;
