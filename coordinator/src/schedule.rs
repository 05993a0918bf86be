//! Leader balance: a pure choice from the view.

use crate::view::View;
use nokv_env::Instant;
use nokv_proto::coordinator::v1 as pb;
use std::collections::BTreeMap;
use std::time::Duration;

/// A region is not moved again before this has passed.
const COOLDOWN: Duration = Duration::from_secs(10);

/// Moves one leader away from `store` when it leads at least two regions more than the up store with the
/// fewest. `moved` remembers recent orders and is pruned here.
pub fn balance_leaders(
    view: &View,
    store: u64,
    now: Instant,
    down_after: Duration,
    moved: &mut BTreeMap<u64, Instant>,
) -> Option<pb::SchedulerOperation> {
    moved.retain(|_, at| now.since(*at) < COOLDOWN);
    let led: BTreeMap<u64, usize> = view
        .stores(now, down_after)
        .into_iter()
        .filter(|info| info.up)
        .map(|info| (info.store_id, view.led_by(info.store_id).count()))
        .collect();
    let mine = *led.get(&store)?;
    let rested = view.led_by(store).filter(|region| !moved.contains_key(&region.region_id));
    let order = rested.into_iter().find_map(|region| {
        let source = view.leader(region.region_id)?;
        let target = region
            .peers
            .iter()
            .filter(|peer| led.get(&peer.store_id).is_some_and(|count| count + 2 <= mine))
            .min_by_key(|peer| led.get(&peer.store_id))?;
        Some(pb::SchedulerOperation {
            r#type: pb::SchedulerOperationType::LeaderTransfer as i32,
            region_id: region.region_id,
            source_peer_id: source.peer_id,
            target_peer_id: target.peer_id,
        })
    });
    if let Some(order) = &order {
        moved.insert(order.region_id, now);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_proto::meta::v1 as meta;

    fn peers() -> Vec<meta::RegionPeer> {
        (1..=3).map(|id| meta::RegionPeer { store_id: id, peer_id: id * 100 }).collect()
    }

    fn view(leads: [&[u64]; 3]) -> View {
        let mut view = View::default();
        let descriptors: Vec<_> = (1..=4u8)
            .map(|id| meta::RegionDescriptor {
                region_id: u64::from(id),
                start_key: vec![id].into(),
                end_key: vec![id + 1].into(),
                peers: peers(),
                ..Default::default()
            })
            .collect();
        view.install(
            meta::RootCheckpoint { descriptors: descriptors.clone(), ..Default::default() },
            meta::RootTailToken::default(),
        );
        for (store, regions) in (1u64..).zip(leads) {
            let regions = regions
                .iter()
                .map(|id| pb::RegionReport {
                    descriptor: descriptors.iter().find(|d| d.region_id == *id).cloned(),
                    leader: true,
                    term: 1,
                    peer_id: store * 100,
                    ..Default::default()
                })
                .collect();
            view.heard(
                pb::StoreHeartbeatRequest { store_id: store, regions, ..Default::default() },
                Instant(0),
            );
        }
        view
    }

    fn order(view: &View, store: u64, moved: &mut BTreeMap<u64, Instant>) -> Option<(u64, u64)> {
        balance_leaders(view, store, Instant(1), Duration::from_secs(20), moved)
            .map(|op| (op.region_id, op.target_peer_id))
    }

    #[test]
    fn the_store_with_most_leaders_gives_one_away() {
        let view = view([&[1, 2, 3], &[4], &[]]);
        let mut moved = BTreeMap::new();
        assert_eq!(order(&view, 1, &mut moved), Some((1, 300)));
        assert_eq!(order(&view, 1, &mut moved), Some((2, 300)), "region 1 rests");
        assert_eq!(order(&view, 2, &mut moved), None);
    }

    #[test]
    fn a_difference_of_one_is_left_alone() {
        let view = view([&[1, 2], &[3], &[4]]);
        assert_eq!(order(&view, 1, &mut BTreeMap::new()), None);
    }
}
