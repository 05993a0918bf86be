//! Calls between nodes: every request frame takes a while, and waits while the link is cut.

use super::exec::Executor;
use nokv_env::net::{BoxError, Channel, NetError};
use nokv_env::{BoxFuture, Net, ServerHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::util::BoxCloneSyncService;

const DELAY: Duration = Duration::from_micros(500);

pub struct Network {
    exec: Arc<Executor>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    servers: BTreeMap<String, (u64, Routes)>,
    cuts: BTreeSet<(u64, u64)>,
}

impl Network {
    pub fn new(exec: Arc<Executor>) -> Arc<Network> {
        Arc::new(Network { exec, state: Mutex::default() })
    }

    pub fn of(self: &Arc<Self>, node: u64) -> Arc<NodeNet> {
        Arc::new(NodeNet { net: self.clone(), node })
    }

    /// Nothing passes between two nodes, and nobody is told.
    pub fn cut(&self, one: u64, other: u64) {
        let mut state = self.state.lock().unwrap();
        state.cuts.extend([(one, other), (other, one)]);
    }

    pub fn isolate(&self, node: u64, all: &[u64]) {
        for other in all {
            self.cut(node, *other);
        }
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().cuts.clear();
    }

    pub fn kill(&self, node: u64) {
        self.state.lock().unwrap().servers.retain(|_, (owner, _)| *owner != node);
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        from != to && self.state.lock().unwrap().cuts.contains(&(from, to))
    }
}

pub struct NodeNet {
    net: Arc<Network>,
    node: u64,
}

struct Listening {
    addr: String,
}

impl ServerHandle for Listening {
    fn local_addr(&self) -> String {
        self.addr.clone()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl Net for NodeNet {
    fn serve(&self, addr: &str, routes: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>> {
        let addr = addr.to_owned();
        self.net.state.lock().unwrap().servers.insert(addr.clone(), (self.node, routes));
        Box::pin(async move { Ok(Box::new(Listening { addr }) as Box<dyn ServerHandle>) })
    }

    fn connect(&self, addr: &str) -> Channel {
        let (net, from, addr) = (self.net.clone(), self.node, addr.to_owned());
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            call(net.clone(), from, addr.clone(), request)
        }))
    }
}

fn unavailable(why: &str) -> NetError {
    NetError(BoxError::from(Status::unavailable(why)))
}

async fn call(
    net: Arc<Network>,
    from: u64,
    addr: String,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, NetError> {
    net.exec.sleep(DELAY).await;
    let server = net.state.lock().unwrap().servers.get(&addr).cloned();
    let (to, mut routes) = server.ok_or_else(|| unavailable("connection refused"))?;
    if net.is_cut(from, to) {
        net.exec.sleep(Duration::from_secs(1)).await;
        return Err(unavailable("connect timeout"));
    }
    let (head, body) = request.into_parts();
    let body = Body::new(Link { net: net.clone(), from, to, body, wait: None });
    let (answer, answered) = oneshot::channel();
    net.exec.spawn_for(to, async move {
        let request = http::Request::from_parts(head, body);
        let Ok(response) = tower::Service::call(&mut routes, request).await;
        let _ = answer.send(response);
    });
    answered.await.map_err(|_| unavailable("connection reset"))
}

/// A request body on its way.
struct Link {
    net: Arc<Network>,
    from: u64,
    to: u64,
    body: Body,
    wait: Option<BoxFuture<'static, ()>>,
}

impl http_body::Body for Link {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        loop {
            if let Some(wait) = self.wait.as_mut() {
                if wait.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                self.wait = None;
            }
            if self.net.is_cut(self.from, self.to) {
                self.wait = Some(self.net.exec.sleep(Duration::from_millis(10)));
                continue;
            }
            let frame = Pin::new(&mut self.body).poll_frame(context);
            if frame.is_ready() {
                self.wait = Some(self.net.exec.sleep(DELAY));
            }
            return frame;
        }
    }
}
