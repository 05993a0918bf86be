//! Every file of a closed database is damaged in every place. Damage is an error that names the file, or it is harmless;
//! it is never a wrong value, a panic, or a loss that nobody hears of.
//!
//! One loss cannot be told: when the *end* of the newest log segment (or of the manifest, which is such a log too) goes,
//! with all that vouched for it, what is left is what a crash leaves that came a moment earlier. Then the database must be
//! in the very state of that moment.

use super::life::{Content, Life, Step, options, read, seen};
use crate::files;
use crate::log::frame;
use crate::testing::{World, put};
use crate::{Db, Error, Options, Result, WriteOptions, inspect};
use nokv_env::{OpenMode, disk};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Image = BTreeMap<PathBuf, Vec<u8>>;

/// A closed database.
struct Victim {
    image: Image,
    /// What it held after every step since its last table was made; last what it holds.
    states: Vec<Content>,
    /// What the clock says.
    now: u64,
    /// The newest log segment and the manifest: files whose end may go unnoticed.
    open_ended: [PathBuf; 2],
}

fn small() -> Options {
    Options { level0_tables_compact: 8, memtable_bytes: 64 << 10, manifest_bytes: 4 << 10, ..options(0) }
}

impl Victim {
    fn new() -> Self {
        use Step::{Apply, Flush, Import, Ingest, Reopen, Write};
        let mut life = Life::new(1, small());
        life.live(&[Write { sync: true }, Apply, Flush, Import, Ingest, Reopen]).unwrap();
        life.live_on(&[Write { sync: false }, Apply, Flush]);
        let mut states = vec![life.states()];
        while life.db.as_ref().is_some_and(|db| db.stats().wal_segments < 2) || states.len() < 8 {
            life.live_on(&[Write { sync: true }]);
            states.push(life.states());
        }
        life.live_on(&[Write { sync: true }]);
        states.push(life.states());
        let now = life.now();
        let states = states.into_iter().map(|states| states.map(|state| seen(&state, now))).collect();
        life.world.run(life.db.take().expect("open").close()).unwrap();
        let content =
            |(path, _): (PathBuf, u64)| (path.clone(), disk::read_all(&*life.world.disk, &path).unwrap());
        let mut image: Image = life.world.platter.files().into_iter().map(content).collect();
        image.remove(&files::lock(World::dir()));
        let newest = image.keys().rfind(|path| is_a(path, "wal")).expect("a log");
        let info = inspect::manifest(&*life.world.disk, World::dir()).unwrap().expect("CURRENT");
        assert!(info.edits > 1 && info.tables.len() >= 3 && info.segments.len() >= 3, "{info:?}");
        assert!(image[newest].len() > frame::HEADER_BYTES + frame::FRAME_BYTES, "the newest log is empty");
        let open_ended = [newest.clone(), info.file];
        Self { image, states, now, open_ended }
    }

    fn files(&self, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        self.image.keys().filter(|path| wanted(path)).cloned().collect()
    }

    fn whole(&self) -> &Content {
        &self.states[self.states.len() - 1]
    }

