//! A whole cluster in one process: nodes with their lives, and the levers that faults pull.
//!
//! Each node has a *life task*: it starts the service, waits until somebody stops it or it gives up, and
//! reports how it ended. The supervisor plays the role of the operating system and of whoever restarts
//! processes: a service that gives up because of an injected disk fault is restarted, one that gives up for
//! any other reason has failed the run.

use crate::atoms::{Decider, Point};
use crate::check::Violation;
use crate::check::replicas::Replica;
use crate::config::WorldConfig;
use crate::exec::{Executor, Node, SUPERVISOR, lock};
use crate::net::{Down, Host, Network};
use crate::node::{Chances, NodeParts, Surroundings};
use crate::plan::{HOLDER, LEADER, Names};
use crate::record::{State, losses};
use crate::services::{Role, Service};
use crate::trace::{Kind, Trace};
use crate::watch::Watch;
use nokv_env::mem_disk::{CrashMode, DiskFaults};
use nokv_env::task::Stop;
use nokv_env::{Env, MemDisk, RngSource};
use nokv_proto::meta::v1::RegionDescriptor;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};

const MILLI: u64 = 1_000_000;
/// How long whoever restarts processes waits before the restart.
const RESTART_MS: u64 = 500;

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No process runs.
    Off,
    /// The service is starting.
    Starting,
    /// The service runs.
    Up,
    /// The service was asked to stop.
    Stopping,
}

struct NodeState {
    standing: Standing,
    /// Asks the life task to stop cleanly.
    stop: Stop,
    /// A disk fault was injected in this life: giving up is right.
    may_fail: bool,
    /// The service, while it runs. The life task owns it.
    service: Weak<Service>,
}

impl NodeState {
    fn new(standing: Standing, stop: Stop) -> Self {
        Self { standing, stop, may_fail: false, service: Weak::new() }
    }
}

struct Cell {
    parts: NodeParts,
    role: Role,
    /// Decides, at each power loss, whether unsynced data is lost.
    survival: Mutex<Point>,
    /// Durable data of the node was changed on purpose, see [`crate::damage`].
    damaged: AtomicBool,
    /// The node has found damage and refused: somebody has to repair it. It stays down.
    needs_repair: AtomicBool,
    state: Mutex<NodeState>,
}

/// The world of one run.
pub struct World {
    /// Its configuration.
    pub config: WorldConfig,
    /// Who decides what the seed or a case leaves open.
    pub decider: Arc<Decider>,
    /// What nodes see of it.
    pub around: Surroundings,
    cells: Vec<Cell>,
    me: Weak<World>,
}

impl World {
    /// A world with all nodes off.
    pub fn new(
        seed: u64,
        config: WorldConfig,
        decider: Arc<Decider>,
        exec: Arc<dyn Executor>,
        trace: Arc<Trace>,
    ) -> Arc<World> {
        let roles = Role::all(&config);
        let node = |index: usize| Node(index as u16 + 1);
        let names: Vec<String> = Names::of(&config).all().cloned().collect();
        let hosts = roles
            .iter()
            .zip(&names)
            .enumerate()
            .map(|(index, (role, name))| Host::new(node(index), role.host(), name.as_str()));
        let mut latency = config.latency;
        if decider.once("world/jitter", |_| Some(1)).is_none() {
            latency.jitter_us = 0;
        }
        let network = Network::new(exec.clone(), trace.clone(), decider.clone(), seed, latency, hosts);
        let watch = Arc::new(Watch::new(seed));
        for (index, name) in names.iter().enumerate() {
            watch.name(node(index), name);
        }
        let cells = roles
            .iter()
            .zip(names)
            .enumerate()
            .map(|(index, (role, name))| Cell {
                survival: Mutex::new(decider.point(format!("{name}/disk/survival"))),
                parts: parts(&decider, seed, node(index), name, &config),
                role: *role,
                damaged: AtomicBool::new(false),
                needs_repair: AtomicBool::new(false),
                state: Mutex::new(NodeState::new(Standing::Off, Stop::new())),
            })
            .collect();
        Arc::new_cyclic(|me| World {
            config,
            decider,
            around: Surroundings { seed, exec, network, trace, watch },
            cells,
            me: me.clone(),
        })
    }

