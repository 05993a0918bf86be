//! The directory tree, as running processes see it and as the platter holds it.
//!
//! Creating, renaming, linking and removing change the running view at once and are queued; syncing a
//! directory makes its queued operations durable. At a power loss each queued operation survives or not on
//! its own, except that operations on one name keep their order: if one is lost, so are the later ones. A
//! rename is one operation on two names, so it happens wholly or not at all. New directories are durable at
//! once, which the [`Disk`](crate::disk::Disk) contract promises.

use super::content::Content;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One file, whatever its names.
pub(super) struct Node {
    pub(super) id: u64,
    content: Mutex<Content>,
}

impl Node {
    pub(super) fn new(id: u64, content: Content) -> Arc<Self> {
        Arc::new(Node { id, content: Mutex::new(content) })
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type DirId = u64;
const ROOT: DirId = 0;

#[derive(Clone)]
pub(super) enum Entry {
    File(Arc<Node>),
    Dir(DirId),
}

#[derive(Default)]
struct Dir {
    running: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
}

/// A name gets a new meaning, or none.
#[derive(Clone)]
struct Change {
    dir: DirId,
    name: String,
    to: Option<Entry>,
}

/// Changes that survive a crash together.
type Operation = Vec<Change>;

/// Which of the two views.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Running,
    Durable,
}

/// The tree.
pub(super) struct Names {
    dirs: BTreeMap<DirId, Dir>,
    queued: Vec<Operation>,
    next_dir: DirId,
}

impl Names {
    pub(super) fn new() -> Self {
        Names { dirs: BTreeMap::from([(ROOT, Dir::default())]), queued: Vec::new(), next_dir: ROOT + 1 }
    }

    pub(super) fn get(&self, path: &Path, view: View) -> Option<Entry> {
        let mut entry = Entry::Dir(ROOT);
        for part in parts(path) {
            let Entry::Dir(dir) = entry else { return None };
            entry = self.dirs.get(&dir)?.view(view).get(&part)?.clone();
        }
        Some(entry)
    }

    pub(super) fn file(&self, path: &Path, view: View) -> io::Result<Arc<Node>> {
        match self.get(path, view) {
            Some(Entry::File(node)) => Ok(node),
            Some(Entry::Dir(_)) => Err(named(io::ErrorKind::IsADirectory, path)),
            None => Err(named(io::ErrorKind::NotFound, path)),
        }
    }

    /// Gives `path` to `node`; a name that was there changes hands.
    pub(super) fn link(&mut self, path: &Path, node: Arc<Node>) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        self.run(vec![Change { dir, name, to: Some(Entry::File(node)) }]);
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path, View::Running)?;
        let (dir, name) = self.place(path)?;
        self.run(vec![Change { dir, name, to: None }]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = self.get(from, View::Running).ok_or_else(|| named(io::ErrorKind::NotFound, from))?;
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        if (from_dir, &from_name) == (to_dir, &to_name) {
            return Ok(());
        }
        match (&entry, self.get(to, View::Running)) {
            (_, None) => {}
            (Entry::File(old), Some(Entry::File(new))) if Arc::ptr_eq(old, &new) => return Ok(()),
            (Entry::File(_), Some(Entry::File(_))) => {}
            (_, Some(_)) => return Err(named(io::ErrorKind::AlreadyExists, to)),
        }
        self.run(vec![
            Change { dir: to_dir, name: to_name, to: Some(entry) },
            Change { dir: from_dir, name: from_name, to: None },
        ]);
        Ok(())
    }

    /// Creates missing directories, durably. Their parents are synced.
    pub(super) fn create_dirs(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for part in parts(path) {
            match self.dirs.get(&at).and_then(|dir| dir.running.get(&part)) {
                Some(Entry::Dir(dir)) => at = *dir,
                Some(Entry::File(_)) => return Err(named(io::ErrorKind::NotADirectory, path)),
                None => {
                    self.sync_id(at);
                    let new = self.next_dir;
                    self.next_dir += 1;
                    self.dirs.insert(new, Dir::default());
                    if let Some(parent) = self.dirs.get_mut(&at) {
                        parent.running.insert(part.clone(), Entry::Dir(new));
                        parent.durable.insert(part, Entry::Dir(new));
                    }
                    at = new;
                }
            }
        }
        Ok(())
    }

