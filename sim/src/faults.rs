//! Carrying out a fault plan: each fault is a small story told on the world's levers.

use crate::exec::{Node, SUPERVISOR, lock};
use crate::net::Down;
use crate::plan::{Fault, Plan};
use crate::services::Role;
use crate::trace::{Kind, digest};
use crate::world::{Standing, World};
use nokv_env::mem_disk::DiskFaults;
use nokv_env::task::Stop;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Times an operator that moves a peer looks again, and how long it waits in between.
const MOVE_STEPS: u64 = 40;
const MOVE_PAUSE_MS: u64 = 500;
/// How often an operator asks for a merge, and the pause between.
const MERGE_STEPS: u64 = 30;
const MERGE_PAUSE_MS: u64 = 300;
/// How long a clean stop may take before the process is killed.
const STOP_PATIENCE_MS: u64 = 10_000;
/// How long an armed disk fault waits for its operation.
const ARMED_MS: u64 = 5_000;
/// How often it is looked at. Most tasks that meet the crash tell at once, see `NodeTasks::yield_now`.
const ARMED_LOOK_NS: u64 = 1_000_000;
/// What plans call [`Fault::AtEvent`].
const WAITING: &str = "at_event";

/// How a node is kept out of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It has no power.
    Dead,
    /// It does nothing.
    Frozen,
    /// Nothing it sends or should get arrives.
    CutOff,
}

/// A node that is not healed with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    node: Node,
    how: How,
}

/// Carries out a plan, and knows how to end what it began.
pub struct Faults {
    world: Arc<World>,
    /// Raised when healing begins: faults under way end, later ones do not start.
    healing: Stop,
    /// How many faults of each kind found their target.
    struck: Mutex<BTreeMap<String, u64>>,
}

