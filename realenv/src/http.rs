//! A little HTTP/1 server for what operators look at: each path answers with what its closure makes.
//!
//! For `/debug/vars`, `/metrics`, `/readyz` and friends. Reading only, a few connections at a time, no keep-alive
//! beyond a scrape.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
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
}

impl Reply {
    /// JSON that worked.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, kind: "application/json; charset=utf-8", body: text.into() }
    }

    /// Plain text with any status.
    pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: text.into() }
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
    let Reply { status, kind, body } = match page {
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
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
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
        let taken = serve(&addr.to_string(), Vec::new()).await.map(|_| ()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
