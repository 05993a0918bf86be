//! A database on a disk of its own that nothing ever happens to, in 1970: where rows come from and go to.

use super::life::{Content, State, read};
use crate::testing::World;
use crate::{Cf, Options, WriteBatch};
use nokv_env::{OpenMode, disk};
use std::path::PathBuf;

/// `rows` of one family, as table files that another database exported: several, unless the rows are few.
pub(super) fn exported(cf: Cf, rows: &State) -> Vec<Vec<u8>> {
    let world = World::new(1);
    let db = world.open(&Options { table_bytes: 4 << 10, ..Options::tiny() }).unwrap();
    let mut batch = WriteBatch::new();
    for (key, (value, until)) in rows {
        batch.put_until(cf, key.clone(), value.clone(), *until);
    }
    db.apply(batch).unwrap();
    let tables = world.run(db.export(&db.snapshot(), &[cf], .., &World::dir().join("out"))).unwrap();
    tables.iter().map(|table| disk::read_all(&*world.disk, &table.file).unwrap()).collect()
}

/// What a database holds that took in these files and nothing else.
pub(super) fn taken_in(files: Vec<Vec<u8>>) -> Content {
    let world = World::new(1);
    let db = world.open(&Options::tiny()).unwrap();
    let write = |(number, bytes): (usize, Vec<u8>)| {
        let path = PathBuf::from(format!("/in-{number}"));
        world.disk.open(&path, OpenMode::CreateNew).unwrap().write_at(&bytes, 0).unwrap();
        path
    };
    let paths: Vec<PathBuf> = files.into_iter().enumerate().map(write).collect();
    world.run(db.ingest(&paths)).unwrap();
    read(&db.snapshot()).unwrap()
}