    /// Opens the damaged directory for reading, for checking, for writing, and judges what comes of it.
    fn suffer(&self, what: &str, damaged: &[&Path], change: impl FnOnce(&mut Image)) -> Verdict {
        let mut image = self.image.clone();
        change(&mut image);
        let world = world_of(&image);
        world.set_clock(self.now);
        let looked = Db::open_read_only_at(world.disk.clone(), World::dir(), small(), self.now);
        let looked = looked.and_then(|db| read(&db.snapshot()));
        let checked = inspect::check(&*world.disk, World::dir(), true).unwrap();
        assert_eq!(image_of(&world), image, "{what}: looking changed something");
        let is_open_ended = damaged.iter().any(|path| self.open_ended.iter().any(|open| open == path));
        let verdict = match &looked {
            Err(error) => {
                let named = match error {
                    Error::Corrupt { file, .. } => file.clone(),
                    Error::MissingCurrent { .. } => files::current(World::dir()),
                    other => panic!("{what}: {other}"),
                };
                // An old manifest may want files that are gone.
                let is_named =
                    |file: &Path| damaged.contains(&file) || (is_open_ended && !image.contains_key(file));
                assert!(is_named(&named), "{what}: {error}");
                let found = checked.findings.iter().find(|finding| is_named(&finding.file));
                assert!(found.is_some(), "{what}: {error}; a check finds {:?}", checked.findings);
                Verdict::Noticed
            }
            Ok(found) if found == self.whole() => match checked.findings.first() {
                None => Verdict::Harmless,
                Some(finding) => {
                    assert!(damaged.contains(&&*finding.file), "{what}: a check finds {finding:?}");
                    Verdict::Unread
                }
            },
            Ok(found) => {
                let is_state = is_open_ended && self.states.contains(found);
                assert!(is_state, "{what}: a state that never was, {:?}", checked.findings);
                assert_eq!(checked.findings, [], "{what}: an opening does not see what a check does");
                Verdict::Shorter
            }
        };
        match (open_and_go_on(&world), looked) {
            (Ok(found), Ok(looked)) => assert_eq!(found, looked, "{what}"),
            (Err(Error::Corrupt { file: a, .. }), Err(Error::Corrupt { file: b, .. })) => {
                assert_eq!(a, b, "{what}");
            }
            (Err(Error::MissingCurrent { .. }), Err(_)) => {}
            (a, b) => panic!("{what}: {:?} for writing, {:?} for reading", a.err(), b.err()),
        }
        verdict
    }
}

/// What came of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Noticed,
    /// Nobody reads what is damaged, as it is out of date; a check names it.
    Unread,
    Harmless,
    /// The newest writes are gone, as after a crash.
    Shorter,
}

fn is_a(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn world_of(image: &Image) -> World {
    let world = World::new(1);
    world.disk.create_dir_all(&World::dir().join("staged")).unwrap();
    for (path, content) in image {
        world.disk.create_dir_all(path.parent().expect("a directory")).unwrap();
        world.disk.open(path, OpenMode::CreateNew).unwrap().write_at(content, 0).unwrap();
    }
    world
}

fn image_of(world: &World) -> Image {
    let read = |(path, _): (PathBuf, u64)| (path.clone(), disk::read_all(&*world.disk, &path).unwrap());
    let mut image: Image = world.platter.files().into_iter().map(read).collect();
    image.remove(&files::lock(World::dir()));
    image
}

/// What an ordinary process finds; it also writes, compacts, and comes back. A refused opening leaves all as it is.
fn open_and_go_on(world: &World) -> Result<Content> {
    let before = image_of(world);
    let db = world.open(&small()).inspect_err(|_| assert_eq!(image_of(world), before))?;
    let found = read(&db.snapshot())?;
    world.run(db.write(put("zzz", "new"), WriteOptions { sync: true }))?;
    world.run(db.flush())?;
    world.settle();
    world.run(db.close())?;
    let db = world.open(&small())?;
    let mut again = read(&db.snapshot())?;
    assert_eq!(again[0].remove(b"zzz".as_slice()), Some("new".into()));
    assert_eq!(again, found);
    Ok(found)
}

/// How many of each verdict.
#[derive(Debug, Default)]
struct Tally(BTreeMap<Verdict, usize>);

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        *self.0.entry(verdict).or_default() += 1;
    }

    fn of(&self, verdict: Verdict) -> usize {
        self.0.get(&verdict).copied().unwrap_or_default()
    }
}

/// So many bits of every byte of these files, one at a time.
fn flip_everywhere(victim: &Victim, files: &[PathBuf], bits: usize) -> Tally {
    let mut tally = Tally::default();
    for path in files {
        for at in 0..victim.image[path].len() {
            for bit in (0..bits).map(|bit| (at + 3 * bit) % 8) {
                let what = format!("bit {bit} of byte {at} of {}", path.display());
                let flip = |image: &mut Image| of(image, path)[at] ^= 1 << bit;
                tally.add(victim.suffer(&what, &[path], flip));
            }
        }
    }
    tally
}

fn of<'a>(image: &'a mut Image, path: &Path) -> &'a mut Vec<u8> {
    image.get_mut(path).expect("a file of the victim")
}

