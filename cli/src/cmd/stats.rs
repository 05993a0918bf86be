//! `nokv stats`: a store in numbers, out of its directory or from the running process.

use crate::args::inspect::Stats;
use crate::args::{Format, Global};
use crate::cmd::expvar;
use crate::cmd::workdir::Workdir;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use nokv_env::Env;
use nokv_raftstore::StatsSnapshot;
use nokv_raftstore::stats::LevelStats;
use serde::Deserialize;
use serde_json::{Value, json};

/// Prints the numbers.
pub async fn run(env: &Env, args: &Stats, global: &Global) -> Result<u8> {
    let document = match (&args.expvar, &args.workdir) {
        (Some(url), _) => live(env, args, url).await?,
        (None, Some(dir)) => {
            let workdir = Workdir::find(env, dir)?;
            let regions = !args.no_region_metrics;
            let snapshot =
                workdir.read(env, || StatsSnapshot::offline(&env.disk, &workdir.dir, regions)).await?;
            Document { snapshot, received: None }
        }
        (None, None) => {
            return Err(Failure::usage("give --workdir DIR (offline) or --expvar URL (live)")
                .next("nokv stats --help"));
        }
    };
    let mut out = Out::new();
    match (global.format(), &document.received) {
        (Format::Plain, _) => lines(&document.snapshot).iter().try_for_each(|line| out.line(line))?,
        (Format::Json, Some(received)) => out.json(received)?,
        (Format::Json, None) => out.json_of(&document.snapshot)?,
        (Format::Jsonl, Some(received)) => out.line(&received.to_string())?,
        (Format::Jsonl, None) => out.line(&json!(document.snapshot).to_string())?,
    }
    out.flush()?;
    Ok(0)
}

/// The numbers.
struct Document {
    snapshot: StatsSnapshot,
    /// As another process sent it: it may be of a later release and say more than this one knows.
    received: Option<Value>,
}

async fn live(env: &Env, args: &Stats, url: &str) -> Result<Document> {
    let (url, mut document) = expvar::fetch(env, url, args.timeout).await?;
    let other = [("nokv_coordinator", "coordinator"), ("nokv_meta_root", "meta-root")];
    if let Some((_, kind)) = other.iter().find(|(name, _)| document.get(*name).is_some()) {
        return Err(Failure::new(
            Code::WrongService,
            format!("{url} is the endpoint of a {kind}, not of a store"),
        )
        .next("give the --metrics-addr of a `nokv serve`")
        .detail("url", url));
    }
    // The document of a store, or the numbers alone.
    let mut received = match document.get_mut("NoKV.Stats") {
        Some(member) => member.take(),
        None => document,
    };
    let strange = |what: String| {
        Failure::new(Code::EndpointUnreachable, format!("{url}: {what}"))
            .next("is --metrics-addr set on that process, and is this its address?")
            .detail("url", url.clone())
    };
    if received.get("entries").is_none() {
        return Err(strange("the answer has no numbers of a store (NoKV.Stats)".to_owned()));
    }
    let mut snapshot = StatsSnapshot::deserialize(&received)
        .map_err(|error| strange(format!("the numbers of the store do not read: {error}")))?;
    if args.no_region_metrics {
        snapshot = snapshot.without_regions();
        received["region"] = json!(snapshot.region);
        received["omitted"] = json!(snapshot.omitted);
    }
    Ok(Document { snapshot, received: Some(received) })
}

/// Lines in the reference's order; those that say nothing are left out.
fn lines(stats: &StatsSnapshot) -> Vec<String> {
    let mut text = Text(Vec::new());
    text.put("Entries", stats.entries);
    flush_and_compaction(&mut text, stats);
    value_log_and_writes(&mut text, stats);
    wal(&mut text, stats);
    raft(&mut text, stats);
    if !stats.omitted.iter().any(|name| name == "region") {
        let region = &stats.region;
        text.put(
            "Regions.Total",
            format!(
                "{} (new={} running={} removing={} tombstone={} other={})",
                region.total, region.new, region.running, region.removing, region.tombstone, region.other
            ),
        );
    }
    levels(&mut text, stats);
    rest(&mut text, stats);
    if !stats.unavailable_offline.is_empty() {
        text.put("Unavailable.Offline", stats.unavailable_offline.join(" "));
    }
    text.0
}

