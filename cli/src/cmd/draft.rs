//! Files that appear under their name when all of them is there.

use crate::errors::{Failure, Result};
use nokv_env::{Env, File, OpenMode};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file in the making. Dropped, it is gone, unless it has its name by then.
pub struct Draft<'a> {
    env: &'a Env,
    path: PathBuf,
    file: Option<Arc<dyn File>>,
    /// Written so far.
    pub bytes: u64,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            drop(self.env.disk.remove_file(&self.path));
        }
    }
}

impl<'a> Draft<'a> {
    /// The draft of `file`.
    pub fn beside(env: &'a Env, file: &Path) -> Self {
        let mut path = file.as_os_str().to_owned();
        path.push(".tmp");
        Self { env, path: path.into(), file: None, bytes: 0 }
    }

    /// Adds bytes. The first ones bring the file to life: whoever asks in vain leaves nothing.
    pub fn append(&mut self, part: &[u8]) -> Result {
        let failed = |error| cannot_write(&self.path, &error);
        let file = match &self.file {
            Some(file) => file,
            None => {
                let empty = |file: Arc<dyn File>| file.truncate(0).map(|()| file);
                let file =
                    self.env.disk.open(&self.path, OpenMode::Create).and_then(empty).map_err(failed)?;
                self.file.insert(file)
            }
        };
        file.write_at(part, self.bytes).map_err(failed)?;
        self.bytes += part.len() as u64;
        Ok(())
    }

    /// Gives the file its name, durably; the result is its length.
    pub fn publish(mut self, name: &Path) -> Result<u64> {
        let disk = &*self.env.disk;
        let dir = name.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let publish = || {
            self.file.as_ref().map(|file| file.sync_data()).transpose()?;
            disk.rename(&self.path, name)?;
            disk.sync_dir(dir)
        };
        publish().map_err(|error| cannot_write(name, &error))?;
        self.file = None;
        Ok(self.bytes)
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::io(format!("write {}", path.display()), error)
}
