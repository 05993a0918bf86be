//! Fault plans: what goes wrong when, as data.
//!
//! A plan is drawn from a stream of its own and refers to nodes by name, so any fault can be deleted without
//! changing the others: that is what makes shrinking and saved cases work.

use crate::config::{FaultClass, WorldConfig};
use crate::damage::Rot;
use crate::draw::Draw;
use serde::{Deserialize, Serialize};

/// One thing that goes wrong. Durations in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// The node dies and comes back.
    Kill {
        /// Who.
        node: String,
        /// Power loss (unsynced data is lost) instead of a killed process.
        power: bool,
        /// How long it stays down.
        down_ms: u64,
    },
    /// The service is stopped cleanly and started again.
    Restart {
        /// Who.
        node: String,
        /// How long it stays down.
        down_ms: u64,
    },
    /// The node freezes.
    Pause {
        /// Who.
        node: String,
        /// For how long.
        for_ms: u64,
    },
    /// Every step of the node takes long.
    SlowCpu {
        /// Who.
        node: String,
        /// Cost of a step, in microseconds.
        step_us: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Messages between the two sides are held back.
    Partition {
        /// One side.
        left: Vec<String>,
        /// The other side.
        right: Vec<String>,
        /// Only messages from left to right.
        one_way: bool,
        /// For how long.
        for_ms: u64,
    },
    /// Packets from one node to another are late.
    SlowLink {
        /// Sender.
        from: String,
        /// Receiver.
        to: String,
        /// Added to the latency.
        extra_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// All links of a node lose packets.
    Loss {
        /// Who.
        node: String,
        /// Probability, parts per million.
        ppm: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Connections between two nodes are reset.
    Reset {
        /// One end.
        a: String,
        /// The other.
        b: String,
    },
    /// The disk is slow.
    DiskSlow {
        /// Who.
        node: String,
        /// Every operation takes this many times as long.
        times: u64,
        /// One operation hangs this long on top.
        stall_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Power is lost in the n-th disk operation from now.
    DiskCrash {
        /// Who.
        node: String,
        /// Which operation.
        after_ops: u64,
        /// How long the node stays down.
        down_ms: u64,
    },
    /// The n-th disk operation from now fails; the process is expected to stop and is restarted.
    DiskError {
        /// Who.
        node: String,
        /// Which operation (or sync).
        after_ops: u64,
        /// A failing sync instead of any operation.
        sync: bool,
        /// How long the node stays down.
        down_ms: u64,
    },
    /// The wall clock jumps.
    WallClock {
        /// Who.
        node: String,
        /// By how much.
        by_ms: i64,
    },
    /// Power fails everywhere at once.
    Blackout {
        /// How long.
        down_ms: u64,
    },
    /// Durable bytes of the node change; see [`crate::damage`].
    Rot {
        /// Who; a store or a root.
        node: String,
        /// Part of the path of the file, such as `.sst`; empty for any.
        file: String,
        /// Which of the files that fit.
        which: u64,
        /// Where in it, in permille.
        spot: u64,
        /// How much.
        rot: Rot,
    },
    /// The file system is full; the process may stop, and serves again after its restart.
    NoSpace {
        /// Who.
        node: String,
        /// Bytes that still fit.
        free_bytes: u64,
        /// For how long.
        for_ms: u64,
    },
    /// The n-th disk operation from now, if it is a read, returns fewer bytes than it could. That is no error.
    ShortRead {
        /// Who.
        node: String,
        /// Which operation.
        after_ops: u64,
    },
    /// The node dies and comes back with an empty disk; coordinators only, since they keep nothing on it.
    Wipe {
        /// Who.
        node: String,
        /// How long it stays down.
        down_ms: u64,
    },
    /// All servers are restarted cleanly, one after the other.
    Rolling {
        /// How long each stays down.
        down_ms: u64,
        /// How long the next one waits after that.
        gap_ms: u64,
    },
    /// Power is lost, and again in the n-th disk operation after each of the next starts.
    CrashAtBoot {
        /// Who.
        node: String,
        /// Which operation, start by start.
        ops: Vec<u64>,
        /// How long the node stays down each time.
        down_ms: u64,
    },
    /// Something goes wrong where and when an event happens, see [`crate::triggers`].
    AtEvent {
        /// The probe, chance point or kind of fact.
        event: String,
        /// Which time it happens, from 1.
        nth: u64,
        /// How long after it, in microseconds (0 = at once).
        after_us: u64,
        /// What then; the node called `here` is the one at which it happened.
        then: Box<Fault>,
    },
    /// The operator moves leaderships around, one after another.
    ShuffleLeaders {
        /// Pause between two moves.
        every_ms: u64,
        /// For how long.
        for_ms: u64,
    },
    /// Leadership of a region is moved to a store by the operator.
    TransferLeader {
        /// Which region: its place in the order of ids, from 1.
        region: u64,
        /// The store that should lead.
        store: u64,
    },
    /// A region gets a peer on a store, and loses another one when the new one has its vote.
    MovePeer {
        /// Which region: its place in the order of ids, from 1.
        region: u64,
        /// Which of the other peers goes.
        which: u64,
        /// The store that gets one.
        store: u64,
    },
    /// The operator has a store emptied, and perhaps changes their mind.
    Decommission {
        /// Which.
        store: u64,
        /// The order is taken back after this long; 0: never.
        for_ms: u64,
    },
    /// A store is lost for good. Only where there are more than three.
    Lose {
        /// Who.
        node: String,
    },
    /// Two neighbours are merged.
    Merge {
        /// The left one: its place in the order of keys, from 1.
        region: u64,
        /// The left one takes the right one over, in place of the other way round.
        into_left: bool,
        /// How often they are split again where they met, and merged again.
        again: u64,
    },
    /// The region that holds a key is split there.
    Split {
        /// First key of the new region.
        key: String,
    },
}

/// With the number of a region or `root`: stands for the node that leads it when the fault strikes.
pub const LEADER: &str = "leader:";
/// Stands for the coordinator that holds the lease when the fault strikes.
pub const HOLDER: &str = "holder";
/// Stands for the node at which an event happens.
pub const HERE: &str = "here";

/// Events that are worth a fault: something is between two states there.
const EVENTS: [&str; 51] = [
    "fact.leader",
    "fact.vote",
    "fact.installed",
    "fact.lease",
    "fact.timestamps",
    "client.commit_in_doubt",
    "coordinator.generation.sealed",
    "coordinator.lease.granted",
    "coordinator.repair.decided",
    "coordinator.window.opened",
    "coordinator.window.topped_up",
    "engine.compaction",
    "engine.compaction.move",
    "engine.create",
    "engine.flush",
    "engine.flush.early",
    "engine.wal.torn_tail",
    "metaroot.checkpoint",
    "metaroot.generation.sealed",
    "metaroot.lease.granted",
    "metaroot.snapshot.installed",
    "mvcc.lock.expired",
    "mvcc.lock.pushed",
    "mvcc.one_pc.committed",
    "mvcc.rollback.marker",
    "replica.conflict.truncated",
    "replica.group.born",
    "replica.group.created",
    "replica.log.purged",
    "replica.log.relocated",
    "replica.log.rolled",
    "replica.log.torn",
    "replica.snapshot.install",
    "replica.snapshot.sent",
    "replica.snapshot.waits",
    "store.one_pc.taken",
    "store.operation.add_peer",
    "store.operation.remove_peer",
    "store.operation.transfer_leader",
    "replica.membership.changed",
    "store.peer.added",
    "store.peer.cleared",
    "store.peer.promoted",
    "store.peer.removed",
    "store.pending.published",
    "store.read.epoch_changed",
    "store.snapshot.exported",
    "store.snapshot.fetched",
    "store.snapshot.installed",
    "store.snapshot.taken",
    "store.split.applied",
];

/// The same where regions are merged.
const MERGE_EVENTS: [&str; 8] = [
    "replica.group.absorbed",
    "replica.group.caught_up",
    "store.merge.came_in_one_piece",
    "store.merge.follows_target",
    "store.merge.frozen",
    "store.merge.refused",
    "store.merge.thawed",
    "store.merge.united",
];

impl Fault {
    /// The fault with `node` in place of [`HERE`].
    pub fn at(self, node: &str) -> Fault {
        let Ok(mut value) = serde_json::to_value(&self) else { return self };
        replace_here(&mut value, node);
        serde_json::from_value(value).unwrap_or(self)
    }
}

fn replace_here(value: &mut serde_json::Value, node: &str) {
    match value {
        serde_json::Value::String(text) if text == HERE => node.clone_into(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| replace_here(item, node)),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(|field| replace_here(field, node)),
        _ => {}
    }
}

impl Fault {
    /// What plans call this kind of fault.
    pub fn kind(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["kind"].as_str().unwrap_or_default().to_owned()
    }
}

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Milliseconds after the cluster has booted.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// All faults of a run, in order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The faults.
    pub faults: Vec<Timed>,
}

impl Plan {
    /// Draws the plan of `seed` for a phase of `for_ms`.
    pub fn draw(seed: u64, config: &WorldConfig, for_ms: u64) -> Self {
        let mut draw = Draw::new(seed, "plan");
        let names = Names { victims: victims(seed, config), ..Names::of(config) };
        let mut faults = Vec::new();
        let mut at_ms = draw.around(config.fault_pause_ms);
        while at_ms < for_ms && !config.faults.is_empty() {
            let class = draw.pick(&config.faults);
            let left_ms = for_ms - at_ms;
            faults.push(Timed { at_ms, fault: names.fault(&mut draw, class, left_ms) });
            at_ms += draw.around(config.fault_pause_ms).max(1);
        }
        Self { faults }
    }
}

/// The names that plans use for the nodes of a world.
pub struct Names {
    /// `root1`..
    pub roots: Vec<String>,
    /// `coord1`..
    pub coordinators: Vec<String>,
    /// `store1`..
    pub stores: Vec<String>,
    /// `client1`..
    pub clients: Vec<String>,
    regions: u64,
    /// Regions are merged in this world.
    merges: bool,
    /// Whose disks may rot.
    victims: Vec<String>,
}

/// Whose disks may rot in the plan of `seed`, see [`crate::damage`].
fn victims(seed: u64, config: &WorldConfig) -> Vec<String> {
    let mut draw = Draw::new(seed, "victims");
    let names = Names::of(config);
    if config.unlimited_damage {
        return names.stores.into_iter().chain(names.roots).collect();
    }
    vec![one_of(&mut draw, &names.stores), one_of(&mut draw, &names.roots)]
}

impl Names {
    /// The names in a world of that configuration.
    pub fn of(config: &WorldConfig) -> Self {
        let make = |prefix: &str, count: u16| (1..=count).map(|i| format!("{prefix}{i}")).collect();
        Self {
            roots: make("root", config.roots),
            coordinators: make("coord", config.coordinators),
            stores: make("store", config.stores),
            clients: make("client", config.clients),
            regions: config.regions,
            merges: config.faults.contains(&FaultClass::Merge),
            victims: Vec::new(),
        }
    }

    /// Roots, coordinators, stores, clients: the order of node indexes from 1.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.roots.iter().chain(&self.coordinators).chain(&self.stores).chain(&self.clients)
    }

    /// A server, stores more often than others; often the one that matters most just then.
    fn server(&self, draw: &mut Draw) -> String {
        match draw.between(0, 11) {
            0..=1 => return format!("{LEADER}{}", draw.between(1, self.regions)),
            2 => return format!("{LEADER}root"),
            3 => return HOLDER.to_owned(),
            _ => {}
        }
        let group = match draw.between(0, 9) {
            0..=5 => &self.stores,
            6..=7 => &self.roots,
            _ => &self.coordinators,
        };
        one_of(draw, group)
    }

    fn any(&self, draw: &mut Draw) -> String {
        if draw.one_in(6) { one_of(draw, &self.clients) } else { self.server(draw) }
    }

    /// Splits all nodes in two non-empty sides.
    fn sides(&self, draw: &mut Draw) -> (Vec<String>, Vec<String>) {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for name in self.all() {
            if draw.percent(50) { left.push(name.clone()) } else { right.push(name.clone()) }
        }
        if left.is_empty() || right.is_empty() { self.isolate(draw) } else { (left, right) }
    }

    /// One node on one side; on the other everybody, every one of a kind that it talks to, or one store.
    fn isolate(&self, draw: &mut Draw) -> (Vec<String>, Vec<String>) {
        let (alone, from): (_, Vec<&String>) = match draw.between(0, 11) {
            0..=1 => (one_of(draw, &self.stores), self.stores.iter().collect()),
            2 => (one_of(draw, &self.stores), self.clients.iter().collect()),
            3..=4 => (one_of(draw, &self.coordinators), self.roots.iter().collect()),
            5 => (one_of(draw, &self.coordinators), self.clients.iter().collect()),
            6 => (one_of(draw, &self.roots), self.roots.iter().collect()),
            7..=8 => {
                let first = draw.between(0, self.stores.len() as u64 - 1) as usize;
                let group = if draw.percent(60) { &self.clients } else { &self.stores };
                return (vec![one_of(draw, group)], vec![self.stores[first].clone()]);
            }
            _ => (self.server(draw), self.all().collect()),
        };
        let others = from.into_iter().filter(|name| **name != alone).cloned().collect();
        (vec![alone], others)
    }

    /// An event that is worth a fault.
    fn event(&self, draw: &mut Draw) -> &'static str {
        if self.merges && draw.one_in(3) { draw.pick(&MERGE_EVENTS) } else { draw.pick(&EVENTS) }
    }

    fn at_event(&self, draw: &mut Draw, for_ms: u64) -> Fault {
        let node = HERE.to_owned();
        match draw.between(0, 9) {
            0..=2 => Fault::Kill { node, power: draw.percent(60), down_ms: for_ms },
            3..=5 => Fault::DiskCrash { node, after_ops: draw.between(1, 6), down_ms: for_ms },
            6 => Fault::DiskError {
                node,
                after_ops: draw.between(1, 4),
                sync: draw.percent(60),
                down_ms: for_ms,
            },
            7..=8 => Fault::Partition {
                left: vec![node],
                right: self.all().cloned().collect(),
                one_way: false,
                for_ms,
            },
            _ => Fault::Pause { node, for_ms },
        }
    }

    fn fault(&self, draw: &mut Draw, class: FaultClass, left_ms: u64) -> Fault {
        let for_ms = duration(draw).min(left_ms);
        let down_ms = for_ms;
        match class {
            FaultClass::Kill => Fault::Kill { node: self.server(draw), power: draw.percent(60), down_ms },
            FaultClass::Restart => {
                // A graceful stop of the holder hands its lease back, and it may be the next holder too.
                let node = if draw.one_in(4) { HOLDER.to_owned() } else { self.server(draw) };
                Fault::Restart { node, down_ms }
            }
            FaultClass::Pause => Fault::Pause { node: self.any(draw), for_ms },
            FaultClass::SlowCpu => {
                Fault::SlowCpu { node: self.server(draw), step_us: draw.pick(&[20, 200, 1_000]), for_ms }
            }
            FaultClass::Partition => {
                let (left, right) = self.sides(draw);
                Fault::Partition { left, right, one_way: draw.percent(30), for_ms }
            }
            FaultClass::Isolate => {
                let (mut left, mut right) = self.isolate(draw);
                let one_way = draw.percent(40);
                if draw.percent(50) {
                    std::mem::swap(&mut left, &mut right);
                }
                Fault::Partition { left, right, one_way, for_ms }
            }
            FaultClass::SlowLink => Fault::SlowLink {
                from: self.any(draw),
                to: self.server(draw),
                extra_ms: draw.pick(&[5, 50, 500, 3_000]),
                for_ms,
            },
            FaultClass::Loss => {
                Fault::Loss { node: self.any(draw), ppm: draw.pick(&[10_000, 100_000, 400_000]), for_ms }
            }
            FaultClass::Reset => Fault::Reset { a: self.any(draw), b: self.server(draw) },
            FaultClass::DiskSlow => Fault::DiskSlow {
                node: self.server(draw),
                times: draw.pick(&[3, 20, 100]),
                stall_ms: draw.pick(&[0, 0, 500, 3_000]),
                for_ms,
            },
            FaultClass::DiskCrash => {
                Fault::DiskCrash { node: self.server(draw), after_ops: draw.between(1, 300), down_ms }
            }
            FaultClass::DiskError => Fault::DiskError {
                node: self.server(draw),
                after_ops: draw.between(1, 100),
                sync: draw.percent(60),
                down_ms,
            },
            FaultClass::WallClock => {
                let by_ms = draw.pick(&[-60_000, -2_000, -50, 50, 2_000, 60_000]);
                Fault::WallClock { node: self.any(draw), by_ms }
            }
            FaultClass::Blackout => Fault::Blackout { down_ms: down_ms.min(2_000) },
            FaultClass::Rot => {
                let node = one_of(draw, &self.victims);
                let file = draw.pick(&["", ".sst", ".wal", ".raft", "MANIFEST", "checkpoint"]).to_owned();
                let rot = draw.pick(&[Rot::Bit, Rot::Sector, Rot::Page]);
                Fault::Rot { node, file, which: draw.between(0, 9), spot: draw.between(0, 999), rot }
            }
            FaultClass::NoSpace => Fault::NoSpace {
                node: self.server(draw),
                free_bytes: draw.pick(&[0, 5_000, 100_000]),
                for_ms,
            },
            FaultClass::ShortRead => {
                Fault::ShortRead { node: self.server(draw), after_ops: draw.between(1, 30) }
            }
            FaultClass::Wipe => Fault::Wipe { node: one_of(draw, &self.coordinators), down_ms },
            FaultClass::Rolling => {
                Fault::Rolling { down_ms: down_ms.min(1_000), gap_ms: draw.pick(&[50, 500, 2_000]) }
            }
            FaultClass::CrashAtBoot => {
                let starts = draw.between(1, 3);
                let ops = (0..starts).map(|_| draw.pick(&[1, 5, 20, 60]) + draw.between(0, 9)).collect();
                Fault::CrashAtBoot { node: self.server(draw), ops, down_ms: down_ms.min(1_000) }
            }
            FaultClass::AtEvent => Fault::AtEvent {
                event: self.event(draw).to_owned(),
                nth: draw.pick(&[1, 1, 2, 3, 10]),
                after_us: draw.pick(&[0, 0, 30, 300, 3_000, 30_000]),
                then: Box::new(self.at_event(draw, for_ms)),
            },
            FaultClass::TransferLeader if draw.percent(40) => {
                Fault::ShuffleLeaders { every_ms: draw.pick(&[50, 200, 1_000]), for_ms: for_ms.max(2_000) }
            }
            FaultClass::TransferLeader => Fault::TransferLeader {
                region: draw.between(1, self.regions),
                store: draw.between(1, self.stores.len() as u64),
            },
            FaultClass::Merge => {
                let region = draw.between(1, self.regions + 2);
                Fault::Merge { region, into_left: draw.percent(50), again: draw.pick(&[0, 1, 3, 6]) }
            }
            FaultClass::MovePeer if self.stores.len() > 3 => Fault::MovePeer {
                region: draw.between(1, self.regions + 2),
                which: draw.between(0, 5),
                store: draw.between(1, self.stores.len() as u64),
            },
            FaultClass::Decommission if self.stores.len() > 3 => Fault::Decommission {
                store: draw.between(1, self.stores.len() as u64),
                for_ms: draw.pick(&[0, 0, 1_000, 5_000]),
            },
            // The store that may be damaged.
            FaultClass::Lose if self.stores.len() > 3 => Fault::Lose { node: self.victims[0].clone() },
            FaultClass::Split | FaultClass::MovePeer | FaultClass::Decommission | FaultClass::Lose => {
                Fault::Split { key: format!("{:02x}", draw.between(1, 255)) }
            }
        }
    }
}

fn one_of(draw: &mut Draw, names: &[String]) -> String {
    names[draw.between(0, names.len() as u64 - 1) as usize].clone()
}

/// How long a fault lasts: shorter and longer than an election, a lease, a keepalive.
fn duration(draw: &mut Draw) -> u64 {
    let scale = draw.pick(&[100, 400, 1_000, 1_000, 4_000, 12_000]);
    draw.between(scale / 4, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_json() {
        let config = WorldConfig::draw(11);
        let plan = Plan::draw(11, &config, 20_000);
        let text = serde_json::to_string(&plan).expect("serializable");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("readable"), plan);
        assert_eq!(Plan::draw(11, &config, 20_000), plan);
    }

    #[test]
    fn seeds_reach_every_kind_of_fault() {
        let mut kinds = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let config = WorldConfig::draw(seed);
            for timed in Plan::draw(seed, &config, 20_000).faults {
                let value = serde_json::to_value(&timed.fault).expect("serializable");
                kinds.insert(value["kind"].to_string());
            }
        }
        assert_eq!(kinds.len(), 27, "{kinds:?}");
    }
}
