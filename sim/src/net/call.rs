//! [`SimNet`]: what one life of a node sees of the network, as `nokv_env::Net`.

use super::link::Link;
use super::stream::{Item, Pump, Receiver};
use super::{Conn, ConnId, Direction, HELD, NEVER, Network, SECOND, Server, Stream, StreamId, way};
use crate::exec::{Node, Place, SUPERVISOR, lock};
use crate::record::Told;
use crate::trace::{Kind, digest};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use nokv_env::BoxFuture;
use nokv_env::net::{Channel, Net, NetError, ServerHandle};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;
use tower::util::BoxCloneSyncService;

/// How long a connection attempt waits for an answer.
const CONNECT_TIMEOUT_NS: u64 = SECOND;
/// How long a stopping server lets calls under way finish.
const STOP_GRACE_NS: u64 = SECOND / 2;

/// The network as one life of a node sees it.
pub struct SimNet {
    network: Arc<Network>,
    place: Place,
}

impl SimNet {
    /// The network seen from `place`.
    pub fn new(network: Arc<Network>, place: Place) -> Self {
        Self { network, place }
    }
}

impl Net for SimNet {
    fn serve(&self, addr: &str, routes: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>> {
        let bound = self.network.bind(self.place, addr, routes);
        Box::pin(std::future::ready(bound.map(|handle| Box::new(handle) as Box<dyn ServerHandle>)))
    }

    fn connect(&self, addr: &str) -> Channel {
        BoxCloneSyncService::new(SimChannel {
            network: self.network.clone(),
            place: self.place,
            addr: host_port(addr).into(),
            conn: Arc::default(),
        })
    }
}

/// An address may be written with a scheme.
fn host_port(addr: &str) -> &str {
    addr.strip_prefix("http://").or_else(|| addr.strip_prefix("https://")).unwrap_or(addr)
}

#[derive(Clone)]
struct SimChannel {
    network: Arc<Network>,
    place: Place,
    addr: Arc<str>,
    conn: Arc<Mutex<Option<ConnId>>>,
}

impl Service<http::Request<Body>> for SimChannel {
    type Response = http::Response<Body>;
    type Error = NetError;
    type Future = Exchange;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.clone().exchange(request, true)
    }
}

/// How a call ends, in one box: a future that only wraps another one is as large again, and is copied as a whole.
type Exchange = BoxFuture<'static, Result<http::Response<Body>, NetError>>;

impl SimChannel {
    /// `first`: it may come again. Callers give up and ask again, and what they gave up may still be on its way, so
    /// no server may rely on a request coming once.
    fn exchange(self, request: http::Request<Body>, first: bool) -> Exchange {
        Box::pin(async move {
            let conn = self.connection().await?;
            let (head, body) = request.into_parts();
            let again =
                if first { self.network.again(conn, |link| link.again_ns(method(&head))) } else { None };
            let stream = self.network.open(conn);
            let mut receiver = receiver(&self.network, stream, Direction::Down);
            let mut pump = pump(&self.network, stream, Direction::Up, body);
            let copied_head = if first && self.network.repeats(conn) { Some(head.clone()) } else { None };
            pump.sent = copied_head.is_some().then(VecDeque::new);
            self.network.start_handler(conn, stream, head);
            // Most requests are one message: no task for them.
            let finished = poll_fn(|context| Poll::Ready(Pin::new(&mut pump).poll(context).is_ready())).await;
            if finished {
                if let (Some(after_ns), Some(head)) = (again, copied_head) {
                    let late = self.clone().repeat(after_ns, head, pump.take_sent());
                    self.network.send_later(late);
                }
                drop(pump);
            } else {
                let rest = self.clone().rest(conn, pump, copied_head);
                self.network.exec.spawn_on(self.place, "net-request-body", rest);
            }
            let head = poll_fn(|context| receiver.poll_head(context)).await.map_err(failed)?;
            Ok(http::Response::from_parts(head, Body::new(receiver)))
        })
    }