#[test]
fn every_flipped_byte_of_a_table_is_noticed() {
    let victim = Victim::new();
    let tables = victim.files(|path| is_a(path, "sst"));
    let bytes: usize = tables.iter().map(|path| victim.image[path].len()).sum();
    let tally = flip_everywhere(&victim, &tables, 2);
    assert_eq!(tally.of(Verdict::Noticed), 2 * bytes, "{tally:?}");
}

#[test]
fn every_flipped_byte_of_a_value_log_is_noticed_or_out_of_date() {
    let victim = Victim::new();
    let segments = victim.files(|path| is_a(path, "vlog"));
    let bytes: usize = segments.iter().map(|path| victim.image[path].len()).sum();
    let tally = flip_everywhere(&victim, &segments, 2);
    assert_eq!(tally.of(Verdict::Noticed) + tally.of(Verdict::Unread), 2 * bytes, "{tally:?}");
    assert!(tally.of(Verdict::Noticed) > bytes, "{tally:?}");
}

#[test]
fn every_flipped_bit_of_a_log_is_noticed_or_one_of_a_claim() {
    let victim = Victim::new();
    let logs = victim.files(|path| !is_a(path, "sst") && !is_a(path, "vlog"));
    let tally = flip_everywhere(&victim, &logs, 8);
    // The last frame of the newest segment and of the manifest only vouches for what is before it.
    let claims = victim.open_ended.len() * 8 * frame::FRAME_BYTES;
    assert_eq!((tally.of(Verdict::Harmless), tally.of(Verdict::Shorter)), (claims, 0), "{tally:?}");
}

#[test]
fn a_file_cut_anywhere_is_noticed_or_ends_like_one_after_a_crash() {
    let victim = Victim::new();
    for path in victim.files(|_| true) {
        let mut tally = Tally::default();
        let bytes = victim.image[&path].len();
        for len in 0..bytes {
            let what = format!("{} cut to {len}", path.display());
            tally.add(victim.suffer(&what, &[&path], |image| of(image, &path).truncate(len)));
        }
        if victim.open_ended.contains(&path) {
            assert_eq!(tally.of(Verdict::Harmless), frame::FRAME_BYTES, "{path:?}: {tally:?}");
        } else {
            assert_eq!(tally.of(Verdict::Noticed), bytes, "{path:?}: {tally:?}");
        }
    }
}

#[test]
fn zeros_in_a_file_are_noticed_or_at_the_end_of_a_log() {
    let victim = Victim::new();
    for path in victim.files(|_| true) {
        let bytes = victim.image[&path].len();
        let zero = |from: usize, to: usize| {
            let what = format!("bytes {from} to {to} of {} are zero", path.display());
            victim.suffer(&what, &[&path], |image| of(image, &path)[from..to].fill(0))
        };
        assert_eq!(zero(0, bytes), Verdict::Noticed, "{} is zero", path.display());
        for from in (0..bytes).step_by(512) {
            let verdict = zero(from, bytes.min(from + 512));
            let is_end = victim.open_ended.contains(&path) && from + 512 >= bytes;
            let is_known = verdict == Verdict::Noticed || (verdict == Verdict::Unread && is_a(&path, "vlog"));
            assert!(is_known || is_end, "{verdict:?} at {from} of {}", path.display());
        }
    }
}

#[test]
fn a_file_that_is_gone_or_another_is_noticed() {
    let victim = Victim::new();
    let all = victim.files(|_| true);
    for (n, path) in all.iter().enumerate() {
        let what = format!("{} is gone", path.display());
        let gone = victim.suffer(&what, &[path], |image| drop(image.remove(path)));
        // A crash between a segment's seal and its successor's birth leaves the same.
        let is_newest_log = *path == victim.open_ended[0];
        assert_eq!(gone, if is_newest_log { Verdict::Shorter } else { Verdict::Noticed }, "{what}");
        for other in &all[..n] {
            let swap = |image: &mut Image| {
                let (a, b) = (image[path].clone(), image[other].clone());
                image.insert(path.clone(), b);
                image.insert(other.clone(), a);
            };
            let what = format!("{} and {} are each other", path.display(), other.display());
            assert_eq!(victim.suffer(&what, &[path, other], swap), Verdict::Noticed, "{what}");
        }
    }
}
