//! The coordinator: routes, ids, timestamps, heartbeats. It owns no truth; everything it knows it can
//! learn again from the meta-root's tail and from the stores' heartbeats.
//!
//! Start at [`Coordinator::start`]. `window` and `lease` are the pure cores under ids and timestamps,
//! `gc` is the one under the safe point; `allocator` drives them; `root` talks to the three meta-roots; `view` is the picture of the cluster, `route` answers
//! from it; `schedule` decides where replicas and leaders should be. Any number of coordinators may run: all answer routes, the holder
//! of the lease hands out ids and timestamps and schedules, the others stand by.

mod allocator;
mod config;
mod error;
mod gc;
mod handover;
mod lease;
mod observe;
mod pace;
mod root;
mod route;
mod schedule;
mod scheduler;
mod service;
mod survey;
mod transition;
mod view;
mod window;

pub use config::Config;
pub use error::Error;
pub use observe::{LeaseObservation, Observation, OperatorCount, RootObservation, StoreCounts};
pub use schedule::Limits;
pub use survey::{RegionSurvey, Replica, Survey};

use allocator::Allocator;
use lease::Lease;
use nokv_env::task::Stop;
use nokv_env::{ClockExt, Env, Fact, Instant, ServerHandle, TasksExt};
use nokv_proto::coordinator::v1::coordinator_server::CoordinatorServer;
use nokv_proto::id::Timestamp;
use nokv_proto::meta::v1::{self as meta, RootAllocatorKind};
use rand_core::Rng;
use root::RootClient;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tonic::service::Routes;
use view::View;

/// How often the target rises while one version lives.
const TARGETS_PER_LIFE: u64 = 8;
/// How long a coordinator that stops waits for the meta-roots to know.
const SEAL_PATIENCE: Duration = Duration::from_secs(2);
/// Looks at the root's leader for one strong answer, when more is committed all the time.
const CATCH_UPS: usize = 3;

/// A running coordinator.
pub struct Coordinator {
    shared: Arc<Shared>,
    server: Box<dyn ServerHandle>,
}

/// What the loops and the service share.
struct Shared {
    env: Env,
    config: Config,
    root: Arc<RootClient>,
    lease: Arc<Mutex<Lease>>,
    ids: Allocator,
    timestamps: Allocator,
    view: Mutex<View>,
    gc: Mutex<gc::Gc>,
    scheduler: Mutex<scheduler::Scheduler>,
    /// Woken when the lease has no holder.
    vacancy: Notify,
    contact: observe::Contact,
    stop: Stop,
}

impl Coordinator {
    /// Starts serving on `config.listen_addr`. Returns once the port is open; routes, ids and timestamps follow as
    /// soon as two of the three meta-roots answer.
    pub async fn start(env: Env, config: Config) -> Result<Coordinator, Error> {
        config.validate()?;
        let root = Arc::new(RootClient::new(&env, &config.root_peers));
        let lease = Arc::new(Mutex::new(Lease::default()));
        let allocator = |kind| Allocator::new(&env, root.clone(), lease.clone(), &config, kind);
        let shared = Arc::new(Shared {
            ids: allocator(meta::RootAllocatorKind::Id),
            timestamps: allocator(meta::RootAllocatorKind::Tso),
            view: Mutex::new(View::default()),
            gc: Mutex::default(),
            scheduler: Mutex::default(),
            vacancy: Notify::new(),
            contact: observe::Contact::default(),
            stop: Stop::new(),
            root: root.clone(),
            lease: lease.clone(),
            env: env.clone(),
            config: config.clone(),
        });
        let service = CoordinatorServer::new(service::Service(shared.clone()))
            .max_decoding_message_size(nokv_env::net::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(nokv_env::net::MESSAGE_BYTES_MAX);
        let server = env
            .net
            .serve(&config.listen_addr, Routes::new(service))
            .await
            .map_err(|source| Error::Listen { addr: config.listen_addr.clone(), source })?;
        spawn(&shared, "coordinator-tail", |shared| async move { shared.follow_root().await });
        spawn(&shared, "coordinator-lease", |shared| async move { shared.keep_lease().await });
        spawn(&shared, "coordinator-windows", |shared| async move { shared.top_up_windows().await });
        spawn(&shared, "coordinator-gc", |shared| async move { shared.raise_safe_point().await });
        if !config.schedule.interval.is_zero() {
            spawn(&shared, "coordinator-scheduler", |shared| async move { shared.schedule().await });
        }
        Ok(Coordinator { shared, server })
    }

    /// The address in use.
    pub fn addr(&self) -> String {
        self.server.local_addr()
    }

    /// Stops serving. A lease is sealed first, so that a standby need not wait for it to expire.
    pub async fn stop(self) {
        self.shared.stop.stop();
        self.shared.lease().end();
        self.shared.seal(SEAL_PATIENCE).await;
        self.server.stop().await;
    }

    /// Number of regions known so far and where ids and timestamps stand, for the start-up lines.
    pub fn summary(&self) -> (usize, u64, u64) {
        (self.shared.view().region_count(), self.shared.ids.window().0, self.shared.timestamps.window().0)
    }

    /// How many operators are under way; `None` when this coordinator does not hold the lease.
    pub fn operators_under_way(&self) -> Option<usize> {
        self.shared.operators_under_way()
    }

    /// What the scheduler has under way, and what it cannot do, in words; nothing when this coordinator does not hold the
    /// lease.
    pub fn operators_in_words(&self) -> Vec<String> {
        self.shared.operators_in_words()
    }

    /// The state for `/debug/vars`, member names as the reference publishes them.
    pub fn status_json(&self) -> serde_json::Value {
        service::status_json(&self.shared)
    }

    /// A handle that looks at everything the coordinator knows, for people.
    pub fn survey_source(&self) -> impl Fn() -> Survey + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || survey::take(&shared)
    }