    /// True time in nanoseconds.
    pub fn now(&self) -> u64 {
        self.around.exec.now_ns()
    }

    /// Sleeps true time.
    pub async fn sleep_ms(&self, millis: u64) {
        self.around.exec.sleep_until(self.now() + millis * MILLI).await;
    }

    /// Runs `work` as a task of the world itself.
    pub fn go(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let exec = &self.around.exec;
        exec.spawn_on(exec.place(SUPERVISOR), name, Box::pin(work));
    }

    /// Runs `work` as a task of `node`'s current life.
    pub fn go_on(&self, node: Node, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let exec = &self.around.exec;
        exec.spawn_on(exec.place(node), name, Box::pin(work));
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (1..=self.cells.len() as u16).map(Node)
    }

    /// The node called `name`, which may also be [`LEADER`] with what it leads, or [`HOLDER`].
    pub fn find(&self, name: &str) -> Option<Node> {
        if let Some(led) = name.strip_prefix(LEADER) {
            let leads = |(domain, group, ..): &(&str, u64, u64, Node)| match led.parse::<u64>() {
                Ok(region) => *domain == "region" && *group == region,
                Err(_) => *domain == "root",
            };
            return self.around.watch.leaders().into_iter().find(leads).map(|(.., node)| node);
        }
        if name == HOLDER {
            let (_, holder) = self.around.watch.holder()?;
            return self.nodes().find(|node| self.name(*node) == holder);
        }
        self.nodes().find(|node| self.name(*node) == name)
    }

    /// A place outside of the cluster, from where operators and observers ask: the first client node, if there is one.
    pub fn outside(&self) -> Option<Node> {
        self.nodes().find(|node| self.role(*node) == Role::Client(1))
    }

    fn cell(&self, node: Node) -> &Cell {
        &self.cells[node.index() - 1]
    }

    /// What plans call the node.
    pub fn name(&self, node: Node) -> &str {
        &self.cell(node).parts.name
    }

    /// What the node runs.
    pub fn role(&self, node: Node) -> Role {
        self.cell(node).role
    }

    /// The node's disk.
    pub fn disk(&self, node: Node) -> &Arc<MemDisk> {
        &self.cell(node).parts.disk
    }

    /// Where the node stands.
    pub fn standing(&self, node: Node) -> Standing {
        lock(&self.cell(node).state).standing
    }

    /// The environment of the node's current life.
    pub fn env(&self, node: Node) -> Env {
        self.around.env(&self.cell(node).parts)
    }

    /// Adds a line to the timeline.
    pub fn note(&self, line: String) {
        let now = self.now();
        self.around.trace.record(|recording| recording.notes.push((now, line.clone())));
        self.around.watch.note(now, line);
    }

    fn life_event(&self, node: Node, what: u64) {
        let life = self.around.exec.place(node).life;
        self.around.trace.event(self.now(), node, Kind::Life, what, u64::from(life));
    }

    /// What is on the node's disk, if somebody wants to be told what a crash takes from it.
    fn files_for_recording(&self, node: Node) -> Vec<(PathBuf, u64)> {
        if self.around.trace.is_recording() { self.cell(node).parts.disk.files() } else { Vec::new() }
    }

    fn record_life(&self, node: Node, state: State, why: &str) {
        let now = self.now();
        self.around.trace.record(|recording| recording.life(now, node, state, why));
    }

    /// Gives the node power and starts its service.
    pub fn boot(&self, node: Node) {
        let cell = self.cell(node);
        if self.needs_repair(node) {
            return;
        }
        let stop = Stop::new();
        {
            let mut state = lock(&cell.state);
            if state.standing != Standing::Off {
                return;
            }
            *state = NodeState::new(Standing::Starting, stop.clone());
        }
        self.life_event(node, 1);
        self.record_life(node, State::Starting, "");
        self.note(format!("{} starts", cell.parts.name));
        self.around.network.node_up(node);
        let Some(world) = self.me.upgrade() else { return };
        let env = self.env(node);
        self.go_on(node, "life", async move { world.live(node, env, stop).await });
    }

