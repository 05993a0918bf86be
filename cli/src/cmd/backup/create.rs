//! `nokv backup create`.

use super::catalogue::{Backup, DONE, DataFile, LOCK, PROGRESS, damage, failure, file_name, show_range};
use super::data::Writer;
use crate::args::daily::BackupCreate;
use crate::args::{Format, Global};
use crate::cmd::export::{PAGE, range};
use crate::cmd::held::{Held, Patience, hold, shown};
use crate::cmd::import::progress_bar;
use crate::cmd::reach::{Reach, reach};
use crate::cmd::server::in_use_failure;
use crate::errors::{Code, Failure, Result};
use crate::output::{Out, quote};
use bytes::Bytes;
use indicatif::ProgressBar;
use nokv_env::disk::LockGuard;
use nokv_env::{Env, OpenMode};
use nokv_proto::key::KeyRange;
use serde_json::json;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Room beside the content of a file, for what does not compress.
const SLACK: u64 = 1 << 20;

/// Makes a backup, or goes on with one.
pub async fn run(env: &Env, args: &BackupCreate, global: &Global) -> Result<u8> {
    let range = range(&args.keys)?;
    let dir = std::path::absolute(&args.to)
        .map_err(|error| Failure::io(format!("find {}", args.to.display()), &error))?;
    let reach = reach(env, &args.cluster)?;
    let lock = own(env, &dir)?;
    if args.restart {
        throw_away(env, &dir)?;
    }
    let begun = begun(env, &dir, args, &range)?;
    let before = begun.as_ref().map_or(0, |backup| backup.files.len());
    let (held, mut backup) = match begun {
        Some(backup) => (go_on(env, &reach, &dir, &backup).await?, backup),
        None => begin(env, &reach, &dir, args, &range).await?,
    };
    let bar = progress_bar(None, 0);
    if before > 0 {
        let pairs = backup.pairs();
        bar.suspend(|| eprintln!("going on behind {pairs} pairs that were saved before"));
    }
    let made = Making { env, args, dir: &dir, bar: &bar, reach: &reach }.run(&held, &mut backup).await;
    bar.finish_and_clear();
    made?;
    held.release(env).await;
    backup.cluster = 0;
    backup.save(&*env.disk, &dir.join(DONE))?;
    drop(lock);
    for name in [PROGRESS, LOCK] {
        remove(env, &dir.join(name))?;
    }
    summary(&backup, &args.to, before, global)
}

/// Makes the directory if need be, and keeps others out of it.
fn own(env: &Env, dir: &Path) -> Result<Box<dyn LockGuard>> {
    env.disk
        .create_dir_all(dir)
        .map_err(|error| Failure::io(format!("create the directory {}", dir.display()), &error))?;
    let names = env.disk.list(dir).map_err(|error| Failure::io(format!("list {}", dir.display()), &error))?;
    let is_ours = |name: &String| {
        let name = name.strip_suffix(".tmp").unwrap_or(name);
        let is_data = Path::new(name).extension().is_some_and(|extension| extension == "nkb");
        [DONE, PROGRESS, LOCK].contains(&name) || is_data
    };
    if let Some(foreign) = names.iter().find(|name| !is_ours(name)) {
        return Err(Failure::new(
            Code::BackupExists,
            format!("{} holds other things: {foreign}", dir.display()),
        )
        .next("give a new or empty directory")
        .detail("path", dir.display().to_string()));
    }
    let path = dir.join(LOCK);
    env.disk.lock(&path, &format!("pid {}, nokv backup create", std::process::id())).map_err(|error| {
        match error.kind() {
            ErrorKind::WouldBlock => in_use_failure(&path, &error.to_string()).next("wait until it is done"),
            _ => Failure::io(format!("lock {}", path.display()), &error),
        }
    })
}

/// Removes what an unfinished run has left. A whole backup is not touched.
fn throw_away(env: &Env, dir: &Path) -> Result {
    refuse_whole(env, dir)?;
    let names = env.disk.list(dir).map_err(|error| Failure::io(format!("list {}", dir.display()), &error))?;
    names.iter().filter(|name| *name != LOCK).try_for_each(|name| remove(env, &dir.join(name)))
}