/// Lines that line up.
struct Text(Vec<String>);

impl Text {
    fn put(&mut self, name: &str, value: impl std::fmt::Display) {
        self.0.push(format!("{name:<24} {value}"));
    }
}

fn flush_and_compaction(text: &mut Text, stats: &StatsSnapshot) {
    let (flush, compaction) = (&stats.flush, &stats.compaction);
    text.put("Flush.Pending", flush.pending);
    text.put("Compaction.Backlog", compaction.backlog);
    text.put("Compaction.MaxScore", format!("{:.2}", compaction.max_score));
    text.put("Flush.Wait.LastMs", flush.last_wait_ms);
    text.put("Flush.Wait.MaxMs", flush.max_wait_ms);
    text.put("Flush.Build.LastMs", flush.last_build_ms);
    text.put("Flush.Build.MaxMs", flush.max_build_ms);
    text.put("Flush.Release.LastMs", flush.last_release_ms);
    text.put("Flush.Release.MaxMs", flush.max_release_ms);
    text.put("Compaction.LastMs", compaction.last_duration_ms);
    text.put("Compaction.MaxMs", compaction.max_duration_ms);
    text.put("Compaction.Runs", compaction.runs);
}

fn value_log_and_writes(text: &mut Text, stats: &StatsSnapshot) {
    let value_log = &stats.value_log;
    text.put("ValueLog.Segments", value_log.segments);
    if value_log.segments > 0 {
        let (total, live) = (value_log.total_bytes, value_log.live_bytes);
        text.put("ValueLog.Bytes", format!("total={total} live={live}"));
    }
    text.put("ValueLog.PendingDelete", value_log.pending_deletes);
    text.put("ValueLog.DiscardQueue", value_log.discard_queue);
    let gc = &value_log.gc;
    if *gc != Default::default() {
        text.put(
            "ValueLog.GC",
            format!(
                "runs={} scheduled={} active={} removed={} skipped={} throttled={} rejected={} parallel={}",
                gc.gc_runs,
                gc.gc_scheduled,
                gc.gc_active,
                gc.segments_removed,
                gc.gc_skipped,
                gc.gc_throttled,
                gc.gc_rejected,
                gc.gc_parallelism
            ),
        );
    }
    if gc.moved_bytes > 0 {
        text.put("ValueLog.MovedBytes", gc.moved_bytes);
    }
    for (bucket, head) in &value_log.heads {
        let place = format!("fid={} offset={} len={}", head.fid, head.offset, head.len);
        text.put(&format!("ValueLog.Head[{bucket}]"), place);
    }
    let write = &stats.write;
    text.put("Write.HotKeyThrottled", write.hot_key_limited);
    if write.throttle_active {
        let permille = write.throttle_pressure_permille;
        text.put("Write.Throttle", format!("{} (pressure={permille})", write.throttle_mode));
    }
    if write.queue_depth > 0 {
        text.put(
            "Write.Queue",
            format!("{} (entries={} bytes={})", write.queue_depth, write.queue_entries, write.queue_bytes),
        );
    }
    if write.batches_total > 0 {
        text.put(
            "Write.Batches",
            format!(
                "{} (entries={} bytes={} applyMs={} waitMs={})",
                write.batches_total,
                write.avg_batch_entries,
                write.avg_batch_bytes,
                write.avg_apply_ms,
                write.avg_request_wait_ms
            ),
        );
    }
    if write.sync_count > 0 {
        text.put(
            "Write.Syncs",
            format!("{} (batch={} ms={})", write.sync_count, write.avg_sync_batch, write.avg_sync_ms),
        );
    }
    ring(text, stats);
    let compaction = &stats.compaction;
    let suggested = match compaction.value_weight_suggested {
        weight if weight > 0.0 => format!(" (suggested {weight})"),
        _ => String::new(),
    };
    text.put("Compaction.ValueWeight", format!("{}{suggested}", compaction.value_weight));
    if stats.lsm.value_density_max > 0.0 {
        text.put("LSM.ValueDensityMax", stats.lsm.value_density_max);
    }
    if stats.lsm.value_density_alert {
        text.put("LSM.ValueDensityAlert", true);
    }
}

