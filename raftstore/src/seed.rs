//! The first regions of a fresh directory.
//!
//! Every store of a new cluster is seeded with the same regions before it first starts; their first leaders tell
//! the meta-root. Seeding again with the same content is fine at any time, also when the regions have changed since:
//! `MODE.json` remembers what was seeded.

use crate::catalog::{self, Members, Position};
use crate::mode::{self, Mode, State};
use crate::snapshot::rows::FAMILIES;
use crate::{Error, Result};
use nokv_engine::{Db, Options, WriteBatch, WriteOptions};
use nokv_env::Env;
use nokv_proto::limits::FIRST_ALLOCATED_ID;
use nokv_proto::meta::v1::{RegionDescriptor, RegionReplicaState};
use prost::Message;
use std::path::Path;

/// Writes the initial regions of store `store_id` into `workdir`.
///
/// A directory that holds anything else is refused. Interrupted, it can be repeated.
pub async fn seed_regions(
    env: &Env,
    workdir: &Path,
    store_id: u64,
    regions: &[RegionDescriptor],
) -> Result<()> {
    if store_id == 0 {
        return Err(Error::Config("the store id is 0".into()));
    }
    let regions = checked(regions)?;
    let seed = name_of(&regions);
    let io = |doing, source| Error::Io { path: workdir.to_owned(), doing, source };
    env.disk.create_dir_all(workdir).map_err(|error| io("create it", error))?;
    let state = mode::admit(&*env.disk, workdir, store_id)?;
    if state.mode != Mode::Standalone {
        return if state.seed == seed {
            Ok(())
        } else {
            Err(used(workdir, "it was seeded with other regions"))
        };
    }
    let options = Options { lock_owner: format!("nokv store {store_id}, seeding"), ..Options::default() };
    let db = Db::open(env, workdir, options).await?;
    let written = write(&db, workdir, &regions).await;
    let closed = db.close().await;
    written?;
    closed?;
    let state = State { mode: Mode::Seeded, store_id, seed, ..State::default() };
    mode::write(&*env.disk, workdir, &state)
}

/// The regions in order of their ids, ready to run; or what is wrong with them.
fn checked(regions: &[RegionDescriptor]) -> Result<Vec<RegionDescriptor>> {
    let mut regions = regions.to_vec();
    regions.sort_by_key(|region| region.region_id);
    for region in &mut regions {
        if let Some(problem) = region.problem() {
            return Err(Error::InvalidRegion(problem));
        }
        if region.region_id >= FIRST_ALLOCATED_ID {
            let id = region.region_id;
            let why =
                format!("region id {id}: ids from {FIRST_ALLOCATED_ID} on are handed out by the cluster");
            return Err(Error::InvalidRegion(why));
        }
        region.set_state(RegionReplicaState::Running);
    }
    for (at, region) in regions.iter().enumerate() {
        for other in &regions[..at] {
            if other.region_id == region.region_id || other.range().overlaps(&region.range()) {
                let text = format!("regions {} and {} overlap", other.region_id, region.region_id);
                return Err(Error::InvalidRegion(text));
            }
        }
    }
    Ok(regions)
}

/// A name for the content: number of regions and a checksum.
fn name_of(regions: &[RegionDescriptor]) -> String {
    let crc = regions
        .iter()
        .fold(0, |crc, region| crc32c::crc32c_append(crc, &region.encode_length_delimited_to_vec()));
    format!("{}-{crc:08x}", regions.len())
}

fn used(workdir: &Path, what: &str) -> Error {
    Error::Used { workdir: workdir.to_owned(), what: what.to_owned() }
}

async fn write(db: &Db, workdir: &Path, regions: &[RegionDescriptor]) -> Result<()> {
    let there = catalog::read(db)?;
    if !there.is_empty() {
        // An earlier run got this far. No store has run since, or the mode would say so.
        let same = there == regions;
        return if same { Ok(()) } else { Err(used(workdir, "its catalog holds other regions")) };
    }
    let snapshot = db.snapshot();
    if FAMILIES.iter().any(|cf| snapshot.iter(*cf, ..).next().is_some()) {
        return Err(used(workdir, "it holds data of a stand-alone database"));
    }
    drop(snapshot);
    let mut batch = WriteBatch::new();
    for region in regions {
        catalog::put_region(&mut batch, region);
        catalog::put_members(&mut batch, region.region_id, &Members::all_vote(region));
        catalog::put_applied(&mut batch, region.region_id, Position::default());
    }
    if !batch.is_empty() {
        db.write(batch, WriteOptions { sync: true }).await?;
        db.flush().await?;
    }
    Ok(())
}