fn remove(env: &Env, path: &Path) -> Result {
    match env.disk.remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::io(format!("remove {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

fn refuse_whole(env: &Env, dir: &Path) -> Result {
    match Backup::load(&*env.disk, &dir.join(DONE))? {
        Some(backup) => Err(Failure::new(
            Code::BackupExists,
            format!("{} holds a whole backup, of {}", dir.display(), backup.taken_at),
        )
        .next("give a new or empty directory")
        .detail("timestamp", backup.timestamp)),
        None => Ok(()),
    }
}

/// What an earlier run of the same command has left.
fn begun(env: &Env, dir: &Path, args: &BackupCreate, range: &KeyRange) -> Result<Option<Backup>> {
    refuse_whole(env, dir)?;
    let Some(backup) = Backup::load(&*env.disk, &dir.join(PROGRESS))? else { return Ok(None) };
    let mismatch = |why: String| {
        Failure::new(Code::BackupMismatch, format!("cannot go on with the backup in {}", dir.display()))
            .why(why)
            .next("run the command as it was begun, or begin anew with --restart")
    };
    if backup.range() != *range {
        return Err(mismatch(format!(
            "it is of {}, not of {}",
            show_range(&backup.range()),
            show_range(range)
        )));
    }
    if args.at.is_some_and(|at| at != backup.timestamp) {
        return Err(mismatch(format!("it is as of {}", backup.timestamp)));
    }
    Ok(Some(backup))
}

async fn begin(
    env: &Env,
    reach: &Reach,
    dir: &Path,
    args: &BackupCreate,
    range: &KeyRange,
) -> Result<(Held, Backup)> {
    let held = hold(reach, args.at).await?;
    let cluster = reach.client.cluster_id().await.map_err(|error| reach.failure(&error))?;
    let timestamp = held.snapshot.version().0;
    let id =
        u128::from(env.rng.pure("backup", timestamp)) << 64 | u128::from(env.rng.pure("backup/2", timestamp));
    let mut backup = Backup::new(id, timestamp, shown(timestamp), range);
    backup.cluster = cluster;
    backup.save(&*env.disk, &dir.join(PROGRESS))?;
    Ok((held, backup))
}

/// Holds the timestamp of an unfinished backup again, and makes sure that this is the cluster it is of.
async fn go_on(env: &Env, reach: &Reach, dir: &Path, backup: &Backup) -> Result<Held> {
    let of_another = |why: String| {
        Failure::new(Code::BackupMismatch, format!("the backup in {} is of another cluster", dir.display()))
            .why(why)
            .next("give the coordinators it was begun with, or begin anew with --restart")
    };
    let cluster = reach.client.cluster_id().await.map_err(|error| reach.failure(&error))?;
    if backup.cluster != 0 && backup.cluster != cluster {
        return Err(of_another(format!("it is of {:012x}, this is {cluster:012x}", backup.cluster)));
    }
    let held = hold(reach, Some(backup.timestamp)).await.map_err(|failure| match failure.code() {
        Code::TooOld | Code::Usage => {
            failure.next("begin anew with --restart: nokv backup create --restart --to DIR")
        }
        _ => failure,
    })?;
    let mut last = None;
    if let Some(index) = backup.files.len().checked_sub(1) {
        let path = dir.join(&backup.files[index].name);
        let mut reader = backup.open(&*env.disk, dir, index)?;
        while let Some(pairs) = reader.next_block().map_err(|bad| failure(&path, bad))? {
            last = pairs.last().cloned().or(last);
        }
    }
    let Some((key, value)) = last else { return Ok(held) };
    let found =
        held.snapshot.get(key.clone()).await.map_err(|error| crate::cmd::held::failure(reach, &error))?;
    if found.as_ref() == Some(&value) {
        return Ok(held);
    }
    Err(of_another(format!("at its timestamp, this one has another value at {}", quote(&key))))
}

/// A backup being made.
struct Making<'a> {
    env: &'a Env,
    args: &'a BackupCreate,
    dir: &'a Path,
    bar: &'a ProgressBar,
    reach: &'a Reach,
}

/// A data file being written.
struct Open {
    writer: Writer,
    start: Bytes,
    path: PathBuf,
}

impl Making<'_> {
    /// Writes file after file until the range is exhausted.
    async fn run(&self, held: &Held, backup: &mut Backup) -> Result {
        let Some(start) = backup.next_key() else { return Ok(()) };
        let range = KeyRange { start: start.clone(), end: backup.range().end };
        let patience =
            Patience { env: self.env, reach: self.reach, bar: self.bar, retry_for: self.args.retry_for };
        let (before, pairs_before) = (backup.content_bytes(), backup.pairs());
        let mut scanner = held.snapshot.scanner(range).page_size(PAGE);
        let mut open = self.open(backup, start)?;
        let (mut bytes, mut pairs) = (before, pairs_before);
        while let Some(page) = patience.page(&mut scanner).await? {
            for (key, value) in &page.pairs {
                open.writer.add(key, value).map_err(|error| cannot_write(&open.path, &error))?;
                bytes += (key.len() + value.len()) as u64;
                pairs += 1;
            }
            self.bar.set_position(bytes);
            self.bar.set_message(format!("{pairs} pairs"));
            if !page.next.is_empty() && open.writer.content_bytes() >= self.args.file_bytes {
                self.close(backup, open, &page.next)?;
                open = self.open(backup, page.next)?;
            }
        }
        let end = backup.range().end;
        self.close(backup, open, &end)
    }

    /// Begins the next file, if there is room for it.
    fn open(&self, backup: &Backup, start: Bytes) -> Result<Open> {
        let needed = self.args.file_bytes + SLACK + self.args.min_free;
        let free = self
            .env
            .disk
            .free_space(self.dir)
            .map_err(|error| Failure::io(format!("look for space in {}", self.dir.display()), &error))?;
        if free < needed {
            return Err(Failure::new(
                Code::DiskFull,
                format!("{}: {free} bytes are free, the next file needs {needed}", self.dir.display()),
            )
            .why(format!("--file-bytes {} and what --min-free keeps free", self.args.file_bytes))
            .next("make room and run the same command again: it goes on")
            .detail("bytes_free", free)
            .detail("bytes_needed", needed));
        }
        let index = backup.files.len();
        let path = self.dir.join(file_name(index as u32 + 1) + ".tmp");
        let begin = || {
            let file = self.env.disk.open(&path, OpenMode::Create)?;
            file.truncate(0)?;
            Writer::new(file, backup.identity(index), !self.args.no_compression)
        };
        let writer = begin().map_err(|error| cannot_write(&path, &error))?;
        Ok(Open { writer, start, path })
    }

    /// Gives a file its name, and tells the catalogue.
    fn close(&self, backup: &mut Backup, open: Open, end: &[u8]) -> Result {
        let number = backup.files.len() as u32 + 1;
        let path = self.dir.join(file_name(number));
        let publish = || {
            let sums = open.writer.finish()?;
            self.env.disk.rename(&open.path, &path)?;
            self.env.disk.sync_dir(self.dir)?;
            Ok(sums)
        };
        let sums = publish().map_err(|error: std::io::Error| cannot_write(&path, &error))?;
        backup.files.push(DataFile::new(number, sums, &open.start, end));
        backup.save(&*self.env.disk, &self.dir.join(PROGRESS))
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("write {}", path.display()), error)
        .next("see to it and run the same command again: it goes on")
}

fn summary(backup: &Backup, to: &Path, before: usize, global: &Global) -> Result<u8> {
    let (files, pairs, bytes) = (backup.files.len(), backup.pairs(), backup.bytes());
    if files == 0 {
        return Err(damage(to, 0, "the backup has no file"));
    }
    let mut out = Out::new();
    match global.format() {
        Format::Plain => {
            let again = if before > 0 { format!(", {before} of them by an earlier run") } else { String::new() };
            out.line(&format!(
                "saved {pairs} pairs to {}: {files} files{again}, {bytes} bytes, as of {} ({})",
                to.display(),
                backup.timestamp,
                backup.taken_at
            ))?;
        }
        _ => out.line(
            &json!({
                "dir": to.display().to_string(), "id": backup.id, "timestamp": backup.timestamp, "pairs": pairs,
                "files": files, "files_before": before, "content_bytes": backup.content_bytes(), "bytes": bytes,
            })
            .to_string(),
        )?,
    }
    out.flush()?;
    Ok(0)
}