/// The hot-key ring of a process that has one.
fn ring(text: &mut Text, stats: &StatsSnapshot) {
    let ring = &stats.hot.write_ring;
    if ring.buckets == 0 {
        return;
    }
    text.put("Thermos.Buckets", ring.buckets);
    text.put("Thermos.Nodes", format!("{} (load={:.2})", ring.nodes, ring.load_factor));
    text.put(
        "Thermos.Touches",
        format!(
            "{} (clamps={} inserts={} removes={})",
            ring.touches, ring.clamps, ring.inserts, ring.removes
        ),
    );
    text.put("Thermos.Window", format!("slots={} dur={}ns", ring.window_slots, ring.window_slot_duration));
    text.put("Thermos.Decay", format!("every={}ns shift={}", ring.decay_interval, ring.decay_shift));
}

fn wal(text: &mut Text, stats: &StatsSnapshot) {
    let (wal, records) = (&stats.wal, &stats.wal.record_counts);
    text.put(
        "WAL.ActiveSegment",
        format!("{} (segments={} removed={})", wal.active_segment, wal.segment_count, wal.segments_removed),
    );
    text.put("WAL.ActiveSize", format!("{} bytes", wal.active_size));
    if wal.torn_bytes > 0 {
        text.put("WAL.TornTail", format!("{} bytes", wal.torn_bytes));
    }
    if *records != Default::default() {
        text.put(
            "WAL.Records",
            format!(
                "entries={} raft_entries={} raft_states={} raft_snapshots={} other={}",
                records.entries,
                records.raft_entries,
                records.raft_states,
                records.raft_snapshots,
                records.other
            ),
        );
    }
    text.put(
        "WAL.RaftSegments",
        format!("{} (removable={})", wal.segments_with_raft_records, wal.removable_raft_segments),
    );
    let raft = &wal.raft_log;
    if raft.segment_count > 0 {
        text.put(
            "RaftLog.ActiveSegment",
            format!(
                "{} (segments={} removed={})",
                raft.active_segment, raft.segment_count, raft.segments_removed
            ),
        );
        text.put("RaftLog.ActiveSize", format!("{} bytes (total={})", raft.active_size, raft.total_size));
    }
    if wal.typed_record_ratio > 0.0 {
        text.put("WAL.TypedRatio", format!("{:.2}", wal.typed_record_ratio));
    }
    if wal.typed_record_warning {
        text.put("WAL.Warning", &wal.typed_record_reason);
    }
    if wal.auto_gc_runs > 0 {
        let (runs, removed) = (wal.auto_gc_runs, wal.auto_gc_removed);
        let last = i64::try_from(wal.auto_gc_last_unix).unwrap_or(0).saturating_mul(1_000_000_000);
        let last = nokv_env::clock::rfc3339(last);
        text.put("WAL.AutoGC", format!("runs={runs} removed={removed} last={last}"));
    }
}

fn raft(text: &mut Text, stats: &StatsSnapshot) {
    let raft = &stats.raft;
    if raft.group_count == 0 {
        return;
    }
    text.put(
        "Raft.Groups",
        format!(
            "{} lagging={} maxLagSegments={}",
            raft.group_count, raft.lagging_groups, raft.max_lag_segments
        ),
    );
    text.put("Raft.SegmentRange", format!("min={} max={}", raft.min_log_segment, raft.max_log_segment));
    text.put("Raft.LagThreshold", format!("{} segments", raft.lag_warn_threshold));
    if raft.lag_warning {
        text.put(
            "Raft.Warning",
            format!(
                "lagging={} maxLag={} (threshold={})",
                raft.lagging_groups, raft.max_lag_segments, raft.lag_warn_threshold
            ),
        );
    }
}

