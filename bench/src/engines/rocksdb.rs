//! RocksDB through its C interface, as the system's library has it: no bindings to generate, no C++ to compile.

use crate::engine::{Config, Engine};
use anyhow::{Result, bail};
use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::slice;

type Handle = *mut c_void;

#[link(name = "rocksdb")]
unsafe extern "C" {
    fn rocksdb_open(options: Handle, name: *const c_char, error: *mut *mut c_char) -> Handle;
    fn rocksdb_close(db: Handle);
    fn rocksdb_free(memory: *mut c_void);
    fn rocksdb_options_create() -> Handle;
    fn rocksdb_options_destroy(options: Handle);
    fn rocksdb_options_set_create_if_missing(options: Handle, yes: c_uchar);
    fn rocksdb_options_set_write_buffer_size(options: Handle, bytes: usize);
    fn rocksdb_options_set_compression(options: Handle, kind: c_int);
    fn rocksdb_options_set_block_based_table_factory(options: Handle, table_options: Handle);
    fn rocksdb_block_based_options_create() -> Handle;
    fn rocksdb_block_based_options_set_block_cache(table_options: Handle, cache: Handle);
    fn rocksdb_block_based_options_set_filter_policy(table_options: Handle, policy: Handle);
    fn rocksdb_filterpolicy_create_bloom_full(bits_per_key: f64) -> Handle;
    fn rocksdb_cache_create_lru(bytes: usize) -> Handle;
    fn rocksdb_writeoptions_create() -> Handle;
    fn rocksdb_writeoptions_set_sync(options: Handle, yes: c_uchar);
    fn rocksdb_readoptions_create() -> Handle;
    fn rocksdb_flushoptions_create() -> Handle;
    fn rocksdb_put(
        db: Handle,
        options: Handle,
        key: *const u8,
        key_len: usize,
        value: *const u8,
        value_len: usize,
        error: *mut *mut c_char,
    );
    fn rocksdb_delete(db: Handle, options: Handle, key: *const u8, key_len: usize, error: *mut *mut c_char);
    fn rocksdb_get_pinned(
        db: Handle,
        options: Handle,
        key: *const u8,
        key_len: usize,
        error: *mut *mut c_char,
    ) -> Handle;
    fn rocksdb_pinnableslice_value(slice: Handle, len: *mut usize) -> *const u8;
    fn rocksdb_pinnableslice_destroy(slice: Handle);
    fn rocksdb_create_iterator(db: Handle, options: Handle) -> Handle;
    fn rocksdb_iter_seek(iterator: Handle, key: *const u8, key_len: usize);
    fn rocksdb_iter_valid(iterator: Handle) -> c_uchar;
    fn rocksdb_iter_next(iterator: Handle);
    fn rocksdb_iter_key(iterator: Handle, len: *mut usize) -> *const u8;
    fn rocksdb_iter_value(iterator: Handle, len: *mut usize) -> *const u8;
    fn rocksdb_iter_get_error(iterator: Handle, error: *mut *mut c_char);
    fn rocksdb_iter_destroy(iterator: Handle);
    fn rocksdb_flush(db: Handle, options: Handle, error: *mut *mut c_char);
    fn rocksdb_property_int(db: Handle, name: *const c_char, value: *mut u64) -> c_int;
}

/// An open database, and options that live as long as the process.
pub struct RocksDb {
    db: Handle,
    unsynced: Handle,
    synced: Handle,
    reading: Handle,
    flushing: Handle,
}

// SAFETY: a database and options that nobody changes may be used from any thread.
unsafe impl Send for RocksDb {}
// SAFETY: as above.
unsafe impl Sync for RocksDb {}

impl RocksDb {
    /// Opens the database: RocksDB's defaults besides what all engines are given, and the filter that ours has too.
    pub fn open(dir: &Path, config: Config) -> Result<Self> {
        let name = CString::new(dir.join("db").into_os_string().into_encoded_bytes())?;
        // SAFETY: every handle is fresh from its create function; the table options take over cache and policy.
        unsafe {
            let table = rocksdb_block_based_options_create();
            rocksdb_block_based_options_set_block_cache(
                table,
                rocksdb_cache_create_lru(config.cache_bytes as usize),
            );
            rocksdb_block_based_options_set_filter_policy(
                table,
                rocksdb_filterpolicy_create_bloom_full(10.0),
            );
            let options = rocksdb_options_create();
            rocksdb_options_set_create_if_missing(options, 1);
            rocksdb_options_set_write_buffer_size(options, config.memtable_bytes as usize);
            rocksdb_options_set_compression(options, if config.lz4 { 4 } else { 0 });
            rocksdb_options_set_block_based_table_factory(options, table);
            let synced = rocksdb_writeoptions_create();
            rocksdb_writeoptions_set_sync(synced, 1);
            let db = checked(|error| rocksdb_open(options, name.as_ptr(), error))?;
            rocksdb_options_destroy(options);
            Ok(Self {
                db,
                unsynced: rocksdb_writeoptions_create(),
                synced,
                reading: rocksdb_readoptions_create(),
                flushing: rocksdb_flushoptions_create(),
            })
        }
    }

