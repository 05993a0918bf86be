//! Which cluster a process belongs to: in every call it makes, and held against every call it serves.
//!
//! [`OfCluster`] goes around the network of either world. Once somebody has said [`Net::identify`], the cluster's id travels in
//! a header of every call, and calls that carry another id are refused before any service sees them. A process that does
//! not know its cluster yet refuses all that know theirs: it might take orders from strangers. Calls without an id
//! pass: clients belong to no cluster.
//!
//! The meta-roots decide the id themselves, through their log; until it is decided they take each other's raft messages
//! whatever these carry, or one that is behind would never learn it.

use crate::BoxFuture;
use crate::net::{Channel, Net, ServerHandle};
use http::{HeaderMap, HeaderValue};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tonic::Status;
use tonic::service::Routes;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};

/// The header.
const HEADER: &str = "nokv-cluster";
/// How a refusal begins.
const REFUSAL: &str = "another cluster: ";

/// The id of a cluster, as people read it.
pub fn show_cluster(id: u64) -> String {
    format!("{id:012x}")
}

/// Whether a call was refused because caller and server are of different clusters.
pub fn is_of_another_cluster(status: &Status) -> bool {
    status.code() == tonic::Code::FailedPrecondition && status.message().starts_with(REFUSAL)
}

/// Paths of raft messages begin like this.
const RAFT: &str = "/nokv.raft.v1.";

/// What is known of this process.
#[derive(Default)]
struct Identity {
    cluster: OnceLock<HeaderValue>,
    /// It is one of those that decide.
    decides: AtomicBool,
}

/// A network that knows which cluster it is used by.
pub struct OfCluster {
    inner: Arc<dyn Net>,
    identity: Arc<Identity>,
}

impl OfCluster {
    /// Around `inner`, and of no cluster yet.
    pub fn new(inner: Arc<dyn Net>) -> Self {
        Self { inner, identity: Arc::default() }
    }
}

impl Net for OfCluster {
    fn serve(&self, addr: &str, routes: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>> {
        let guarded = routes.into_axum_router().layer(Guard(self.identity.clone()));
        self.inner.serve(addr, Routes::from(guarded))
    }

    fn connect(&self, addr: &str) -> Channel {
        let identity = self.identity.clone();
        let marked = self.inner.connect(addr).map_request(move |mut request: http::Request<_>| {
            if let Some(id) = identity.cluster.get() {
                request.headers_mut().insert(HEADER, id.clone());
            }
            request
        });
        BoxCloneSyncService::new(marked)
    }

    fn identify(&self, cluster: u64) -> Result<(), String> {
        if cluster == 0 {
            self.identity.decides.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let Ok(value) = HeaderValue::from_str(&show_cluster(cluster)) else { return Ok(()) };
        let known = self.identity.cluster.get_or_init(|| value.clone());
        if *known == value { Ok(()) } else { Err(of_two(known, &value)) }
    }
}

fn of_two(here: &HeaderValue, there: &HeaderValue) -> String {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    format!("{REFUSAL}this process is of {}, the other one of {}", text(here), text(there))
}

/// Why a call is not for this process, if so.
fn refusal(identity: &Identity, path: &str, headers: &HeaderMap) -> Option<Status> {
    let there = headers.get(HEADER)?;
    match identity.cluster.get() {
        Some(here) => (here != there).then(|| Status::failed_precondition(of_two(here, there))),
        None if identity.decides.load(Ordering::Relaxed) && path.starts_with(RAFT) => None,
        None => Some(Status::unavailable("this process does not know yet which cluster it is of")),
    }
}

#[derive(Clone)]
struct Guard(Arc<Identity>);

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, identity: self.0.clone() }
    }
}

#[derive(Clone)]
struct Guarded<S> {
    inner: S,
    identity: Arc<Identity>,
}

impl<S, A, B> Service<http::Request<A>> for Guarded<S>
where
    S: Service<http::Request<A>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Default + Send + 'static,
{
    type Response = http::Response<B>;
    type Error = S::Error;
    type Future = Answer<S::Future, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<A>) -> Self::Future {
        match refusal(&self.identity, request.uri().path(), request.headers()) {
            Some(status) => Answer::Refused(Some(status.into_http())),
            None => Answer::Served(Box::pin(self.inner.call(request))),
        }
    }
}

/// What becomes of a call.
enum Answer<F, B> {
    Refused(Option<http::Response<B>>),
    Served(Pin<Box<F>>),
}

impl<F, B> Unpin for Answer<F, B> {}

impl<F, B, E> Future for Answer<F, B>
where
    F: Future<Output = Result<http::Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        match self.get_mut() {
            Answer::Served(serving) => serving.as_mut().poll(context),
            Answer::Refused(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending, // polled again after its end
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_known_ids_can_differ() {
        let identity = Identity::default();
        let with = |id: Option<u64>| {
            let mut headers = HeaderMap::new();
            let value = id.map(|id| HeaderValue::from_str(&show_cluster(id)).unwrap());
            value.map(|value| headers.insert(HEADER, value));
            headers
        };
        let raft = "/nokv.raft.v1.RaftTransport/Stream";
        assert!(refusal(&identity, "/any", &with(None)).is_none());
        assert_eq!(refusal(&identity, raft, &with(Some(7))).unwrap().code(), tonic::Code::Unavailable);
        identity.decides.store(true, Ordering::Relaxed);
        assert!(refusal(&identity, raft, &with(Some(7))).is_none());
        assert!(refusal(&identity, "/any", &with(Some(7))).is_some());
        identity.cluster.set(HeaderValue::from_static("000000000007")).unwrap();
        assert!(refusal(&identity, "/any", &with(Some(7))).is_none());
        assert!(refusal(&identity, "/any", &with(None)).is_none());
        let status = refusal(&identity, raft, &with(Some(0xabc))).unwrap();
        assert!(is_of_another_cluster(&status));
        assert_eq!(
            status.message(),
            "another cluster: this process is of 000000000007, the other one of 000000000abc"
        );
    }
}
