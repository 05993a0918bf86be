//! Which keys belong to which region, at which epoch.
//!
//! - A region has one range at one version, whoever knows it: root, leader or follower.
//! - Its epoch never falls: in the root's state, and within the life of a peer. A region that is gone stays gone.
//! - In the root's state ranges never overlap, and once they cover all keys they always do.

use super::{Names, Violation, ensure};
use crate::exec::Place;
use nokv_env::{Fact, Peer, Region};
use std::collections::{BTreeMap, BTreeSet};

const CHECKER: &str = "regions";

type Epoch = (u64, u64);

/// What the facts so far say.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// By region and version.
    ranges: BTreeMap<(u64, u64), (Vec<u8>, Vec<u8>)>,
    /// What each peer knows in its present life.
    peers: BTreeMap<Peer, (Place, Epoch)>,
    /// Newest index of the root at which regions changed, and the epochs there.
    index: u64,
    root: BTreeMap<u64, Epoch>,
    gone: BTreeSet<u64>,
    covered: bool,
}

impl Regions {
    pub(super) fn observe(&mut self, place: Place, fact: &Fact, names: &Names) -> Result<(), Violation> {
        match fact {
            Fact::Region { peer, region } => {
                let who = || format!("peer {} on {}", peer.node, names.of(place.node));
                self.one_range(region, who)?;
                let known = self.peers.insert(*peer, (place, epoch(region)));
                let before = known.filter(|(life, _)| *life == place).map(|(_, before)| before);
                not_back(region, before, who)
            }
            Fact::Regions { node, index, regions } => self.root_changed(*node, *index, regions),
            _ => Ok(()),
        }
    }

    fn one_range(&mut self, region: &Region, who: impl Fn() -> String) -> Result<(), Violation> {
        let (key, range) = ((region.id, region.version), (region.start.clone(), region.end.clone()));
        let known = self.ranges.entry(key).or_insert_with(|| range.clone());
        ensure(*known == range, CHECKER, || {
            let (known, range) = (show(&known.0, &known.1), show(&range.0, &range.1));
            format!("{} knows region {} at version {} as {range}, and it is {known}", who(), key.0, key.1)
        })
    }

    fn root_changed(&mut self, node: u64, index: u64, regions: &[Region]) -> Result<(), Violation> {
        let who = || format!("root {node}");
        for region in regions {
            self.one_range(region, who)?;
        }
        if index <= self.index {
            return Ok(());
        }
        self.index = index;
        for region in regions {
            not_back(region, self.root.get(&region.id).copied(), who)?;
            ensure(!self.gone.contains(&region.id), CHECKER, || {
                format!("region {} is back at index {index} of the root, though it was gone", region.id)
            })?;
        }
        let now: BTreeMap<u64, Epoch> = regions.iter().map(|region| (region.id, epoch(region))).collect();
        self.gone.extend(self.root.keys().filter(|id| !now.contains_key(id)));
        self.root = now;
        let covered = tiled(index, regions)?;
        ensure(covered || !self.covered, CHECKER, || {
            format!("at index {index} of the root the regions do not cover all keys any more")
        })?;
        self.covered = covered;
        Ok(())
    }
}

/// Whether the regions cover all keys; an error when two of them overlap.
fn tiled(index: u64, regions: &[Region]) -> Result<bool, Violation> {
    let mut regions: Vec<&Region> = regions.iter().collect();
    regions.sort_by(|a, b| a.start.cmp(&b.start));
    let mut seamless = true;
    for pair in regions.windows(2) {
        let (left, right) = (pair[0], pair[1]);
        ensure(!left.end.is_empty() && left.end <= right.start, CHECKER, || {
            let show = |region: &Region| format!("region {} {}", region.id, show(&region.start, &region.end));
            format!("at index {index} of the root {} overlaps {}", show(left), show(right))
        })?;
        seamless &= left.end == right.start;
    }
    let first = regions.first().is_some_and(|region| region.start.is_empty());
    let last = regions.last().is_some_and(|region| region.end.is_empty());
    Ok(seamless && first && last)
}

fn epoch(region: &Region) -> Epoch {
    (region.version, region.conf_version)
}

fn not_back(region: &Region, before: Option<Epoch>, who: impl Fn() -> String) -> Result<(), Violation> {
    let (now, before) = (epoch(region), before.unwrap_or_default());
    ensure(now.0 >= before.0 && now.1 >= before.1, CHECKER, || {
        format!("{} takes region {} back from epoch {before:?} to {now:?}", who(), region.id)
    })
}

fn show(start: &[u8], end: &[u8]) -> String {
    format!("\"{}\"..\"{}\"", start.escape_ascii(), end.escape_ascii())
}
