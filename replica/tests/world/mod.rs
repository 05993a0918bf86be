//! A little world for the tests of the driver: nodes with crashing disks, links that can be cut, one simulated clock.
//!
//! Everything runs in one thread and is a function of the seed. The real simulator has far more to offer; this one
//! exists so that the driver can be tested without it.

pub mod exec;
pub mod machine;
pub mod net;

use exec::Executor;
use machine::{Durable, LogMachine};
use net::Network;
use nokv_env::mem_disk::{CrashMode, DiskFaults, LatencyModel, MemDisk};
use nokv_env::{Disk, Env, Fact, Hooks, Net, Peer, RngSource, ServerHandle};
use nokv_replica::{Config, Driver, Error, GroupId, Handle, Resolver};
use rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::service::Routes;

pub const GROUP: GroupId = GroupId(1);

/// What all nodes did, with the invariants of raft checked as it happens.
#[derive(Default)]
pub struct Book {
    pub trace: Vec<(u64, String)>,
    pub probes: BTreeMap<&'static str, u64>,
    leaders: BTreeMap<(u64, u64), u64>,
    votes: BTreeMap<(u64, u64, u64), u64>,
    applied: BTreeMap<(u64, u64), (u64, u64)>,
    /// Draw rare branches.
    pub chances: Option<u64>,
}

struct BookHooks {
    book: Arc<Mutex<Book>>,
    exec: Arc<Executor>,
    node: u64,
}

impl Hooks for BookHooks {
    fn chance(&self, name: &'static str, probability: f64) -> bool {
        let mut book = self.book.lock().unwrap();
        let Some(count) = book.chances.as_mut() else { return false };
        *count += 1;
        let drawn = RngSource::new(*count, self.node).pure(name, 1) as f64 / u64::MAX as f64;
        drawn < probability
    }

    fn probe(&self, name: &'static str) {
        *self.book.lock().unwrap().probes.entry(name).or_default() += 1;
    }

    fn fact(&self, fact: Fact) {
        let mut book = self.book.lock().unwrap();
        match &fact {
            Fact::Leader { peer: Peer { group, node, .. }, term } => {
                let leader = *book.leaders.entry((*group, *term)).or_insert(*node);
                assert_eq!(leader, *node, "two leaders of group {group} in term {term}");
            }
            Fact::Vote { peer: Peer { group, node, .. }, term, candidate } => {
                let vote = *book.votes.entry((*group, *term, *node)).or_insert(*candidate);
                assert_eq!(vote, *candidate, "peer {node} voted twice in term {term} of group {group}");
            }
            Fact::Applied { peer: Peer { group, .. }, index, term, digest } => {
                let entry = *book.applied.entry((*group, *index)).or_insert((*term, *digest));
                assert_eq!(entry, (*term, *digest), "two entries at index {index} of group {group}");
            }
            _ => {}
        }
        let line = format!("n{} {fact:?}", self.node);
        book.trace.push((self.exec.now(), line));
    }

    fn watching(&self) -> bool {
        true
    }
}

struct Addresses;

impl Resolver for Addresses {
    fn address(&self, node: u64) -> Option<String> {
        Some(address(node))
    }
}

fn address(node: u64) -> String {
    format!("n{node}:1")
}

/// One node through its lives.
pub struct Node {
    pub id: u64,
    pub platter: Arc<MemDisk>,
    pub durable: Arc<Mutex<Durable>>,
    pub handle: Option<Handle<LogMachine>>,
    pub machine: Option<Arc<Mutex<Durable>>>,
    server: Option<Box<dyn ServerHandle>>,
}

/// The world.
pub struct World {
    pub exec: Arc<Executor>,
    pub net: Arc<Network>,
    pub book: Arc<Mutex<Book>>,
    pub nodes: BTreeMap<u64, Node>,
    pub tune: fn(&mut Config),
    seed: u64,
}

impl World {
    /// `nodes` nodes, not started.
    pub fn new(seed: u64, nodes: u64) -> World {
        let exec = Executor::new();
        let book = Arc::<Mutex<Book>>::default();
        let nodes = (1..=nodes)
            .map(|id| {
                let platter = MemDisk::new(seed.wrapping_mul(31) + id);
                platter.set_latency(LatencyModel { sync_ns: 200_000, ..LatencyModel::default() });
                let durable = Arc::default();
                (id, Node { id, platter, durable, handle: None, machine: None, server: None })
            })
            .collect();
        World { net: Network::new(exec.clone()), exec, book, nodes, tune: |_| {}, seed }
    }

