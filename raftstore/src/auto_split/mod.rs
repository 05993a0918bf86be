//! Regions that grow too large, or are asked too much, are split by the store that leads them.
//!
//! ```text
//! every interval, for each region that is led here
//!   size    grown enough since it was last measured? → walk its rows in pages → at the limit? → split at the middle
//!   load    above the limit for a while, with requests on both sides of some key? → split there
//! ```
//!
//! What is known of a region is of one version of its range: after a split both halves are let alone for a while, then
//! measured and listened to anew. A size is measured once, and again only when so much was written that the limit may be
//! reached, at least an eighth of it; so a region in which nothing grows costs nothing. Growth is counted where entries are
//! applied, on every replica, so a new leader does not begin from nothing.
//!
//! Halves of a region at the limit have about half of it. Whoever merges regions does no harm if the sum stays
//! below that, and the region just as far below the limit on requests. How far a region is from being split is told
//! with every heartbeat ([`Fill`]), so that the scheduler need not know the limits.

mod load;
mod survey;

pub(crate) use load::Load;

use crate::mvcc::stored_bounds;
use crate::region::{Burden, Region};
use crate::snapshot::rows::FAMILIES;
use crate::store::Shared;
use crate::topology::{self, Outcome};
use crate::{gc, pending};
use bytes::Bytes;
use nokv_engine::Db;
use nokv_env::{ClockExt, Instant};
use nokv_proto::meta::v1::RegionDescriptor;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use survey::{Size, Survey};

/// A region is measured again when at least this part of the limit was written since.
const GROWTH_SHARE: u64 = 8;
/// Shortest pause between two pages of a survey; otherwise it pauses as long as the page took.
const PAGE_PAUSE: Duration = Duration::from_millis(1);

/// When a store splits the regions that it leads.
#[derive(Debug, Clone)]
pub struct SplitLimits {
    /// A region of this many bytes (keys and values with all their versions, before compression) is split in the
    /// middle. 0: never. Small regions move fast and cost a raft group each.
    pub bytes: u64,
    /// A region that gets this many requests a second is split so that each side has its share. 0: never.
    pub requests: u64,
    /// It has to get so many for this long.
    pub requests_for: Duration,
    /// Time between two looks at the regions.
    pub interval: Duration,
    /// A region is let alone for this long after its range has changed, and after a split that did not succeed.
    pub rest: Duration,
    /// A store that hosts this many regions splits none.
    pub regions_max: usize,
}

impl Default for SplitLimits {
    fn default() -> Self {
        Self {
            bytes: 96 << 20,
            requests: 5_000,
            requests_for: Duration::from_secs(10),
            interval: Duration::from_secs(1),
            rest: Duration::from_secs(10),
            regions_max: 10_000,
        }
    }
}

/// Why a region is to be split.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    Size { bytes: u64 },
    Load { per_second: u64 },
}

/// What is known of one version of a region.
#[derive(Debug)]
struct Watched {
    version: u64,
    /// Until then it is let alone.
    rest_until: Instant,
    measured: Option<Measured>,
    /// None while the region is led elsewhere.
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Measured {
    size: Size,
    /// What had been written by then.
    grown: u64,
    /// What the engine's tables had of it by their own account.
    on_disk: u64,
}

/// How far a region is from being split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fill {
    /// Of which version of the region.
    version: u64,
    /// Thousandths of a limit, the one that is nearer; never 0.
    permille: u64,
}

impl Fill {
    /// What a heartbeat may say of the region at this version; 0: not known.
    pub(crate) fn at(self, version: u64) -> u64 {
        if self.version == version { self.permille } else { 0 }
    }
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// How often until then.
    requests: u64,
    per_second: u64,
    /// Above the limit since.
    hot_since: Option<Instant>,
}

impl Watched {
    fn new(version: u64, rest_until: Instant) -> Self {
        Self { version, rest_until, measured: None, asked: None }
    }

    /// Whether the region may have reached the limit since it was measured.
    fn is_due(&self, grown: u64, limit: u64) -> bool {
        self.measured.as_ref().is_none_or(|known| {
            let room = limit.saturating_sub(known.size.bytes);
            grown.saturating_sub(known.grown) >= room.max(limit / GROWTH_SHARE).max(1)
        })
    }

