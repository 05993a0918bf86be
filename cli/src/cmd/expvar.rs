//! Fetching `/debug/vars`: one HTTP GET with a deadline, nothing more. No TLS, no redirects.

use crate::args::values::show_duration;
use crate::errors::{Code, Failure, Result};
use nokv_env::{ClockExt, Env};
use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATH: &str = "/debug/vars";
/// An answer is not longer than this.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Where to ask.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// As it is shown.
    url: String,
    /// `host:port`.
    addr: String,
    path: String,
}

impl Target {
    /// `http://` and `/debug/vars` may be left out.
    fn parse(text: &str) -> Result<Self> {
        let bad = |what: &str| Failure::usage(format!("--expvar: '{text}' {what}"));
        let rest = match text.split_once("://") {
            None => text,
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                return Err(bad(&format!("asks for {scheme}; only http is spoken here"))
                    .next("ask on the same machine, where no encryption is needed"));
            }
        };
        let rest = rest.trim_end_matches('/');
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if host.is_empty() || host.contains(char::is_whitespace) || path.contains(char::is_whitespace) {
            return Err(bad("is no URL").next("give HOST:PORT, the process's --metrics-addr"));
        }
        let port = match host.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => Some(port),
            _ => None,
        };
        let addr = match port {
            None => format!("{host}:80"),
            Some(port) if port.parse::<u16>().is_ok_and(|port| port > 0) => host.to_owned(),
            Some(port) => return Err(bad(&format!("has the port '{port}', which is none"))),
        };
        let path = if path.contains(PATH) { path.to_owned() } else { format!("{path}{PATH}") };
        Ok(Self { url: format!("http://{host}{path}"), addr, path })
    }
}

/// Why there is no document.
enum Trouble {
    Io(&'static str, io::Error),
    /// The status line.
    Status(String),
    NotHttp,
    TooLong,
    NotJson(String),
}

/// The document at `url`, and the URL in full.
pub async fn fetch(env: &Env, url: &str, patience: Duration) -> Result<(String, Value)> {
    let target = Target::parse(url)?;
    let begun = env.clock.now();
    let asked = env.clock.timeout(patience, ask(&target)).await;
    let elapsed = env.clock.now().since(begun);
    let failure = |what: String| {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Failure::new(Code::EndpointUnreachable, format!("{}: {what}", target.url))
            .why(format!("after {elapsed_ms} ms"))
            .next("is --metrics-addr set on that process, and is this its address?")
            .detail("url", target.url.clone())
            .detail("elapsed_ms", elapsed_ms)
    };
    match asked {
        Ok(Ok(document)) => Ok((target.url, document)),
        Ok(Err(Trouble::Io(doing, error))) => Err(failure(format!("cannot {doing}: {error}"))),
        Ok(Err(Trouble::Status(line))) => {
            Err(failure(format!("the answer is {line}")).detail("status", line))
        }
        Ok(Err(Trouble::NotHttp)) => Err(failure("what answers does not speak HTTP".to_owned())),
        Ok(Err(Trouble::TooLong)) => Err(failure("the answer is too long".to_owned())),
        Ok(Err(Trouble::NotJson(why))) => Err(failure(format!("the answer is not JSON: {why}"))),
        Err(_) => Err(failure(format!("no answer within {}", show_duration(patience)))),
    }
}

async fn ask(target: &Target) -> std::result::Result<Value, Trouble> {
    let io = |doing| move |error| Trouble::Io(doing, error);
    let mut stream = TcpStream::connect(&target.addr).await.map_err(io("connect"))?;
    // With version 1.0 the answer ends with the connection and comes in one piece.
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\nConnection: close\r\n\r\n",
        target.path, target.addr
    );
    stream.write_all(request.as_bytes()).await.map_err(io("send the request"))?;
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWER_BYTES_MAX);
    if let Err(error) = limited.read_to_end(&mut answer).await {
        // A connection that is reset behind a whole answer has done its work.
        if document(&answer).is_err() {
            return Err(Trouble::Io("read the answer", error));
        }
    }
    if limited.limit() == 0 {
        return Err(Trouble::TooLong);
    }
    document(&answer)
}

/// The document in an HTTP answer.
fn document(answer: &[u8]) -> std::result::Result<Value, Trouble> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or(Trouble::NotHttp)?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| Trouble::NotHttp)?;
    let line = head.lines().next().unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once(' ')).map(|(_, status)| status);
    match status {
        None => Err(Trouble::NotHttp),
        Some(status) if !status.starts_with("200") => Err(Trouble::Status(status.trim().to_owned())),
        Some(_) => {
            serde_json::from_slice(&answer[end + 4..]).map_err(|error| Trouble::NotJson(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_a_url_is_put_in() {
        let full = "http://h:9/debug/vars";
        for text in ["h:9", "http://h:9", "http://h:9/", "h:9/debug/vars", "http://h:9/debug/vars/"] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.url.as_str(), target.addr.as_str()), (full, "h:9"), "{text}");
        }
        assert_eq!(Target::parse("h").unwrap().addr, "h:80");
        assert_eq!(Target::parse("[::1]").unwrap().addr, "[::1]:80");
        assert_eq!(Target::parse("http://[::1]:9/x").unwrap().path, "/x/debug/vars");
        for text in ["", "http://", "h:0", "h:99999", "h:port", "a b", "https://h:9", "ftp://h"] {
            assert_eq!(Target::parse(text).unwrap_err().code(), Code::Usage, "{text}");
        }
    }

    #[test]
    fn answers_are_told_apart() {
        let ok = document(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"a\": 1}");
        assert!(ok.is_ok_and(|document| document["a"] == 1));
        assert!(
            matches!(document(b"HTTP/1.0 404 Not Found\r\n\r\n"), Err(Trouble::Status(line)) if line == "404 Not Found")
        );
        assert!(matches!(document(b"HTTP/1.0 200 OK\r\n\r\n<html>"), Err(Trouble::NotJson(_))));
        assert!(matches!(document(b"SSH-2.0-x\r\n\r\n"), Err(Trouble::NotHttp)));
        assert!(matches!(document(b"HTTP/1.0 200 OK\r\n"), Err(Trouble::NotHttp)));
    }
}