    /// Three nodes that host one group, started.
    pub fn cluster(seed: u64) -> World {
        let mut world = World::new(seed, 3);
        world.found(GROUP, &[1, 2, 3]);
        world.start_all();
        world
    }

    /// Nodes `members` begin a group; each node's peer has the node's number + 100.
    pub fn found(&mut self, group: GroupId, members: &[u64]) {
        for member in members {
            let durable = &self.nodes[member].durable;
            durable.lock().unwrap().found(group, *member, members);
        }
    }

    pub fn start_all(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.start(id).expect("start");
        }
    }

    fn env(&self, node: u64) -> Env {
        let disk: Arc<dyn Disk> = self.nodes[&node].platter.mount();
        Env {
            clock: self.exec.clock(),
            disk,
            net: self.net.of(node),
            rng: RngSource::new(self.seed, node),
            tasks: self.exec.of(node, self.nodes[&node].platter.clone()),
            hooks: Arc::new(BookHooks { book: self.book.clone(), exec: self.exec.clone(), node }),
        }
    }

    pub fn start(&mut self, id: u64) -> Result<(), Error> {
        let env = self.env(id);
        let mut config = Config::new("region", id, "/raft");
        config.snapshot_timeout = Duration::from_secs(5);
        (self.tune)(&mut config);
        let (machine, groups) = LogMachine::recover(id, &env, self.nodes[&id].durable.clone());
        let state = machine.state.clone();
        let starting = Driver::start(env, config, machine, Arc::new(Addresses), groups);
        let handle = self.exec.run(starting)?;
        let routes = Routes::new(handle.raft_service());
        let server = self.exec.run(self.net.of(id).serve(&address(id), routes)).expect("serve");
        let node = self.nodes.get_mut(&id).expect("node");
        (node.handle, node.machine, node.server) = (Some(handle), Some(state), Some(server));
        Ok(())
    }

    /// The node dies; `mode` says what its disk keeps. The machine keeps what it had made durable.
    pub fn crash(&mut self, id: u64, mode: CrashMode) {
        let node = self.nodes.get_mut(&id).expect("node");
        (node.handle, node.machine, node.server) = (None, None, None);
        self.exec.kill(id);
        self.net.kill(id);
        node.platter.crash(mode);
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.nodes[&id].handle.is_some()
    }

    pub fn stop(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).expect("node");
        let handle = node.handle.take().expect("running");
        self.exec.run(handle.stop());
        self.crash(id, CrashMode::ProcessKill);
    }

    pub fn handle(&self, id: u64) -> Handle<LogMachine> {
        self.nodes[&id].handle.clone().expect("running")
    }

    /// Lets time pass.
    pub fn pass(&self, millis: u64) {
        self.exec.run(self.exec.sleep(Duration::from_millis(millis)));
    }

    /// Lets time pass until `done`; panics after a simulated minute.
    pub fn until(&self, what: &str, mut done: impl FnMut(&World) -> bool) {
        for _ in 0..6000 {
            if done(self) {
                return;
            }
            self.pass(10);
        }
        for node in self.nodes.values() {
            eprintln!(
                "n{}: {:?}",
                node.id,
                node.handle.as_ref().map(|handle| (handle.failure(), handle.statuses()))
            );
        }
        panic!("in vain: {what}");
    }

    /// The node that leads, if there is exactly one of the highest term among the running ones.
    pub fn find_leader(&self, group: GroupId) -> Option<u64> {
        let running =
            self.nodes.values().filter_map(|node| Some((node.id, node.handle.as_ref()?.status(group)?)));
        let leading = running.filter(|(_, status)| status.is_leader);
        leading.max_by_key(|(_, status)| status.term).map(|(id, _)| id)
    }

    /// The leader, waited for: a majority follows it.
    pub fn leader(&self, group: GroupId) -> u64 {
        let mut found = 0;
        self.until("a leader", |world| {
            let Some(leader) = world.find_leader(group) else { return false };
            let status = world.handle(leader).status(group).expect("hosted");
            let followers = world.nodes.values().filter(|node| {
                let status_there = node.handle.as_ref().and_then(|handle| handle.status(group));
                status_there
                    .is_some_and(|there| there.leader == Some(leader + 100) && there.term == status.term)
            });
            found = leader;
            followers.count() * 2 > status.voters.len()
        });
        found
    }

    /// Proposes at the leader until it is acknowledged.
    pub fn put(&self, group: GroupId, value: &str) {
        for _ in 0..100 {
            let leader = self.leader(group);
            let proposal = self.handle(leader);
            let value = value.to_owned();
            let clock = self.exec.clock();
            let outcome = self.exec.run(async move {
                nokv_env::ClockExt::timeout(&*clock, Duration::from_secs(5), proposal.propose(group, value))
                    .await
            });
            if let Ok(Ok(_)) = outcome {
                return;
            }
        }
        panic!("cannot put {value}");
    }

    /// What a running node has applied.
    pub fn values(&self, id: u64, group: GroupId) -> Vec<String> {
        let machine = self.nodes[&id].machine.as_ref().expect("running").lock().unwrap();
        machine.groups.get(&group).map(|state| state.values.clone()).unwrap_or_default()
    }

    /// Waits until the running members hold the same values, and gives them.
    pub fn agree(&self, group: GroupId) -> Vec<String> {
        let leader = self.leader(group);
        self.until("agreement", |world| {
            let want = world.values(leader, group);
            let up = world.nodes.values().filter(|node| node.handle.is_some());
            up.filter(|node| node.handle.as_ref().is_some_and(|handle| handle.status(group).is_some()))
                .all(|node| world.values(node.id, group) == want)
        });
        self.values(leader, group)
    }

    pub fn probe(&self, name: &str) -> u64 {
        self.book.lock().unwrap().probes.get(name).copied().unwrap_or_default()
    }

    /// Runs a seeded story of crashes and cuts under load, then heals; gives acknowledged values.
    pub fn torment(&mut self, rounds: u64, values_a_round: u64, harsh: bool) -> Vec<String> {
        let mut rng = RngSource::new(self.seed, 0).stream("torment");
        let answers: Arc<Mutex<Vec<String>>> = Arc::default();
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for round in 0..rounds {
            for number in 0..values_a_round {
                let target = self.find_leader(GROUP).filter(|_| !rng.next_u64().is_multiple_of(8));
                let target = target.unwrap_or(ids[(rng.next_u64() % ids.len() as u64) as usize]);
                let Some(handle) = self.nodes[&target].handle.clone() else { continue };
                let value = format!("{round}.{number}");
                let answers = answers.clone();
                self.exec.spawn_for(0, async move {
                    if handle.propose(GROUP, value.clone()).await.is_ok() {
                        answers.lock().unwrap().push(value);
                    }
                });
            }
            let victim = ids[(rng.next_u64() % ids.len() as u64) as usize];
            match rng.next_u64() % if harsh { 6 } else { 12 } {
                0 if self.is_up(victim) => self.crash(victim, CrashMode::PowerLoss),
                1 if self.is_up(victim) => self.crash(victim, CrashMode::ProcessKill),
                2 if self.is_up(victim) => {
                    let platter = &self.nodes[&victim].platter;
                    let at = platter.ops() + 1 + rng.next_u64() % 60;
                    platter.set_faults(DiskFaults { crash_at_op: Some(at), ..DiskFaults::default() });
                }
                3 => self.net.cut(victim, ids[(rng.next_u64() % ids.len() as u64) as usize]),
                4 => self.net.isolate(victim, &ids),
                5..=7 => self.net.heal(),
                _ => {}
            }
            self.pass(20 + rng.next_u64() % if harsh { 300 } else { 1000 });
            for id in &ids {
                let down = self.nodes[id].platter.crashed() || !self.is_up(*id);
                if down && rng.next_u64().is_multiple_of(2) {
                    self.revive(*id);
                }
            }
        }
        self.net.heal();
        for id in ids {
            self.nodes[&id].platter.set_faults(DiskFaults::default());
            if self.nodes[&id].platter.crashed() || !self.is_up(id) {
                self.revive(id);
            }
        }
        self.pass(3000);
        let answers = answers.lock().unwrap();
        answers.clone()
    }

    /// Starts a node that is down, after its disk settled what survived.
    pub fn revive(&mut self, id: u64) {
        if self.nodes[&id].platter.crashed() {
            self.crash(id, CrashMode::PowerLoss);
        }
        self.nodes[&id].platter.set_faults(DiskFaults::default());
        self.start(id).expect("restart");
    }

    /// Every acknowledged value was applied exactly once, by everybody.
    pub fn check(&self, acknowledged: &[String]) {
        let values = self.agree(GROUP);
        let distinct: BTreeSet<&String> = values.iter().collect();
        assert_eq!(distinct.len(), values.len(), "a value was applied twice");
        for value in acknowledged {
            assert!(distinct.contains(value), "acknowledged value {value} is lost");
        }
    }
}
