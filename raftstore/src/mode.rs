//! `MODE.json`: whose directory this is, and what may be done with it.
//!
//! ```text
//! {"version":1,"mode":"cluster","store_id":1,"region_id":0,"peer_id":0,"seed":"3-1f6b0c2e","checksum":"crc32c:8d5c0a41"}
//! ```
//!
//! `seed` names the regions that the directory was seeded with. `cluster_id` follows once the store has met its cluster. No file: `standalone`, an engine that is not part of a
//! cluster. The file is replaced atomically and is durable when [`write()`] returns.

use crate::{Error, Result, sealed};
use nokv_env::{Disk, disk};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Name of the file in the working directory.
pub const FILE_NAME: &str = "MODE.json";

/// What a working directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// An engine of its own.
    #[default]
    Standalone,
    /// On the way from stand-alone to seeded; nobody may open it.
    Preparing,
    /// Holds its first regions; no store has run yet.
    Seeded,
    /// A store of a cluster.
    Cluster,
}

impl Mode {
    /// The name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Preparing => "preparing",
            Self::Seeded => "seeded",
            Self::Cluster => "cluster",
        }
    }
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// What the directory is.
    pub mode: Mode,
    /// The store it is bound to; 0 while stand-alone.
    #[serde(default)]
    pub store_id: u64,
    /// The region that a stand-alone directory becomes; else 0.
    #[serde(default)]
    pub region_id: u64,
    /// Its peer; else 0.
    #[serde(default)]
    pub peer_id: u64,
    /// Names the regions that were seeded; empty when none were.
    #[serde(default)]
    pub seed: String,
    /// The cluster whose store it is; 0 until it has met one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cluster_id: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn decode(data: &[u8]) -> Result<State, String> {
    sealed::decode(data)
}

/// Reads the mode of a directory. No file is [`Mode::Standalone`].
pub fn read(disk: &dyn Disk, workdir: &Path) -> Result<State> {
    let path = workdir.join(FILE_NAME);
    let io = |doing, source| Error::Io { path: path.clone(), doing, source };
    if !disk.exists(&path).map_err(|error| io("look for it", error))? {
        return Ok(State::default());
    }
    let data = disk::read_all(disk, &path).map_err(|error| io("read it", error))?;
    decode(&data).map_err(|what| Error::BadMode { path, what })
}

/// Replaces the mode of a directory, durably.
pub fn write(disk: &dyn Disk, workdir: &Path, state: &State) -> Result<()> {
    let path: PathBuf = workdir.join(FILE_NAME);
    let text = sealed::encode(state)
        .map_err(|error| Error::BadMode { path: path.clone(), what: error.to_string() })?;
    disk::write_atomically(disk, &path, text.as_bytes()).map_err(|source| Error::Io {
        path,
        doing: "write it",
        source,
    })
}

/// Reads the mode and makes sure that store `store_id` may run here.
pub fn admit(disk: &dyn Disk, workdir: &Path, store_id: u64) -> Result<State> {
    let state = read(disk, workdir)?;
    if state.mode == Mode::Preparing {
        return Err(Error::WrongMode {
            workdir: workdir.to_owned(),
            mode: state.mode.name(),
            remedy: "finish its migration first (`nokv migrate init`)",
        });
    }
    if state.store_id != 0 && state.store_id != store_id {
        return Err(Error::WrongStore {
            workdir: workdir.to_owned(),
            bound: state.store_id,
            asked: store_id,
        });
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::MemDisk;

    fn cluster() -> State {
        State { mode: Mode::Cluster, store_id: 1, seed: "1-00000002".into(), ..State::default() }
    }

    fn with_file(text: &[u8]) -> Result<State> {
        let disk = MemDisk::new(1).mount();
        let file = disk.open(Path::new("/MODE.json"), disk::OpenMode::Create).unwrap();
        file.write_at(text, 0).unwrap();
        read(&*disk, Path::new("/"))
    }

    fn complaint(text: &[u8]) -> String {
        with_file(text).unwrap_err().to_string()
    }

    #[test]
    fn the_file_is_golden() {
        assert_eq!(
            sealed::encode(&cluster()).unwrap(),
            "{\"version\":1,\"mode\":\"cluster\",\"store_id\":1,\"region_id\":0,\"peer_id\":0,\"seed\":\"1-00000002\",\
             \"checksum\":\"crc32c:36021dc6\"}\n"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let disk = MemDisk::new(1).mount();
        assert_eq!(read(&*disk, Path::new("/")).unwrap(), State::default());
        write(&*disk, Path::new("/"), &cluster()).unwrap();
        assert_eq!(read(&*disk, Path::new("/")).unwrap(), cluster());
    }

    #[test]
    fn damage_is_named() {
        let good = sealed::encode(&cluster()).unwrap();
        assert!(complaint(&good.as_bytes()[..30]).contains("cut off"));
        assert!(complaint(b"").contains("empty"));
        assert!(complaint(good.replace("cluster", "clutter").as_bytes()).contains("checksum does"));
        let strange = sealed::encode(&serde_json::json!({ "mode": "clutter" })).unwrap();
        assert!(complaint(strange.as_bytes()).contains("unknown variant `clutter`"));
        assert!(
            complaint(good.replace("\"store_id\":1", "\"store_id\":2").as_bytes()).contains("checksum does")
        );
        assert!(complaint(b"{\"mode\":\"cluster\",\"store_id\":1}").contains("checksum is missing"));
    }

    #[test]
    fn a_directory_serves_its_own_store_only() {
        let disk = MemDisk::new(1).mount();
        write(&*disk, Path::new("/"), &cluster()).unwrap();
        admit(&*disk, Path::new("/"), 1).unwrap();
        let error = admit(&*disk, Path::new("/"), 2).unwrap_err();
        assert!(matches!(error, Error::WrongStore { bound: 1, asked: 2, .. }));
        assert_eq!(error.to_string(), "workdir / is bound to store 1, not store 2");
        write(&*disk, Path::new("/"), &State { mode: Mode::Preparing, ..cluster() }).unwrap();
        assert!(matches!(admit(&*disk, Path::new("/"), 1), Err(Error::WrongMode { .. })));
    }
}
