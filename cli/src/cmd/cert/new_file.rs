//! Files that appear whole, and only where there was none.

use crate::errors::{Code, Failure, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Readable for the owner alone.
pub const SECRET: u32 = 0o600;
/// Readable for everybody.
pub const PUBLIC: u32 = 0o644;

/// Refuses if there is something at one of `paths`.
pub fn check_free(paths: &[&Path]) -> Result {
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(taken) => Err(exists(taken)),
        None => Ok(()),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(Code::FileExists, format!("{} is there already", path.display()))
        .why("certificates and keys are never overwritten")
        .next("choose another directory; to replace a certificate, move the new files over the old ones afterwards")
        .detail("path", path.display().to_string())
}

/// Writes a file that nobody sees before all of it is on the disk.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let draft = Path::new(&name);
    let written = draft_of(draft, bytes, mode).and_then(|()| fs::hard_link(draft, path));
    // Whatever became of it, the draft is of no more use.
    let _ = fs::remove_file(draft);
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => Failure::io(format!("write {}", path.display()), &error),
    })?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Failure::io(format!("sync {}", dir.display()), &error))
}

fn draft_of(draft: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}
