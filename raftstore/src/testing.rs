//! A world for this crate's tests: virtual time, crashable disks, and a network that is a table of addresses.

use crate::bells::Bells;
use crate::catalog;
use crate::machine::StoreMachine;
use crate::pending::PendingEvents;
use crate::region::Regions;
use crate::snapshot::{Failure, Site, Snapshots, Staged, Staging};
use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::task::{ArcWake, waker};
use nokv_engine::{Db, Options};
use nokv_env::mem_disk::{DiskFaults, MemDisk};
use nokv_env::net::{BoxError, Channel, Net, NetError, ServerHandle};
use nokv_env::task::Stop;
use nokv_env::{BoxFuture, Clock, Env, Instant, NoHooks, RngSource, Tasks};
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer, RegionReplicaState};
use nokv_proto::raft::v1::SnapshotChunkResponse;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tonic::body::Body;
use tonic::service::Routes;

/// Everything outside of the code under test.
#[derive(Clone, Default)]
pub(crate) struct World {
    time: Arc<Time>,
    tasks: Arc<Executor>,
    servers: Arc<Mutex<BTreeMap<String, (Routes, Stop)>>>,
}

impl World {
    /// The environment of a node with this disk.
    pub(crate) fn env(&self, node: u64, platter: &Arc<MemDisk>) -> Env {
        Env {
            clock: Arc::new(Shared(self.time.clone())),
            disk: platter.mount(),
            net: Arc::new(self.clone()),
            rng: RngSource::new(1, node),
            tasks: self.tasks.clone(),
            hooks: Arc::new(NoHooks),
        }
    }

    /// Runs `future` and all tasks until it is done. Time passes when nobody has anything to do.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        loop {
            if woken.take()
                && let Poll::Ready(output) =
                    future.as_mut().poll(&mut Context::from_waker(&waker(woken.clone())))
            {
                return output;
            }
            if !self.tasks.poll_woken() && !woken.0.load(Ordering::SeqCst) {
                assert!(self.time.advance(), "everybody waits for everybody");
            }
        }
    }
}

struct Woken(AtomicBool);

impl Woken {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that jumps to the next deadline.
#[derive(Default)]
struct Time {
    nanos: AtomicU64,
    next: AtomicU64,
    sleepers: Mutex<BTreeMap<(u64, u64), Waker>>,
}

impl Time {
    fn advance(&self) -> bool {
        let Some(((at, _), waker)) = lock(&self.sleepers).pop_first() else { return false };
        self.nanos.fetch_max(at, Ordering::SeqCst);
        waker.wake();
        true
    }
}

/// One wait; takes its place among the sleepers along when dropped.
struct Sleep {
    time: Arc<Time>,
    at: u64,
    number: u64,
}

impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.time.nanos.load(Ordering::SeqCst) >= self.at {
            return Poll::Ready(());
        }
        lock(&self.time.sleepers).insert((self.at, self.number), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        lock(&self.time.sleepers).remove(&(self.at, self.number));
    }
}

/// The clock needs itself to make sleeps.
impl Clock for Shared<Time> {
    fn now(&self) -> Instant {
        Instant(self.0.nanos.load(Ordering::SeqCst))
    }
    fn unix_millis(&self) -> u64 {
        1_000_000 + self.0.nanos.load(Ordering::SeqCst) / 1_000_000
    }
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let number = self.0.next.fetch_add(1, Ordering::SeqCst);
        Box::pin(Sleep { time: self.0.clone(), at: deadline.0, number })
    }
}

struct Shared<T>(Arc<T>);

type Slot = (Arc<Woken>, Option<BoxFuture<'static, ()>>);

#[derive(Default)]
struct Executor(Mutex<Vec<Slot>>);

impl Executor {
    fn take_woken(&self, from: usize) -> Option<(usize, Arc<Woken>, BoxFuture<'static, ()>)> {
        let mut slots = lock(&self.0);
        let ready = |slot: &Slot| slot.1.is_some() && slot.0.0.load(Ordering::SeqCst);
        let index = (from..slots.len()).find(|index| ready(&slots[*index]))?;
        let future = slots[index].1.take()?;
        Some((index, slots[index].0.clone(), future))
    }

    /// Polls every woken task once; whether there was one.
    fn poll_woken(&self) -> bool {
        let mut next = 0;
        while let Some((index, woken, mut future)) = self.take_woken(next) {
            next = index + 1;
            woken.take();
            if future.as_mut().poll(&mut Context::from_waker(&waker(woken))).is_pending() {
                lock(&self.0)[index].1 = Some(future);
            }
        }
        next > 0
    }
}

impl Tasks for Executor {
    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) {
        lock(&self.0).push((Arc::new(Woken(AtomicBool::new(true))), Some(future)));
    }
    fn spawn_dedicated(&self, name: &'static str, future: BoxFuture<'static, ()>) {
        self.spawn(name, future);
    }
    fn yield_now(&self) -> BoxFuture<'static, ()> {
        let mut yielded = false;
        Box::pin(std::future::poll_fn(move |context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }
}

struct Server {
    world: World,
    addr: String,
    stop: Stop,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.stop();
        lock(&self.world.servers).remove(&self.addr);
    }
}

