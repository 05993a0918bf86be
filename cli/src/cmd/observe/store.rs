//! A store's metrics and checks.

use super::exposition::Exposition;
use super::{Check, Watch, hangs, label, lag_seconds, process, seconds, shown};
use nokv_engine::{Pressure, Stats};
use nokv_raftstore::{Level, Observation};

/// Regions that a check names.
const NAMED: usize = 5;

pub fn watch(look: impl Fn() -> Observation + Send + Sync + 'static) -> Watch {
    Watch::new(look, metrics, live, ready)
}

fn live(store: &Observation) -> Vec<Check> {
    let failed = store.raft.failed.as_ref().map(|why| format!("it has ended: {why}"));
    vec![Check::new("raft-loop", failed.or_else(|| hangs(store.raft.turned_ago)))]
}

fn ready(store: &Observation) -> Vec<Check> {
    vec![
        Check::new("coordinator", coordinator(store)),
        Check::new("disk", disk(store)),
        Check::new("raft", store.raft.failed.clone().or_else(|| hangs(store.raft.turned_ago))),
        Check::new("engine", store.engine_failed.clone()),
        Check::new("leaders", named(&store.regions.leaderless, "without a known leader")),
        Check::new("quarantine", named(&store.regions.quarantined, "whose replica here is in quarantine")),
    ]
}

fn coordinator(store: &Observation) -> Option<String> {
    let contacts = &store.coordinators;
    if contacts.is_empty() || contacts.iter().any(|one| one.missing_for.is_none() && one.heard_ago.is_some())
    {
        return None;
    }
    let words = contacts.iter().map(|one| match one.missing_for {
        Some(missing) => format!("{} unreachable for {}: {}", one.addr, shown(missing), one.error),
        None => format!("{} has not answered yet", one.addr),
    });
    Some(words.collect::<Vec<_>>().join("; "))
}

fn disk(store: &Observation) -> Option<String> {
    let free = store.disk.free_bytes.unwrap_or(0);
    let reserve = store.disk.reserve_bytes;
    (store.disk.level > Level::Open)
        .then(|| format!("read-only: {free} bytes free, {reserve} are to be kept free"))
}

fn named(regions: &[u64], what: &str) -> Option<String> {
    let (first, count) = (regions.iter().take(NAMED).map(u64::to_string).collect::<Vec<_>>(), regions.len());
    let more = if count > NAMED { ", ..." } else { "" };
    (count > 0).then(|| format!("{count} region(s) {what}: {}{more}", first.join(", ")))
}

pub fn metrics(page: &mut Exposition, store: &Observation) {
    let regions = &store.regions;
    page.gauge("nokv_store_regions", "Regions of which a peer runs here.", regions.hosted);
    page.gauge("nokv_store_leaders", "Regions led here.", regions.leaders);
    page.gauge(
        "nokv_store_regions_without_leader",
        "Regions here whose leader is not known.",
        regions.leaderless.len() as u64,
    );
    page.gauge(
        "nokv_store_quarantined_peers",
        "Replicas here that hold something else than the others, and serve nothing.",
        regions.quarantined.len() as u64,
    );
    page.gauge(
        "nokv_store_hibernating_regions",
        "Regions in which nothing happens, so they do not tick.",
        regions.hibernating,
    );
    page.gauge(
        "nokv_store_apply_lag_entries",
        "Entries committed and not applied, of the region that has most.",
        regions.apply_lag_max,
    );
    page.gauge(
        "nokv_store_waiting_proposals",
        "Proposals that wait for their outcome.",
        regions.proposals_waiting,
    );
    page.gauge(
        "nokv_store_pending_root_events",
        "Events that the meta-root has not accepted yet.",
        store.pending_root_events,
    );
    page.counter(
        "nokv_store_read_rounds_total",
        "Times that leadership was confirmed for the reads that waited.",
        store.raft.read_rounds,
    );
    page.counter(
        "nokv_store_snapshot_sent_bytes_total",
        "Bytes of rows in snapshots sent.",
        store.snapshot_sent_bytes,
    );
    page.counter(
        "nokv_store_snapshot_received_bytes_total",
        "Bytes of rows in snapshots taken in.",
        store.snapshot_received_bytes,
    );
    page.counter(
        "nokv_store_slow_requests_total",
        "Requests that took at least as long as --slow-log; not all of them have a line in the log.",
        store.slow_requests,
    );
    page.gauge(
        "nokv_store_safe_point_lag_seconds",
        "Age of the safe point: versions that only older reads see may be gone.",
        lag_seconds(store.safe_point, store.unix_millis),
    );
    page.gauge(
        "nokv_store_safe_point_target_lag_seconds",
        "Age of the next safe point, as the coordinator wants it.",
        lag_seconds(store.safe_point_target, store.unix_millis),
    );
    process::disk(page, store.disk.free_bytes, store.disk.total_bytes);
    page.gauge("nokv_store_disk_reserve_bytes", "Bytes that are kept free.", store.disk.reserve_bytes);
    page.gauge(
        "nokv_store_read_only",
        "1: less is free than the reserve, so no new data is taken.",
        store.disk.level > Level::Open,
    );
    page.gauge(
        "nokv_store_closed_to_entries",
        "1: less than a quarter of the reserve is free, so nothing is taken of other leaders either.",
        store.disk.level > Level::Short,
    );
    coordinators(page, store);
    process::raft(page, &store.raft);
    engine(page, &store.engine, store.engine_failed.is_some());
}

