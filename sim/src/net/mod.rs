//! gRPC over simulated links: tonic's generated clients and servers, no hyper, no sockets.
//!
//! A call opens a *stream* on a *connection*. Request head, body frames and trailers travel as items with an
//! arrival time; the response likewise. Items of one direction of a stream arrive in order; different streams
//! overtake each other. Nothing delivers items: the reader looks at the front item, takes it if its time has
//! come, and otherwise asks to be woken then. A packet costs one heap entry and no task.
//!
//! What faults do:
//! - a *cut* direction holds items back; they arrive after the heal, unless keepalive broke the connection
//!   first (5 to 10 s). Messages sent before the cut still arrive: late replies are a fault of their own;
//! - a killed process resets its connections at once; a node without power says nothing, so peers wait for
//!   their deadline, for keepalive, or for the restarted node to answer with a reset;
//! - loss delays by retransmission, doubling; a slow link adds latency.
//!
//! Streaming bodies are bounded: a writer waits while [`WINDOW_BYTES`] are under way.

mod call;
mod fault;
mod link;
mod stream;
#[cfg(test)]
mod tests;

pub use call::SimNet;
pub use fault::Down;
pub use link::Latency;

use crate::atoms::Decider;
use crate::exec::{Executor, Node, Place, lock};
use crate::record::Way;
use crate::trace::{Kind, Trace};
use link::Link;
use nokv_env::BoxFuture;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use stream::Item;
use tonic::Status;
use tonic::service::Routes;

