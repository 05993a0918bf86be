//! Files in the making: tables, and segments of the value log, that no manifest names yet.

use crate::db::Inner;
use crate::vlog::BUCKETS;
use crate::{Error, Result, files, lock};
use std::sync::Mutex;

/// Hands out the numbers of new files. Dropped, it takes the files along, unless they have joined the database.
pub(super) struct NewFiles<'a> {
    inner: &'a Inner,
    numbers: Mutex<Vec<u64>>,
}

impl<'a> NewFiles<'a> {
    pub(super) fn new(inner: &'a Inner) -> Self {
        Self { inner, numbers: Mutex::default() }
    }

    /// The number of the next one.
    pub(super) fn next_number(&self) -> u64 {
        let number = self.inner.next_file_number();
        lock(&self.numbers).push(number);
        number
    }

    /// The files that were made here become those of `self`: they stay or go with its own.
    pub(super) fn take_over(&self, mut numbers: Vec<u64>) {
        lock(&self.numbers).append(&mut numbers);
    }

    /// Their numbers, for somebody else to take over.
    pub(super) fn hand_over(self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.numbers))
    }

    /// Takes the step by which the files join the database. On a full disk they have not; after any other failure nobody
    /// knows, so they stay.
    pub(super) fn join<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let numbers = std::mem::take(&mut *lock(&self.numbers));
        let joined = step();
        if joined.as_ref().is_err_and(Error::is_disk_full) {
            *lock(&self.numbers) = numbers;
        }
        joined
    }
}

impl Drop for NewFiles<'_> {
    fn drop(&mut self) {
        let (disk, dir) = (self.inner.disk(), self.inner.dir());
        // What cannot be removed now, the next start removes.
        for number in lock(&self.numbers).drain(..) {
            drop(disk.remove_file(&files::table(dir, number)));
            for bucket in 0..BUCKETS {
                drop(disk.remove_file(&files::segment(dir, bucket, number)));
            }
        }
    }
}
