//! Why a store does not start, named by who must act.

use nokv_engine as engine;
use nokv_env::disk;
use std::io;
use std::path::PathBuf;

/// Result of this crate's front doors.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a store cannot start, or its directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings make no sense. Whoever wrote them changes them.
    #[error("invalid store configuration: {0}")]
    Config(String),
    /// The directory belongs to another store. The operator names the right directory or the right id.
    #[error("workdir {} is bound to store {bound}, not store {asked}", workdir.display())]
    WrongStore {
        /// The directory.
        workdir: PathBuf,
        /// The store that its mode file names.
        bound: u64,
        /// The store that was to start.
        asked: u64,
    },
    /// The directory is in a mode in which a store must not run. The operator finishes what was begun.
    #[error("workdir {} is in mode {mode}: {remedy}", workdir.display())]
    WrongMode {
        /// The directory.
        workdir: PathBuf,
        /// The mode it is in.
        mode: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The mode file is not what was written. The operator restores it.
    #[error("{}: {what}", path.display())]
    BadMode {
        /// The mode file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A directory that holds other data cannot be given these regions. The operator chooses a fresh one.
    #[error("workdir {} is in use: {what}", workdir.display())]
    Used {
        /// The directory.
        workdir: PathBuf,
        /// What lies in it.
        what: String,
    },
    /// A stand-alone database cannot become a region as it is. The operator removes what is in the way.
    #[error("workdir {} cannot be migrated: {}", workdir.display(), blockers.join("; "))]
    NotEligible {
        /// The directory.
        workdir: PathBuf,
        /// What is in the way.
        blockers: Vec<String>,
    },
    /// The directory became a region under other ids. The operator goes on with those.
    #[error("workdir {} is {} already: store={} region={} peer={}", workdir.display(), state.mode.name(), state.store_id, state.region_id, state.peer_id)]
    AlreadySeeded {
        /// The directory.
        workdir: PathBuf,
        /// Its mode file.
        state: crate::mode::State,
    },
    /// A region that makes no sense was to be seeded.
    #[error("invalid region: {0}")]
    InvalidRegion(String),
    /// The meta family holds what this version does not write. The operator restores the directory.
    #[error("local catalog, key {key:?}: {what}")]
    BadCatalog {
        /// The key in the meta family.
        key: Vec<u8>,
        /// What is wrong with its value.
        what: &'static str,
    },
    /// The engine failed, or refuses its directory.
    #[error("engine: {0}")]
    Engine(#[from] engine::Error),
    /// The raft driver does not start.
    #[error("raft: {0}")]
    Replica(#[from] nokv_replica::Error),
    /// The disk refused.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The call, in words.
        doing: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The address cannot be served on. The operator frees it or chooses another.
    #[error("cannot serve on {addr}: {source}")]
    Listen {
        /// The address.
        addr: String,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl Error {
    /// Whether this is a simulated node's death rather than a failure to report.
    pub fn is_crashed(&self) -> bool {
        match self {
            Error::Engine(error) => error.is_crashed(),
            Error::Replica(error) => error.is_crashed(),
            Error::Io { source, .. } => disk::is_crashed(source),
            _ => false,
        }
    }
}
