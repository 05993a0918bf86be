//! A store's directory, looked at: found or explained, read beside its owner, never changed.

use crate::cmd::startup;
use crate::errors::{Code, Failure, Result};
use crate::holder::{self, Holder};
use nokv_engine as engine;
use nokv_env::{ClockExt, Disk, Env};
use nokv_raftstore as raftstore;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A running process replaces files while they are read; how often that is tried again, and after which pause.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(30);
/// Other directories that are suggested.
const SUGGESTED: usize = 5;

/// A directory that holds a database.
pub struct Workdir {
    /// Absolute, for messages.
    pub dir: PathBuf,
    /// Who has it open just now.
    live: Option<Holder>,
}

impl Workdir {
    /// Finds the database in `dir`, or says what is there instead. Says on standard error when a process has it open.
    pub fn find(env: &Env, dir: &Path) -> Result<Self> {
        let found = Self::find_any(env, dir)?;
        let current = found.dir.join("CURRENT");
        let exists = env.disk.exists(&current);
        if !exists.map_err(|error| Failure::io(format!("look for {}", current.display()), &error))? {
            let names = list(&*env.disk, &found.dir)?;
            let evidence = engine::inspect::evidence(&names).cloned().unwrap_or_default();
            return Err(startup::engine(&engine::Error::MissingCurrent { dir: found.dir, evidence }));
        }
        Ok(found)
    }

    /// The same, but `CURRENT` itself may be missing.
    pub fn find_any(env: &Env, dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let names = list(&*env.disk, &dir)?;
        let has = |name: &str| names.iter().any(|known| known == name);
        if names.is_empty() {
            return Err(not_there(&*env.disk, &dir, "the directory is empty, there is no CURRENT in it"));
        }
        if !has("CURRENT") && engine::inspect::evidence(&names).is_none() {
            let what = if has("root.checkpoint") || has("identity") {
                "it is the directory of a meta-root, not of a store: there is no CURRENT in it"
            } else {
                "there is no CURRENT in it"
            };
            return Err(not_there(&*env.disk, &dir, what));
        }
        let live = holder::of_workdir(&dir);
        if let Some(holder) = &live {
            eprintln!("note: live process {}; numbers are from disk", holder.describe());
        }
        Ok(Self { dir, live })
    }

    /// Whether a process has it open.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// Reads something. When a running process has changed files in the middle of it, reads again.
    pub async fn read<T>(&self, env: &Env, read: impl Fn() -> raftstore::Result<T>) -> Result<T> {
        for _ in 1..TRIES {
            match read() {
                Err(error) if self.is_live() && may_pass(&error) => env.clock.sleep(PAUSE).await,
                done => return done.map_err(|error| self.failure(&*env.disk, &error)),
            }
        }
        read().map_err(|error| self.failure(&*env.disk, &error))
    }

    fn failure(&self, disk: &dyn Disk, error: &raftstore::Error) -> Failure {
        match error {
            raftstore::Error::Engine(engine::Error::Corrupt { file, offset, what }) if is_manifest(file) => {
                self.manifest_corrupt(disk, file, *offset, what)
            }
            error => startup::store(error),
        }
    }

    fn manifest_corrupt(&self, disk: &dyn Disk, file: &Path, offset: u64, what: &str) -> Failure {
        let message = format!("{}: damaged at offset {offset}: {what}", file.display());
        let failure = Failure::new(Code::ManifestCorrupt, message)
            .next(format!("nokv check --workdir {}", self.dir.display()))
            .detail("path", file.display().to_string())
            .detail("offset", offset);
        // The check names the checksums.
        let findings = engine::inspect::check_current(disk, &self.dir).map(|checked| checked.findings);
        let same = |finding: &engine::inspect::Finding| finding.file == file && finding.offset == offset;
        let found = findings.unwrap_or_default().into_iter().find(same);
        match found.and_then(|finding| finding.checksums) {
            Some(sums) => failure
                .why(format!("expected crc {:08x}, actual crc {:08x}", sums.stored, sums.computed))
                .detail("expected_crc", format!("{:08x}", sums.stored))
                .detail("actual_crc", format!("{:08x}", sums.computed)),
            None => failure.why("what the file must hold is not there"),
        }
    }
}

fn is_manifest(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name == "CURRENT" || name.starts_with("MANIFEST-")
}

/// Whether a process that writes to the directory may be the reason.
fn may_pass(error: &raftstore::Error) -> bool {
    use engine::Error as E;
    match error {
        raftstore::Error::Engine(E::Corrupt { .. }) | raftstore::Error::BadMode { .. } => true,
        raftstore::Error::Engine(E::Io { source, .. }) => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The names in `dir`; the failure says why there are none.
fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    disk.list(dir).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_there(disk, dir, "no such directory"),
        io::ErrorKind::NotADirectory => not_there(disk, dir, "it is a file, not a directory"),
        _ => Failure::io(format!("list {}", dir.display()), &error),
    })
}

fn not_there(disk: &dyn Disk, dir: &Path, what: &str) -> Failure {
    let failure = Failure::new(Code::NotAWorkdir, format!("{}: {what}", dir.display()))
        .detail("path", dir.display().to_string());
    let others: Vec<String> = neighbours(disk, dir).iter().map(|dir| dir.display().to_string()).collect();
    if others.is_empty() {
        return failure.next("give the directory that `nokv serve` was started with");
    }
    failure.next(format!("these do have one: {}", others.join(", "))).detail("candidates", others)
}

/// Directories in and beside `dir` that hold a database.
fn neighbours(disk: &dyn Disk, dir: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| {
        let names = disk.list(dir).unwrap_or_default();
        names.into_iter().map(|name| dir.join(name)).collect::<Vec<_>>()
    };
    let mut found = below(dir);
    if let Some(parent) = dir.parent() {
        found.extend(below(parent).into_iter().filter(|sibling| sibling != dir));
    }
    found.retain(|dir| disk.exists(&dir.join("CURRENT")).unwrap_or(false));
    found.truncate(SUGGESTED);
    found
}
