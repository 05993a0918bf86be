//! What a coordinator needs to know to start.

use crate::{Error, Limits};
use std::collections::BTreeMap;
use std::time::Duration;

/// Settings of one coordinator process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Stable identity as lease holder. Two running coordinators must never share it.
    pub coordinator_id: String,
    /// gRPC listen address, `host:port`.
    pub listen_addr: String,
    /// Address that clients of other coordinators are sent to while this one holds the lease.
    pub advertise_addr: String,
    /// Where people can look at it over HTTP, for links between coordinators; empty: nowhere.
    pub console_addr: String,
    /// gRPC addresses of the three meta-roots by node id.
    pub root_peers: BTreeMap<u64, String>,
    /// Life of the lease without renewal. Shorter: faster take-over; too short: a machine that stands still loses it.
    pub lease_ttl: Duration,
    /// Renewals are sent at half of this interval.
    pub lease_renew_before: Duration,
    /// Longest time between two looks at the root's tail.
    pub root_refresh: Duration,
    /// First id, when the meta-root has handed out none.
    pub id_start: u64,
    /// First timestamp, when the meta-root has handed out none.
    pub ts_start: u64,
    /// How far ahead of the clock the timestamp fence is committed.
    pub tso_ahead: Duration,
    /// How many ids are fenced at once.
    pub id_window: u64,
    /// A store that has not been heard of for this long counts as down.
    pub store_down_after: Duration,
    /// Age from which versions that nobody can read any more may be removed. Transactions that are older are refused.
    pub gc_life: Duration,
    /// Pause between two looks at whether the safe point can rise.
    pub gc_interval: Duration,
    /// Longest time that the safe point is held without renewal; a new lease holder raises it only after that.
    pub gc_hold_ttl_max: Duration,
    /// How long a request waits for the root (fence, append) before it gives up.
    pub request_timeout: Duration,
    /// What the scheduler may do.
    pub schedule: Limits,
}

impl Config {
    /// The defaults of the command line.
    pub fn new(coordinator_id: &str, listen_addr: &str, root_peers: BTreeMap<u64, String>) -> Self {
        Self {
            coordinator_id: coordinator_id.to_owned(),
            listen_addr: listen_addr.to_owned(),
            advertise_addr: listen_addr.to_owned(),
            console_addr: String::new(),
            root_peers,
            lease_ttl: Duration::from_secs(10),
            lease_renew_before: Duration::from_secs(3),
            root_refresh: Duration::from_millis(200),
            id_start: 1,
            ts_start: 1,
            tso_ahead: Duration::from_secs(3),
            id_window: 10_000,
            store_down_after: Duration::from_secs(20),
            gc_life: Duration::from_secs(600),
            gc_interval: Duration::from_secs(120),
            gc_hold_ttl_max: Duration::from_secs(60),
            request_timeout: Duration::from_secs(3),
            schedule: Limits::default(),
        }
    }

    /// Refuses settings that cannot work.
    pub fn validate(&self) -> Result<(), Error> {
        let problem = if self.coordinator_id.is_empty() {
            "the coordinator id is empty".to_owned()
        } else if self.root_peers.len() != 3 {
            format!("need exactly 3 meta-root addresses, got {}", self.root_peers.len())
        } else if self.lease_renew_before >= self.lease_ttl {
            format!(
                "the lease must be renewed before it ends ({:?} >= {:?})",
                self.lease_renew_before, self.lease_ttl
            )
        } else if self.lease_ttl.is_zero() || self.lease_renew_before.is_zero() || self.id_window == 0 {
            "lease times and the id window must be positive".to_owned()
        } else if self.gc_life.is_zero() || self.gc_interval.is_zero() || self.gc_hold_ttl_max.is_zero() {
            "the life of old versions, the pause between looks and the longest hold must be positive"
                .to_owned()
        } else if self.schedule.replicas == 0 {
            "a region needs at least one replica".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::InvalidConfig(problem))
    }
}