impl ServerHandle for Server {
    fn local_addr(&self) -> String {
        self.addr.clone()
    }
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl Net for World {
    fn serve(&self, addr: &str, routes: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>> {
        let (world, addr, stop) = (self.clone(), addr.to_owned(), Stop::new());
        let mut servers = lock(&self.servers);
        if servers.contains_key(&addr) {
            return Box::pin(async { Err(io::ErrorKind::AddrInUse.into()) });
        }
        servers.insert(addr.clone(), (routes, stop.clone()));
        Box::pin(async move { Ok(Box::new(Server { world, addr, stop }) as Box<dyn ServerHandle>) })
    }

    fn connect(&self, addr: &str) -> Channel {
        let (world, addr) = (self.clone(), addr.to_owned());
        Channel::new(tower::service_fn(move |request: http::Request<Body>| {
            let server = lock(&world.servers).get(&addr).cloned();
            Box::pin(async move {
                let gone =
                    || NetError::from(BoxError::from(io::Error::from(io::ErrorKind::ConnectionRefused)));
                let Some((mut routes, stop)) = server else { return Err(gone()) };
                let answer = tower::Service::call(&mut routes, request);
                match select(pin!(answer), pin!(stop.stopped())).await {
                    Either::Left((answer, _)) => {
                        answer.map_err(|never| NetError::from(BoxError::from(never)))
                    }
                    Either::Right(_) => Err(gone()),
                }
            })
        }))
    }
}

/// A region over all keys with a peer `store * 100 + 1` on every given store.
pub(crate) fn region(stores: &[u64]) -> RegionDescriptor {
    RegionDescriptor {
        region_id: 1,
        start_key: Bytes::new(),
        end_key: Bytes::new(),
        epoch: Some(RegionEpoch { version: 1, conf_version: 1 }),
        peers: stores.iter().map(|store| RegionPeer { store_id: *store, peer_id: store * 100 + 1 }).collect(),
        state: RegionReplicaState::Running.into(),
        ..Default::default()
    }
}

/// The node dies in the `operations`-th disk operation from now.
pub(crate) fn crash_after(platter: &MemDisk, operations: u64) {
    let at = platter.ops() + operations + 1;
    platter.set_faults(DiskFaults { crash_at_op: Some(at), ..DiskFaults::default() });
}

/// Bytes of a chunk: a row or two.
pub(crate) const CHUNK: usize = 100;

/// Fetches the snapshot that waits in the second of `snapshots` from the first, chunk by chunk; `bend` may spoil one.
pub(crate) fn fetch(
    world: &World,
    site: Site<'_>,
    [from, to]: [&Snapshots; 2],
    bend: impl Fn(u64, SnapshotChunkResponse) -> SnapshotChunkResponse,
) -> Result<(), Failure> {
    let (ticket, members) = to.next(1).expect("something to fetch");
    let export = from.export(ticket.id).expect("it is kept");
    let staged: Result<Staged, Failure> = world.run(async {
        let mut staging = Staging::begin(site, &ticket, members)?;
        loop {
            let chunk = export.chunk(staging.chunks, CHUNK).expect("readable").expect("chunks come in order");
            if staging.add(&bend(staging.chunks, chunk)).await? {
                return staging.finish().await;
            }
        }
    });
    let (staged, outcome) = match staged {
        Ok(staged) => (Some(staged), Ok(())),
        Err(failure) => (None, Err(failure)),
    };
    to.fetched(&ticket, staged);
    outcome
}

/// The machine of a store in `dir` on a disk, with what it stands on.
pub(crate) struct Opened {
    pub(crate) env: Env,
    pub(crate) db: Db,
    /// The catalog.
    pub(crate) entries: Vec<catalog::Entry>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) machine: StoreMachine,
}

impl Opened {
    pub(crate) fn new(world: &World, platter: &Arc<MemDisk>, dir: &Path) -> Self {
        let env = world.env(1, platter);
        let options = Options { is_owner: true, ..Options::tiny() };
        let db = world.run(Db::open(&env, dir, options)).expect("an engine");
        let entries = catalog::read_entries(&db).expect("a catalog");
        let regions = Regions::new(&entries, 1);
        regions.restore_gc(catalog::read_gcs(&db).expect("safe points"));
        let pending = PendingEvents::new(catalog::read_pending(&db).expect("root events"));
        let bells = Arc::new(Bells::new(0));
        let machine = StoreMachine::new(&env, &db, 1, &regions, &entries, &bells, &pending);
        Self { env, db, entries, bells, machine }
    }
}