impl Faults {
    /// Faults for `world`.
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { world, healing: Stop::new(), struck: Mutex::default() })
    }

    /// How many faults found their target.
    pub fn count(&self) -> u64 {
        lock(&self.struck).iter().filter(|(kind, _)| *kind != WAITING).map(|(_, count)| count).sum()
    }

    /// The same by kind; a fault that waited for its event counts as that kind too.
    pub fn struck(&self) -> BTreeMap<String, u64> {
        lock(&self.struck).clone()
    }

    /// Starts every fault at its time.
    pub fn run(self: &Arc<Self>, plan: Plan) {
        let this = self.clone();
        let start = this.world.now();
        self.world.go("faults", async move {
            for timed in plan.faults {
                let exec = &this.world.around.exec;
                let wait = exec.sleep_until(start + timed.at_ms * 1_000_000);
                futures_util::future::select(wait, std::pin::pin!(this.healing.stopped())).await;
                if this.healing.is_stopped() {
                    return;
                }
                let one = this.clone();
                match timed.fault {
                    Fault::AtEvent { event, nth, after_us, then } => {
                        one.at_event(event, nth, after_us, *then);
                    }
                    fault => this.world.go("fault", async move { one.strike(fault).await }),
                }
            }
        });
    }

    /// Ends all faults, for the core: links, clocks of execution and disks are healthy again, and everything is booted.
    /// What is left out stays dead, frozen or cut off until [`Faults::take_back`].
    pub async fn heal(&self, left_out: &[LeftOut]) {
        let world = &self.world;
        world.note("healing begins".to_owned());
        self.healing.stop();
        world.around.watch.triggers.clear();
        world.stop_chances();
        world.around.network.heal();
        for node in world.nodes() {
            world.around.exec.resume(node);
            world.around.exec.slow_cpu(node, 0);
            world.disk(node).set_faults(DiskFaults::default());
            world.disk(node).set_latency(world.config.disk.model(1));
        }
        // Faults under way end by themselves, including clean stops; then whoever is still off is booted.
        world.sleep_ms(10).await;
        for node in world.nodes() {
            if world.disk(node).crashed() {
                world.kill(node, Down::Power);
            }
            match left_out.iter().find(|left_out| left_out.node == node).map(|left_out| left_out.how) {
                None => world.boot(node),
                Some(How::Dead) => {
                    world.kill(node, Down::Power);
                }
                Some(How::Frozen) => {
                    world.boot(node);
                    world.around.exec.pause(node);
                    world.around.network.freeze(node);
                }
                Some(How::CutOff) => {
                    world.boot(node);
                    for other in world.nodes() {
                        world.around.network.cut(node, other);
                        world.around.network.cut(other, node);
                    }
                }
            }
        }
        for LeftOut { node, how } in left_out {
            world.note(format!("{} is left out ({how:?}): the others are the core", world.name(*node)));
        }
    }

    /// Heals what was left out of the core.
    pub fn take_back(&self, left_out: &[LeftOut]) {
        let world = &self.world;
        for LeftOut { node, .. } in left_out {
            world.note(format!("{} comes back", world.name(*node)));
            world.around.network.thaw(*node);
            world.around.exec.resume(*node);
            world.boot(*node);
        }
        world.around.network.heal();
    }

    /// Draws who is left out of the core: at most one root, one store and one coordinator, so that the others have a
    /// quorum of everything. Damaged nodes that stay down are the ones of their kind.
    pub fn leave_out(&self) -> Vec<LeftOut> {
        let world = &self.world;
        let kinds: [fn(&Role) -> bool; 3] = [
            |role| matches!(role, Role::Root(_)),
            |role| matches!(role, Role::Store(_)),
            |role| matches!(role, Role::Coordinator(_)),
        ];
        let mut left_out = Vec::new();
        for (kind, key) in kinds.iter().zip(["root", "store", "coordinator"]) {
            let all: Vec<Node> = world.nodes().filter(|node| kind(&world.role(*node))).collect();
            let damaged = all.iter().any(|node| world.damaged(*node));
            if damaged || all.len() < 2 {
                continue;
            }
            let choice =
                world.decider.once(format!("core/{key}"), |draw| (draw % 2 == 0).then_some(draw >> 8));
            if let Some(choice) = choice {
                let node = all[(choice % all.len() as u64) as usize];
                let how = [How::Dead, How::Frozen, How::CutOff][(choice / all.len() as u64 % 3) as usize];
                left_out.push(LeftOut { node, how });
            }
        }
        left_out
    }

    /// Waits for the end of a fault, or for healing.
    async fn last(&self, millis: u64) {
        self.last_us(millis * 1_000).await;
    }

    async fn last_us(&self, micros: u64) {
        let exec = &self.world.around.exec;
        let wait = exec.sleep_until(self.world.now() + micros * 1_000);
        futures_util::future::select(wait, std::pin::pin!(self.healing.stopped())).await;
    }

    fn find(&self, names: &[String]) -> Vec<Node> {
        names.iter().filter_map(|name| self.world.find(name)).collect()
    }

    fn struck_now(&self, fault: &Fault) {
        *lock(&self.struck).entry(fault.kind()).or_default() += 1;
        let text = serde_json::to_string(fault).unwrap_or_default();
        let world = &self.world;
        let now = world.now();
        world.around.trace.record(|recording| recording.fault_begins(now, fault));
        let number = digest(text.as_bytes());
        world.around.trace.event(now, SUPERVISOR, Kind::Fault, number, 0);
        world.around.trace.name(Kind::Fault, number, 0, || text.clone());
        world.note(format!("fault {text}"));
    }

    /// Waits for an event, and strikes where it happens.
    fn at_event(self: &Arc<Self>, event: String, nth: u64, after_us: u64, then: Fault) {
        let (this, what) = (self.clone(), event.clone());
        let act = move |node: Node| {
            let world = this.world.clone();
            let fault = then.at(world.name(node));
            let spared = matches!(world.role(node), Role::Client(_))
                && !matches!(fault, Fault::Pause { .. } | Fault::Partition { .. });
            if this.healing.is_stopped() || spared {
                return;
            }
            world.note(format!("{} is where {what} happens", world.name(node)));
            *lock(&this.struck).entry(WAITING.to_owned()).or_default() += 1;
            match fault {
                // The very next operations may be those of the same step.
                Fault::DiskCrash { after_ops, down_ms, .. } if after_us == 0 => {
                    this.struck_now(&fault);
                    this.arm_disk_crash(node, after_ops);
                    world.clone().go("fault", async move {
                        this.disk_crash(node, down_ms).await;
                        this.record_end(&fault);
                    });
                }
                fault => world.clone().go("fault", async move {
                    this.last_us(after_us).await;
                    if !this.healing.is_stopped() {
                        this.strike(fault).await;
                    }
                }),
            }
        };
        self.world.around.watch.triggers.when(event, nth, Box::new(act));
    }

    async fn strike(&self, fault: Fault) {
        let whole = fault.clone();
        self.carry_out(fault).await;
        self.record_end(&whole);
    }

    fn record_end(&self, fault: &Fault) {
        let now = self.world.now();
        self.world.around.trace.record(|recording| recording.fault_ends(now, fault));
    }

    async fn carry_out(&self, fault: Fault) {
        let world = &self.world;
        let node = |name: &str| world.find(name);
        match &fault {
            Fault::Kill { node: name, power, down_ms } => {
                let Some(node) = node(name).filter(|node| world.standing(*node) != Standing::Off) else {
                    return;
                };
                self.struck_now(&fault);
                self.down(node, if *power { Down::Power } else { Down::Process }, *down_ms).await;
            }
            Fault::Restart { node: name, down_ms } => {
                let Some(node) = node(name).filter(|node| world.standing(*node) == Standing::Up) else {
                    return;
                };
                self.struck_now(&fault);
                world.shut_down(node, STOP_PATIENCE_MS).await;
                self.last(*down_ms).await;
                world.boot(node);
            }
            Fault::Pause { node: name, for_ms } => {
                let Some(node) = node(name) else { return };
                self.struck_now(&fault);
                world.around.exec.pause(node);
                world.around.network.freeze(node);
                self.last(*for_ms).await;
                world.around.network.thaw(node);
                world.around.exec.resume(node);
            }
            Fault::SlowCpu { node: name, step_us, for_ms } => {
                let Some(node) = node(name) else { return };
                self.struck_now(&fault);
                world.around.exec.slow_cpu(node, step_us * 1_000);
                self.last(*for_ms).await;
                world.around.exec.slow_cpu(node, 0);
            }
            Fault::Partition { left, right, one_way, for_ms } => {
                self.struck_now(&fault);
                self.partition(&self.find(left), &self.find(right), *one_way, *for_ms).await;
            }
            Fault::SlowLink { from, to, extra_ms, for_ms } => {
                let (Some(from), Some(to)) = (node(from), node(to)) else { return };
                self.struck_now(&fault);
                let extra_ns = (extra_ms * 1_000_000) as i64;
                world.around.network.slow(from, to, extra_ns);
                self.last(*for_ms).await;
                world.around.network.slow(from, to, -extra_ns);
            }
            Fault::Loss { node: name, ppm, for_ms } => {
                let Some(node) = node(name) else { return };
                self.struck_now(&fault);
                self.lossy(node, *ppm as i64);
                self.last(*for_ms).await;
                self.lossy(node, -(*ppm as i64));
            }
            Fault::Reset { a, b } => {
                let (Some(a), Some(b)) = (node(a), node(b)) else { return };
                self.struck_now(&fault);
                world.around.network.reset(a, b);
            }
            Fault::DiskSlow { node: name, times, stall_ms, for_ms } => {
                let Some(node) = node(name) else { return };
                self.struck_now(&fault);
                let mut model = world.config.disk.model(*times);
                model.stall = Duration::from_millis(*stall_ms);
                world.disk(node).set_latency(model);
                self.last(*for_ms).await;
                world.disk(node).set_latency(world.config.disk.model(1));
            }
            Fault::DiskCrash { node: name, after_ops, down_ms } => {
                let Some(node) = node(name).filter(|node| world.standing(*node) != Standing::Off) else {
                    return;
                };
                self.struck_now(&fault);
                self.arm_disk_crash(node, *after_ops);
                self.disk_crash(node, *down_ms).await;
            }
            Fault::DiskError { node: name, after_ops, sync, .. } => {
                let Some(node) = node(name).filter(|node| world.standing(*node) != Standing::Off) else {
                    return;
                };
                self.struck_now(&fault);
                world.expect_failure(node);
                let disk = world.disk(node);
                let counters = disk.counters();
                let mut faults = disk.faults();
                if *sync {
                    faults.sync_error_at = Some(counters.syncs + after_ops);
                } else {
                    faults.io_error_at_op = Some(counters.ops + after_ops);
                }
                disk.set_faults(faults);
            }
            Fault::WallClock { node: name, by_ms } => {
                let Some(node) = node(name) else { return };
                self.struck_now(&fault);
                world.jump_wall_clock(node, *by_ms);
            }
            Fault::Blackout { down_ms } => {
                self.struck_now(&fault);
                let servers = world.nodes().filter(|node| !matches!(world.role(*node), Role::Client(_)));
                let dead: Vec<Node> = servers.filter(|node| world.kill(*node, Down::Power)).collect();
                self.last(*down_ms).await;
                for node in dead {
                    world.boot(node);
                }
            }
            Fault::Rot { node: name, file, which, spot, rot } => {
                let Some(node) = node(name).filter(|node| world.may_damage(*node)) else { return };
                let Some((path, offset)) = crate::damage::strike(world.disk(node), file, *which, *spot, *rot)
                else {
                    return;
                };
                world.damage(node);
                self.struck_now(&fault);
                world.note(format!("{name}: {} rots at offset {offset}", path.display()));
            }
            Fault::NoSpace { node: name, free_bytes, for_ms } => {
                let Some(node) = node(name).filter(|node| world.standing(*node) != Standing::Off) else {
                    return;
                };
                self.struck_now(&fault);
                // A store waits for room.
                if !matches!(world.role(node), Role::Store(_)) {
                    world.expect_failure(node);
                }
                let disk = world.disk(node);
                disk.set_faults(DiskFaults { free_space: Some(*free_bytes), ..disk.faults() });
                self.last(*for_ms).await;
                disk.set_faults(DiskFaults { free_space: None, ..disk.faults() });
            }
            Fault::ShortRead { node: name, after_ops } => {
                let Some(node) = node(name) else { return };
                self.struck_now(&fault);
                let disk = world.disk(node);
                let op = disk.counters().ops + after_ops;
                disk.set_faults(DiskFaults { short_read_at_op: Some(op), ..disk.faults() });
            }
            Fault::Wipe { node: name, down_ms } => {
                let Some(node) = node(name).filter(|node| matches!(world.role(*node), Role::Coordinator(_)))
                else {
                    return;
                };
                if world.kill(node, Down::Power) {
                    self.struck_now(&fault);
                    world.disk(node).wipe();
                    world.around.watch.forget(node);
                    self.last(*down_ms).await;
                    world.boot(node);
                }
            }
            Fault::Rolling { down_ms, gap_ms } => {
                self.struck_now(&fault);
                let servers = world.nodes().filter(|node| !matches!(world.role(*node), Role::Client(_)));
                for node in servers {
                    if self.healing.is_stopped() {
                        return;
                    }
                    if world.standing(node) == Standing::Up {
                        world.shut_down(node, STOP_PATIENCE_MS).await;
                        self.last(*down_ms).await;
                        world.boot(node);
                        self.last(*gap_ms).await;
                    }
                }
            }
            Fault::CrashAtBoot { node: name, ops, down_ms } => {
                let Some(node) = node(name).filter(|node| world.kill(*node, Down::Power)) else { return };
                self.struck_now(&fault);
                for after_ops in ops {
                    self.last(*down_ms).await;
                    if self.healing.is_stopped() {
                        return;
                    }
                    world.boot(node);
                    self.arm_disk_crash(node, *after_ops);
                    self.disk_crash(node, 0).await;
                }
            }
            // It waits for its event, see `run`.
            Fault::AtEvent { .. } => {}
            Fault::ShuffleLeaders { every_ms, for_ms } => {
                self.struck_now(&fault);
                let stores = u64::from(world.config.stores);
                for turn in 0..for_ms / every_ms.max(&1) {
                    if self.healing.is_stopped() {
                        return;
                    }
                    // Every region comes in turn, and in the next round goes on to the next store.
                    let regions = world.regions().len().max(1) as u64;
                    let (region, round) = (turn % regions, turn / regions);
                    crate::operator::transfer_leader(world, region, 1 + (region + round) % stores);
                    self.last(*every_ms).await;
                }
            }
            Fault::TransferLeader { region, store } => {
                self.struck_now(&fault);
                crate::operator::transfer_leader(world, region.saturating_sub(1), *store);
            }
            Fault::MovePeer { region, which, store } => {
                let regions = world.regions();
                let number = region.saturating_sub(1) as usize % regions.len().max(1);
                let Some(id) = regions.keys().nth(number).copied() else { return };
                self.struck_now(&fault);
                for _ in 0..MOVE_STEPS {
                    if self.healing.is_stopped() || crate::operator::move_peer(world, id, *which, *store) {
                        return;
                    }
                    self.last(MOVE_PAUSE_MS).await;
                }
            }
            Fault::Decommission { store, for_ms } => {
                self.struck_now(&fault);
                crate::operator::decommission(world, *store, true);
                if *for_ms > 0 {
                    self.last(*for_ms).await;
                    crate::operator::decommission(world, *store, false);
                }
            }
            Fault::Lose { node: name } => {
                let Some(node) = node(name).filter(|node| world.may_damage(*node)) else { return };
                if !matches!(world.role(node), Role::Store(_)) || world.config.stores <= world.config.replicas
                {
                    return;
                }
                self.struck_now(&fault);
                world.lose(node);
            }
            Fault::Merge { region, into_left, again } => {
                let mut borders: Vec<_> =
                    world.regions().into_values().map(|region| region.start_key).collect();
                borders.sort();
                borders.retain(|border| !border.is_empty());
                let number = region.saturating_sub(1) as usize % borders.len().max(1);
                let Some(border) = borders.get(number) else { return };
                self.struck_now(&fault);
                for turn in 0..=*again {
                    for _ in 0..MERGE_STEPS {
                        if self.healing.is_stopped() {
                            return;
                        }
                        if crate::operator::merge(world, border, *into_left != (turn % 3 == 2)) {
                            break;
                        }
                        self.last(MERGE_PAUSE_MS).await;
                    }
                    if turn < *again && !self.healing.is_stopped() {
                        crate::operator::split(world, &String::from_utf8_lossy(border));
                        self.last(MERGE_PAUSE_MS).await;
                    }
                }
            }
            Fault::Split { key } => {
                self.struck_now(&fault);
                crate::operator::split(world, key);
            }
        }
    }

    async fn down(&self, node: Node, down: Down, millis: u64) {
        if self.world.kill(node, down) {
            self.last(millis).await;
            self.world.boot(node);
        }
    }

    async fn partition(&self, left: &[Node], right: &[Node], one_way: bool, millis: u64) {
        let network = &self.world.around.network;
        let pairs: Vec<(Node, Node)> = left
            .iter()
            .flat_map(|a| right.iter().map(move |b| (*a, *b)))
            .flat_map(|(a, b)| if one_way { vec![(a, b)] } else { vec![(a, b), (b, a)] })
            .collect();
        for (from, to) in &pairs {
            network.cut(*from, *to);
        }
        self.last(millis).await;
        // Healing mends every cut by itself.
        if !self.healing.is_stopped() {
            for (from, to) in &pairs {
                network.mend(*from, *to);
            }
        }
    }

    fn lossy(&self, node: Node, change_ppm: i64) {
        for other in self.world.nodes().filter(|other| *other != node) {
            self.world.around.network.lossy(node, other, change_ppm);
            self.world.around.network.lossy(other, node, change_ppm);
        }
    }

    fn arm_disk_crash(&self, node: Node, after_ops: u64) {
        let disk = self.world.disk(node);
        let mut faults = disk.faults();
        faults.crash_at_op = Some(disk.counters().ops + after_ops);
        disk.set_faults(faults);
    }

    /// When the armed crash strikes, does what power loss does.
    async fn disk_crash(&self, node: Node, down_ms: u64) {
        let world = &self.world;
        let disk = world.disk(node);
        let deadline = world.now() + ARMED_MS * 1_000_000;
        while !disk.crashed() && world.now() < deadline && !self.healing.is_stopped() {
            let look = world.around.exec.sleep_until(world.now() + ARMED_LOOK_NS);
            futures_util::future::select(look, std::pin::pin!(world.around.watch.disk_crashed.notified()))
                .await;
        }
        if disk.crashed() {
            self.down(node, Down::Power, down_ms).await;
        } else {
            let mut faults = disk.faults();
            faults.crash_at_op = None;
            disk.set_faults(faults);
        }
    }
}
