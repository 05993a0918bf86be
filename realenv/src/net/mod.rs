//! gRPC over TCP with tonic.
//!
//! A server is the caller's `Routes` plus health checks and reflection for them (`probes`), with its calls counted ([`calls`]), on connections
//! that can be cut (`connection`), so that stopping takes a bounded time whatever clients do. A channel
//! connects lazily, notices a dead peer by HTTP/2 pings, and reports every transport failure as the gRPC
//! status `UNAVAILABLE`. Nothing is retried here.
//!
//! With certificates ([`RealNet::secured`]) every connection is TLS with certificates on both sides: `dial` and
//! `accept` do the handshakes and tell apart who does not speak TLS from who is not trusted, `roles` decides who may
//! call what.
//!
//! All sockets live on the process's runtime, also when a dedicated thread asks for them: a raft loop that
//! waits for its disk must not delay pings and frames.

mod accept;
pub mod calls;
mod connection;
mod dial;
mod grumble;
mod probes;
mod roles;
mod wire;

use crate::tls::Tls;
use dial::Target;
use grumble::Grumble;
use hyper_util::client::legacy::connect::HttpConnector;
use nokv_env::BoxFuture;
use nokv_env::net::{Channel, Net, NetError, ServerHandle};
use nokv_env::task::Stop;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::{Endpoint, Server};
use tower::ServiceExt;
use tower::util::{BoxCloneSyncService, service_fn};

/// How long a TCP connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that answers no ping for interval plus timeout is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long calls under way may take after a stop.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// How long connections get to notice that they were cut.
const CUT_GRACE: Duration = Duration::from_millis(500);
/// Bytes in flight before the receiver must have read some: one stream, one connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Calls at once on one connection; more wait at the client.
const STREAMS_MAX: u32 = 4096;
/// Cancelled calls a client may pile up before we take it for an attack. Deadlines cancel calls in bursts.
const RESETS_PENDING_MAX: usize = 4096;

/// The TCP network.
pub struct RealNet {
    runtime: Handle,
    tls: Option<Arc<Tls>>,
    grumble: Arc<Grumble>,
}

impl RealNet {
    /// A network whose sockets live on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        RealNet::secured(runtime, None)
    }

    /// The same, with TLS on every connection when `tls` is given.
    pub fn secured(runtime: Handle, tls: Option<Arc<Tls>>) -> Self {
        RealNet { runtime, tls, grumble: Arc::default() }
    }
}

impl Net for RealNet {
    fn serve(&self, addr: &str, routes: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>> {
        let started =
            self.runtime.spawn(start(addr.to_owned(), routes, self.tls.clone(), self.grumble.clone()));
        Box::pin(async move {
            let server = started.await.map_err(io::Error::other)??;
            Ok(Box::new(server) as Box<dyn ServerHandle>)
        })
    }

    fn connect(&self, addr: &str) -> Channel {
        let endpoint = match endpoint(addr, self.tls.is_some()) {
            Ok(endpoint) => endpoint,
            Err(error) => return broken_channel(format!("`{addr}` is not an address: {error}")),
        };
        let _on_runtime = self.runtime.enter();
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let target = Target::new(addr, self.tls.clone(), self.grumble.clone());
        let told = target.clone();
        let channel = endpoint
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect_with_connector_lazy(service_fn(move |uri| target.clone().dial(tcp.clone(), uri)));
        let addr = addr.to_owned();
        BoxCloneSyncService::new(channel.map_err(move |error| unavailable(&addr, &told, error)))
    }
}

/// What is dialled is TCP; what requests say of themselves is `https` when TLS is on top.
fn endpoint(addr: &str, is_secured: bool) -> Result<Endpoint, Box<dyn std::error::Error>> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    if is_secured { Ok(endpoint.origin(format!("https://{addr}").parse()?)) } else { Ok(endpoint) }
}

/// A channel on which every call fails.
fn broken_channel(why: String) -> Channel {
    BoxCloneSyncService::new(service_fn(move |_| {
        std::future::ready(Err(NetError(Status::unavailable(why.clone()).into())))
    }))
}

/// Says in gRPC terms that the transport to `addr` failed.
fn unavailable(addr: &str, target: &Target, error: tonic::transport::Error) -> NetError {
    if let Some(failure) = target.failure() {
        let mut status = Status::unavailable(failure.to_string());
        status.set_source(Arc::new(failure));
        return NetError(status.into());
    }
    let mut text = format!("{addr}: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    NetError(told_to_callers(Status::from_error(Box::new(error)), text).into())
}

/// What a caller is told when the transport ended its call with `status`. Nobody but the caller can cancel a call, and
/// it does so by dropping it: a transport that says `cancelled` has lost the connection while the request was in it.
fn told_to_callers(status: Status, text: String) -> Status {
    match status.code() {
        tonic::Code::Unknown | tonic::Code::Cancelled => Status::unavailable(text),
        _ => status,
    }
}

async fn start(
    addr: String,
    routes: Routes,
    tls: Option<Arc<Tls>>,
    grumble: Arc<Grumble>,
) -> io::Result<RealServer> {
    let listener = TcpListener::bind(&addr)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))?;
    let local_addr = listener.local_addr()?.to_string();
    let (stop, cut) = (Stop::new(), Stop::new());
    let routes = probes::add(routes, stop.clone()).await?;
    let routes = if tls.is_some() { roles::guard(routes) } else { routes };
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .layer(calls::CountCalls)
        .add_routes(routes);
    let incoming = accept::incoming(listener, cut.clone(), tls, grumble);
    let stopped = stop.clone();
    let serving = tokio::spawn(async move {
        let ended = server.serve_with_incoming_shutdown(incoming, async move { stopped.stopped().await });
        if let Err(error) = ended.await {
            eprintln!("nokv: a gRPC server ended: {error}");
        }
    });
    Ok(RealServer { local_addr, stop, cut, serving })
}

struct RealServer {
    local_addr: String,
    /// No new calls.
    stop: Stop,
    /// No connections.
    cut: Stop,
    serving: JoinHandle<()>,
}

impl ServerHandle for RealServer {
    fn local_addr(&self) -> String {
        self.local_addr.clone()
    }

    fn stop(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.stop.stop();
            if tokio::time::timeout(STOP_GRACE, &mut self.serving).await.is_err() {
                self.cut.stop();
                // Whatever does not end now ends with the drop below.
                let _ = tokio::time::timeout(CUT_GRACE, &mut self.serving).await;
            }
        })
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        self.stop.stop();
        self.cut.stop();
        self.serving.abort();
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
