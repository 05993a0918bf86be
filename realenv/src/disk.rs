//! Files of the operating system: pread, pwrite, fdatasync, and directory syncs where POSIX wants them.
//!
//! Every error names the path. Locks are `flock`: they belong to the open file, so a second lock in the same
//! process is refused too, and they vanish with the process however it ends.

use nokv_env::disk::{Disk, File, LockGuard, OpenMode};
use rustix::buffer::spare_capacity;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file systems of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The disk; it has no state.
    pub fn new() -> Self {
        RealDisk
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        match mode {
            OpenMode::Read | OpenMode::Write => {}
            OpenMode::Create => drop(options.create(true).truncate(false)),
            OpenMode::CreateNew => drop(options.create_new(true)),
        }
        let file = options.open(path).map_err(at(path))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(at(from))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path).map_err(at(path))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to).map_err(at(to))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()).collect();
        for dir in missing.iter().rev() {
            match fs::create_dir(dir) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
                other => other.map_err(at(dir))?,
            }
            self.sync_dir(parent_of(dir))?;
        }
        if missing.is_empty() {
            // Whoever made it may have died before the sync. A parent we may not read is not ours to sync.
            match self.sync_dir(parent_of(path)) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path).map_err(at(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            names.push(entry.map_err(at(dir))?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists().map_err(at(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
    }

    fn lock(&self, path: &Path, owner: &str) -> io::Result<Box<dyn LockGuard>> {
        loop {
            let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let file = file.map_err(at(path))?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(held_by(&file)),
                Err(error) => return Err(at(path)(error.into())),
            }
            // Somebody may have removed or replaced the file between open and flock: then we locked a ghost.
            if !is_at(&file, path) {
                continue;
            }
            file.set_len(0).map_err(at(path))?;
            file.write_all_at(format!("{}\n", first_line(owner)).as_bytes(), 0).map_err(at(path))?;
            return Ok(Box::new(FileLock { file }));
        }
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        file_system(path).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    fn total_space(&self, path: &Path) -> io::Result<u64> {
        file_system(path).map(|fs| fs.f_blocks.saturating_mul(fs.f_frsize))
    }
}

/// An open file and the path it was opened by, for messages.
struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(at(&self.path)(error)),
            }
        }
        Ok(filled)
    }

    fn read_exact_at(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        // Into memory that nobody has cleared before: for a block of a table that costs as much as the copy.
        let mut data = Vec::with_capacity(len);
        while data.len() < len {
            let offset = offset + data.len() as u64;
            match rustix::io::pread(&self.file, spare_capacity(&mut data), offset) {
                Ok(0) => return Err(at(&self.path)(ErrorKind::UnexpectedEof.into())),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(at(&self.path)(error.into())),
            }
        }
        data.truncate(len);
        Ok(data)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset).map_err(at(&self.path))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(at(&self.path))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(at(&self.path))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data().map_err(at(&self.path))
    }
}

/// The lock lasts as long as the open file. The file stays: removing it would race with the next owner.
struct FileLock {
    file: fs::File,
}

impl LockGuard for FileLock {}

impl Drop for FileLock {
    fn drop(&mut self) {
        // The owner's line means nothing any more; if it cannot be cleared, the lock is free all the same.
        let _ = self.file.set_len(0);
    }
}

fn held_by(mut file: &fs::File) -> io::Error {
    let mut line = String::new();
    let owner = match file.read_to_string(&mut line) {
        Ok(_) if !line.trim().is_empty() => first_line(&line),
        _ => "an unknown process",
    };
    io::Error::new(ErrorKind::WouldBlock, owner.to_owned())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

fn is_at(file: &fs::File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Numbers of the file system that holds `path`, or would hold it.
fn file_system(path: &Path) -> io::Result<rustix::fs::StatVfs> {
    let existing = path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    rustix::fs::statvfs(existing).map_err(|error| at(path)(error.into()))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Adds the path to an error and keeps its kind.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::disk::{read_all, write_atomically};

    #[test]
    fn round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new();
        let deep = dir.path().join("a/b/c");
        disk.create_dir_all(&deep).unwrap();
        disk.create_dir_all(&deep).unwrap();
        let path = deep.join("file");
        assert_eq!(disk.open(&path, OpenMode::Read).map(|_| ()).unwrap_err().kind(), ErrorKind::NotFound);
        let file = disk.open(&path, OpenMode::CreateNew).unwrap();
        assert!(disk.open(&path, OpenMode::CreateNew).is_err());
        file.write_at(b"world", 6).unwrap();
        file.write_at(b"hello ", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.read_at(&mut [0; 99], 0).unwrap(), 11);
        file.truncate(5).unwrap();
        assert_eq!(read_all(&disk, &path).unwrap(), b"hello");
        disk.hard_link(&path, &deep.join("link")).unwrap();
        disk.rename(&path, &deep.join("moved")).unwrap();
        disk.sync_dir(&deep).unwrap();
        assert_eq!(disk.list(&deep).unwrap(), ["link", "moved"]);
        disk.remove_file(&deep.join("link")).unwrap();
        assert!(!disk.exists(&deep.join("link")).unwrap());
        disk.remove_dir_all(&dir.path().join("a")).unwrap();
        assert!(!disk.exists(&deep).unwrap());
        assert!(disk.free_space(&deep).unwrap() <= disk.total_space(&deep).unwrap());
    }

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomically(&RealDisk, &path, b"a longer old content").unwrap();
        write_atomically(&RealDisk, &path, b"new").unwrap();
        assert_eq!(read_all(&RealDisk, &path).unwrap(), b"new");
        assert_eq!(RealDisk.list(dir.path()).unwrap(), ["file"]);
    }

    #[test]
    fn a_second_lock_is_refused_and_told_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let lock = RealDisk.lock(&path, "pid 7: nokv serve").unwrap();
        let refused = RealDisk.lock(&path, "pid 8").map(|_| ()).unwrap_err();
        assert_eq!(
            (refused.kind(), refused.to_string()),
            (ErrorKind::WouldBlock, "pid 7: nokv serve".to_owned())
        );
        drop(lock);
        let again = RealDisk.lock(&path, "pid 8").unwrap();
        assert_eq!(read_all(&RealDisk, &path).unwrap(), b"pid 8\n");
        fs::remove_file(&path).unwrap();
        RealDisk.lock(&path, "pid 9").unwrap();
        drop(again);
    }

    #[test]
    fn errors_name_the_path() {
        let error = RealDisk.open(Path::new("/nowhere/at/all"), OpenMode::Read).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/at/all: "), "{error}");
    }
}