fn coordinators(page: &mut Exposition, store: &Observation) {
    let each = || store.coordinators.iter().map(|one| (label("coordinator", &one.addr), one));
    page.gauges(
        "nokv_store_coordinator_up",
        "1: the coordinator took the last heartbeat.",
        each().map(|(labels, one)| (labels, one.heard_ago.is_some() && one.missing_for.is_none())),
    );
    page.gauges(
        "nokv_store_coordinator_heartbeat_age_seconds",
        "Time since the coordinator last took a heartbeat.",
        each().map(|(labels, one)| (labels, seconds(one.heard_ago))),
    );
}

fn engine(page: &mut Exposition, stats: &Stats, failed: bool) {
    let levels = || (0u64..).zip(&stats.levels).map(|(at, level)| (label("level", at), level));
    let pressure = match stats.pressure {
        Pressure::None => 0u64,
        Pressure::Slowdown => 1,
        Pressure::Stop => 2,
    };
    page.gauge("nokv_engine_failed", "1: the engine accepts no more writes.", failed);
    page.gauge(
        "nokv_engine_throttle_level",
        "How much writers are held back: 0 not, 1 background work falls behind, 2 new commands are refused.",
        pressure,
    );
    page.gauge("nokv_engine_entries", "Upper estimate of live keys.", stats.entries);
    page.gauges(
        "nokv_engine_level_tables",
        "Tables of a level.",
        levels().map(|(labels, level)| (labels, level.tables)),
    );
    page.gauges(
        "nokv_engine_level_bytes",
        "Bytes of the tables of a level.",
        levels().map(|(labels, level)| (labels, level.bytes)),
    );
    page.gauge(
        "nokv_engine_memtable_bytes",
        "Bytes in the memtable that takes writes.",
        stats.memtable_bytes,
    );
    page.gauge(
        "nokv_engine_immutable_memtables",
        "Memtables that wait for their flush.",
        stats.memtables_immutable,
    );
    page.gauge(
        "nokv_engine_immutable_memtable_bytes",
        "Bytes in memtables that wait for their flush.",
        stats.memtables_immutable_bytes,
    );
    page.gauge("nokv_engine_wal_segments", "Segments of the write-ahead log.", stats.wal_segments);
    page.gauge("nokv_engine_wal_bytes", "Bytes of the write-ahead log.", stats.wal_bytes);
    page.counter("nokv_engine_batches_total", "Batches written or applied.", stats.batches);
    page.counter("nokv_engine_flushes_total", "Memtables flushed.", stats.flushes);
    page.counter("nokv_engine_flushed_bytes_total", "Bytes written by flushes.", stats.flush_bytes);
    page.counter("nokv_engine_compactions_total", "Compactions that rewrote tables.", stats.compactions);
    page.counter(
        "nokv_engine_compaction_moves_total",
        "Compactions that only moved tables a level down.",
        stats.compaction_moves,
    );
    page.counter(
        "nokv_engine_compaction_read_bytes_total",
        "Bytes read by compactions.",
        stats.compaction_read_bytes,
    );
    page.counter(
        "nokv_engine_compaction_written_bytes_total",
        "Bytes written by compactions.",
        stats.compaction_write_bytes,
    );
    page.counter(
        "nokv_engine_compaction_parts_total",
        "Parts of compactions that were done in several at the same time.",
        stats.compaction_parts,
    );
    page.counter(
        "nokv_engine_compaction_gatherings_total",
        "Compactions that only made one of small tables of level 0.",
        stats.compaction_gathering.count,
    );
    page.counter(
        "nokv_engine_compactions_in_pauses_total",
        "Compactions that waited until writers paused, because newer rows hid many older ones.",
        stats.compactions_in_pauses,
    );
    page.counter(
        "nokv_engine_background_waited_bytes_total",
        "Bytes of flushes and compactions that waited for --background-bytes-per-second.",
        stats.background_waited_bytes,
    );
    page.counter(
        "nokv_engine_ranges_deleted_total",
        "Ranges of keys deleted as a whole, as those of regions that left.",
        stats.ranges_deleted,
    );
    page.counter(
        "nokv_engine_range_tables_total",
        "Tables that left with a range, unread.",
        stats.range_tables,
    );
    page.counter(
        "nokv_engine_range_tombstones_total",
        "Rows of such ranges that got a tombstone, because their tables stayed.",
        stats.range_tombstones,
    );
    page.counter(
        "nokv_engine_block_cache_hits_total",
        "Block reads answered by the cache.",
        stats.cache_hits,
    );
    page.counter(
        "nokv_engine_block_cache_misses_total",
        "Block reads that the cache could not answer.",
        stats.cache_misses,
    );
    let ahead = stats.readahead;
    page.counter(
        "nokv_engine_readahead_reads_total",
        "Reads that fetched more blocks than the one needed just then.",
        ahead.reads,
    );
    page.counter(
        "nokv_engine_readahead_blocks_total",
        "Blocks that they were to fetch besides that one.",
        ahead.launched,
    );
    page.counter(
        "nokv_engine_readahead_blocks_used_total",
        "Of those, the ones that a walk came to: reads saved.",
        ahead.completed,
    );
    page.counter(
        "nokv_engine_readahead_blocks_unused_total",
        "Of those, the ones that were fetched in vain, or could not be fetched.",
        ahead.aborted,
    );
    page.gauge("nokv_engine_block_cache_bytes", "Bytes in the block cache.", stats.cache_bytes);
    page.counter(
        "nokv_engine_filter_rejections_total",
        "Lookups in a table that its filter answered.",
        stats.filter_rejections,
    );
    page.gauge(
        "nokv_engine_obsolete_tables",
        "Tables out of use whose files are not removed yet.",
        stats.tables_obsolete,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_raftstore::{CoordinatorContact, DiskObservation};
    use std::time::Duration;

    fn problems(checks: &[Check]) -> Vec<(&'static str, String)> {
        checks.iter().filter_map(|check| Some((check.name, check.problem.clone()?))).collect()
    }

    #[test]
    fn each_trouble_fails_its_own_check() {
        let mut store = Observation::default();
        assert_eq!(problems(&ready(&store)), [], "a store without regions and coordinators is ready");
        store.coordinators = vec![CoordinatorContact {
            addr: "c:1".into(),
            missing_for: Some(Duration::from_millis(12_345)),
            error: "connection refused".into(),
            ..Default::default()
        }];
        assert_eq!(
            problems(&ready(&store)),
            [("coordinator", "c:1 unreachable for 12s: connection refused".to_owned())]
        );
        store
            .coordinators
            .push(CoordinatorContact { heard_ago: Some(Duration::ZERO), ..CoordinatorContact::default() });
        store.disk = DiskObservation {
            free_bytes: Some(5),
            total_bytes: Some(99),
            reserve_bytes: 10,
            level: Level::Short,
        };
        store.regions.leaderless = (1..=7).collect();
        store.regions.quarantined = vec![3];
        store.engine_failed = Some("sync failed".into());
        store.raft.failed = Some("disk".into());
        let failed: Vec<_> = problems(&ready(&store)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(failed, ["disk", "raft", "engine", "leaders", "quarantine"]);
        let leaders = problems(&ready(&store)).swap_remove(3).1;
        assert_eq!(leaders, "7 region(s) without a known leader: 1, 2, 3, 4, 5, ...");
    }

    #[test]
    fn a_loop_that_hangs_is_not_alive() {
        let mut store = Observation::default();
        assert_eq!(problems(&live(&store)), []);
        store.raft.turned_ago = Some(Duration::from_secs(29));
        assert_eq!(problems(&live(&store)), []);
        store.raft.turned_ago = Some(Duration::from_secs(31));
        assert!(problems(&live(&store))[0].1.contains("31s"));
    }
}