    /// The life task of a node.
    async fn live(&self, node: Node, env: Env, stop: Stop) {
        let role = self.role(node);
        let service = match Service::start(role, env, &self.config).await {
            Ok(service) => Arc::new(service),
            Err(reason) => {
                if self.cell(node).parts.disk.faults().free_space.is_some() {
                    self.expect_failure(node); // to start takes room
                }
                return self.gave_up(node, format!("does not start: {reason}"));
            }
        };
        {
            let mut state = lock(&self.cell(node).state);
            state.standing = Standing::Up;
            state.service = Arc::downgrade(&service);
        }
        self.record_life(node, State::Up, "");
        let reason = {
            let failed = std::pin::pin!(service.failed());
            match futures_util::future::select(failed, std::pin::pin!(stop.stopped())).await {
                futures_util::future::Either::Left((reason, _)) => Some(reason),
                futures_util::future::Either::Right(_) => None,
            }
        };
        match reason {
            Some(reason) => self.gave_up(node, reason),
            None => {
                // Nobody else holds it across an await.
                if let Some(service) = Arc::into_inner(service) {
                    service.stop().await;
                }
                self.life_event(node, 2);
                self.record_life(node, State::Stopped, "");
                self.stand(node, Standing::Off);
            }
        }
    }

    fn stand(&self, node: Node, standing: Standing) {
        lock(&self.cell(node).state).standing = standing;
    }

    /// A service ended on its own. With a disk fault behind it, that is what it should do.
    fn gave_up(&self, node: Node, reason: String) {
        let cell = self.cell(node);
        self.note(format!("{} gives up: {reason}", cell.parts.name));
        self.life_event(node, 3);
        self.record_life(node, State::GaveUp, &reason);
        if cell.parts.disk.crashed() {
            // Power was lost in a disk operation; whoever set that up does the rest.
            return;
        }
        if cell.damaged.load(Ordering::Relaxed) {
            self.note(format!("{} needs repair and stays down", cell.parts.name));
            cell.needs_repair.store(true, Ordering::Relaxed);
            let Some(world) = self.me.upgrade() else { return };
            self.around.watch.probe("world.damage.refused");
            self.go("repair", async move {
                world.kill(node, Down::Process);
            });
            return;
        }
        if !lock(&cell.state).may_fail {
            let facts = format!("{} gave up without a disk fault: {reason}", cell.parts.name);
            self.around.watch.fail(self.now(), Violation::new("failure", facts));
            return;
        }
        let Some(world) = self.me.upgrade() else { return };
        self.go("restarter", async move {
            world.kill(node, Down::Process);
            world.sleep_ms(RESTART_MS).await;
            world.boot(node);
        });
    }

    /// Ends the node's life: power loss or a killed process. False if it has none.
    pub fn kill(&self, node: Node, down: Down) -> bool {
        let cell = self.cell(node);
        if std::mem::replace(&mut lock(&cell.state).standing, Standing::Off) == Standing::Off
            && !cell.parts.disk.crashed()
        {
            return false;
        }
        self.life_event(node, 4);
        self.note(format!("{} dies ({down:?})", cell.parts.name));
        self.around.network.node_down(node, down);
        // First the disk, so that nothing that runs while tasks are dropped can still write.
        cell.parts.disk.set_faults(DiskFaults::default());
        let (mode, state, why) = match down {
            // By default all that was written survives, as if the cache had a battery.
            Down::Power if self.loses_unsynced(node) => {
                (CrashMode::PowerLoss, State::PowerLost, "what was not synced may be lost")
            }
            Down::Power => (CrashMode::ProcessKill, State::PowerLost, "all that was written survives"),
            Down::Process => (CrashMode::ProcessKill, State::Killed, "all that was written survives"),
        };
        let had = self.files_for_recording(node);
        cell.parts.disk.crash(mode);
        let lost = losses(&had, &self.files_for_recording(node));
        self.record_life(node, state, &format!("{why}{lost}"));
        self.around.exec.kill(node);
        true
    }

