//! What can go wrong, named by who must act.

use nokv_env::disk;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the engine could not do what was asked. Cheap to clone: one failure may be told to many waiters.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes on disk are not what was written there. The operator restores the file or the replica.
    #[error("{}: damaged at offset {offset}: {what}", file.display())]
    Corrupt {
        /// The damaged (or missing) file.
        file: PathBuf,
        /// Where in the file the damaged structure starts.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The disk refused. The operator looks at the disk; the engine never retries a failed sync, and a write only
    /// when the disk was full.
    #[error("{}: cannot {doing}: {source}", file.display())]
    Io {
        /// The file or directory of the call.
        file: PathBuf,
        /// The call, in words.
        doing: &'static str,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// Another process (or component of this one) has the database open.
    #[error("{}: locked by {owner}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The line that the holder left in it.
        owner: String,
    },
    /// A store of a cluster owns the directory; only it may write there.
    #[error("{}: a store of a cluster owns this directory ({})", dir.display(), crate::OWNER_FILE)]
    Owned {
        /// The directory that was opened.
        dir: PathBuf,
    },
    /// There is no database in this directory.
    #[error("{}: not a database", dir.display())]
    NotADatabase {
        /// The directory that was opened.
        dir: PathBuf,
    },
    /// Tables, manifests or log segments lie here, but `CURRENT` is gone. Opening would hide all data.
    #[error("{}: CURRENT is missing although the directory holds {evidence}; restore CURRENT, nothing was changed", dir.display())]
    MissingCurrent {
        /// The directory that was opened.
        dir: PathBuf,
        /// A file that belongs to a database.
        evidence: String,
    },
    /// An earlier failure left the engine unable to accept writes. The process restarts it.
    #[error("the engine stopped accepting writes after a failure: {0}")]
    Poisoned(String),
    /// The database was closed.
    #[error("the engine is closed")]
    Closed,
    /// The database was opened for reading only.
    #[error("the engine is open for reading only")]
    ReadOnly,
    /// The caller's key, value or batch is larger than the format allows.
    #[error("{what} of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Which part is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The largest size that is accepted.
        limit: u64,
    },
    /// A file cannot be ingested as it is, or not together with the others. The caller chooses other files.
    #[error("{}: cannot be ingested: {what}", file.display())]
    NotIngestible {
        /// The file.
        file: PathBuf,
        /// What speaks against it.
        what: &'static str,
    },
    /// Rows of a store of a cluster have no end: wall clocks differ, and so would replicas. The caller writes them without.
    #[error("rows with an expiry are not for the database of a store: its replicas would differ")]
    ExpiryInStore,
    /// An option makes no sense.
    #[error("invalid option: {0}")]
    InvalidOption(&'static str),
    /// Options in a text are wrong. Whoever wrote the text corrects it.
    #[error("line {line}, column {column}: {what}")]
    InvalidText {
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What is wrong there.
        what: String,
    },
}

impl Error {
    /// Whether this is the simulated node's death rather than a failure to report.
    pub fn is_crashed(&self) -> bool {
        matches!(self, Error::Io { source, .. } if disk::is_crashed(source))
    }

    /// Whether this is about damaged bytes.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Error::Corrupt { .. })
    }

    /// Whether the disk was full, and nothing came of what was asked: it may be asked again when there is room. Never of a
    /// sync of what others know: whatever the reason that one gives, what it was to make durable may be lost.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Error::Io { doing, source, .. } if *doing != "sync" && disk::is_full(source))
    }

    pub(crate) fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Error::Corrupt { file: file.to_owned(), offset, what: what.into() }
    }

    /// What everybody after the first victim is told.
    pub(crate) fn for_later_callers(&self) -> Self {
        match self {
            Error::Poisoned(_) | Error::Closed => self.clone(),
            _ if self.is_crashed() => self.clone(),
            _ => Error::Poisoned(self.to_string()),
        }
    }
}

/// Gives an `io::Result` its file and purpose.
pub(crate) trait IoContext<T> {
    /// Wraps the error, if any.
    fn at(self, file: &Path, doing: &'static str) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, file: &Path, doing: &'static str) -> Result<T> {
        self.map_err(|source| Error::Io { file: file.to_owned(), doing, source: Arc::new(source) })
    }
}