    /// Whether a region that was large has lost so much of it that it may be small now.
    fn has_shrunk(&self, on_disk: impl FnOnce() -> u64, limit: u64) -> bool {
        self.measured.as_ref().is_some_and(|known| {
            known.size.bytes >= limit / GROWTH_SHARE && known.on_disk > 0 && on_disk() < known.on_disk / 2
        })
    }

    /// What was heard, and what was measured with what was written since.
    fn burden(&self, grown: u64) -> Burden {
        let bytes = |known: &Measured| known.size.bytes.saturating_add(grown.saturating_sub(known.grown));
        Burden {
            per_second: self.asked.map_or(0, |asked| asked.per_second),
            bytes: self.measured.as_ref().map(bytes),
        }
    }

    /// How far the region is from being split, once it was measured and listened to.
    fn fill(&self, grown: u64, limits: &SplitLimits) -> Option<Fill> {
        let share = |is: u64, limit: u64| is.saturating_mul(1000).checked_div(limit);
        let by_size = match (&self.measured, limits.bytes) {
            (_, 0) => None,
            (None, _) => return None,
            (Some(known), limit) => {
                share(known.size.bytes.saturating_add(grown.saturating_sub(known.grown)), limit)
            }
        };
        let by_load = share(self.asked?.per_second, limits.requests);
        let permille = by_size.max(by_load)?.max(1);
        Some(Fill { version: self.version, permille })
    }

    /// Where to split the region because of its size, as it was measured.
    fn too_large(&self, limit: u64) -> Option<(Bytes, Cause)> {
        let size = &self.measured.as_ref()?.size;
        let middle = size.middle.clone().filter(|_| size.bytes >= limit)?;
        Some((middle, Cause::Size { bytes: size.bytes }))
    }

    /// Takes note of how often the region was asked so far. Only a hot region's requests are remembered.
    fn listen(&mut self, load: &mut Load, now: Instant, limits: &SplitLimits) {
        let Some(before) = self.asked else {
            load.clear();
            self.asked = Some(Asked { at: now, requests: 0, per_second: 0, hot_since: None });
            return;
        };
        let micros = u64::try_from(now.since(before.at).as_micros()).unwrap_or(u64::MAX).max(1);
        let requests = load.requests() - before.requests;
        let per_second = requests.saturating_mul(1_000_000) / micros;
        let is_hot = limits.requests > 0 && per_second >= limits.requests;
        let hot_since = is_hot.then(|| before.hot_since.unwrap_or(before.at));
        if !is_hot {
            load.clear();
        }
        self.asked = Some(Asked { at: now, requests: load.requests(), per_second, hot_since });
    }

    /// Where to split the region because of its load.
    fn too_hot(&self, load: &Load, limits: &SplitLimits) -> Option<(Bytes, Cause)> {
        let asked = self.asked?;
        let since = asked.hot_since?;
        if asked.at.since(since) < limits.requests_for {
            return None;
        }
        Some((load.middle()?, Cause::Load { per_second: asked.per_second }))
    }
}

/// Splits regions that this store leads when they have reached a limit, for ever.
pub(crate) async fn run(shared: &Shared) {
    let limits = &shared.config.split;
    let mut watched: BTreeMap<u64, Watched> = BTreeMap::new();
    loop {
        shared.env.clock.sleep(limits.interval).await;
        let mut hosted = shared.door.regions.all();
        hosted.retain(|region| region.state().is_hosted());
        let ids: BTreeSet<u64> = hosted.iter().map(|region| region.id).collect();
        watched.retain(|id, _| ids.contains(id));
        // While the meta-root has yet to hear of what became of a region, the region stays as it is.
        let untold: BTreeSet<u64> =
            shared.pending.all().iter().flat_map(|(_, event)| pending::subjects(event)).collect();
        let has_room = hosted.len() < limits.regions_max;
        let began = shared.env.clock.now();
        for region in hosted {
            let (state, now) = (region.state(), shared.env.clock.now());
            region.traffic().sample(now);
            let version = state.descriptor.epoch_pair().0;
            let fresh = || Watched::new(version, now + limits.rest);
            let known = watched.entry(region.id).or_insert_with(fresh);
            if known.version != version {
                *known = fresh();
            }
            if !state.role.is_leader {
                known.asked = None;
                region.load().clear();
                region.set_burden(Burden::default());
                continue;
            }
            known.listen(&mut region.load(), now, limits);
            let is_known =
                !untold.contains(&region.id) && shared.known_to_root(region.id, &state.descriptor).is_ok();
            if has_room && is_known && now >= known.rest_until {
                // Loads have to be looked at in time; there is no hurry with sizes.
                let may_measure = now.since(began) < limits.interval;
                look(shared, &region, &state.descriptor, known, may_measure).await;
            }
            region.set_fill(known.fill(region.grown(), limits).unwrap_or_default());
            region.set_burden(known.burden(region.grown()));
        }
    }
}