    fn loses_unsynced(&self, node: Node) -> bool {
        lock(&self.cell(node).survival).decide(|_| Some(1)).is_some()
    }

    /// Asks the service to stop cleanly and waits for it, `patience_ms` at most; then ends the process.
    pub async fn shut_down(&self, node: Node, patience_ms: u64) -> bool {
        let stop = {
            let mut state = lock(&self.cell(node).state);
            if state.standing != Standing::Up {
                return false;
            }
            state.standing = Standing::Stopping;
            state.stop.clone()
        };
        self.record_life(node, State::Stopping, "");
        self.note(format!("{} is asked to stop", self.name(node)));
        stop.stop();
        let deadline = self.now() + patience_ms * MILLI;
        while self.standing(node) == Standing::Stopping && self.now() < deadline {
            self.sleep_ms(5).await;
        }
        let clean = self.standing(node) == Standing::Off;
        self.note(format!(
            "{} {}",
            self.name(node),
            if clean { "has stopped" } else { "does not stop in time" }
        ));
        lock(&self.cell(node).state).standing = Standing::Stopping;
        self.kill(node, Down::Process);
        clean
    }

    /// Allows the node's current life to give up: a disk fault was injected.
    pub fn expect_failure(&self, node: Node) {
        lock(&self.cell(node).state).may_fail = true;
    }

    /// Tells that durable data of the node was changed.
    pub fn damage(&self, node: Node) {
        self.around.watch.probe("world.damage.struck");
        self.cell(node).damaged.store(true, Ordering::Relaxed);
    }

    /// Whether the budget for damage allows to strike the node: nobody else of its kind was struck.
    pub fn may_damage(&self, node: Node) -> bool {
        let same =
            |other: &Cell| std::mem::discriminant(&other.role) == std::mem::discriminant(&self.role(node));
        let struck = |other: &&Cell| other.damaged.load(Ordering::Relaxed) && same(other);
        let fits = |other: &Cell| other.parts.node == node || self.config.unlimited_damage;
        matches!(self.role(node), Role::Store(_) | Role::Root(_))
            && self.cells.iter().filter(struck).all(fits)
    }

    /// Whether durable data of the node was changed.
    pub fn damaged(&self, node: Node) -> bool {
        self.cell(node).damaged.load(Ordering::Relaxed)
    }

    /// Whether the node has found its data damaged and stays down.
    pub fn needs_repair(&self, node: Node) -> bool {
        self.cell(node).needs_repair.load(Ordering::Relaxed)
    }

    /// In one line: who is not up, who leads what, who holds the lease.
    pub fn standings(&self) -> String {
        let mut parts = Vec::new();
        for node in self.nodes() {
            match self.standing(node) {
                Standing::Up => {}
                _ if self.needs_repair(node) => parts.push(format!("{} needs repair", self.name(node))),
                standing => parts.push(format!("{} is {standing:?}", self.name(node))),
            }
        }
        let replicas = self.replicas();
        for (domain, group, term, node) in self.around.watch.leaders() {
            let region = if domain == "root" { 0 } else { group };
            let applied = replicas.iter().filter(|replica| replica.region == region);
            let applied: Vec<String> =
                applied.map(|replica| format!("{} {}", replica.node, replica.applied)).collect();
            parts.push(format!(
                "{domain} {group}: {} has led last, in term {term}, applied: {}",
                self.name(node),
                applied.join(", ")
            ));
        }
        match self.around.watch.holder() {
            Some((generation, holder)) => parts.push(format!("{holder} holds lease generation {generation}")),
            None => parts.push("nobody ever held the lease".to_owned()),
        }
        for cell in &self.cells {
            let service = lock(&cell.state).service.upgrade();
            parts.extend(service.map(|service| service.operators()).unwrap_or_default());
        }
        parts.join("; ")
    }