    /// Removes a directory: one queued operation a name in it, then its own.
    pub(super) fn remove_dirs(&mut self, path: &Path) -> io::Result<()> {
        let id = self.dir(path)?;
        let (dir, name) = self.place(path)?;
        self.empty(id);
        self.run(vec![Change { dir, name, to: None }]);
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let id = self.dir(path)?;
        Ok(self.dirs.get(&id).map(|dir| dir.running.keys().cloned().collect()).unwrap_or_default())
    }

    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let id = self.dir(path)?;
        self.sync_id(id);
        Ok(())
    }

    pub(super) fn dir(&self, path: &Path) -> io::Result<DirId> {
        match self.get(path, View::Running) {
            Some(Entry::Dir(dir)) => Ok(dir),
            Some(Entry::File(_)) => Err(named(io::ErrorKind::NotADirectory, path)),
            None => Err(named(io::ErrorKind::NotFound, path)),
        }
    }

    /// Power is lost: queued operations survive as `keep` says, within the rules above.
    pub(super) fn lose_power(&mut self, mut keep: impl FnMut() -> bool) {
        let mut lost: BTreeSet<(DirId, String)> = BTreeSet::new();
        for operation in std::mem::take(&mut self.queued) {
            let blocked = operation.iter().any(|change| lost.contains(&(change.dir, change.name.clone())));
            if !blocked && keep() {
                self.make_durable(operation);
            } else {
                lost.extend(operation.into_iter().map(|change| (change.dir, change.name)));
            }
        }
        for dir in self.dirs.values_mut() {
            dir.running.clone_from(&dir.durable);
        }
        self.forget_unreachable();
    }

    /// Every file of a view, by id (each once, whatever its names).
    pub(super) fn nodes(&self, view: View) -> BTreeMap<u64, Arc<Node>> {
        self.files(view).into_iter().map(|(_, node)| (node.id, node)).collect()
    }

    /// Every file of a view with its path, in order of paths.
    pub(super) fn files(&self, view: View) -> Vec<(String, Arc<Node>)> {
        let mut files = Vec::new();
        self.walk(ROOT, "", view, &mut files);
        files
    }

    fn walk(&self, id: DirId, prefix: &str, view: View, files: &mut Vec<(String, Arc<Node>)>) {
        for (name, entry) in self.dirs.get(&id).into_iter().flat_map(|dir| dir.view(view)) {
            let path = format!("{prefix}/{name}");
            match entry {
                Entry::File(node) => files.push((path, node.clone())),
                Entry::Dir(dir) => self.walk(*dir, &path, view, files),
            }
        }
    }

    /// The directory that holds `path`, and the name in it.
    fn place(&self, path: &Path) -> io::Result<(DirId, String)> {
        let mut parts = parts(path);
        let name = parts.pop().ok_or_else(|| named(io::ErrorKind::InvalidInput, path))?;
        let mut dir = ROOT;
        for part in parts {
            dir = match self.dirs.get(&dir).and_then(|dir| dir.running.get(&part)) {
                Some(Entry::Dir(dir)) => *dir,
                Some(Entry::File(_)) => return Err(named(io::ErrorKind::NotADirectory, path)),
                None => return Err(named(io::ErrorKind::NotFound, path)),
            };
        }
        Ok((dir, name))
    }

    fn empty(&mut self, id: DirId) {
        let entries: Vec<(String, Entry)> = match self.dirs.get(&id) {
            Some(dir) => dir.running.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect(),
            None => return,
        };
        for (name, entry) in entries {
            if let Entry::Dir(inner) = entry {
                self.empty(inner);
            }
            self.run(vec![Change { dir: id, name, to: None }]);
        }
    }

    /// Changes the running view now and queues the operation for the platter.
    fn run(&mut self, operation: Operation) {
        for change in &operation {
            if let Some(dir) = self.dirs.get_mut(&change.dir) {
                set(&mut dir.running, change.clone());
            }
        }
        self.queued.push(operation);
    }

    /// Makes the queued operations of a directory durable, and those they build on.
    fn sync_id(&mut self, id: DirId) {
        let mut needed: BTreeSet<(DirId, String)> = BTreeSet::new();
        let mut chosen = vec![false; self.queued.len()];
        for (operation, chosen) in self.queued.iter().zip(&mut chosen).rev() {
            *chosen = operation
                .iter()
                .any(|change| change.dir == id || needed.contains(&(change.dir, change.name.clone())));
            if *chosen && operation.iter().any(|change| change.dir != id) {
                needed.extend(operation.iter().map(|change| (change.dir, change.name.clone())));
            }
        }
        let mut lost_dir = false;
        for (operation, chosen) in std::mem::take(&mut self.queued).into_iter().zip(chosen) {
            if chosen {
                lost_dir |= self.make_durable(operation);
            } else {
                self.queued.push(operation);
            }
        }
        if lost_dir {
            self.forget_unreachable();
        }
    }

    /// Returns whether a directory lost a name.
    fn make_durable(&mut self, operation: Operation) -> bool {
        let mut lost_dir = false;
        for change in operation {
            if let Some(dir) = self.dirs.get_mut(&change.dir) {
                lost_dir |= matches!(set(&mut dir.durable, change), Some(Entry::Dir(_)));
            }
        }
        lost_dir
    }

    /// Drops directories that no view and no queued operation can reach, and operations inside them.
    fn forget_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        for change in self.queued.iter().flatten() {
            if let Some(Entry::Dir(dir)) = change.to {
                todo.push(dir);
                reached.insert(dir);
            }
        }
        while let Some(dir) = todo.pop().and_then(|id| self.dirs.get(&id)) {
            for entry in dir.running.values().chain(dir.durable.values()) {
                if let Entry::Dir(inner) = entry
                    && reached.insert(*inner)
                {
                    todo.push(*inner);
                }
            }
        }
        self.dirs.retain(|id, _| reached.contains(id));
        self.queued.retain(|operation| operation.iter().any(|change| reached.contains(&change.dir)));
    }
}

impl Dir {
    fn view(&self, view: View) -> &BTreeMap<String, Entry> {
        match view {
            View::Running => &self.running,
            View::Durable => &self.durable,
        }
    }
}

fn set(entries: &mut BTreeMap<String, Entry>, change: Change) -> Option<Entry> {
    match change.to {
        Some(entry) => entries.insert(change.name, entry),
        None => entries.remove(&change.name),
    }
}

/// `/a/./b`, `a/b` and `a/c/../b` are the same place.
fn parts(path: &Path) -> Vec<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    parts
}

/// An error that names the path.
pub(super) fn named(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}
