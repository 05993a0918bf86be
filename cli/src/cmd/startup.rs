//! Why a server does not start, in the shape of the error contract.

use crate::cmd::server::{in_use_failure, listen_failure};
use crate::errors::{Code, Failure};
use nokv_engine as engine;
use nokv_raftstore as raftstore;
use std::path::Path;

/// What to do about damaged files.
const RESTORE: &str = "the file is left as it is. Restore it from a copy, or move the directory away and start empty: the other \
    replicas have the data";

/// What to do about a mode file.
const MODE_RESTORE: &str = "restore it from a copy; nothing was changed";

fn damaged(path: &Path, message: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Corrupt, message)
        .why("bytes on disk are not what was written there: a disk fault, or somebody edited them")
        .next(RESTORE)
        .detail("path", path.display().to_string())
}

/// The engine's reasons.
pub fn engine(error: &engine::Error) -> Failure {
    use engine::Error as E;
    match error {
        E::Corrupt { file, offset, .. } => damaged(file, error).detail("offset", *offset),
        E::Io { file, doing, source } => Failure::io(format!("{doing} {}", file.display()), source),
        E::Locked { path, owner } => in_use_failure(path, owner),
        E::NotADatabase { dir } => Failure::new(Code::NotAWorkdir, error)
            .next("give the directory that a store was started with")
            .detail("path", dir.display().to_string()),
        E::Owned { dir } => Failure::new(Code::WrongMode, error)
            .why("what is written beside a store's log is on this replica only, and gone with the next snapshot")
            .next("write through the cluster (nokv put), or give a stand-alone directory")
            .detail("path", dir.display().to_string()),
        E::MissingCurrent { dir, .. } => Failure::new(Code::CurrentMissing, error)
            .why("without CURRENT nobody knows which files are live; starting empty would hide the data")
            .next("restore CURRENT, or move the directory away and start empty: the other replicas have the data")
            .detail("path", dir.display().to_string()),
        E::TooLarge { .. } => Failure::new(Code::TooLarge, error),
        E::InvalidOption(_) => Failure::usage(error),
        _ => Failure::new(Code::Internal, error),
    }
}

/// The raft log's reasons.
pub fn replica(error: &nokv_replica::Error) -> Failure {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<engine::Error>() {
            return engine(inner);
        }
        source = inner.source();
    }
    Failure::new(Code::Internal, error)
}

/// A meta-root's reasons.
pub fn meta_root(error: &nokv_metaroot::Error) -> Failure {
    use nokv_metaroot::Error as E;
    match error {
        E::InvalidConfig(_) => Failure::usage(error),
        E::Locked { path, owner } => in_use_failure(path, owner),
        E::Membership { path, .. } => Failure::new(Code::MembershipMismatch, error)
            .why("a meta-root that votes for another group, or under another id, breaks its promises")
            .next("start it with the id and the peers it was made with, or give a fresh --workdir")
            .detail("path", path.display().to_string()),
        E::Corrupt { path, offset, .. } => damaged(path, error).detail("offset", *offset),
        E::Missing { path, .. } => damaged(path, error),
        E::Io { action, path, source } => Failure::io(format!("{action} {}", path.display()), source),
        E::Listen { addr, source } => listen_failure(addr, "--addr or --transport-addr", source),
        E::Replica(error) => replica(error),
    }
}

/// A coordinator's reasons.
pub fn coordinator(error: &nokv_coordinator::Error) -> Failure {
    use nokv_coordinator::Error as E;
    match error {
        E::InvalidConfig(_) => Failure::usage(error),
        E::Listen { addr, source } => listen_failure(addr, "--addr", source),
        E::RootUnavailable(_) => Failure::new(Code::Unavailable, error),
        _ => Failure::new(Code::Internal, error),
    }
}

/// A store's reasons.
pub fn store(error: &raftstore::Error) -> Failure {
    use raftstore::Error as E;
    match error {
        E::Config(_) | E::InvalidRegion(_) => Failure::usage(error),
        E::WrongStore { workdir, bound, asked } => Failure::new(Code::StoreIdMismatch, error)
            .why("peers of that store live here; another store must not answer for them")
            .next(format!("nokv serve --store-id {bound} --workdir {}", workdir.display()))
            .detail("path", workdir.display().to_string())
            .detail("bound", *bound)
            .detail("asked", *asked),
        E::WrongMode { workdir, mode, .. } => Failure::new(Code::WrongMode, error)
            .detail("path", workdir.display().to_string())
            .detail("mode", *mode),
        E::BadMode { path, .. } => {
            let failure = Failure::new(Code::ModeFileCorrupt, error).why(
                "the file is not as it was written; what the directory is can only be guessed without it",
            );
            failure.next(MODE_RESTORE).detail("path", path.display().to_string())
        }
        E::Used { workdir, .. } => Failure::new(Code::WorkdirNotFresh, error)
            .why("seeding is for directories that no store has used")
            .next("start the store on it as it is, or choose a fresh directory")
            .detail("path", workdir.display().to_string()),
        E::NotEligible { workdir, blockers } => Failure::new(
            Code::Refused,
            format!("{} cannot be migrated:\n{}", workdir.display(), blockers.join("\n")),
        )
        .next(format!("nokv migrate plan --workdir {}", workdir.display()))
        .detail("path", workdir.display().to_string())
        .detail("blockers", blockers.clone()),
        E::AlreadySeeded { workdir, state } => Failure::new(Code::AlreadySeeded, error)
            .why("a directory becomes a region once; its ids are known to whatever was started on it")
            .next(format!(
                "nokv migrate init --workdir {} --store {} --region {} --peer {}",
                workdir.display(),
                state.store_id,
                state.region_id,
                state.peer_id
            ))
            .detail("path", workdir.display().to_string())
            .detail("store_id", state.store_id)
            .detail("region_id", state.region_id)
            .detail("peer_id", state.peer_id),
        E::BadCatalog { .. } => Failure::new(Code::Corrupt, error).next(RESTORE),
        E::Engine(error) => engine(error),
        E::Replica(error) => replica(error),
        E::Io { path, doing, source } => Failure::io(format!("{doing}: {}", path.display()), source),
        E::Listen { addr, source } => listen_failure(addr, "--addr", source),
    }
}
