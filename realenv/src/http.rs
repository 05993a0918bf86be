//! A little HTTP/1 server for what operators look at: each path answers with what its closure makes.
//!
//! For `/debug/vars`, `/metrics`, `/readyz` and friends. Reading only, a few connections at a time, no keep-alive
//! beyond a scrape.

use bytes::Bytes;
pub use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Makes the answer of one path, at each request, from the request's query (what follows the `?`, or nothing).
pub type Page = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// What a path answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200, or why not.
    pub status: StatusCode,
    /// The media type of the body.
    pub kind: &'static str,
    /// What is sent.
    pub body: Bytes,
    /// Headers beside the media type.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    /// JSON that worked.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self::of(StatusCode::OK, "application/json; charset=utf-8", text)
    }

    /// Plain text with any status.
    pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self::of(status, "text/plain; charset=utf-8", text)
    }

    /// A page that runs and shows nothing but what stands in itself under the nonce that `write` is given, asks nobody but
    /// this server, and stands inside of no other page.
    pub fn page(write: impl FnOnce(&str) -> String) -> Self {
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_err() {
            return Self::text(StatusCode::INTERNAL_SERVER_ERROR, "the machine gives no random bytes\n");
        }
        let nonce = format!("{:032x}", u128::from_le_bytes(random));
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let mut reply = Self::of(StatusCode::OK, "text/html; charset=utf-8", write(&nonce))
            .with(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"))
            .with(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        reply
            .headers
            .extend(HeaderValue::from_str(&policy).map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
        reply
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn of(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Self {
        Self { status, kind, body: text.into(), headers: Vec::new() }
    }
}

/// Connections served at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 64;
/// A client that has not sent its request by then is cut off.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of file descriptors, most likely).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The running server; dropping it stops accepting.
pub struct HttpServer {
    addr: SocketAddr,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// The address in use.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves `routes` (path and page) on `addr` until the returned value is dropped.
pub async fn serve(addr: &str, routes: Vec<(String, Page)>) -> io::Result<HttpServer> {
    let listener = TcpListener::bind(addr)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))?;
    let addr = listener.local_addr()?;
    let accepting = tokio::spawn(accept(listener, routes.into()));
    Ok(HttpServer { addr, accepting })
}

async fn accept(listener: TcpListener, routes: Arc<[(String, Page)]>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let routes = routes.clone();
                tokio::spawn(async move {
                    serve_connection(stream, &routes).await;
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, routes: &[(String, Page)]) {
    let answer = service_fn(|request: Request<Incoming>| {
        let uri = request.uri();
        let reply = answer(routes, request.method(), uri.path(), uri.query().unwrap_or_default());
        std::future::ready(Ok::<_, Infallible>(reply))
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_DEADLINE);
    // A client that breaks off mid-request is its own problem.
    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
}

fn answer(routes: &[(String, Page)], method: &Method, path: &str, query: &str) -> Response<Full<Bytes>> {
    let page = routes.iter().find(|(route, _)| route == path).map(|(_, page)| page);
    let Reply { status, kind, body, headers } = match page {
        None => {
            let known: Vec<&str> = routes.iter().map(|(route, _)| route.as_str()).collect();
            Reply::text(StatusCode::NOT_FOUND, format!("try {}\n", known.join(" ")))
        }
        Some(_) if method != Method::GET && method != Method::HEAD => {
            Reply::text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n")
        }
        Some(page) => page(query),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let known = response.headers_mut();
    known.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    known.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What was true a moment ago is of no use.
    known.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    known.extend(headers);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn pages_answer_and_everything_else_is_refused() {
        let page: Page = Arc::new(|query| match query {
            "bad" => Reply::text(StatusCode::SERVICE_UNAVAILABLE, "no leader\n"),
            _ => Reply::json(r#"{"up":true}"#),
        });
        let server = serve("127.0.0.1:0", vec![("/debug/vars".to_owned(), page)]).await.unwrap();
        let addr = server.local_addr();
        let found = get(addr, "GET /debug/vars?pretty").await;
        assert!(found.starts_with("HTTP/1.1 200 ") && found.ends_with(r#"{"up":true}"#), "{found}");
        assert!(found.contains("application/json"), "{found}");
        assert!(get(addr, "GET /debug/vars?bad").await.starts_with("HTTP/1.1 503 "));
        assert!(get(addr, "GET /").await.contains("try /debug/vars"));
        assert!(get(addr, "POST /debug/vars").await.starts_with("HTTP/1.1 405 "));
        assert!(found.contains("nosniff") && found.contains("no-store"), "{found}");
        let taken = serve(&addr.to_string(), Vec::new()).await.map(|_| ()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_page_may_run_only_what_it_brought() {
        let page: Page = Arc::new(|_| Reply::page(|nonce| format!("<script nonce={nonce}>")));
        let server = serve("127.0.0.1:0", vec![("/".to_owned(), page)]).await.unwrap();
        let (one, two) = (get(server.local_addr(), "GET /").await, get(server.local_addr(), "GET /").await);
        let nonce =
            |text: &str| text.split("nonce=").nth(1).unwrap_or_default().trim_end_matches('>').to_owned();
        assert!(nonce(&one).len() == 32 && nonce(&one) != nonce(&two), "{one} {two}");
        let policy = format!(
            "content-security-policy: default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}';",
            nonce(&one)
        );
        for wanted in [&policy, "frame-ancestors 'none'", "text/html", "x-frame-options: DENY"] {
            assert!(one.contains(wanted), "{wanted}: {one}");
        }
    }
}