    fn put_as(&self, options: Handle, key: &[u8], value: &[u8]) -> Result<()> {
        // SAFETY: the handles live; key and value are copied during the call.
        checked(|error| unsafe {
            rocksdb_put(self.db, options, key.as_ptr(), key.len(), value.as_ptr(), value.len(), error);
        })
    }

    fn property(&self, name: &CStr) -> u64 {
        let mut value = 0;
        // SAFETY: the database lives, the name ends with a zero byte.
        unsafe { rocksdb_property_int(self.db, name.as_ptr(), &raw mut value) };
        value
    }
}

/// Makes a call and turns what it says of errors into ours.
fn checked<T>(call: impl FnOnce(*mut *mut c_char) -> T) -> Result<T> {
    let mut error: *mut c_char = null_mut();
    let value = call(&raw mut error);
    if error.is_null() {
        return Ok(value);
    }
    // SAFETY: a message is a string that is ours to free.
    let message = unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned();
    // SAFETY: as above, and it is not used any more.
    unsafe { rocksdb_free(error.cast()) };
    bail!("rocksdb: {message}")
}

impl Engine for RocksDb {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_as(self.unsynced, key, value)
    }

    fn put_sync(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.put_as(self.synced, key, value)
    }

    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<bool> {
        // SAFETY: the handles live; the value is used before the slice that pins it goes.
        unsafe {
            let pinned =
                checked(|error| rocksdb_get_pinned(self.db, self.reading, key.as_ptr(), key.len(), error))?;
            if pinned.is_null() {
                return Ok(false);
            }
            let mut len = 0;
            let value = rocksdb_pinnableslice_value(pinned, &raw mut len);
            see(slice::from_raw_parts(value, len));
            rocksdb_pinnableslice_destroy(pinned);
            Ok(true)
        }
    }

    fn scan(&self, from: &[u8], limit: usize, see: &mut dyn FnMut(&[u8], &[u8])) -> Result<usize> {
        // SAFETY: the handles live; key and value are used before the iterator moves.
        unsafe {
            let iterator = rocksdb_create_iterator(self.db, self.reading);
            rocksdb_iter_seek(iterator, from.as_ptr(), from.len());
            let mut seen = 0;
            while seen < limit && rocksdb_iter_valid(iterator) != 0 {
                let (mut key_len, mut value_len) = (0, 0);
                let key = rocksdb_iter_key(iterator, &raw mut key_len);
                let value = rocksdb_iter_value(iterator, &raw mut value_len);
                see(slice::from_raw_parts(key, key_len), slice::from_raw_parts(value, value_len));
                seen += 1;
                if seen < limit {
                    rocksdb_iter_next(iterator);
                }
            }
            let result = checked(|error| rocksdb_iter_get_error(iterator, error));
            rocksdb_iter_destroy(iterator);
            result.map(|()| seen)
        }
    }

    fn delete(&self, key: &[u8]) -> Result<()> {
        // SAFETY: the handles live; the key is copied during the call.
        checked(|error| unsafe {
            rocksdb_delete(self.db, self.unsynced, key.as_ptr(), key.len(), error);
        })
    }

    fn flush(&self) -> Result<()> {
        // SAFETY: the handles live.
        checked(|error| unsafe { rocksdb_flush(self.db, self.flushing, error) })
    }

    fn is_busy(&self) -> bool {
        [c"rocksdb.compaction-pending", c"rocksdb.num-running-compactions", c"rocksdb.num-running-flushes"]
            .iter()
            .any(|name| self.property(name) > 0)
    }

    fn close(self: Box<Self>) -> Result<()> {
        // SAFETY: nobody uses the database any more.
        unsafe { rocksdb_close(self.db) };
        Ok(())
    }
}
