//! What faults do to links and connections. See the story in [`super`].

use super::{Conn, Direction, HELD, HeldHandler, NEVER, Network, SECOND, State, StreamId};
use crate::exec::{Executor, Node, Place, lock};
use crate::trace::Kind;

/// Shortest and longest time until keepalive notices that a peer is silent.
const KEEPALIVE_NS: (u64, u64) = (5 * SECOND, 10 * SECOND);

/// How a node goes down, as its peers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// The process died; the host lives and resets its connections.
    Process,
    /// Power loss: silence.
    Power,
}

impl Network {
    /// Cuts one direction. Cuts count: each needs its own [`Network::mend`].
    pub fn cut(&self, from: Node, to: Node) {
        if from == to {
            return;
        }
        let now = self.exec.now_ns();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.link(from, to).cuts += 1;
        self.trace.event(now, from, Kind::Fault, 1, u64::from(to.0));
        for id in 0..state.conns.len() {
            if state.conns[id].joins(from, to) && state.conns[id].broken_at == NEVER {
                let keepalive = state.link(from, to).between(KEEPALIVE_NS.0, KEEPALIVE_NS.1);
                state.conns[id].by_keepalive = true;
                self.break_at(state, id, now + keepalive);
            }
        }
    }

    /// Undoes one [`Network::cut`]; what was held back arrives after a retransmission delay.
    pub fn mend(&self, from: Node, to: Node) {
        if from == to {
            return;
        }
        let now = self.exec.now_ns();
        let handlers = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let link = state.link(from, to);
            if link.cuts == 0 {
                return;
            }
            link.cuts -= 1;
            self.trace.event(now, from, Kind::Fault, 2, u64::from(to.0));
            if link.is_cut() { Vec::new() } else { self.let_through(state, from, to, now) }
        };
        for (at, (place, handler)) in handlers {
            self.exec.spawn_at(at, place, "net-handler", handler);
        }
    }

    /// Adds latency to one direction; negative takes it away again.
    pub fn slow(&self, from: Node, to: Node, change_ns: i64) {
        let mut state = lock(&self.state);
        let link = state.link(from, to);
        link.slow_ns = link.slow_ns.saturating_add_signed(change_ns);
    }

    /// Adds loss to one direction, in parts per million; negative takes it away again.
    pub fn lossy(&self, from: Node, to: Node, change_ppm: i64) {
        let mut state = lock(&self.state);
        let link = state.link(from, to);
        link.loss_ppm = link.loss_ppm.saturating_add_signed(change_ppm);
    }

    /// Resets every connection between the two nodes.
    pub fn reset(&self, a: Node, b: Node) {
        self.break_where(|conn| conn.joins(a, b), 0);
    }

    /// The node's servers vanish and its connections die.
    pub fn node_down(&self, node: Node, down: Down) {
        let now = self.exec.now_ns();
        let garbage = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            state.dark[node.index()] = down == Down::Power;
            for id in 0..state.conns.len() {
                if !state.conns[id].touches(node) || state.conns[id].broken_at <= now {
                    continue;
                }
                state.conns[id].silent = true;
                state.conns[id].by_keepalive = false;
                let peer = other_end(&state.conns[id], node);
                let reset = down == Down::Process && !state.is_cut(node, peer);
                let link = state.link(node, peer);
                let wait =
                    if reset { link.delay_ns(0) } else { link.between(KEEPALIVE_NS.0, KEEPALIVE_NS.1) };
                self.break_at(state, id, now + wait);
            }
            let gone: Vec<String> = state
                .servers
                .iter()
                .filter(|(_, server)| server.place.node == node)
                .map(|(addr, _)| addr.clone())
                .collect();
            gone.iter().filter_map(|addr| state.servers.remove(addr)).collect::<Vec<_>>()
        };
        drop(garbage);
    }

    /// The node has power again: it answers packets of old connections with resets.
    pub fn node_up(&self, node: Node) {
        lock(&self.state).dark[node.index()] = false;
        self.break_where(|conn| conn.silent && conn.touches(node), 0);
    }

    /// The node answers no keepalive: connections break unless it is thawed in time.
    pub fn freeze(&self, node: Node) {
        let now = self.exec.now_ns();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        for id in 0..state.conns.len() {
            if state.conns[id].touches(node) && state.conns[id].broken_at == NEVER {
                let peer = other_end(&state.conns[id], node);
                let keepalive = state.link(peer, node).between(KEEPALIVE_NS.0, KEEPALIVE_NS.1);
                state.conns[id].by_keepalive = true;
                self.break_at(state, id, now + keepalive);
            }
        }
    }

    /// Undoes [`Network::freeze`] for connections that still live.
    pub fn thaw(&self, node: Node) {
        let now = self.exec.now_ns();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        for id in 0..state.conns.len() {
            let conn = &state.conns[id];
            if conn.touches(node) && conn.by_keepalive && conn.broken_at > now {
                let (from, to) = conn.ends(Direction::Up);
                if !state.is_cut(from, to) && !state.is_cut(to, from) {
                    state.conns[id].by_keepalive = false;
                    state.conns[id].broken_at = NEVER;
                }
            }
        }
    }

    /// Takes every link fault away.
    pub fn heal(&self) {
        let nodes = lock(&self.state).nodes as u16;
        for from in (0..nodes).map(Node) {
            for to in (0..nodes).map(Node) {
                let cuts = {
                    let mut state = lock(&self.state);
                    let link = state.link(from, to);
                    link.slow_ns = 0;
                    link.loss_ppm = 0;
                    link.calm();
                    link.cuts
                };
                for _ in 0..cuts {
                    self.mend(from, to);
                }
            }
        }
    }

    pub(super) fn break_server(&self, server_id: u64) {
        self.break_where(|conn| conn.server_id == server_id && !conn.silent, 0);
    }

    fn break_where(&self, which: impl Fn(&Conn) -> bool, after_ns: u64) {
        let now = self.exec.now_ns();
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        for id in 0..state.conns.len() {
            if state.conns[id].broken_at > now && which(&state.conns[id]) {
                let (from, to) = state.conns[id].ends(Direction::Down);
                if state.is_cut(from, to) {
                    continue;
                }
                let at = now + after_ns + state.link(from, to).delay_ns(0);
                state.conns[id].by_keepalive = false;
                self.break_at(state, id, at);
            }
        }
    }

    /// Both ends notice at `at` that the connection is broken, if they have not noticed earlier.
    fn break_at(&self, state: &mut State, id: usize, at: u64) {
        let conn = &mut state.conns[id];
        if at >= conn.broken_at {
            return;
        }
        conn.broken_at = at;
        let ends = u64::from(conn.client.node.0) << 16 | u64::from(conn.server.node.0);
        self.trace.event(self.exec.now_ns(), conn.client.node, Kind::Break, ends, at);
        state.stats.broken += 1;
        for stream in &mut state.streams {
            if stream.conn.is_some_and(|conn| conn.0 == id) {
                wake_all(&*self.exec, stream, at);
            }
        }
    }

    /// Gives held items of `from` → `to` an arrival time; returns the handlers whose heads were held.
    fn let_through(&self, state: &mut State, from: Node, to: Node, now: u64) -> Vec<(u64, HeldHandler)> {
        let reverse_cut = state.is_cut(to, from);
        for conn in &mut state.conns {
            if conn.joins(from, to) && conn.by_keepalive && conn.broken_at > now && !reverse_cut {
                conn.by_keepalive = false;
                conn.broken_at = NEVER;
            }
        }
        let mut handlers = Vec::new();
        for id in 0..state.streams.len() {
            let Some(conn) = state.conn_of(StreamId(id)) else { continue };
            if conn.silent || conn.broken_at <= now {
                continue;
            }
            for direction in [Direction::Up, Direction::Down] {
                if state.conn_of(StreamId(id)).is_none_or(|conn| conn.ends(direction) != (from, to)) {
                    continue;
                }
                let at = now + state.link(from, to).delay_ns(0) + state.link(from, to).between(0, SECOND / 5);
                // What was sent first arrives first: a server may well carry out what its caller has given up.
                let word_of_end = at + state.link(from, to).between(0, SECOND / 50);
                let stream = &mut state.streams[id];
                let gone = stream.client_gone && direction == Direction::Up && stream.cancelled_at == NEVER;
                if gone && !stream.server_done {
                    stream.cancelled_at = word_of_end;
                    wake_all(&*self.exec, stream, word_of_end);
                }
                if direction == Direction::Up
                    && let Some(held) = stream.held.take()
                {
                    handlers.push((at, held));
                    self.trace.record(|recording| recording.released(id, false, at));
                }
                let pipe = stream.pipe(direction);
                let at = at.max(pipe.newest_at);
                let mut any = false;
                for item in pipe.items.iter_mut().filter(|(at, _)| *at == HELD) {
                    item.0 = at;
                    any = true;
                }
                if any {
                    pipe.newest_at = at;
                    let answer = direction == Direction::Down;
                    self.trace.record(|recording| recording.released(id, answer, at));
                    if let Some(reader) = pipe.reader.take() {
                        self.exec.wake_at(at, reader);
                    }
                }
            }
        }
        handlers
    }
}

fn wake_all(exec: &dyn Executor, stream: &mut super::Stream, at: u64) {
    for pipe in [&mut stream.up, &mut stream.down] {
        for waker in [pipe.reader.take(), pipe.writer.take()].into_iter().flatten() {
            exec.wake_at(at, waker);
        }
    }
}

fn other_end(conn: &Conn, node: Node) -> Node {
    let Place { node: client, .. } = conn.client;
    if client == node { conn.server.node } else { client }
}
