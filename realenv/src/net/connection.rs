//! A TCP connection of a server that can be cut from outside.
//!
//! tonic waits for clients to go away when it shuts down; a long stream (raft, health watch) never would.

use nokv_env::BoxFuture;
use nokv_env::task::Stop;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Ends with `ConnectionAborted` once its server's `cut` is raised.
pub(super) struct Connection {
    tcp: TcpStream,
    cut: Stop,
    /// Wakes the reader when the cut comes. A server's connection is always reading.
    woken: BoxFuture<'static, ()>,
}

impl Connection {
    pub(super) fn new(tcp: TcpStream, cut: &Stop) -> Self {
        let waiting = cut.clone();
        Connection { tcp, cut: cut.clone(), woken: Box::pin(async move { waiting.stopped().await }) }
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.is_stopped() { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check()?;
        let read = Pin::new(&mut this.tcp).poll_read(cx, buf);
        if read.is_pending() && this.woken.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        Pin::new(&mut this.tcp).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check()?;
        Pin::new(&mut this.tcp).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp.connect_info()
    }
}
