//! What can go wrong on a meta-root node, by who must act.

use std::io;
use std::path::{Path, PathBuf};

/// Why a meta-root node does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator must correct a setting.
    #[error("meta-root configuration: {0}")]
    InvalidConfig(String),
    /// Another process has the work directory; the operator must stop it.
    #[error("{} is open in another process ({owner})", .path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it.
        owner: String,
    },
    /// The work directory belongs to another node or another cluster; the operator must look.
    #[error("{} belongs to {stored}, but was started as {given}", .path.display())]
    Membership {
        /// The identity file.
        path: PathBuf,
        /// Who it belongs to.
        stored: String,
        /// What was configured.
        given: String,
    },
    /// A file is damaged; the operator must restore it, or replace this node by an empty one.
    #[error("{} is damaged at offset {offset}: {what}", .path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How.
        what: String,
    },
    /// A file that must be there is gone; the operator must restore it, or replace this node by an empty one.
    #[error("{} is missing, but {because}", .path.display())]
    Missing {
        /// The missing file.
        path: PathBuf,
        /// Why it should be there.
        because: &'static str,
    },
    /// The disk refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The operator must free or change the address.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// The address asked for.
        addr: String,
        /// Why not.
        source: io::Error,
    },
    /// The raft group or its log could not be opened.
    #[error(transparent)]
    Replica(#[from] nokv_replica::Error),
}

impl Error {
    /// Whether this is a simulated node's death rather than a failure to report.
    pub fn is_crashed(&self) -> bool {
        match self {
            Error::Io { source, .. } => nokv_env::disk::is_crashed(source),
            Error::Replica(error) => error.is_crashed(),
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn corrupt(path: &Path, offset: usize, what: impl Into<String>) -> Self {
        Error::Corrupt { path: path.to_owned(), offset: offset as u64, what: what.into() }
    }
}
