//! The files of one node, and what must hold between them.
//!
//! ```text
//! LOCK             held while the process lives
//! root.checkpoint  the machine at one applied position; the raft log goes on from there
//! identity         which node of which three this is; written once, last
//! raft/            the raft log
//! ```
//! A fresh directory gets an empty checkpoint, then the raft directory, then the identity. So once there is
//! an identity there must be a checkpoint, and once the checkpoint has applied something there must be a raft
//! log: its votes and entries are promises to the other nodes, and losing them silently could break those.

use crate::file::{self, Magic};
use crate::image::Image;
use crate::{Config, Error};
use nokv_env::Disk;
use nokv_env::disk::LockGuard;
use nokv_proto::meta::v1::{RootIdentity, RootImage, RootPeerAddress};
use prost::Message;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK: &str = "LOCK";
const CHECKPOINT: &str = "root.checkpoint";
const IDENTITY: &str = "identity";
const RAFT: &str = "raft";

const CHECKPOINT_MAGIC: Magic = *b"NOKVROOT";
const IDENTITY_MAGIC: Magic = *b"NOKVROID";

/// The directory of one node.
#[derive(Clone)]
pub(crate) struct Workdir {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Workdir {
    /// The directory `dir` on `disk`; nothing is touched yet.
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, dir: dir.to_owned() }
    }

    /// Creates the directory and takes its lock.
    pub(crate) fn lock(&self, owner: &str) -> Result<Box<dyn LockGuard>, Error> {
        self.disk.create_dir_all(&self.dir).map_err(|source| Error::io("create", &self.dir, source))?;
        let path = self.dir.join(LOCK);
        self.disk.lock(&path, owner).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { path, owner: source.to_string() },
            _ => Error::io("lock", &path, source),
        })
    }

    /// Checks that the directory is this node's and whole, or makes it so if it is fresh; returns the checkpoint.
    pub(crate) fn open(&self, config: &Config) -> Result<Image, Error> {
        let identity = identity_of(config);
        let stored = self.read_identity()?;
        if let Some(stored) = &stored {
            self.check_identity(stored, &identity, config.accept_new_addresses)?;
        }
        let image = match self.read_checkpoint(config.tail_events)? {
            Some(image) => image,
            None if stored.is_some() => {
                let because = "this node has run before";
                return Err(Error::Missing { path: self.dir.join(CHECKPOINT), because });
            }
            None if self.has_raft_log()? => {
                let because = "there is a raft log";
                return Err(Error::Missing { path: self.dir.join(CHECKPOINT), because });
            }
            None => {
                let image = Image::empty(config.tail_events);
                self.write_checkpoint(&image.to_message())?;
                image
            }
        };
        let has_log = self.has_raft_log()?;
        if stored.is_none() && (has_log || image.applied.index > 0) {
            return Err(Error::Missing {
                path: self.dir.join(IDENTITY),
                because: "this node has run before",
            });
        }
        if image.applied.index > 0 && !has_log {
            let because = "the checkpoint shows that this node has voted";
            return Err(Error::Missing { path: self.raft_dir(), because });
        }
        self.disk
            .create_dir_all(&self.raft_dir())
            .map_err(|source| Error::io("create", &self.raft_dir(), source))?;
        if stored.as_ref() != Some(&identity) {
            let payload = identity.encode_to_vec();
            file::write(&*self.disk, &self.dir.join(IDENTITY), IDENTITY_MAGIC, &payload)?;
        }
        Ok(image)
    }

    /// Makes `image` what a restart begins with.
    pub(crate) fn write_checkpoint(&self, image: &RootImage) -> Result<(), Error> {
        let payload = image.encode_to_vec();
        file::write(&*self.disk, &self.dir.join(CHECKPOINT), CHECKPOINT_MAGIC, &payload)
    }

    /// Where the raft log lives.
    pub(crate) fn raft_dir(&self) -> PathBuf {
        self.dir.join(RAFT)
    }

    fn read_checkpoint(&self, tail_events: usize) -> Result<Option<Image>, Error> {
        let message: Option<RootImage> = self.read(CHECKPOINT, CHECKPOINT_MAGIC)?;
        Ok(message.map(|message| Image::from_message(message, tail_events)))
    }

    fn read_identity(&self) -> Result<Option<RootIdentity>, Error> {
        self.read(IDENTITY, IDENTITY_MAGIC)
    }

    fn read<M: Message + Default>(&self, name: &str, magic: Magic) -> Result<Option<M>, Error> {
        let path = self.dir.join(name);
        let Some(payload) = file::read(&*self.disk, &path, magic)? else { return Ok(None) };
        M::decode(&payload[..]).map(Some).map_err(|error| Error::Corrupt {
            path,
            offset: file::payload_offset(),
            what: error.to_string(),
        })
    }

    fn has_raft_log(&self) -> Result<bool, Error> {
        match self.disk.list(&self.raft_dir()) {
            Ok(names) => Ok(!names.is_empty()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::io("list", &self.raft_dir(), source)),
        }
    }

    fn check_identity(
        &self,
        stored: &RootIdentity,
        given: &RootIdentity,
        accept_new_addresses: bool,
    ) -> Result<(), Error> {
        let ids =
            |identity: &RootIdentity| identity.peers.iter().map(|peer| peer.node_id).collect::<Vec<_>>();
        let same_nodes = stored.node_id == given.node_id && ids(stored) == ids(given);
        if stored == given || (same_nodes && accept_new_addresses) {
            return Ok(());
        }
        Err(Error::Membership {
            path: self.dir.join(IDENTITY),
            stored: describe(stored),
            given: describe(given),
        })
    }
}

