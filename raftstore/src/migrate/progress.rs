//! `MIGRATION_PROGRESS.json`: how far a migration came, for whoever looks.
//!
//! ```text
//! {"version":1,"stage":"seeded-finalized","store_id":1,"region_id":1,"peer_id":101,"updated_at":"2026-04-22T08:00:00Z","checksum":"crc32c:8d5c0a41"}
//! ```
//!
//! Nothing is decided by it: each step finds out from the directory or the cluster whether it has been done.

use super::Ids;
use crate::mode::is_zero;
use crate::{Error, Result, sealed};
use nokv_env::clock::rfc3339;
use nokv_env::{Disk, Env, disk};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Name of the file in the working directory.
pub const FILE_NAME: &str = "MIGRATION_PROGRESS.json";

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// `MODE.json` says what the directory is to become.
    ModePreparingWritten,
    /// Rows and catalog are those of a region.
    LocalCatalogPersisted,
    /// The seed snapshot is there.
    SeedSnapshotExported,
    /// A store may be started.
    SeededFinalized,
    /// Peers on other stores were asked for.
    ExpandRolloutStarted,
    /// One of them is on its way.
    ExpandTargetPending,
    /// One of them is there.
    ExpandTargetHosted,
    /// Another peer was asked to lead.
    TransferLeaderStarted,
    /// It leads.
    TransferLeaderFinished,
    /// A peer was asked to go.
    RemovePeerStarted,
    /// It is gone.
    RemovePeerFinished,
}

impl Stage {
    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::ModePreparingWritten => "mode-preparing-written",
            Self::LocalCatalogPersisted => "local-catalog-persisted",
            Self::SeedSnapshotExported => "seed-snapshot-exported",
            Self::SeededFinalized => "seeded-finalized",
            Self::ExpandRolloutStarted => "expand-rollout-started",
            Self::ExpandTargetPending => "expand-target-pending",
            Self::ExpandTargetHosted => "expand-target-hosted",
            Self::TransferLeaderStarted => "transfer-leader-started",
            Self::TransferLeaderFinished => "transfer-leader-finished",
            Self::RemovePeerStarted => "remove-peer-started",
            Self::RemovePeerFinished => "remove-peer-finished",
        }
    }
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Where it stands.
    pub stage: Stage,
    /// The store of the directory, 0 if that is not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub store_id: u64,
    /// The region.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub region_id: u64,
    /// The peer that began it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub peer_id: u64,
    /// The store of the last step with others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub target_store_id: u64,
    /// The peer of the last step with others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub target_peer_id: u64,
    /// Targets that are there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub completed_targets: u64,
    /// Targets that were asked for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub total_targets: u64,
    /// When, RFC 3339. Filled in by [`write()`].
    #[serde(default)]
    pub updated_at: String,
}

impl Checkpoint {
    /// A step of the directory itself.
    pub fn new(stage: Stage, ids: Ids) -> Self {
        Self {
            stage,
            store_id: ids.store,
            region_id: ids.region,
            peer_id: ids.peer,
            target_store_id: 0,
            target_peer_id: 0,
            completed_targets: 0,
            total_targets: 0,
            updated_at: String::new(),
        }
    }
}

/// Reads the file, if there is one.
pub fn read(disk: &dyn Disk, workdir: &Path) -> Result<Option<Checkpoint>> {
    let path = workdir.join(FILE_NAME);
    let io = |doing, source| Error::Io { path: path.clone(), doing, source };
    if !disk.exists(&path).map_err(|error| io("look for it", error))? {
        return Ok(None);
    }
    let data = disk::read_all(disk, &path).map_err(|error| io("read it", error))?;
    sealed::decode(&data).map(Some).map_err(|what| Error::BadMode { path, what })
}

/// Replaces the file, durably.
pub fn write(env: &Env, workdir: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let path = workdir.join(FILE_NAME);
    let nanos = i64::try_from(env.clock.unix_millis()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    let checkpoint = Checkpoint { updated_at: rfc3339(nanos), ..checkpoint.clone() };
    let text = sealed::encode(&checkpoint)
        .map_err(|error| Error::BadMode { path: path.clone(), what: error.to_string() })?;
    disk::write_atomically(&*env.disk, &path, text.as_bytes()).map_err(|source| Error::Io {
        path,
        doing: "write it",
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_golden() {
        let ids = Ids { store: 1, region: 2, peer: 101 };
        let checkpoint =
            Checkpoint { updated_at: rfc3339(0), ..Checkpoint::new(Stage::SeededFinalized, ids) };
        let text = sealed::encode(&checkpoint).unwrap();
        assert_eq!(
            text,
            "{\"version\":1,\"stage\":\"seeded-finalized\",\"store_id\":1,\"region_id\":2,\"peer_id\":101,\
             \"updated_at\":\"1970-01-01T00:00:00Z\",\"checksum\":\"crc32c:85642815\"}\n"
        );
        assert_eq!(sealed::decode::<Checkpoint>(text.as_bytes()), Ok(checkpoint));
        assert_eq!(
            serde_json::to_value(Stage::ExpandTargetHosted).unwrap(),
            Stage::ExpandTargetHosted.name()
        );
    }
}
