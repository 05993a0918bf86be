//! Where a server's connections come from.

use super::connection::Connection;
use super::grumble::Grumble;
use super::wire::Wire;
use crate::tls::{Certificate, Seen, Tls, about_client};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use nokv_env::task::Stop;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Pause after a failed accept (out of file descriptors, most likely).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How long a client may take for its part of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at once; more wait in the listen queue.
const HANDSHAKES_MAX: usize = 256;
/// How long a client that was refused gets to read why.
const LINGER: Duration = Duration::from_secs(1);

/// New connections, for ever; with `tls`, those whose handshake succeeded.
pub(super) fn incoming(
    listener: TcpListener,
    cut: Stop,
    tls: Option<Arc<Tls>>,
    grumble: Arc<Grumble>,
) -> BoxStream<'static, io::Result<Connection>> {
    let accepted = accept(listener);
    match tls {
        None => accepted
            .map(move |(tcp, addr)| {
                let grumble = grumble.clone();
                let what = "it speaks TLS; this server has no certificates";
                let complain = Box::new(move || grumble.about_client(addr, what));
                Ok(Connection::plain(Wire::new(tcp), &cut, complain))
            })
            .boxed(),
        Some(tls) => accepted
            .map(move |(tcp, addr)| handshake(tcp, addr, tls.clone(), cut.clone(), grumble.clone()))
            .buffer_unordered(HANDSHAKES_MAX)
            .filter_map(std::future::ready)
            .map(Ok)
            .boxed(),
    }
}

/// A failed accept is waited out.
fn accept(listener: TcpListener) -> impl Stream<Item = (TcpStream, SocketAddr)> + Send {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((tcp, addr)) => {
                    // Without it we would be slow, not wrong.
                    let _ = tcp.set_nodelay(true);
                    return Some(((tcp, addr), listener));
                }
                Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
            }
        }
    })
}

async fn handshake(
    tcp: TcpStream,
    addr: SocketAddr,
    tls: Arc<Tls>,
    cut: Stop,
    grumble: Arc<Grumble>,
) -> Option<Connection> {
    let us = tls.current();
    let seen = Seen::default();
    let config = match us.answering(&seen) {
        Ok(config) => config,
        Err(error) => {
            grumble.about_client(addr, &error.to_string());
            return None;
        }
    };
    let accept = TlsAcceptor::from(config).accept(Wire::new(tcp)).into_fallible();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = shown.and_then(|der| Certificate::from_der(der).ok());
            Some(Connection::tls(stream, certificate, &cut))
        }
        Ok(Err((error, wire))) => {
            if let Some(what) = about_client(&error, wire.first(), &seen, &us) {
                grumble.about_client(addr, &what);
            }
            linger(wire).await;
            None
        }
        Err(_) => {
            grumble.about_client(addr, "its handshake takes too long");
            None
        }
    }
}

/// Closes a connection so that the reason, which has been sent, is not lost: a socket that is closed while it has
/// something unread makes the other side forget what it has not read yet.
async fn linger(mut wire: Wire) {
    let drain = async {
        wire.shutdown().await?;
        let mut unread = [0; 4096];
        while wire.read(&mut unread).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // The client is being sent away: whether it listens is its own matter.
    let _ = tokio::time::timeout(LINGER, drain).await;
}