/// Measures a region if that is due, and splits it if it has reached a limit.
async fn look(
    shared: &Shared,
    region: &Arc<Region>,
    descriptor: &RegionDescriptor,
    known: &mut Watched,
    may_measure: bool,
) {
    let limits = &shared.config.split;
    let grown = region.grown();
    let on_disk = || bytes_on_disk(&shared.db, descriptor);
    if may_measure
        && limits.bytes > 0
        && (known.is_due(grown, limits.bytes) || known.has_shrunk(on_disk, limits.bytes))
    {
        match measure(shared, region, descriptor, limits.bytes).await {
            Ok(size) => {
                shared.env.probe("store.split.measured");
                known.measured = Some(Measured { size, grown, on_disk: on_disk() });
            }
            Err(why) => tracing::debug!(region = region.id, why, "the region was not measured"),
        }
    }
    let by_size = if limits.bytes > 0 { known.too_large(limits.bytes) } else { None };
    let wanted = by_size.or_else(|| known.too_hot(&region.load(), limits));
    if let Some((key, cause)) = wanted
        && region.descriptor().epoch_pair().0 == known.version
    {
        split(shared, region, &key, &cause).await;
        known.rest_until = shared.env.clock.now() + limits.rest;
    }
}

/// What the engine's tables have of a region by their own account: cheap, and blind for memory.
pub(crate) fn bytes_on_disk(db: &Db, region: &RegionDescriptor) -> u64 {
    let bounds = stored_bounds(&region.range());
    FAMILIES.iter().map(|family| db.approximate_bytes(*family, bounds.clone())).sum()
}

/// Walks through the region, in pages from a snapshot each, pausing as long as it works.
async fn measure(
    shared: &Shared,
    region: &Arc<Region>,
    descriptor: &RegionDescriptor,
    limit: u64,
) -> Result<Size, String> {
    let mut survey = Survey::new(&descriptor.range(), limit);
    loop {
        let began = shared.env.clock.now();
        let snapshot = shared.db.snapshot();
        gc::still_here(region, descriptor.epoch_pair().0)?;
        if !survey.page(&snapshot)? {
            return Ok(survey.size());
        }
        drop(snapshot);
        let worked = shared.env.clock.now().since(began);
        shared.env.clock.sleep(worked.max(PAGE_PAUSE)).await;
    }
}

async fn split(shared: &Shared, region: &Region, key: &Bytes, cause: &Cause) {
    let limits = &shared.config.split;
    let id = region.id;
    let result = shared.split(id, key).await;
    let right = result.as_ref().map_or(0, |halves| halves.right.region_id);
    let by = match cause {
        Cause::Size { .. } => "split by size",
        Cause::Load { .. } => "split by load",
    };
    topology::note(shared, topology::split(id, right).called(by), id, Outcome::of(&result));
    if let Err(error) = result {
        shared.env.probe("store.split.not_now");
        tracing::info!(
            region = id,
            ?cause,
            error = error.message(),
            "the region is to be split, but not now"
        );
        return;
    }
    let key = key.escape_ascii().to_string();
    match cause {
        Cause::Size { bytes } => {
            shared.env.probe("store.split.by_size");
            tracing::info!(
                region = id,
                bytes,
                limit = limits.bytes,
                key,
                right,
                "a region was too large and is split"
            );
        }
        Cause::Load { per_second } => {
            shared.env.probe("store.split.by_load");
            let limit = limits.requests;
            tracing::info!(
                region = id,
                per_second,
                limit,
                key,
                right,
                "a region was asked too much and is split"
            );
        }
    }
}

#[cfg(test)]
mod tests;
