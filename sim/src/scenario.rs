//! The story of a run: boot, load and faults; heal a core that has a quorum of everything, and it must serve; heal the
//! rest, last reads, replicas.

use crate::check::Violation;
use crate::check::replicas::{Replica, misplaced, outgrown};
use crate::exec::{Node, lock};
use crate::faults::Faults;
use crate::history::Recorder;
use crate::plan::{Fault, Plan};
use crate::services::{Role, coordinators};
use crate::workload::keys::{self, Name};
use crate::workload::session::Runner;
use crate::workload::{HOLD, Workload};
use crate::world::World;
use bytes::Bytes;
use futures_util::future::{Either, select};
use nokv_client::{Client, ClientConfig, ClientError};
use nokv_env::task::Stop;
use nokv_proto::key::KeyRange;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A fresh cluster serves within this time.
const BOOT_MS: u64 = 60_000;
/// After healing, sessions end and everything serves within this time and [`Scenario::leftovers_ms`].
const LIVENESS_MS: u64 = 30_000;
/// Regions that are too large are split within this time after everything serves.
const SPLIT_MS: u64 = 60_000;
/// With a scheduler, replicas are where they should be within this time after everything serves, and the time after which a
/// store counts as lost.
const PLACE_MS: u64 = 120_000;
/// The scheduler rests when it has begun nothing for this long: longer than regions rest after an operator.
const CALM_MS: u64 = 2_500;
/// After the last operation, replicas agree within this time.
const QUIET_MS: u64 = 20_000;

/// How the story ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What went wrong on the way.
    pub failure: Option<Violation>,
    /// The replicas as found at the end.
    pub replicas: Vec<Replica>,
}

/// Everything a run consists of.
pub struct Scenario {
    /// The world.
    pub world: Arc<World>,
    /// Who carries out the plan.
    pub faults: Arc<Faults>,
    /// Where clients write down what they see.
    pub recorder: Arc<Recorder>,
    /// The plan.
    pub plan: Plan,
    /// The workload.
    pub workload: Workload,
    /// Length of the load phase.
    pub load_ms: u64,
}

impl Scenario {
    /// Tells the story; a violated invariant ends it at once.
    pub async fn run(self) -> Outcome {
        let world = self.world.clone();
        let story = pin!(self.tell());
        match select(story, pin!(world.around.watch.failed.stopped())).await {
            Either::Left((Ok(replicas), _)) => Outcome { failure: None, replicas },
            Either::Left((Err(violation), _)) => Outcome { failure: Some(violation), replicas: Vec::new() },
            Either::Right(_) => Outcome::default(),
        }
    }

    async fn tell(&self) -> Result<Vec<Replica>, Violation> {
        // Two who move peers at the same time may each take one away; the scheduler alone may not.
        let moves = |fault: &Fault| matches!(fault, Fault::MovePeer { .. } | Fault::Merge { .. });
        if !self.plan.faults.iter().any(|timed| moves(&timed.fault)) {
            let voters = if self.is_migrated() { 1 } else { usize::from(self.world.config.replicas) };
            self.world.around.watch.keep_voters(voters);
        }
        for node in self.world.nodes() {
            self.world.boot(node);
        }
        self.prepare().await?;
        let routes = Stop::new();
        crate::routes::ask(&self.world, routes.clone());
        let running = self.load().await;
        let healed = self.world.now();
        // A replica that is still the only one is needed.
        let left_out = if self.is_migrated() { Vec::new() } else { self.faults.leave_out() };
        self.faults.heal(&left_out).await;
        self.everything_serves(healed).await?;
        self.faults.take_back(&left_out);
        self.sessions_end(healed, &running).await?;
        self.last_reads(healed).await?;
        routes.stop();
        self.split_up().await?;
        self.placed().await?;
        self.old_rows_are_there().await?;
        self.stranger_is_unknown().await?;
        self.nobody_differs()?;
        self.quiet().await
    }

    /// How long locks of transactions that died in the faulty phase may block others.
    fn leftovers_ms(&self) -> u64 {
        2 * self.world.config.lock_ttl_ms
    }

    fn clients(&self) -> Vec<Node> {
        self.world.nodes().filter(|node| matches!(self.world.role(*node), Role::Client(_))).collect()
    }

    fn runner(&self, session: u32, node: Node, stop: &Stop) -> Runner {
        let world = &self.world;
        let env = world.env(node);
        let mut config = ClientConfig::new(coordinators(&world.config));
        config.deadline = Duration::from_millis(world.config.deadline_ms);
        config.lock_ttl = Duration::from_millis(world.config.lock_ttl_ms);
        config.lock_wait = Duration::from_millis(world.config.lock_wait_ms);
        config.store_timeout = Duration::from_millis(world.config.patience_ms);
        config.coordinator_timeout = Duration::from_millis(world.config.patience_ms);
        config.prewrite_bytes = world.config.prewrite_bytes;
        config.scan_page = world.config.scan_page;
        config.follower_reads = world.config.follower_reads;
        // Checks come one after the other, each with a client of its own.
        config.name = format!("session{session} of {}", world.now());
        Runner {
            session,
            node,
            client: Client::new(env.clone(), config),
            env,
            exec: world.around.exec.clone(),
            trace: world.around.trace.clone(),
            recorder: self.recorder.clone(),
            stop: stop.clone(),
            shape: self.workload.shape,
            rows: self.workload.shape.rows(),
        }
    }