fn levels(text: &mut Text, stats: &StatsSnapshot) {
    let lsm = &stats.lsm;
    if lsm.value_bytes_total > 0 {
        text.put("LSM.ValueBytesTotal", lsm.value_bytes_total);
    }
    let has_some = |level: &&LevelStats| level.tables > 0 || level.ingest_tables > 0;
    let levels: Vec<&LevelStats> = lsm.levels.iter().filter(has_some).collect();
    if !levels.is_empty() {
        text.0.push("LSM.Levels:".to_owned());
    }
    for level in levels {
        let ingest = match level.ingest_tables {
            0 => String::new(),
            tables => format!(
                " ingestTables={tables} ingestSize={}B ingestValue={}B",
                level.ingest_size_bytes, level.ingest_value_bytes
            ),
        };
        text.0.push(format!(
            "  - L{} tables={} size={}B value={}B stale={}B entries={} tombstones={}{ingest}",
            level.level,
            level.tables,
            level.size_bytes,
            level.value_bytes,
            level.stale_bytes,
            level.entries,
            level.tombstones
        ));
    }
}

fn rest(text: &mut Text, stats: &StatsSnapshot) {
    if !stats.hot.write_keys.is_empty() {
        text.0.push("WriteHotKeys:".to_owned());
    }
    for hot in &stats.hot.write_keys {
        text.0.push(format!("  - key={:?} count={}", hot.key, hot.count));
    }
    let cache = &stats.cache;
    if cache.block_l0_hit_rate > 0.0 || cache.index_hit_rate > 0.0 {
        text.put(
            "Cache.HitRate",
            format!("blocks={:.2} index={:.2}", cache.block_l0_hit_rate, cache.index_hit_rate),
        );
    }
    let transport = &stats.transport;
    if *transport != Default::default() {
        text.put(
            "Transport.GRPC",
            format!(
                "sends={} success={} fail={} retries={} blocked={} watchdog={}",
                transport.send_attempts,
                transport.send_successes,
                transport.send_failures,
                transport.retries,
                transport.blocked_peers,
                transport.watchdog_active
            ),
        );
    }
    let redis = &stats.redis;
    if *redis != Default::default() {
        text.put(
            "Redis.Gateway",
            format!(
                "commands={} errors={} active_conn={} accepted_conn={}",
                redis.commands_total,
                redis.errors_total,
                redis.connections_active,
                redis.connections_accepted
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_say_nothing_are_left_out_and_the_others_have_their_names() {
        let mut stats = StatsSnapshot::default();
        let names = |stats: &StatsSnapshot| -> Vec<String> {
            lines(stats).iter().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
        };
        let least = [
            "Entries",
            "Flush.Pending",
            "Compaction.Backlog",
            "Compaction.MaxScore",
            "Flush.Wait.LastMs",
            "Flush.Wait.MaxMs",
            "Flush.Build.LastMs",
            "Flush.Build.MaxMs",
            "Flush.Release.LastMs",
            "Flush.Release.MaxMs",
            "Compaction.LastMs",
            "Compaction.MaxMs",
            "Compaction.Runs",
            "ValueLog.Segments",
            "ValueLog.PendingDelete",
            "ValueLog.DiscardQueue",
            "Write.HotKeyThrottled",
            "Compaction.ValueWeight",
            "WAL.ActiveSegment",
            "WAL.ActiveSize",
            "WAL.RaftSegments",
            "Regions.Total",
        ];
        assert_eq!(names(&stats), least);
        stats.raft.group_count = 2;
        stats.wal.auto_gc_runs = 1;
        stats.wal.auto_gc_last_unix = 1_776_844_801;
        stats.lsm.levels = vec![LevelStats { tables: 1, size_bytes: 9, ..LevelStats::default() }];
        stats.transport.send_attempts = 3;
        let text = lines(&stats).join("\n");
        assert!(
            text.contains("WAL.AutoGC               runs=1 removed=0 last=2026-04-22T08:00:01Z"),
            "{text}"
        );
        assert!(text.contains("LSM.Levels:\n  - L0 tables=1 size=9B value=0B stale=0B entries=0"), "{text}");
        assert!(text.contains("Raft.LagThreshold        0 segments"), "{text}");
        assert!(text.contains("Transport.GRPC           sends=3 success=0"), "{text}");
        let without = stats.without_regions();
        assert!(!names(&without).contains(&"Regions.Total".to_owned()));
    }
}
