//! What a client must be told, and what it may be tuned with.

use std::time::Duration;

/// Settings of one client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Coordinator endpoints, `host:port`. One that answers is enough; they are tried in turn.
    pub coordinators: Vec<String>,
    /// Default time for one operation, retries included. Too short, and a leader change surfaces as a timeout.
    pub deadline: Duration,
    /// Patience with one request to a store before another peer is tried.
    pub store_timeout: Duration,
    /// Patience with one request to a coordinator before the next endpoint is tried.
    pub coordinator_timeout: Duration,
    /// How long locks of a crashed client block others. Must outlast the commit phase of a live one.
    pub lock_ttl: Duration,
    /// Longest wait for somebody else's lock while holding locks of our own; ends deadlocks before the TTL does.
    pub lock_wait: Duration,
    /// Mutations of one region travel in prewrites of at most about this many bytes (a single larger one is fine).
    pub prewrite_bytes: usize,
    /// Keys asked for per scan request.
    pub scan_page: u32,
    /// Reads go to any replica, not only to leaders. They show the same; followers ask their leader how far it is.
    pub follower_reads: bool,
    /// Transactions of several regions are committed as soon as all their keys are locked, at a timestamp that was drawn
    /// before: one round trip less to wait for, and nothing else that a user could notice.
    pub async_commit: bool,
    /// Separates the jitter of clients that share one node's randomness.
    pub name: String,
    /// What stores call this client in their logs: up to 64 letters, digits and `-_.:/`. Otherwise one is drawn.
    pub trace_id: String,
}

impl ClientConfig {
    /// Defaults for a cluster with these coordinators.
    pub fn new(coordinators: Vec<String>) -> Self {
        Self {
            coordinators,
            deadline: Duration::from_secs(10),
            store_timeout: Duration::from_secs(2),
            coordinator_timeout: Duration::from_secs(2),
            lock_ttl: Duration::from_secs(3),
            lock_wait: Duration::from_millis(1500),
            prewrite_bytes: 4 << 20,
            scan_page: 1000,
            follower_reads: false,
            async_commit: true,
            name: String::new(),
            trace_id: String::new(),
        }
    }
}