    /// A handle that answers [`Coordinator::status_json`] after the coordinator itself moved elsewhere.
    pub fn status_source(&self) -> impl Fn() -> serde_json::Value + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || service::status_json(&shared)
    }
}

/// The wall clock, for people to read.
fn unix_nanos(env: &Env) -> i64 {
    i64::try_from(env.clock.unix_millis()).unwrap_or(i64::MAX).saturating_mul(1_000_000)
}

fn spawn<F, W>(shared: &Arc<Shared>, name: &'static str, work: W)
where
    W: FnOnce(Arc<Shared>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let stop = shared.stop.clone();
    let work = work(shared.clone());
    shared.env.tasks.go(name, async move {
        let work = std::pin::pin!(work);
        let stopped = std::pin::pin!(stop.stopped());
        futures_util::future::select(work, stopped).await;
    });
}

impl Shared {
    /// Keeps the view at the end of the root's tail.
    async fn follow_root(&self) {
        loop {
            let deadline = self.env.clock.now() + self.config.request_timeout;
            match self.look_at_root(deadline).await {
                Ok(()) => self.contact.heard(self.env.clock.now()),
                Err(error) => {
                    tracing::debug!(%error, "metadata root tail");
                    self.contact.missed(self.env.clock.now());
                    self.view().root_error = Some(error.to_string());
                    self.env.clock.sleep(self.config.root_refresh).await;
                }
            }
        }
    }

    /// From the first answer of a meta-root that knows on, this process speaks for that cluster only.
    fn identify(&self, checkpoint: Option<&meta::RootCheckpoint>) -> Result<(), Error> {
        match checkpoint.and_then(|checkpoint| checkpoint.state.as_ref()).map_or(0, |state| state.cluster_id)
        {
            0 => Ok(()),
            id => self.env.net.identify(id).map_err(Error::Refused),
        }
    }

    async fn look_at_root(&self, deadline: Instant) -> Result<(), Error> {
        let after = self.view().token;
        // Ask again at least this often, so that a dead connection is noticed. Nothing may ever have happened in a new
        // cluster: the first look does not wait for it.
        let wait = match after {
            Some(_) => self.config.root_refresh.max(Duration::from_millis(50)) * 5,
            None => Duration::from_millis(1),
        };
        let reply = self.root.wait_tail(deadline, after, wait).await?;
        let token = reply.token.unwrap_or_default();
        let known = after.map(|token| token.revision);
        self.view().looked_unix_nano = unix_nanos(&self.env);
        if known == Some(token.revision) {
            self.view().learn(None, token);
            return Ok(());
        }
        let (checkpoint, token) = match reply.checkpoint {
            Some(checkpoint) => (checkpoint, token),
            None => {
                let checkpoint = self.root.snapshot(deadline).await?;
                let cursor = checkpoint.state.as_ref().and_then(|state| state.last_committed);
                let revision = cursor.map_or(0, |cursor| cursor.index);
                (checkpoint, meta::RootTailToken { cursor, revision })
            }
        };
        self.identify(Some(&checkpoint))?;
        let mut view = self.view();
        view.install(checkpoint, token);
        if handover::phase(&view.state) != handover::Phase::Active {
            self.vacancy.notify_one();
        }
        Ok(())
    }

    /// Brings the view up to all that was committed before the call.
    async fn catch_up(&self, deadline: Instant) -> Result<(), Error> {
        for _ in 0..CATCH_UPS {
            let after = self.view().token;
            let reply = self.root.newest(deadline, after).await?;
            let token = reply.token.unwrap_or_default();
            self.identify(reply.checkpoint.as_ref())?;
            let mut view = self.view();
            view.learn(reply.checkpoint, token);
            // More may have been committed meanwhile, and heard of.
            if view.root_lag() == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Campaigns for the lease, renews it while held.
    async fn keep_lease(&self) {
        let mut rng = self.env.rng.stream("coordinator-lease");
        loop {
            let pause = self.campaign().await;
            // A fifth of jitter keeps coordinators from marching in step.
            let jitter =
                pause.mul_f64((rng.next_u32() as f64 / f64::from(u32::MAX)).mul_add(0.4, -0.2).abs());
            // Or until the holder hands over.
            let vacant = std::pin::pin!(self.vacancy.notified());
            futures_util::future::select(self.env.clock.sleep(pause + jitter), vacant).await;
        }
    }

    /// One request for the lease; returns how long to wait before the next.
    async fn campaign(&self) -> Duration {
        let ttl = self.config.lease_ttl;
        let renew = (self.config.lease_renew_before / 2).max(Duration::from_millis(50));
        if self.env.chance("coordinator.renewal.skip", 0.05) {
            return renew;
        }
        if self.env.chance("coordinator.lease.drop", 0.01) {
            self.lease().drop_it();
        }
        if self.env.chance("coordinator.lease.hand_over", 0.01) {
            self.lease().end();
        }
        if !self.seal(self.config.request_timeout).await {
            return Duration::from_millis(200);
        }
        let Some(claim) = handover::claim(&self.view()) else { return Duration::from_millis(50) };
        let renewed = self.lease().renewable();
        let sent = self.env.clock.now();
        let wall_nanos = self.env.clock.unix_millis() as i64 * 1_000_000;
        let command = meta::RootCoordinatorLeaseCommand {
            kind: meta::RootCoordinatorLeaseCommandKind::Issue as i32,
            holder_id: self.config.coordinator_id.clone(),
            now_unix_nano: wall_nanos,
            expires_unix_nano: wall_nanos + ttl.as_nanos() as i64,
            ttl_millis: ttl.as_millis() as u64,
            address: self.config.advertise_addr.clone(),
            predecessor_digest: if renewed.is_none() { claim.digest } else { String::new() },
            handoff_frontiers: claim.frontiers,
            cert_generation: renewed.unwrap_or(0),
            after_generation: renewed.is_none().then_some(claim.after),
        };
        let deadline = sent + self.config.request_timeout;
        let reply = match self.root.lease(deadline, command).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%error, "lease request");
                if let Error::RootUnavailable(trouble) = &error {
                    self.lease().unheard(trouble.clone());
                }
                if matches!(error, Error::RootRefused(_)) {
                    self.lease().lost();
                    return self.catch_up_for_claim(deadline).await;
                }
                return Duration::from_millis(200);
            }
        };
        let granted = reply.status() == meta::RootCoordinatorLeaseStatus::Granted;
        let lease = reply.state.and_then(|state| state.lease).unwrap_or_default();
        if granted && lease.holder_id == self.config.coordinator_id {
            let first = self.lease().generation(self.env.clock.now()) != Some(lease.cert_generation);
            self.lease().granted(lease.cert_generation, sent, ttl);
            if first {
                tracing::info!(generation = lease.cert_generation, "coordinator lease granted");
                self.env.probe("coordinator.lease.granted");
                let holder = lease.holder_id;
                self.env.fact(Fact::Lease { node: 0, holder, generation: lease.cert_generation });
            }
            return renew;
        }
        if renewed.is_none() && lease.cert_generation != claim.after {
            return self.catch_up_for_claim(deadline).await;
        }
        self.lease().refused(&lease.holder_id, &lease.address);
        // Standing by: look often enough that a dead holder is replaced soon after its lease ends.
        (ttl / 8).clamp(Duration::from_millis(100), Duration::from_secs(2))
    }

    /// A claim was refused that did not know or cover its predecessor: the view is behind. How long to wait before the next.
    async fn catch_up_for_claim(&self, deadline: Instant) -> Duration {
        match self.catch_up(deadline).await {
            Ok(()) => {
                self.env.probe("coordinator.claim.behind");
                Duration::from_millis(20)
            }
            Err(_) => Duration::from_millis(200),
        }
    }

    /// Seals the generation that was ended here, if there is one. Whether the root knows of it.
    async fn seal(&self, patience: Duration) -> bool {
        let Some(generation) = self.lease().unsealed() else { return true };
        // Closed first: nothing is handed out after the frontiers were read.
        let consumed = [(1, self.ids.close(generation)), (2, self.timestamps.close(generation))];
        let numbers = consumed.into_iter().filter_map(|(duty, last)| Some((duty, last?)));
        let routes = (4, self.view().state.cluster_epoch);
        let frontiers = numbers.chain([routes]);
        let command = meta::RootCoordinatorClosureCommand {
            kind: meta::RootCoordinatorClosureCommandKind::Seal as i32,
            holder_id: self.config.coordinator_id.clone(),
            now_unix_nano: self.env.clock.unix_millis() as i64 * 1_000_000,
            frontiers: frontiers
                .map(|(duty_mask, frontier)| meta::RootDutyFrontier { duty_mask, frontier })
                .collect(),
            cert_generation: generation,
        };
        match self.root.closure(self.env.clock.now() + patience, command).await {
            Ok(_) => self.env.probe("coordinator.generation.sealed"),
            // Somebody else has ended it already.
            Err(error @ Error::RootRefused(_)) => tracing::debug!(%error, generation, "lease not sealed"),
            Err(error) => {
                tracing::warn!(%error, generation, "lease not sealed; a standby waits until it expires");
                return false;
            }
        }
        self.lease().sealed(generation);
        true
    }

    /// Extends both windows ahead of need while the lease is held.
    async fn top_up_windows(&self) {
        loop {
            let deadline = self.env.clock.now() + self.config.request_timeout;
            for allocator in [&self.timestamps, &self.ids] {
                if let Err(error) = allocator.top_up(deadline).await {
                    tracing::debug!(%error, "window not topped up");
                }
            }
            self.env.clock.sleep(self.config.tso_ahead / 6).await;
        }
    }

    /// Raises the safe point while the lease is held.
    async fn raise_safe_point(&self) {
        loop {
            self.env.clock.sleep(self.config.gc_interval).await;
            if let Err(error) = self.raise_once().await {
                tracing::debug!(%error, "safe point not raised");
            }
        }
    }

    async fn raise_once(&self) -> Result<(), Error> {
        let now = self.env.clock.now();
        let Some(generation) = self.lease().generation(now) else { return Ok(()) };
        let deadline = now + self.config.request_timeout;
        self.open_gc(generation, deadline).await?;
        // Fresh, so that every timestamp handed out from now on, by anybody, is above.
        let fresh = self.timestamps.take(1).await?;
        let life = u64::try_from(self.config.gc_life.as_millis()).unwrap_or(u64::MAX);
        let wanted_ms = Timestamp(fresh.first).physical_ms().saturating_sub(life);
        // In steps: each target costs every region an entry, and its leader a look at all of it.
        let wanted = Timestamp::compose(wanted_ms - wanted_ms % (life / TARGETS_PER_LIFE).max(1), 0).0;
        if fresh.generation != generation || self.lease().generation(self.env.clock.now()) != Some(generation)
        {
            return Ok(());
        }
        let target = self.gc().advance(self.env.clock.now(), wanted);
        let covered = gc::covers_everything(self.view().resolved(target));
        let outstanding = self.gc().outstanding() == Some(target);
        if outstanding && covered {
            let kind = RootAllocatorKind::GcSafePoint;
            let safe_point = self.timestamps.fence_of(kind, generation, target, deadline).await?;
            self.gc().committed(generation, safe_point);
            self.env.probe("coordinator.gc.safe_point_raised");
        }
        Ok(())
    }

    /// Makes sure that the safe point is known to the holder of `generation`.
    async fn open_gc(&self, generation: u64, deadline: Instant) -> Result<(), Error> {
        self.gc().enter(generation, self.env.clock.now(), self.config.gc_hold_ttl_max);
        if self.gc().is_closed() {
            let kind = RootAllocatorKind::GcSafePoint;
            let known = self.timestamps.fence_of(kind, generation, 0, deadline).await?;
            self.gc().committed(generation, known);
        }
        Ok(())
    }

    fn gc(&self) -> MutexGuard<'_, gc::Gc> {
        self.gc.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
