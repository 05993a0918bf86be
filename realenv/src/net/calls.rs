//! What became of the calls that this process served: how many by status, how long they took.
//!
//! Counted where calls enter, for all servers of the process, so no service knows of it. A call is timed until its
//! response begins, which for a unary call is when its handler has ended and for a stream when it is opened; a call that
//! its client gave up counts as cancelled. The table of methods is made once, from our descriptor set; what is called
//! otherwise is counted as `other`, so nobody can make the table grow.

use http::{Request, Response};
use nokv_env::{Durations, Histogram};
use nokv_proto::FILE_DESCRIPTOR_SET;
use prost::Message;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::Code;
use tower::{Layer, Service};

/// Status codes of gRPC, 0 to 16.
const CODES: usize = 17;
/// Counts what is no method of ours.
const OTHER: &str = "other";

/// One method of a service.
#[derive(Debug, Default)]
struct Method {
    ended: [AtomicU64; CODES],
    under_way: AtomicU64,
    times: Histogram,
}

/// What became of the calls of one method since the process started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodCalls {
    /// `package.Service`
    pub service: String,
    /// The method's name.
    pub method: String,
    /// How many ended with each status; only those that occurred.
    pub ended: Vec<(&'static str, u64)>,
    /// Being served now.
    pub under_way: u64,
    /// How long they took.
    pub times: Durations,
}

static METHODS: LazyLock<BTreeMap<String, Method>> = LazyLock::new(|| {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut methods = BTreeMap::from([(OTHER.to_owned(), Method::default())]);
    for file in &set.file {
        for service in &file.service {
            let path = |name: &str| format!("/{}.{}/{name}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| (path(method.name()), Method::default())));
        }
    }
    methods
});

/// The methods that were called since the process started, in order.
pub fn served() -> Vec<MethodCalls> {
    let called = METHODS.iter().map(|(path, method)| {
        let (service, name) = path.trim_start_matches('/').split_once('/').unwrap_or((OTHER, OTHER));
        let ended = (0i32..).zip(&method.ended).filter_map(|(code, count)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then(|| (name_of(Code::from(code)), count))
        });
        MethodCalls {
            service: service.to_owned(),
            method: name.to_owned(),
            ended: ended.collect(),
            under_way: method.under_way.load(Ordering::Relaxed),
            times: method.times.read(),
        }
    });
    called.filter(|calls| calls.under_way > 0 || !calls.ended.is_empty()).collect()
}

/// A status code as gRPC spells it in metrics.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Counts every call that goes through.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CountCalls;

impl<S> Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub(super) struct Counted<S> {
    inner: S,
}

/// A call under way; when it is dropped without an answer, the client gave it up.
struct Call {
    method: &'static Method,
    began: Instant,
    code: Code,
}

impl Call {
    fn begin(path: &str) -> Option<Self> {
        let method = METHODS.get(path).or_else(|| METHODS.get(OTHER))?;
        method.under_way.fetch_add(1, Ordering::Relaxed);
        Some(Self { method, began: Instant::now(), code: Code::Cancelled })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.method.under_way.fetch_sub(1, Ordering::Relaxed);
        self.method.ended[self.code as usize].fetch_add(1, Ordering::Relaxed);
        self.method.times.record(self.began.elapsed());
    }
}

/// A failed call says so in its headers; one that works, or is a stream, says nothing there.
fn code_of<B>(response: &Response<B>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let mut call = Call::begin(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let Some(call) = &mut call {
                call.code = answer.as_ref().map_or(Code::Unknown, code_of);
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt;
    use tower::util::service_fn;

    fn calls_of(method: &str) -> Option<MethodCalls> {
        served().into_iter().find(|calls| calls.method == method)
    }

    #[tokio::test]
    async fn calls_are_counted_by_status_and_cancelled_ones_too() {
        let path = |method: &str| format!("/nokv.kv.v1.NoKV/{method}");
        let serve = |status: Option<&'static str>| {
            CountCalls.layer(service_fn(move |_: Request<()>| async move {
                let mut response = Response::new(());
                if let Some(status) = status {
                    response.headers_mut().insert("grpc-status", http::HeaderValue::from_static(status));
                }
                Ok::<_, std::convert::Infallible>(response)
            }))
        };
        let request = |method: &str| Request::post(path(method)).body(()).unwrap();
        assert_eq!(calls_of("KvScan"), None);
        serve(None).oneshot(request("KvScan")).await.unwrap();
        serve(Some("14")).oneshot(request("KvScan")).await.unwrap();
        let mut never = serve(None);
        drop(never.call(request("KvScan")));
        let calls = calls_of("KvScan").unwrap();
        assert_eq!(calls.service, "nokv.kv.v1.NoKV");
        assert_eq!(calls.ended, [("OK", 1), ("Canceled", 1), ("Unavailable", 1)]);
        assert_eq!((calls.under_way, calls.times.count()), (0, 3));
        serve(None).oneshot(request("NoSuchMethod")).await.unwrap();
        assert_eq!(calls_of("NoSuchMethod"), None);
        assert!(calls_of(OTHER).is_some_and(|other| other.service == OTHER));
    }
}
