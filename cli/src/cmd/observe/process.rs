//! What all three roles have: the process, the calls that it serves, and, where there is one, a raft loop and a disk.

use super::exposition::{Exposition, Labels};
use nokv_realenv::net::calls;
use nokv_realenv::process;
use nokv_replica::RaftObservation;

pub fn metrics(page: &mut Exposition, role: &'static str) {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let version = env!("CARGO_PKG_VERSION");
    let labels = [("version", version), ("build", build), ("role", role)];
    let labels: Labels = labels.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    page.gauges("nokv_build_info", "What runs here; always 1.", [(labels, 1u64)]);
    let process = process::look();
    page.gauge("nokv_process_resident_memory_bytes", "Memory in use.", process.resident_bytes);
    page.gauge("nokv_process_virtual_memory_bytes", "Address space in use.", process.virtual_bytes);
    page.counter("nokv_process_cpu_seconds_total", "Processor time of all threads.", process.cpu_seconds);
    page.gauge("nokv_process_open_fds", "Open file descriptors.", process.open_fds);
    page.gauge("nokv_process_max_fds", "File descriptors that may be open.", process.max_fds);
    page.gauge("nokv_process_threads", "Threads.", process.threads);
    page.gauge(
        "nokv_process_start_time_seconds",
        "When the process started, since the Unix epoch.",
        process.start_time_seconds,
    );
    serving(page, &calls::served());
}

fn serving(page: &mut Exposition, served: &[calls::MethodCalls]) {
    let labels = |calls: &calls::MethodCalls| -> Labels {
        vec![("service", calls.service.clone()), ("method", calls.method.clone())]
    };
    page.counters(
        "nokv_grpc_server_handled_total",
        "Calls that ended, by status code.",
        served.iter().flat_map(|calls| {
            calls.ended.iter().map(move |(code, count)| {
                ([labels(calls), vec![("code", (*code).to_owned())]].concat(), *count)
            })
        }),
    );
    page.gauges(
        "nokv_grpc_server_in_flight",
        "Calls that are being served.",
        served.iter().map(|calls| (labels(calls), calls.under_way)),
    );
    page.histograms(
        "nokv_grpc_server_handling_seconds",
        "Time until a call's response begins: the whole call, unless it is a stream.",
        served.iter().map(|calls| (labels(calls), calls.times)),
    );
}

/// A raft loop, whoever runs it.
pub fn raft(page: &mut Exposition, raft: &RaftObservation) {
    page.gauge("nokv_raft_failed", "1: the raft loop has ended for good.", raft.failed.is_some());
    page.gauge(
        "nokv_raft_loop_age_seconds",
        "Time since the raft loop last began a turn; it does at least once a tick.",
        super::seconds(raft.turned_ago),
    );
    page.counter("nokv_raft_rounds_total", "Rounds of the raft loop that had something to do.", raft.rounds);
    page.counter("nokv_raft_ready_total", "Groups that had something ready, in all rounds.", raft.readies);
    page.counter("nokv_raft_appended_entries_total", "Entries appended to the raft log.", raft.entries);
    page.counter("nokv_raft_applied_entries_total", "Entries applied.", raft.applied);
    page.counter("nokv_raft_proposals_total", "Proposals taken up.", raft.proposals);
    page.counter("nokv_raft_messages_sent_total", "Messages to other nodes.", raft.messages_sent);
    page.counter("nokv_raft_messages_received_total", "Messages of other nodes.", raft.messages_received);
    page.counter(
        "nokv_raft_messages_dropped_total",
        "Messages dropped: a queue was full, a node could not be reached, or the loop was behind.",
        raft.messages_dropped,
    );
    page.counter("nokv_raft_snapshots_sent_total", "Snapshots sent.", raft.snapshots_sent);
    page.counter("nokv_raft_snapshots_installed_total", "Snapshots installed.", raft.snapshots_installed);
    page.histograms(
        "nokv_raft_fsync_seconds",
        "Time of a write and sync of the raft log.",
        [(Labels::new(), raft.syncs)],
    );
}

/// The file system of a working directory.
pub fn disk(page: &mut Exposition, free: Option<u64>, total: Option<u64>) {
    page.gauge("nokv_disk_free_bytes", "Bytes still free on the file system of the working directory.", free);
    page.gauge("nokv_disk_size_bytes", "Size of that file system.", total);
}