fn identity_of(config: &Config) -> RootIdentity {
    let peer = |(&node_id, address): (&u64, &String)| RootPeerAddress { node_id, address: address.clone() };
    RootIdentity { node_id: config.node_id, peers: config.peers.iter().map(peer).collect() }
}

fn describe(identity: &RootIdentity) -> String {
    let peers: Vec<String> =
        identity.peers.iter().map(|peer| format!("{}={}", peer.node_id, peer.address)).collect();
    format!("node {} of {}", identity.node_id, peers.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::MemDisk;
    use nokv_env::disk::OpenMode;
    use nokv_env::mem_disk::CrashMode;
    use nokv_proto::meta::v1::RootCursor;

    const DIR: &str = "/root";

    fn config() -> Config {
        let peers = (1..=3).map(|node| (node, format!("root{node}:3380"))).collect();
        Config::new(1, DIR, "0.0.0.0:2380", "0.0.0.0:3380", peers)
    }

    fn ran_before(disk: &Arc<MemDisk>) -> Workdir {
        let workdir = Workdir::new(disk.mount(), Path::new(DIR));
        drop(workdir.lock("pid 7").expect("lock"));
        let mut image = workdir.open(&config()).expect("fresh");
        let log = disk.mount().open(&workdir.raft_dir().join("00001.log"), OpenMode::Create).expect("log");
        log.sync_data().expect("sync");
        disk.mount().sync_dir(&workdir.raft_dir()).expect("sync dir");
        image.applied = RootCursor { term: 2, index: 9 };
        workdir.write_checkpoint(&image.to_message()).expect("checkpoint");
        workdir
    }

    #[test]
    fn a_directory_comes_back_after_power_loss() {
        let disk = MemDisk::new(1);
        ran_before(&disk);
        disk.crash(CrashMode::PowerLossWorst);
        let workdir = Workdir::new(disk.mount(), Path::new(DIR));
        assert_eq!(workdir.open(&config()).expect("reopen").applied, RootCursor { term: 2, index: 9 });
    }

    #[test]
    fn a_crash_at_any_step_of_the_first_start_is_survived() {
        for seed in 0..40 {
            for op in 1..40 {
                let disk = MemDisk::new(seed);
                let faults = nokv_env::mem_disk::DiskFaults { crash_at_op: Some(op), ..disk.faults() };
                disk.set_faults(faults);
                let first = Workdir::new(disk.mount(), Path::new(DIR));
                let _ = first.lock("pid 7").and_then(|_| first.open(&config()));
                disk.crash(CrashMode::PowerLoss);
                disk.set_faults(nokv_env::mem_disk::DiskFaults::default());
                let again = Workdir::new(disk.mount(), Path::new(DIR));
                drop(again.lock("pid 7").expect("lock"));
                again.open(&config()).unwrap_or_else(|error| panic!("seed {seed} op {op}: {error}"));
            }
        }
    }

    #[test]
    fn another_node_or_cluster_is_refused() {
        let disk = MemDisk::new(1);
        let workdir = ran_before(&disk);
        let mut moved = config();
        moved.peers.insert(3, "elsewhere:3380".into());
        assert!(matches!(workdir.open(&moved), Err(Error::Membership { .. })));
        moved.accept_new_addresses = true;
        assert!(workdir.open(&moved).is_ok());
        let other = Config { node_id: 2, accept_new_addresses: true, ..moved };
        assert!(matches!(workdir.open(&other), Err(Error::Membership { .. })));
    }

    #[test]
    fn a_missing_file_is_an_error_and_nothing_is_made_up() {
        for name in [CHECKPOINT, IDENTITY, "raft/00001.log"] {
            let disk = MemDisk::new(1);
            let workdir = ran_before(&disk);
            disk.mount().remove_file(&Path::new(DIR).join(name)).expect("remove");
            assert!(matches!(workdir.open(&config()), Err(Error::Missing { .. })), "{name}");
        }
    }

    #[test]
    fn a_damaged_checkpoint_names_file_and_offset() {
        let disk = MemDisk::new(1);
        let workdir = ran_before(&disk);
        let path = Path::new(DIR).join(CHECKPOINT);
        let file = disk.mount().open(&path, OpenMode::Write).expect("open");
        file.write_at(b"x", 30).expect("write");
        let error = workdir.open(&config()).expect_err("must fail").to_string();
        assert!(error.contains("root.checkpoint is damaged at offset 20"), "{error}");
    }

    #[test]
    fn two_processes_cannot_have_one_directory() {
        let disk = MemDisk::new(1);
        let workdir = Workdir::new(disk.mount(), Path::new(DIR));
        let _held = workdir.lock("pid 7").expect("lock");
        let error = workdir.lock("pid 7").err().expect("must fail").to_string();
        assert!(error.contains("another process (pid 7)"), "{error}");
    }
}
