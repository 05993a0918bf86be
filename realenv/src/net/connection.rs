//! The connections of a server: TCP, with or without TLS on top, which can be cut from outside.
//!
//! tonic waits for clients to go away when it shuts down; a long stream (raft, health watch) never would.

use super::wire::{FIRST_OF_TLS, Wire};
use crate::tls::Certificate;
use nokv_env::BoxFuture;
use nokv_env::task::Stop;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Who is at the other end of a server's connection; in the extensions of every request.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// What its certificate says; `None` without TLS.
    pub(super) certificate: Option<Arc<Certificate>>,
}

enum Stream {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

/// What is done, once, with a client that speaks TLS to a server that does not.
type Complain = Box<dyn FnOnce() + Send>;

/// Ends with `ConnectionAborted` once its server's `cut` is raised.
pub(super) struct Connection {
    stream: Stream,
    peer: Peer,
    cut: Stop,
    /// Wakes the reader when the cut comes. A server's connection is always reading.
    woken: BoxFuture<'static, ()>,
    /// Until the first bytes have come.
    complain: Option<Complain>,
}

impl Connection {
    /// A connection without TLS.
    pub(super) fn plain(wire: Wire, cut: &Stop, complain: Complain) -> Self {
        Self::new(Stream::Plain(wire), Peer { certificate: None }, cut, Some(complain))
    }

    /// A connection after the handshake.
    pub(super) fn tls(stream: TlsStream<Wire>, certificate: Option<Certificate>, cut: &Stop) -> Self {
        let peer = Peer { certificate: certificate.map(Arc::new) };
        Self::new(Stream::Tls(Box::new(stream)), peer, cut, None)
    }

    fn new(stream: Stream, peer: Peer, cut: &Stop, complain: Option<Complain>) -> Self {
        let waiting = cut.clone();
        let woken = Box::pin(async move { waiting.stopped().await });
        Connection { stream, peer, cut: cut.clone(), woken, complain }
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.is_stopped() { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Looks at what a client without TLS says first.
    fn hear(&mut self) -> io::Result<()> {
        let Stream::Plain(wire) = &self.stream else { return Ok(()) };
        let Some(first) = wire.first() else { return Ok(()) };
        match self.complain.take() {
            Some(complain) if first == FIRST_OF_TLS => {
                complain();
                Err(io::Error::new(ErrorKind::InvalidData, "the client speaks TLS, this server does not"))
            }
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let read = match &mut this.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if read.is_pending() && this.woken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        if this.complain.is_some() {
            this.hear()?;
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        match &mut this.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_write(cx, data),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        match &mut this.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_write_vectored(cx, data),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(wire) => wire.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}
