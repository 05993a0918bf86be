//! What a call may end with, named by who must act.

use bytes::Bytes;
use nokv_env::net::TlsFailure;
use nokv_proto::id::Timestamp;
use nokv_proto::kv::v1::BelowSafePoint;
use std::time::Duration;

/// Why an operation did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// Another transaction was first. Nothing was written; run the transaction again.
    #[error("transaction {start_ts} lost key {key:?} to another writer ({reason})")]
    Conflict {
        /// This transaction's start.
        start_ts: Timestamp,
        /// The key that was contended.
        key: Bytes,
        /// What the store said.
        reason: String,
    },
    /// The key was asserted to be new and is not. Nothing was written.
    #[error("key {key:?} already exists")]
    AlreadyExists {
        /// The key in question.
        key: Bytes,
    },
    /// The deadline passed. For a write: it is not committed and never will be.
    #[error("no answer within {after:?} ({what}); last cause: {cause}")]
    Timeout {
        /// What was being done.
        what: &'static str,
        /// The time allowed.
        after: Duration,
        /// The last failure seen.
        cause: String,
    },
    /// The deadline passed after a commit was sent: it may have happened or not, and may still happen.
    #[error(
        "the outcome of transaction {start_ts} is unknown: a commit was sent and no answer settled it ({cause})"
    )]
    OutcomeUnknown {
        /// The transaction's start.
        start_ts: Timestamp,
        /// The commit timestamp that was asked for last.
        commit_ts: Timestamp,
        /// The key whose record decides.
        primary: Bytes,
        /// The last failure seen.
        cause: String,
    },
    /// What was asked about may have been collected as garbage. Nothing was written; begin anew, at a fresh timestamp.
    #[error("timestamp {version} is too old: versions below {safe_point} may be gone")]
    TooOld {
        /// The timestamp of the snapshot or transaction.
        version: Timestamp,
        /// The lowest timestamp that is answered.
        safe_point: Timestamp,
    },
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    InvalidArgument(String),
    /// Over a limit of the product.
    #[error("{what} is too large: {bytes} bytes, at most {bytes_max}")]
    TooLarge {
        /// Key, value or transaction.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// A store takes no new data, because its disk is nearly full. Nothing was written.
    #[error("{0}")]
    DiskFull(String),
    /// The other side refuses this client for good: credentials, or a service that is not there.
    #[error("{addr} refuses: {reason}")]
    Refused {
        /// Who refused.
        addr: String,
        /// What it said.
        reason: String,
    },
    /// Nobody who could answer is trusted or understood, or trusts us. Nothing was written.
    #[error(transparent)]
    Tls(TlsFailure),
    /// A reply broke the protocol; a bug on one of the two sides.
    #[error("protocol violation: {0}")]
    Protocol(String),
}

impl ClientError {
    /// What a store says of a timestamp below its safe point.
    pub(crate) fn too_old(below: BelowSafePoint) -> Self {
        Self::TooOld { version: Timestamp(below.version), safe_point: Timestamp(below.safe_point) }
    }

    /// Whether running the whole operation again may succeed without anybody doing something first.
    ///
    /// [`ClientError::OutcomeUnknown`] is not: the first run may have taken effect.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Timeout { .. } | Self::TooOld { .. })
    }
}

/// Shorthand of this crate.
pub(crate) type Result<T> = std::result::Result<T, ClientError>;