    /// Sends what is left of a request of several messages. Each may arrive once more; if the request is cut off, the
    /// newest may arrive when its sender has long begun another one. No receiver of such messages may rely on their order.
    fn rest(
        self,
        conn: ConnId,
        mut pump: Pump,
        head: Option<http::request::Parts>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let again = |pump: &mut Pump| {
                let Some(head) = &head else { return };
                for message in pump.take_fresh() {
                    if let Some(after_ns) = self.network.again(conn, |link| link.again_ns(method(head))) {
                        let late = self.clone().repeat(after_ns, head.clone(), message);
                        self.network.send_later(late);
                    }
                }
            };
            let whole = poll_fn(|context| {
                let polled = Pin::new(&mut pump).poll(context);
                again(&mut pump);
                polled
            })
            .await;
            let sent = pump.take_sent();
            drop(pump);
            let Some(head) = head.filter(|_| !whole && !sent.is_empty()) else { return };
            if let Some(after_ns) = self.network.again(conn, Link::rest_ns) {
                self.repeat(after_ns, head, sent).await;
            }
        })
    }

    /// Sends messages once more. Nobody waits for the answer.
    fn repeat(self, after_ns: u64, head: http::request::Parts, body: Bytes) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.network.exec.sleep_until(self.network.exec.now_ns() + after_ns).await;
            self.network.trace.record(|recording| {
                let call = method(&head);
                let what = format!(
                    "sent {call} to {} {} ms ago; it arrives once more",
                    self.addr,
                    after_ns / 1_000_000
                );
                let now = self.network.exec.now_ns();
                recording.told.push((now, self.place.node, Told::Again(what)));
            });
            let body = Body::new(Full::new(body).map_err(|never| match never {}));
            drop(self.exchange(http::Request::from_parts(head, body), false).await);
        })
    }

    /// The connection in use, or a new one after a handshake.
    async fn connection(&self) -> Result<ConnId, NetError> {
        let current = *lock(&self.conn);
        if let Some(conn) = current
            && self.network.is_usable(conn)
        {
            return Ok(conn);
        }
        let (wait_ns, answered) = self.network.handshake(self.place.node, &self.addr);
        self.network.exec.sleep_until(self.network.exec.now_ns() + wait_ns).await;
        if !answered {
            return Err(failed(Status::unavailable(format!("connect to {}: timed out", self.addr))));
        }
        let conn = self.network.establish(self.place, &self.addr).ok_or_else(|| {
            failed(Status::unavailable(format!("connect to {}: connection refused", self.addr)))
        })?;
        *lock(&self.conn) = Some(conn);
        Ok(conn)
    }
}

fn failed(status: Status) -> NetError {
    NetError(status.into())
}

fn receiver(net: &Arc<Network>, stream: StreamId, direction: Direction) -> Receiver {
    net.acquire(stream);
    Receiver { net: net.clone(), stream, direction, ended: false }
}

fn pump(net: &Arc<Network>, stream: StreamId, direction: Direction, body: Body) -> Pump {
    net.acquire(stream);
    Pump { net: net.clone(), stream, direction, body, sent: None, fresh: 0 }
}

/// Tells the network when a handler is over, however it ends.
struct Handling(Arc<Network>, StreamId);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.server_done(self.1);
    }
}

/// One call on the server's side: run the routes, send what they answer, stop when nobody waits any more.
async fn handle(handling: Handling, mut routes: Routes, request: http::Request<Body>) {
    let Handling(network, stream) = &handling;
    let response = {
        let mut answer = pin!(Service::call(&mut routes, request));
        poll_fn(|context| match network.poll_writable(*stream, Direction::Down, context) {
            Poll::Ready(false) => Poll::Ready(None),
            _ => answer.as_mut().poll(context).map(Some),
        })
        .await
    };
    let Some(Ok(response)) = response else { return };
    let (head, body) = response.into_parts();
    network.send(*stream, Direction::Down, Item::Head(Box::new(head)));
    pump(network, *stream, Direction::Down, body).await;
}

/// The last part of a request's path: `Get` of `/nokv.kv.v1.NoKV/Get`.
fn method(head: &http::request::Parts) -> &str {
    head.uri.path().rsplit('/').next().unwrap_or_default()
}

impl Network {
    /// How long after itself something sent on `conn` comes once more, if it does.
    fn again(&self, conn: ConnId, decide: impl Fn(&mut Link) -> Option<u64>) -> Option<u64> {
        let mut state = lock(&self.state);
        let (from, to) = state.conns[conn.0].ends(Direction::Up);
        decide(state.link(from, to))
    }

    /// What is on its way outlives its sender.
    fn send_later(&self, late: BoxFuture<'static, ()>) {
        self.exec.spawn_on(self.exec.place(SUPERVISOR), "net-again", late);
    }

    /// Whether anything sent on `conn` may arrive once more.
    fn repeats(&self, conn: ConnId) -> bool {
        let mut state = lock(&self.state);
        let (from, to) = state.conns[conn.0].ends(Direction::Up);
        state.link(from, to).repeats()
    }

    fn is_usable(&self, conn: ConnId) -> bool {
        let state = lock(&self.state);
        let conn = &state.conns[conn.0];
        // A server that stopped listening has said goodbye; a silent one could not.
        let listening = conn.silent || state.servers.values().any(|server| server.id == conn.server_id);
        listening && conn.broken_at > self.exec.now_ns()
    }