    /// Makes the node's wall clock jump.
    pub fn jump_wall_clock(&self, node: Node, by_ms: i64) {
        self.cell(node).parts.wall_error_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Turns the product's chance points off.
    pub fn stop_chances(&self) {
        for cell in &self.cells {
            cell.parts.chances.stop();
        }
    }

    /// The replicas of all raft groups, as they are now. Those that cannot be read because their node's data was damaged
    /// on purpose are not among them.
    pub fn replicas(&self) -> Vec<Replica> {
        let of_cell = |cell: &Cell| {
            let service = lock(&cell.state).service.upgrade()?;
            let replicas = service.replicas(&cell.parts.name);
            let is_damaged = cell.damaged.load(Ordering::Relaxed);
            let unreadable = replicas.iter().any(|replica| replica.unreadable.is_some());
            (!is_damaged || !unreadable).then_some(replicas)
        };
        self.cells.iter().filter_map(of_cell).flatten().collect()
    }

    /// The data regions as they are now, by id: what the store that knows the latest says.
    pub fn regions(&self) -> BTreeMap<u64, RegionDescriptor> {
        let mut latest: BTreeMap<u64, RegionDescriptor> = BTreeMap::new();
        for cell in &self.cells {
            let Some(service) = lock(&cell.state).service.upgrade() else { continue };
            for region in service.regions() {
                let known = latest.get(&region.region_id).map(RegionDescriptor::epoch_pair);
                if known.is_none_or(|known| known < region.epoch_pair()) {
                    latest.insert(region.region_id, region);
                }
            }
        }
        latest
    }

    /// The newest event that any meta-root has applied, as its tokens name it.
    pub fn root_revision(&self) -> u64 {
        let services = self.cells.iter().filter_map(|cell| lock(&cell.state).service.upgrade());
        services.filter_map(|service| service.root_revision()).max().unwrap_or(0)
    }

    /// How many operators are under way; `None` while nobody schedules.
    pub fn operators_under_way(&self) -> Option<usize> {
        let mut services = self.cells.iter().filter_map(|cell| lock(&cell.state).service.upgrade());
        services.find_map(|service| service.operators_under_way())
    }

    /// Stores that are to be emptied, as the meta-root that knows the latest says.
    pub fn decommissioned(&self) -> Vec<u64> {
        let services = self.cells.iter().filter_map(|cell| lock(&cell.state).service.upgrade());
        let newest = services.filter_map(|service| service.decommissioned()).max_by_key(|(index, _)| *index);
        newest.map(|(_, stores)| stores).unwrap_or_default()
    }

    /// The numbers of stores that do not come back.
    pub fn lost_stores(&self) -> Vec<u64> {
        let lost = self.nodes().filter(|node| self.needs_repair(*node));
        let number = |node| if let Role::Store(number) = self.role(node) { Some(number) } else { None };
        lost.filter_map(number).collect()
    }

    /// The node goes for good, with all that it has. It counts as damage, so the budget allows one of a kind.
    pub fn lose(&self, node: Node) {
        self.kill(node, Down::Power);
        let cell = self.cell(node);
        cell.damaged.store(true, Ordering::Relaxed);
        cell.needs_repair.store(true, Ordering::Relaxed);
        self.note(format!("{} does not come back", cell.parts.name));
    }

    /// Frees everything; the world is over.
    pub fn clear(&self) {
        self.around.exec.clear();
        self.around.network.clear();
    }
}

fn parts(decider: &Arc<Decider>, seed: u64, node: Node, name: String, config: &WorldConfig) -> NodeParts {
    let source = RngSource::new(seed, u64::from(node.0));
    let error = |kind: &str, bound: u64| {
        let key = format!("{name}/clock/{kind}");
        let drawn = decider.once(key, |draw| {
            let error = (draw % (2 * bound + 1)) as i64 - bound as i64;
            (error != 0).then_some(error as u64)
        });
        drawn.map_or(0, |error| error as i64)
    };
    let (rate_ppb, wall_error_ms) =
        (error("rate", config.clock_rate_ppm * 1_000), error("wall", config.wall_skew_ms));
    let disk = MemDisk::new(source.pure("disk", 0));
    disk.set_latency(config.disk.model(1));
    NodeParts {
        node,
        chances: Arc::new(Chances::new(decider.clone(), seed, name.as_str(), config.chance_percent)),
        name,
        disk,
        rate_ppb,
        wall_error_ms: Arc::new(AtomicI64::new(wall_error_ms)),
    }
}
