//! One HTTP request to a process's metrics address.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No page is longer.
const BYTES_MAX: u64 = 64 << 20;

/// The body of `http://ADDR/PATH`. HTTP/1.0, so that it ends where the connection does.
pub async fn get(addr: &str, path: &str) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(addr).await.map_err(failed)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut reply = Vec::new();
    stream.take(BYTES_MAX).read_to_end(&mut reply).await.map_err(failed)?;
    body(&reply)
}

fn body(reply: &[u8]) -> Result<Vec<u8>, String> {
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n").ok_or("the answer is no HTTP")?;
    let head = String::from_utf8_lossy(&reply[..end]);
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") if status.starts_with("HTTP/") => Ok(reply[end + 4..].to_vec()),
        Some(_) if status.starts_with("HTTP/") => Err(format!("the answer is {status}")),
        _ => Err("the answer is no HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_answers_have_a_body() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\na: b\r\n\r\n{}\r\n\r\n"), Ok(b"{}\r\n\r\n".to_vec()));
        assert!(body(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().contains("404"));
        assert!(body(b"hello").is_err() && body(b"SSH 200\r\n\r\n").is_err());
    }
}