    /// Runs `attempt` on the first client node until it succeeds; gives up `within_ms` after `since`.
    async fn eventually<F>(
        &self,
        since: u64,
        within_ms: u64,
        what: &str,
        attempt: impl Fn(Arc<Runner>) -> F,
    ) -> Result<(), Violation>
    where
        F: Future<Output = Result<(), ClientError>> + Send + 'static,
    {
        let node = self.clients()[0];
        let runner = Arc::new(self.runner(u32::MAX >> 8, node, &Stop::new()));
        loop {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let attempt = attempt(runner.clone());
            self.world.go_on(node, "check", async move {
                let _ = sender.send(attempt.await);
            });
            let error = match receiver.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the client node died".to_owned(),
            };
            if self.world.now() > since + within_ms * 1_000_000 {
                let facts = format!("{what}: not within {within_ms} ms: {error}; {}", self.world.standings());
                return Err(Violation::new("liveness", facts));
            }
            self.world.sleep_ms(100).await;
        }
    }

    async fn prepare(&self) -> Result<(), Violation> {
        let workload = Arc::new(self.workload.clone());
        self.eventually(self.world.now(), BOOT_MS, "a fresh cluster serves", move |runner| {
            let workload = workload.clone();
            async move { runner.prepare(&workload).await }
        })
        .await?;
        self.world.note("the cluster serves; load and faults begin".to_owned());
        Ok(())
    }

    /// Sessions and faults, side by side, for the load phase. Returns the number of sessions that still run.
    async fn load(&self) -> Arc<AtomicUsize> {
        let stop = Stop::new();
        let clients = self.clients();
        let running = Arc::new(AtomicUsize::new(self.workload.sessions.len()));
        for (number, session) in self.workload.sessions.iter().enumerate() {
            let node = clients[usize::from(session.client).saturating_sub(1) % clients.len()];
            let runner = self.runner(number as u32, node, &stop);
            let (session, running) = (session.clone(), running.clone());
            self.world.go_on(node, "session", async move {
                runner.run(session).await;
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        self.faults.run(self.plan.clone());
        self.world.sleep_ms(self.load_ms).await;
        stop.stop();
        running
    }

    /// Whatever is still under way ends by its deadline. The history is complete only then.
    async fn sessions_end(&self, healed: u64, running: &AtomicUsize) -> Result<(), Violation> {
        let bound_ms = LIVENESS_MS + self.leftovers_ms() + self.world.config.deadline_ms;
        while running.load(Ordering::Relaxed) > 0 {
            if self.world.now() > healed + bound_ms * 1_000_000 {
                let left = running.load(Ordering::Relaxed);
                let facts = format!("{left} sessions still wait for an answer {bound_ms} ms after healing");
                return Err(Violation::new("liveness", facts));
            }
            self.world.sleep_ms(50).await;
        }
        Ok(())
    }

    /// Every kind of operation works again, on every region.
    async fn everything_serves(&self, healed: u64) -> Result<(), Violation> {
        self.eventually(
            healed,
            LIVENESS_MS + self.leftovers_ms(),
            "after healing, writes, ids and timestamps",
            |runner| async move {
                for number in 0..16 {
                    runner.client.put(Name::Alive(number).key(), "alive").await?;
                    runner.client.delete(Name::Alive(number).key()).await?;
                }
                runner.client.tso(1).await?;
                runner.client.alloc_id(1).await.map(|_| ())
            },
        )
        .await
    }

    async fn last_reads(&self, healed: u64) -> Result<(), Violation> {
        let what = "after healing, reading everything";
        self.eventually(healed, LIVENESS_MS + self.leftovers_ms(), what, |runner| async move {
            runner.final_reads().await
        })
        .await?;
        self.world.note("everything was read once more".to_owned());
        Ok(())
    }

    /// Whether the world is born from a stand-alone database.
    fn is_migrated(&self) -> bool {
        self.world.config.migrated_rows > 0
    }

    /// What the stand-alone database held is what a transaction reads, no row more or less.
    async fn old_rows_are_there(&self) -> Result<(), Violation> {
        let count = self.world.config.migrated_rows;
        if count == 0 {
            return Ok(());
        }
        let found = Arc::new(Mutex::new(Vec::new()));
        let taken = found.clone();
        let since = self.world.now();
        self.eventually(
            since,
            LIVENESS_MS + self.leftovers_ms(),
            "reading the migrated rows",
            move |runner| {
                let found = found.clone();
                async move {
                    let (start, end) = (Bytes::from(keys::OLD), Bytes::from("old0"));
                    let snapshot = runner.client.snapshot().await?;
                    let _hold = snapshot.hold(HOLD).await?;
                    let mut scanner = snapshot.scanner(KeyRange { start, end });
                    let mut rows = Vec::new();
                    while let Some(page) = scanner.next_page().await? {
                        rows.extend(page.pairs);
                    }
                    *lock(&found) = rows;
                    Ok(())
                }
            },
        )
        .await?;
        let found = std::mem::take(&mut *lock(&taken));
        if let Some((at, (is, was))) =
            found.iter().zip(keys::old_rows(count)).enumerate().find(|(_, (is, was))| *is != was)
        {
            let facts = format!("migrated row {at} was {:?} and is {:?}", was.0, is.0);
            return Err(Violation::new("migration", facts));
        }
        if found.len() != count as usize {
            let facts = format!("{count} rows were migrated, {} are there", found.len());
            return Err(Violation::new("migration", facts));
        }
        self.world.around.watch.probe("world.migrated.read");
        Ok(())
    }

    /// A store of another cluster was not let in, and was given nothing.
    async fn stranger_is_unknown(&self) -> Result<(), Violation> {
        let Some(stranger) = self.world.config.stranger() else { return Ok(()) };
        let found = Arc::new(Mutex::new(Vec::new()));
        let taken = found.clone();
        self.eventually(self.world.now(), LIVENESS_MS, "listing the stores", move |runner| {
            let found = found.clone();
            async move {
                *lock(&found) = runner.client.list_stores().await?;
                Ok(())
            }
        })
        .await?;
        let is_known = lock(&taken).iter().any(|store| store.store_id == stranger);
        let holds = self.world.regions().values().any(|region| region.peer_on_store(stranger).is_some());
        if is_known || holds {
            let facts = format!("store{stranger} is of another cluster and was let in");
            return Err(Violation::new("cluster", facts));
        }
        self.world.around.watch.probe("world.stranger.unknown");
        Ok(())
    }

    /// Regions above the limit on their size are split, as often as it takes.
    async fn split_up(&self) -> Result<(), Violation> {
        let (world, config) = (&self.world, &self.world.config);
        if config.split_bytes == 0 || config.unlimited_damage {
            return Ok(());
        }
        let deadline = world.now() + SPLIT_MS * 1_000_000;
        while let Some(wrong) = outgrown(&world.replicas(), config.split_bytes, config.split_regions_max) {
            if world.now() > deadline {
                let facts = format!("{wrong}, long after healing; {}", world.standings());
                return Err(Violation::new("liveness", facts));
            }
            world.sleep_ms(500).await;
        }
        Ok(())
    }

    /// With a scheduler, every region comes to have all its replicas on stores that live and stay, if there are enough; and
    /// then the scheduler comes to rest.
    async fn placed(&self) -> Result<(), Violation> {
        let (world, config) = (&self.world, &self.world.config);
        if config.schedule_ms == 0 || config.unlimited_damage {
            return Ok(());
        }
        let replicas = usize::from(config.replicas);
        let deadline = world.now() + (PLACE_MS + config.repair_after_ms) * 1_000_000;
        let mut calm_since = world.now();
        loop {
            let gone: Vec<u64> = [world.lost_stores(), world.decommissioned()].concat();
            let usable = |store: &u64| !gone.contains(store) && Some(*store) != config.stranger();
            let stay = (1..=u64::from(config.stores)).filter(usable).count();
            if stay < replicas {
                return Ok(());
            }
            let unplaced = crate::check::replicas::unplaced(&world.regions(), &gone, replicas);
            let wrong = match (unplaced, world.operators_under_way()) {
                (Some(wrong), _) => wrong,
                (None, None) => "nobody schedules".to_owned(),
                (None, Some(0)) if world.now() - calm_since >= CALM_MS * 1_000_000 => {
                    if !gone.is_empty() {
                        world.around.watch.probe("world.stores.replaced");
                    }
                    return Ok(());
                }
                (None, Some(under_way)) => {
                    if under_way > 0 {
                        calm_since = world.now();
                    }
                    format!("the scheduler does not come to rest: {under_way} operators are under way")
                }
            };
            if world.now() > deadline {
                let facts = format!("{wrong}, long after healing; {}", world.standings());
                return Err(Violation::new("liveness", facts));
            }
            world.sleep_ms(100).await;
        }
    }

    /// Replicas that compare themselves have found nothing.
    fn nobody_differs(&self) -> Result<(), Violation> {
        let probes = self.world.around.watch.probes();
        match ["store.check.differs", "store.check.undecided"].iter().find(|name| probes.contains_key(**name))
        {
            Some(name) => Err(Violation::new("replicas", format!("{name}: replicas hold different data"))),
            None => Ok(()),
        }
    }

    /// Waits until all replicas are where they belong, and those of each region agree on their applied index.
    async fn quiet(&self) -> Result<Vec<Replica>, Violation> {
        let deadline = self.world.now() + QUIET_MS * 1_000_000;
        loop {
            self.world.sleep_ms(500).await;
            let replicas = self.world.replicas();
            let agree = misplaced(&replicas).is_none()
                && replicas.iter().all(|replica| {
                    replicas
                        .iter()
                        .all(|other| other.region != replica.region || other.applied == replica.applied)
                });
            if agree || self.world.now() > deadline {
                return Ok(replicas);
            }
        }
    }
}