/// Bytes of one direction of a stream that may be under way.
const WINDOW_BYTES: usize = 1 << 20;
/// An arrival time that is not known: the item is held back by a cut.
const HELD: u64 = u64::MAX;
const NEVER: u64 = u64::MAX;
const SECOND: u64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnId(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamId(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

struct Server {
    place: Place,
    id: u64,
    routes: Routes,
}

struct Conn {
    client: Place,
    server: Place,
    server_id: u64,
    /// When both ends notice that it is broken.
    broken_at: u64,
    /// `broken_at` was set by keepalive because of a cut; a heal in time undoes it.
    by_keepalive: bool,
    /// One end has died: what is sent goes nowhere.
    silent: bool,
}

impl Conn {
    fn touches(&self, node: Node) -> bool {
        self.client.node == node || self.server.node == node
    }

    fn joins(&self, a: Node, b: Node) -> bool {
        (self.client.node == a && self.server.node == b) || (self.client.node == b && self.server.node == a)
    }

    fn ends(&self, direction: Direction) -> (Node, Node) {
        match direction {
            Direction::Up => (self.client.node, self.server.node),
            Direction::Down => (self.server.node, self.client.node),
        }
    }
}

#[derive(Default)]
struct Pipe {
    items: VecDeque<(u64, Item)>,
    bytes: usize,
    /// When the newest item arrives; later ones never arrive earlier.
    newest_at: u64,
    /// When it was sent: what leaves in one instant travels as one packet.
    sent_at: u64,
    /// Nobody reads any more; items are dropped.
    discard: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The writer waits for room in the window.
    full: bool,
}

/// A handler whose request head is held back by a cut.
type HeldHandler = (Place, BoxFuture<'static, ()>);

#[derive(Default)]
struct Stream {
    conn: Option<ConnId>,
    handles: u32,
    up: Pipe,
    down: Pipe,
    /// When the server learns that the client cancelled.
    cancelled_at: u64,
    client_gone: bool,
    server_done: bool,
    held: Option<HeldHandler>,
}

impl Stream {
    fn pipe(&mut self, direction: Direction) -> &mut Pipe {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

/// Counters of one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct NetStats {
    /// Calls that opened a stream.
    pub calls: u64,
    /// Items sent.
    pub items: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections broken.
    pub broken: u64,
}

/// A node as the network knows it.
pub struct Host {
    node: Node,
    addr: String,
    name: String,
}

impl Host {
    /// `addr` is what comes before the port in addresses, `name` what people call the node.
    pub fn new(node: Node, addr: impl Into<String>, name: impl Into<String>) -> Self {
        Self { node, addr: addr.into(), name: name.into() }
    }
}

struct State {
    decider: Arc<Decider>,
    seed: u64,
    latency: Latency,
    nodes: usize,
    names: Vec<String>,
    links: Vec<Option<Box<Link>>>,
    hosts: BTreeMap<String, Node>,
    /// Nodes without power: nothing answers.
    dark: Vec<bool>,
    servers: BTreeMap<String, Server>,
    conns: Vec<Conn>,
    streams: Vec<Stream>,
    free: Vec<usize>,
    next_id: u64,
    next_port: u16,
    stats: NetStats,
}

impl State {
    fn link(&mut self, from: Node, to: Node) -> &mut Link {
        let Self { decider, seed, names, latency, links, nodes, .. } = self;
        links[from.index() * *nodes + to.index()].get_or_insert_with(|| {
            let mut latency = *latency;
            if from == to {
                let jitter_us = latency.jitter_us.min(15);
                latency = Latency { base_us: 15, jitter_us, spike_one_in: 0, again_one_in: 0 };
            }
            let number = (from.index() as u64) << 16 | to.index() as u64;
            let name = format!("{}>{}", names[from.index()], names[to.index()]);
            Box::new(Link::new(decider, *seed, number, &name, latency))
        })
    }

    fn is_cut(&mut self, from: Node, to: Node) -> bool {
        self.link(from, to).is_cut()
    }

    fn conn_of(&self, stream: StreamId) -> Option<&Conn> {
        self.streams[stream.0].conn.map(|id| &self.conns[id.0])
    }
}

/// All links, servers, connections and streams of a world.
pub struct Network {
    exec: Arc<dyn Executor>,
    trace: Arc<Trace>,
    state: Mutex<State>,
}

impl Network {
    /// A network between `hosts`.
    pub fn new(
        exec: Arc<dyn Executor>,
        trace: Arc<Trace>,
        decider: Arc<Decider>,
        seed: u64,
        latency: Latency,
        hosts: impl IntoIterator<Item = Host>,
    ) -> Arc<Self> {
        let mut names = vec!["world".to_owned()];
        let mut addrs = BTreeMap::new();
        for Host { node, addr, name } in hosts {
            names.resize(names.len().max(node.index() + 1), String::new());
            names[node.index()] = name;
            addrs.insert(addr, node);
        }
        let nodes = names.len();
        Arc::new(Self {
            exec,
            trace,
            state: Mutex::new(State {
                decider,
                seed,
                latency,
                nodes,
                names,
                links: (0..nodes * nodes).map(|_| None).collect(),
                hosts: addrs,
                dark: vec![false; nodes],
                servers: BTreeMap::new(),
                conns: Vec::new(),
                streams: Vec::new(),
                free: Vec::new(),
                next_id: 0,
                next_port: 50_000,
                stats: NetStats::default(),
            }),
        })
    }

    /// Counters so far.
    pub fn stats(&self) -> NetStats {
        lock(&self.state).stats
    }

    /// Streams that are open now.
    pub fn open_streams(&self) -> usize {
        let state = lock(&self.state);
        state.streams.len() - state.free.len()
    }

    /// Forgets servers and held handlers, which hold services, which hold this network.
    pub fn clear(&self) {
        let garbage = {
            let mut state = lock(&self.state);
            let held: Vec<_> = state.streams.iter_mut().filter_map(|stream| stream.held.take()).collect();
            (std::mem::take(&mut state.servers), held)
        };
        drop(garbage);
    }

    fn acquire(&self, stream: StreamId) {
        lock(&self.state).streams[stream.0].handles += 1;
    }

    /// Gives back one handle; the last one frees the slot.
    fn release(&self, id: StreamId) {
        let garbage = {
            let mut state = lock(&self.state);
            let stream = &mut state.streams[id.0];
            stream.handles -= 1;
            if stream.handles > 0 {
                return;
            }
            let mut garbage = std::mem::take(stream);
            // The next stream in this slot finds room for its items.
            for (next, old) in [(&mut stream.up, &mut garbage.up), (&mut stream.down, &mut garbage.down)] {
                if old.items.is_empty() {
                    next.items = std::mem::take(&mut old.items);
                }
            }
            state.free.push(id.0);
            garbage
        };
        drop(garbage);
    }

    /// The next item of one direction, if it has arrived.
    fn poll_item(
        &self,
        id: StreamId,
        direction: Direction,
        context: &mut Context<'_>,
    ) -> Poll<Result<Item, Status>> {
        let now = self.exec.now_ns();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let broken_at = state.conn_of(id).map_or(NEVER, |conn| conn.broken_at);
        let stream = &mut state.streams[id.0];
        let cancelled_at = if direction == Direction::Up { stream.cancelled_at } else { NEVER };
        let pipe = stream.pipe(direction);
        let front = pipe.items.front().map_or(HELD, |(at, _)| *at);
        if front <= now
            && let Some((_, item)) = pipe.items.pop_front()
        {
            pipe.bytes -= item.bytes();
            if pipe.full && pipe.bytes < WINDOW_BYTES / 2 {
                pipe.full = false;
                if let Some(writer) = pipe.writer.take() {
                    self.exec.wake_at(now, writer);
                }
            }
            return Poll::Ready(Ok(item));
        }
        if broken_at <= now {
            return Poll::Ready(Err(broken()));
        }
        if cancelled_at <= now {
            return Poll::Ready(Err(Status::cancelled("the client cancelled the call")));
        }
        let next = front.min(broken_at).min(cancelled_at);
        if next != NEVER {
            self.exec.wake_at(next, context.waker().clone());
        }
        remember(&mut pipe.reader, context.waker());
        Poll::Pending
    }

    /// Whether a writer may send: `false` when nobody wants more, pending while the window is full. Also
    /// remembers whom to tell when the stream dies.
    fn poll_writable(&self, id: StreamId, direction: Direction, context: &mut Context<'_>) -> Poll<bool> {
        let now = self.exec.now_ns();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let broken_at = state.conn_of(id).map_or(NEVER, |conn| conn.broken_at);
        let stream = &mut state.streams[id.0];
        let dies_at = match direction {
            Direction::Up if stream.client_gone || stream.server_done => 0,
            Direction::Up => broken_at,
            Direction::Down => broken_at.min(stream.cancelled_at),
        };
        if dies_at <= now {
            return Poll::Ready(false);
        }
        let pipe = stream.pipe(direction);
        let known = pipe.writer.as_ref().is_some_and(|writer| writer.will_wake(context.waker()));
        if !known {
            if dies_at != NEVER {
                self.exec.wake_at(dies_at, context.waker().clone());
            }
            remember(&mut pipe.writer, context.waker());
        }
        pipe.full = pipe.bytes >= WINDOW_BYTES;
        if pipe.full { Poll::Pending } else { Poll::Ready(true) }
    }

    /// Puts an item on its way.
    fn send(&self, id: StreamId, direction: Direction, item: Item) {
        let now = self.exec.now_ns();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(conn) = state.conn_of(id) else { return };
        let (silent, broken_at, (from, to)) = (conn.silent, conn.broken_at, conn.ends(direction));
        let pipe = state.streams[id.0].pipe(direction);
        if pipe.discard || broken_at <= now {
            return;
        }
        let bytes = item.bytes();
        let stuck = silent || pipe.items.back().is_some_and(|(at, _)| *at == HELD);
        let same_packet = pipe.sent_at == now && pipe.newest_at != 0;
        let newest_at = pipe.newest_at;
        let at = if stuck {
            HELD
        } else {
            match state.link(from, to) {
                link if link.is_cut() => HELD,
                _ if same_packet => newest_at,
                link => newest_at.max(now + link.delay_ns(bytes)),
            }
        };
        if !same_packet {
            self.trace.event(now, from, Kind::Send, u64::from(to.0) << 48 | bytes as u64, at);
        }
        self.trace.record(|recording| {
            let data = if let Item::Data(data) = &item { Some(&data[..]) } else { None };
            recording.sent(now, way(id, direction, (from, to)), bytes, at, data);
        });
        state.stats.items += 1;
        let pipe = state.streams[id.0].pipe(direction);
        pipe.items.push_back((at, item));
        pipe.bytes += bytes;
        if at != HELD {
            pipe.sent_at = now;
            pipe.newest_at = at;
            if let Some(reader) = pipe.reader.take() {
                self.exec.wake_at(at, reader);
            }
        }
    }

    fn receiver_dropped(&self, id: StreamId, direction: Direction, ended: bool) {
        let now = self.exec.now_ns();
        {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let ends = state.conn_of(id).map(|conn| (conn.ends(Direction::Up), conn.silent));
            let stream = &mut state.streams[id.0];
            let pipe = stream.pipe(direction);
            pipe.discard = true;
            pipe.items.clear();
            pipe.bytes = 0;
            let writer = stream.up.writer.take();
            if direction == Direction::Down {
                stream.client_gone = true;
                if let Some(((from, to), false)) = ends
                    && !ended
                {
                    let cut = state.is_cut(from, to);
                    let at = if cut { NEVER } else { now + state.link(from, to).delay_ns(0) };
                    let stream = &mut state.streams[id.0];
                    stream.cancelled_at = at;
                    if at != NEVER {
                        for waker in
                            [stream.up.reader.take(), stream.down.writer.take()].into_iter().flatten()
                        {
                            self.exec.wake_at(at, waker);
                        }
                    }
                }
            }
            if let Some(writer) = writer {
                self.exec.wake_at(now, writer);
            }
        }
        self.release(id);
    }

    /// The handler has answered or was dropped: the request is of no more interest.
    fn server_done(&self, id: StreamId) {
        let now = self.exec.now_ns();
        {
            let mut state = lock(&self.state);
            let stream = &mut state.streams[id.0];
            stream.server_done = true;
            if let Some(writer) = stream.up.writer.take() {
                self.exec.wake_at(now, writer);
            }
        }
        self.release(id);
    }
}

fn way(id: StreamId, direction: Direction, (from, to): (Node, Node)) -> Way {
    Way { stream: id.0, answer: direction == Direction::Down, from, to }
}

fn remember(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}

fn broken() -> Status {
    Status::unavailable("connection broken")
}
