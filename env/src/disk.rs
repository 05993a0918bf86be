//! Files: synchronous, object-safe, with the durability rules of POSIX spelled out.
//!
//! - Written bytes are durable after [`File::sync_data`] returned `Ok`.
//! - A created, renamed, linked or removed name is durable after [`Disk::sync_dir`] of its directory.
//! - After a failed sync nothing may be assumed; the caller must treat the file as lost (never retry).
//! - In the simulation every call is a place where a crash can strike; from then on each call fails with
//!   an error for which [`is_crashed`] is true.
//!
//! Paths are relative to nothing in particular: components pass the paths they were configured with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How [`Disk::open`] treats a file that exists or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, for reading only.
    Read,
    /// Existing file, for reading and writing.
    Write,
    /// Read and write; the file is created when missing.
    Create,
    /// Read and write; fails with `AlreadyExists` when the file is there.
    CreateNew,
}

/// An open file. Offsets are explicit, so one handle can be shared by readers and a writer.
pub trait File: Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`, growing the file when needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Current length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeros) to `len` bytes. Durable after the next [`File::sync_data`].
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes content and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;

    /// Reads exactly `len` bytes at `offset`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.read_at(&mut buf[filled..], offset + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        Ok(buf)
    }
}

/// Keeps an advisory exclusive lock until dropped (or until the process dies).
pub trait LockGuard: Send + Sync {}

/// One node's disk.
pub trait Disk: Send + Sync {
    /// Opens a file as `mode` says. The directory must exist.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Renames, replacing an existing target atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Creates a directory and its missing parents; fine if it exists. Parents are synced by the call.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with everything in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names (not paths) in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Whether a file or directory of that name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes names created, renamed or removed in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a file (created when missing), recording `owner` (one line: pid, command)
    /// in it. If another process (or component of this one) holds it, fails with `WouldBlock` and the
    /// holder's recorded line as the error's message.
    fn lock(&self, path: &Path, owner: &str) -> io::Result<Box<dyn LockGuard>>;
    /// Bytes still free on the file system that holds `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// Total bytes of the file system that holds `path`.
    fn total_space(&self, path: &Path) -> io::Result<u64>;
}

/// Marker inside the `io::Error` of a call on a disk whose node has crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the simulated node has crashed")]
pub struct Crashed;

/// Whether `error` says that the simulated node died in this call.
pub fn is_crashed(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Crashed>())
}

/// Whether `error` says that there is no room, on the disk or for this user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes `data` as the whole content of `path`: temporary file, sync, rename, directory sync.
///
/// After `Ok` the new content is durable; after a crash the file holds either the old or the new content.
pub fn write_atomically(disk: &dyn Disk, path: &Path, data: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("path has no directory"))?;
    let tmp = write_aside(disk, path, data)?;
    disk.rename(&tmp, path)?;
    disk.sync_dir(dir)
}

/// The first half of [`write_atomically`]: after `Ok` the content is durable in the temporary file whose path is given;
/// `path` itself is as it was, whatever went wrong.
pub fn write_aside(disk: &dyn Disk, path: &Path, data: &[u8]) -> io::Result<PathBuf> {
    let mut tmp_name = path.file_name().ok_or_else(|| io::Error::other("path has no name"))?.to_owned();
    tmp_name.push(".tmp");
    let tmp = path.with_file_name(tmp_name);
    let file = disk.open(&tmp, OpenMode::Create)?;
    file.truncate(0)?;
    file.write_at(data, 0)?;
    file.sync_data()?;
    Ok(tmp)
}

/// The whole content of `path`.
pub fn read_all(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    file.read_exact_at(usize::try_from(len).map_err(io::Error::other)?, 0)
}