    /// How long until a connection attempt knows its fate, and whether anybody answers.
    fn handshake(&self, from: Node, addr: &str) -> (u64, bool) {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host);
        let Some(&to) = state.hosts.get(host) else { return (CONNECT_TIMEOUT_NS, false) };
        if state.dark[to.index()] || state.is_cut(from, to) || state.is_cut(to, from) {
            return (CONNECT_TIMEOUT_NS, false);
        }
        let round_trip = state.link(from, to).delay_ns(64) + state.link(to, from).delay_ns(64);
        (round_trip.min(CONNECT_TIMEOUT_NS), round_trip < CONNECT_TIMEOUT_NS)
    }

    fn establish(&self, client: Place, addr: &str) -> Option<ConnId> {
        let mut state = lock(&self.state);
        let server = state.servers.get(addr)?;
        let (server, server_id) = (server.place, server.id);
        state.conns.push(Conn {
            client,
            server,
            server_id,
            broken_at: NEVER,
            by_keepalive: false,
            silent: false,
        });
        state.stats.connections += 1;
        Some(ConnId(state.conns.len() - 1))
    }

    fn open(&self, conn: ConnId) -> StreamId {
        let mut state = lock(&self.state);
        state.stats.calls += 1;
        let slot = state.free.pop().unwrap_or_else(|| {
            state.streams.push(Stream::default());
            state.streams.len() - 1
        });
        let stream = &mut state.streams[slot];
        stream.conn = Some(conn);
        stream.cancelled_at = NEVER;
        StreamId(slot)
    }

    /// Sends the request head: the handler becomes a task of the server when the head arrives there.
    fn start_handler(self: &Arc<Self>, conn: ConnId, stream: StreamId, head: http::request::Parts) {
        let now = self.exec.now_ns();
        let (routes, ends) = {
            let state = lock(&self.state);
            let (server_id, ends) = (state.conns[conn.0].server_id, state.conns[conn.0].ends(Direction::Up));
            let server = state.servers.values().find(|server| server.id == server_id);
            (server.map(|server| server.routes.clone()), ends)
        };
        let uri = head.uri.clone();
        let path = digest(uri.path().as_bytes());
        // A server that has gone resets or says nothing; the connection knows.
        let Some(routes) = routes else {
            let way = way(stream, Direction::Up, ends);
            return self.trace.record(|recording| recording.opened(now, way, uri.path(), HELD));
        };
        self.acquire(stream);
        let handling = Handling(self.clone(), stream);
        let body = Body::new(receiver(self, stream, Direction::Up));
        let handler = Box::pin(handle(handling, routes, http::Request::from_parts(head, body)));
        let spawn = {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let (server, (from, to)) = (state.conns[conn.0].server, state.conns[conn.0].ends(Direction::Up));
            self.trace.event(now, from, Kind::Open, u64::from(to.0), path);
            self.trace.name(Kind::Open, 0, path, || uri.path().to_owned());
            let record = |at| {
                let way = way(stream, Direction::Up, (from, to));
                self.trace.record(|recording| recording.opened(now, way, uri.path(), at));
            };
            if state.is_cut(from, to) || state.conns[conn.0].silent {
                record(HELD);
                state.streams[stream.0].held = Some((server, handler));
                None
            } else {
                let at = now + state.link(from, to).delay_ns(64);
                record(at);
                let up = &mut state.streams[stream.0].up;
                up.newest_at = at;
                up.sent_at = now;
                Some((at, server, handler))
            }
        };
        if let Some((at, server, handler)) = spawn {
            self.exec.spawn_at(at, server, "net-handler", handler);
        }
    }

    fn bind(self: &Arc<Self>, place: Place, addr: &str, routes: Routes) -> io::Result<SimServer> {
        let mut state = lock(&self.state);
        let mut addr = addr.to_owned();
        if let Some(host) = addr.strip_suffix(":0") {
            addr = format!("{host}:{}", state.next_port);
            state.next_port += 1;
        }
        if state.servers.contains_key(&addr) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{addr} is in use")));
        }
        state.next_id += 1;
        let id = state.next_id;
        state.servers.insert(addr.clone(), Server { place, id, routes: routes.prepare() });
        Ok(SimServer { network: self.clone(), addr, id })
    }

    /// Takes a server away; its connections stay until they are broken.
    fn unbind(&self, addr: &str, id: u64) {
        let garbage = {
            let mut state = lock(&self.state);
            if state.servers.get(addr).is_some_and(|server| server.id == id) {
                state.servers.remove(addr)
            } else {
                None
            }
        };
        drop(garbage);
    }

    fn has_calls(&self, id: u64) -> bool {
        let state = lock(&self.state);
        state.streams.iter().any(|stream| {
            !stream.server_done && stream.conn.is_some_and(|conn| state.conns[conn.0].server_id == id)
        })
    }
}

struct SimServer {
    network: Arc<Network>,
    addr: String,
    id: u64,
}

impl ServerHandle for SimServer {
    fn local_addr(&self) -> String {
        self.addr.clone()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.network.unbind(&self.addr, self.id);
        Box::pin(async move {
            let exec = &self.network.exec;
            let deadline = exec.now_ns() + STOP_GRACE_NS;
            while self.network.has_calls(self.id) && exec.now_ns() < deadline {
                exec.sleep_until(exec.now_ns() + STOP_GRACE_NS / 20).await;
            }
            drop(self);
        })
    }
}

impl Drop for SimServer {
    fn drop(&mut self) {
        self.network.unbind(&self.addr, self.id);
        self.network.break_server(self.id);
    }
}
