//! How a channel's connections come up, and what is known of the last one that did not.

use super::grumble::Grumble;
use super::wire::{FIRST_OF_TLS, Wire};
use crate::tls::{Loaded, Tls, Trouble, about_server, server_name};
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use nokv_env::net::{BoxError, TlsFailure, TlsProblem};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::ServiceExt;

/// How long a server may take for its part of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first byte of a TLS alert.
const FIRST_OF_ALERT: u8 = 0x15;

/// One address that is dialled, again and again.
pub(super) struct Target {
    addr: String,
    tls: Option<Arc<Tls>>,
    grumble: Arc<Grumble>,
    /// Why the present connection is of no use, if TLS is the matter.
    trouble: Mutex<Option<Trouble>>,
}

impl Target {
    pub(super) fn new(addr: &str, tls: Option<Arc<Tls>>, grumble: Arc<Grumble>) -> Arc<Self> {
        Arc::new(Self { addr: addr.to_owned(), tls, grumble, trouble: Mutex::new(None) })
    }

    /// Why a call failed, if TLS was the matter.
    pub(super) fn failure(&self) -> Option<TlsFailure> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let (problem, what) = trouble.clone()?;
        Some(TlsFailure { problem, addr: self.addr.clone(), what })
    }

    fn set(&self, trouble: Option<Trouble>) {
        if let Some((_, what)) = &trouble {
            self.grumble.about_server(&self.addr, what);
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Connects; what it returns has been through the handshake.
    pub(super) async fn dial(
        self: Arc<Self>,
        tcp: HttpConnector,
        uri: Uri,
    ) -> Result<TokioIo<Dialled>, BoxError> {
        self.set(None);
        let wire = Wire::new(tcp.oneshot(uri).await?.into_inner());
        let stream = match &self.tls {
            None => Stream::Plain(wire),
            Some(tls) => Stream::Tls(Box::new(self.shake(wire, tls.current()).await?)),
        };
        Ok(TokioIo::new(Dialled { stream, target: self, is_settled: false }))
    }

    async fn shake(&self, wire: Wire, us: Arc<Loaded>) -> Result<Secured, BoxError> {
        let name = match server_name(&self.addr) {
            Ok(name) => name,
            Err(what) => {
                self.set(Some((TlsProblem::CertificateInvalid, what.clone())));
                return Err(what.into());
            }
        };
        let connect = TlsConnector::from(us.dialling()).connect(name, wire).into_fallible();
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, connect).await {
            Ok(Ok(stream)) => Ok(Secured { stream, us }),
            Ok(Err((error, wire))) => {
                self.set(about_server(&error, wire.first(), &us));
                Err(error.into())
            }
            Err(_) => Err("the server takes too long for the TLS handshake".into()),
        }
    }
}

struct Secured {
    stream: TlsStream<Wire>,
    us: Arc<Loaded>,
}

enum Stream {
    Plain(Wire),
    Tls(Box<Secured>),
}

/// A connection to a server. A server that wants TLS, or another certificate, says so in its first bytes: also after
/// the handshake, which ends for us before the server has looked at our certificate.
pub(super) struct Dialled {
    stream: Stream,
    target: Arc<Target>,
    /// Whether the server has answered in kind.
    is_settled: bool,
}

impl Dialled {
    fn settle(&mut self, has_read: bool, read: &Poll<io::Result<()>>) -> io::Result<()> {
        let trouble = match (&self.stream, read) {
            (_, Poll::Pending) => return Ok(()),
            (Stream::Plain(wire), Poll::Ready(_)) => {
                let speaks_tls = matches!(wire.first(), Some(FIRST_OF_ALERT | FIRST_OF_TLS));
                speaks_tls.then(|| (TlsProblem::Required, "the server wants TLS".to_owned()))
            }
            (Stream::Tls(secured), Poll::Ready(Err(error))) => about_server(error, None, &secured.us),
            (Stream::Tls(_), Poll::Ready(Ok(()))) => None,
        };
        self.is_settled = has_read;
        if let Some((problem, what)) = trouble {
            self.target.set(Some((problem, what.clone())));
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        Ok(())
    }
}

impl AsyncRead for Dialled {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(wire) => Pin::new(wire).poll_read(cx, buf),
            Stream::Tls(secured) => Pin::new(&mut secured.stream).poll_read(cx, buf),
        };
        if !this.is_settled {
            this.settle(buf.filled().len() > before, &read)?;
        }
        read
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(wire) => Pin::new(wire).poll_write(cx, data),
            Stream::Tls(secured) => Pin::new(&mut secured.stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(wire) => Pin::new(wire).poll_write_vectored(cx, data),
            Stream::Tls(secured) => Pin::new(&mut secured.stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(wire) => wire.is_write_vectored(),
            Stream::Tls(secured) => secured.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(wire) => Pin::new(wire).poll_flush(cx),
            Stream::Tls(secured) => Pin::new(&mut secured.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Stream::Tls(secured) => Pin::new(&mut secured.stream).poll_shutdown(cx),
        }
    }
}
