//! Before a store stops on request, others take over the regions that it leads: their clients need not wait for elections.

use crate::Store;
use crate::region::Region;
use nokv_env::{ClockExt, Instant};
use nokv_replica::GroupStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long one successor has before another one is asked.
const STEP: Duration = Duration::from_millis(1500);
const LOOK: Duration = Duration::from_millis(20);

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HandedOver {
    /// Regions that others lead now.
    pub moved: usize,
    /// Regions that are still led here: nobody could take them in time.
    pub kept: usize,
}

impl Store {
    /// Hands the leadership of all regions to other stores, for as long as somebody can take it and `patience` lasts.
    /// The store goes on serving meanwhile.
    pub async fn hand_over(&self, patience: Duration) -> HandedOver {
        let clock = &self.shared.env.clock;
        let deadline = clock.now() + patience;
        // Who has just begun to lead has heard of nobody yet.
        let heard_by = deadline.min(clock.now() + STEP);
        let first = self.led().len();
        let mut tried: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        while clock.now() < deadline {
            let asked = self.ask_successors(&mut tried, deadline).await;
            if asked.is_empty() {
                if self.led().is_empty() || clock.now() >= heard_by {
                    break;
                }
                clock.sleep(LOOK).await;
                continue;
            }
            let until = deadline.min(clock.now() + STEP);
            while clock.now() < until && asked.iter().any(|region| region.state().role.is_leader) {
                clock.sleep(LOOK).await;
            }
        }
        let kept = self.led().len();
        HandedOver { moved: first.saturating_sub(kept), kept }
    }

    fn led(&self) -> Vec<Arc<Region>> {
        let all = self.shared.door.regions.all().into_iter();
        all.filter(|region| region.state().role.is_leader).collect()
    }

    /// Asks one successor of each region, and says of which regions.
    async fn ask_successors(
        &self,
        tried: &mut BTreeMap<u64, BTreeSet<u64>>,
        deadline: Instant,
    ) -> Vec<Arc<Region>> {
        let mut given: BTreeMap<u64, usize> = BTreeMap::new();
        let mut asked = Vec::new();
        for region in self.led() {
            let Some(status) = self.shared.raft.status(region.group()) else { continue };
            let tried = tried.entry(region.id).or_default();
            let store_of = |peer| region.descriptor().peer(peer).map_or(0, |peer| peer.store_id);
            let load = |peer| given.get(&store_of(peer)).copied().unwrap_or(0);
            let Some(peer) = successor(&status, tried, load) else { continue };
            tried.insert(peer);
            let started = self.shared.raft.transfer_leader(region.group(), peer);
            if let Ok(Ok(())) = self.shared.env.clock.timeout_at(deadline, started).await {
                *given.entry(store_of(peer)).or_default() += 1;
                asked.push(region);
            }
        }
        asked
    }
}

/// Of the voters that answer and were not asked yet: the one that has got least so far, and of those the one that has most
/// of the log.
fn successor(status: &GroupStatus, tried: &BTreeSet<u64>, load: impl Fn(u64) -> usize) -> Option<u64> {
    let others = status.matched.iter().filter(|(peer, _)| {
        **peer != status.peer
            && status.voters.contains(peer)
            && status.active.contains(peer)
            && !tried.contains(peer)
    });
    others.max_by_key(|(peer, matched)| (std::cmp::Reverse(load(**peer)), **matched)).map(|(peer, _)| *peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_and_the_newest_are_asked_first_and_the_silent_never() {
        let status = GroupStatus {
            peer: 1,
            voters: vec![1, 2, 3, 4],
            active: vec![1, 2, 3, 5],
            matched: [(2, 8), (3, 9), (4, 99), (5, 99)].into(),
            ..Default::default()
        };
        let none = BTreeSet::new();
        assert_eq!(successor(&status, &none, |_| 0), Some(3));
        assert_eq!(successor(&status, &none, |peer| usize::from(peer == 3)), Some(2));
        assert_eq!(successor(&status, &[3].into(), |_| 0), Some(2));
        assert_eq!(successor(&status, &[2, 3].into(), |_| 0), None, "4 is silent, 5 has no vote");
    }
}
