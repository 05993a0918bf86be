//! The network as gRPC: tonic's generated clients and servers over a transport that the world chooses.
//!
//! A [`Channel`] is exactly what a generated client is generic over, and `Routes` is what generated
//! servers add up to, so one code base runs over TCP (`realenv`) and over simulated links (`sim`).
//!
//! What callers may rely on, in both worlds: frames of one call arrive in order; a call may fail at any
//! point with an unavailable-like status, with or without having been executed; nothing is ever retried
//! underneath; dropping a call's future or response stream cancels it.

use crate::BoxFuture;
use std::io;
use tonic::body::Body;
use tonic::service::Routes;
use tower::util::BoxCloneSyncService;

/// What an error is boxed into.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Error of a transport below the gRPC status: a boxed cause behind a concrete type.
///
/// Concrete on purpose: with a bare `Box<dyn Error>` here, futures that await a generated client are not
/// provably `Send` (rust-lang/rust#64552).
///
/// When the cause is a `tonic::Status`, the generated client finds it in the source chain and keeps its code.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NetError(#[from] pub BoxError);

/// What the two ends of a connection do not agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsProblem {
    /// We speak plainly; the other side wants TLS.
    Required,
    /// We speak TLS; the other side does not.
    Unexpected,
    /// The other side wants to see a certificate, and we have none.
    CertificateRequired,
    /// The other side does not accept our certificate.
    CertificateRejected,
    /// The other side's certificate is out of date.
    CertificateExpired,
    /// The other side's certificate is of an unknown authority, for another name, or not for servers.
    CertificateInvalid,
}

/// A connection that is not used because its ends do not trust or understand each other. No request went over it.
///
/// It is in the source chain of the status that a call ends with, which says `UNAVAILABLE`: certificates are
/// replaced while processes run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{addr}: {what}")]
pub struct TlsFailure {
    /// The kind of disagreement.
    pub problem: TlsProblem,
    /// The other side, as it was dialled.
    pub addr: String,
    /// What is wrong, for people.
    pub what: String,
}

impl TlsFailure {
    /// The failure behind `status`, if it is one of this kind.
    pub fn of(status: &tonic::Status) -> Option<&Self> {
        let mut source = std::error::Error::source(status);
        while let Some(error) = source {
            if let Some(failure) = error.downcast_ref() {
                return Some(failure);
            }
            source = error.source();
        }
        None
    }
}

/// A lazily connecting, clonable client connection to one address.
pub type Channel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, NetError>;

/// A running server. Dropping it stops accepting and closes its connections.
pub trait ServerHandle: Send + Sync {
    /// The address in use, for instance with the port that `:0` became.
    fn local_addr(&self) -> String;
    /// Stops accepting new calls and lets the ones under way finish within a short grace period.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Serving and calling.
pub trait Net: Send + Sync {
    /// Serves `routes` on `addr` (`host:port`). An address in use is `AddrInUse`.
    ///
    /// In production the server also answers gRPC reflection and health checks.
    fn serve(&self, addr: &str, routes: Routes) -> BoxFuture<'static, io::Result<Box<dyn ServerHandle>>>;
    /// A channel to `addr`. Connects at first use and again after a loss; never blocks.
    fn connect(&self, addr: &str) -> Channel;
    /// Says which cluster this process belongs to, see [`crate::OfCluster`]; 0: it is one of those that decide. An error if it belongs to another one: then what
    /// the process has in its hands is of two clusters, and it must not go on with it.
    fn identify(&self, _cluster: u64) -> Result<(), String> {
        Ok(())
    }
}

/// Message size limit for encoding and decoding on every client and server of ours, in bytes.
///
/// Large because a region snapshot or a scan page travels as one message.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
