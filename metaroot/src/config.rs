//! What a meta-root node needs to know to start.

use crate::Error;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How many nodes a meta-root group has.
const NODES: usize = 3;

/// Settings of one meta-root node.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's id, above 0, one of `peers`. Bound to the work directory for ever.
    pub node_id: u64,
    /// Directory of this node alone.
    pub workdir: PathBuf,
    /// Where coordinators and tools call, `host:port`.
    pub listen_addr: String,
    /// Where the other meta-roots call, `host:port`.
    pub transport_addr: String,
    /// Transport addresses of all three nodes by id, this one included. The same on every node.
    pub peers: BTreeMap<u64, String>,
    /// Take over the addresses in `peers` when they differ from those that the directory was made with.
    /// Only for moving a node: it switches off the check against joining another cluster's nodes.
    pub accept_new_addresses: bool,
    /// Length of a raft tick. Elections and heartbeats count in ticks.
    pub tick: Duration,
    /// Ticks without a leader before a node stands for election. Too short: a node that stood still for a
    /// moment costs an election.
    pub election_ticks: usize,
    /// Ticks between the leader's heartbeats.
    pub heartbeat_ticks: usize,
    /// Largest raft message, in bytes.
    pub message_bytes_max: u64,
    /// Raft messages on the way to one follower at once.
    pub inflight_max: usize,
    /// Size at which a segment of the raft log is full, in bytes.
    pub log_segment_bytes: u64,
    /// Entries kept behind the checkpoint, so that a node that was away catches up without a snapshot.
    pub log_keep_entries: u64,
    /// A checkpoint is written after this many entries; after a crash so many are replayed at most.
    pub checkpoint_entries: u64,
    /// Newest events kept for readers that are a little behind.
    pub tail_events: usize,
    /// One line written into the lock file, shown to whoever finds the directory taken: process id, command.
    pub lock_owner: String,
    /// How long a request waits for the raft group before it is answered with an error.
    pub request_timeout: Duration,
}

impl Config {
    /// The defaults of the command line.
    pub fn new(
        node_id: u64,
        workdir: impl Into<PathBuf>,
        listen_addr: impl Into<String>,
        transport_addr: impl Into<String>,
        peers: BTreeMap<u64, String>,
    ) -> Self {
        Self {
            node_id,
            workdir: workdir.into(),
            listen_addr: listen_addr.into(),
            transport_addr: transport_addr.into(),
            peers,
            accept_new_addresses: false,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 2,
            message_bytes_max: 1 << 20,
            inflight_max: 256,
            log_segment_bytes: 8 << 20,
            log_keep_entries: 4096,
            checkpoint_entries: 1024,
            tail_events: 4096,
            lock_owner: format!("nokv meta-root {node_id}"),
            request_timeout: Duration::from_secs(5),
        }
    }

    /// Refuses settings that cannot work.
    pub fn validate(&self) -> Result<(), Error> {
        let ids: Vec<_> = self.peers.keys().collect();
        let problem = if self.peers.len() != NODES {
            format!("need exactly {NODES} peers, got {} {ids:?}", self.peers.len())
        } else if self.node_id == 0 || self.peers.contains_key(&0) {
            "node ids start at 1".to_owned()
        } else if !self.peers.contains_key(&self.node_id) {
            format!("node {} is not among the peers {ids:?}", self.node_id)
        } else if let Some(node) = self.doubled_address() {
            format!("two peers have the address of node {node}")
        } else if let Some(problem) = self.address_mismatch() {
            problem
        } else if self.tick.is_zero() || self.heartbeat_ticks == 0 {
            "the tick and the heartbeat must be positive".to_owned()
        } else if self.election_ticks <= 2 * self.heartbeat_ticks {
            format!(
                "an election must take more than two heartbeats ({} <= 2 * {} ticks)",
                self.election_ticks, self.heartbeat_ticks
            )
        } else if self.checkpoint_entries == 0 || self.tail_events == 0 {
            "checkpoint_entries and tail_events must be positive".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::InvalidConfig(problem))
    }

    fn doubled_address(&self) -> Option<u64> {
        let mut seen = std::collections::BTreeSet::new();
        self.peers.iter().find(|(_, addr)| !seen.insert(*addr)).map(|(&node, _)| node)
    }

    /// The others must reach this node where it listens. Hosts may have many names, ports have one.
    fn address_mismatch(&self) -> Option<String> {
        let own = self.peers.get(&self.node_id)?;
        let (listening, announced) = (port(&self.transport_addr)?, port(own)?);
        (listening != "0" && listening != announced).then(|| {
            format!("transport address {} is not what the peers are told ({own})", self.transport_addr)
        })
    }
}

fn port(addr: &str) -> Option<&str> {
    addr.rsplit_once(':').map(|(_, port)| port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let peers = (1..=3).map(|node| (node, format!("root{node}:3380"))).collect();
        Config::new(1, "/root", "0.0.0.0:2380", "0.0.0.0:3380", peers)
    }

    #[test]
    fn the_defaults_are_fine() {
        assert!(config().validate().is_ok());
    }

    #[test]
    fn mistakes_are_named() {
        let told = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config.validate().map_err(|error| error.to_string()).expect_err("must be refused")
        };
        assert!(told(|c| drop(c.peers.remove(&3))).contains("exactly 3"));
        assert!(told(|c| c.node_id = 9).contains("node 9 is not among"));
        assert!(told(|c| c.transport_addr = "0.0.0.0:3381".into()).contains("root1:3380"));
        assert!(told(|c| drop(c.peers.insert(2, "root1:3380".into()))).contains("two peers"));
        assert!(told(|c| c.election_ticks = 4).contains("two heartbeats"));
    }
}
