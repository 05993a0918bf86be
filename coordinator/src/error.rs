//! What can go wrong, by who must act.

use std::io;

/// Errors of a coordinator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator must correct a setting.
    #[error("coordinator configuration: {0}")]
    InvalidConfig(String),
    /// The operator must free or change the address.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address asked for.
        addr: String,
        /// Why not.
        source: io::Error,
    },
    /// No meta-root answered in time; the caller may retry.
    #[error("no metadata root answered: {0}")]
    RootUnavailable(String),
    /// The meta-root refused; the caller must change the request.
    #[error("{}", .0.message())]
    RootRefused(tonic::Status),
    /// Another coordinator hands out ids and timestamps; the caller must ask that one.
    #[error("coordinator lease not held: {0}")]
    LeaseNotHeld(String),
    /// The request makes no sense.
    #[error("{0}")]
    InvalidRequest(String),
    /// The request is refused by the state of the cluster (freshness, epoch, a pending change).
    #[error("{0}")]
    Refused(String),
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> tonic::Status {
        let text = error.to_string();
        match error {
            Error::RootRefused(status) => status,
            Error::RootUnavailable(_) => tonic::Status::unavailable(text),
            Error::LeaseNotHeld(_) | Error::Refused(_) => tonic::Status::failed_precondition(text),
            Error::InvalidConfig(_) | Error::InvalidRequest(_) => tonic::Status::invalid_argument(text),
            Error::Listen { .. } => tonic::Status::internal(text),
        }
    }
}
