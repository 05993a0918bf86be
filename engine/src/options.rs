//! What one process may tune. Nothing here changes what is on disk already, so every field may differ at the next open.
//! As text it is a flat piece of TOML: [`Options::from_toml`], [`Options::to_toml`].

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Filter bits a key, at most.
const BLOOM_BITS_MAX: u32 = 64;

/// How table blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4, for blocks that get smaller by an eighth or more.
    #[default]
    Lz4,
}

/// Sizes and thresholds of one database. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// A memtable of this many bytes is flushed. Larger: fewer tables, more memory, longer replay. As much memory of
    /// those that were flushed is kept for the next ones.
    pub memtable_bytes: usize,
    /// A log segment of this many bytes is sealed. Smaller: space comes back sooner, more files.
    pub wal_segment_bytes: u64,
    /// Uncompressed bytes of a table block. Smaller: cheaper point reads, larger index.
    pub block_bytes: usize,
    /// Bytes at which compaction starts the next output table.
    pub table_bytes: u64,
    /// Tables at level 0 that start a compaction; those far smaller than a memtable count for their share, and become one when
    /// they are so many. Larger: less rewriting, slower reads.
    pub level0_tables_compact: usize,
    /// Tables at level 0 from which [`crate::Db::pressure`] asks for less.
    pub level0_tables_slowdown: usize,
    /// Tables at level 0 from which [`crate::Db::write`] waits.
    pub level0_tables_stop: usize,
    /// Target size of level 1; each deeper level is [`Options::level_multiplier`] times as large.
    pub level_bytes_base: u64,
    /// Size ratio of neighbouring levels.
    pub level_multiplier: u64,
    /// Memory for blocks and filters of tables.
    pub block_cache_bytes: u64,
    /// The most that a walk through a range reads at once, of blocks that follow each other. It begins with one block and gets
    /// there by doubling. Larger: fewer reads, more memory for every open iterator and table under it. 0: block by block.
    pub readahead_bytes: usize,
    /// Filter bits a key in the deepest level that there is; 10 give about one false positive in a hundred. A level above has 5
    /// more, and all further ones 10: they hold few of the rows, and every read asks them. 0: no filters.
    pub bloom_bits_per_key: u32,
    /// Compression of new blocks.
    pub compression: Compression,
    /// Tables of the first so many levels are not compressed, whatever [`Options::compression`] says: what is there is soon
    /// written again. Values in the value log are. A table that only moves to another level stays as it is. 0: all tables are
    /// as `compression` says; 1: flushes cost less.
    pub uncompressed_levels: usize,
    /// Values of so many bytes and more leave the tree when it is flushed or compacted, into segments of the value log: they
    /// are not rewritten by compactions then, but cost a read of their own. `usize::MAX`: none do.
    pub value_threshold: usize,
    /// Bytes at which the next segment of the value log is started.
    pub value_segment_bytes: u64,
    /// A segment of the value log with a larger share of garbage gives up its space: what is alive in it moves. Smaller: less
    /// space, more copying.
    pub value_garbage_percent: u32,
    /// The manifest is rewritten when it grew by this many bytes.
    pub manifest_bytes: u64,
    /// What flushes, compactions, collections of values, exports and ingests may read and write in a second,
    /// all together; 0: what they can. Reads and writes of callers do not count and never wait for it.
    /// Flushes go first. The limit gives way as level 0 or the memtables fill: it is gone before writers are
    /// slowed down, and while somebody waits for a flush or a compaction. Smaller: the disk is calmer, level
    /// 0 has more tables, and reads look at them.
    pub background_bytes_per_second: u64,
    /// A large compaction is done in up to so many parts at the same time, each on a thread of its own; 1:
    /// in one. More: it is done earlier and takes more of the processors meanwhile. No part reads less than
    /// [`Options::table_bytes`].
    pub subcompactions: usize,
    /// Who we are, in one line, for whoever finds the lock taken.
    #[serde(skip)]
    pub lock_owner: String,
    /// Whether the caller is the store that owns the directory. Such a directory has a [`crate::OWNER_FILE`]; anybody
    /// else who wrote there would make this replica differ from the others, and is refused.
    #[serde(skip)]
    pub is_owner: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memtable_bytes: 64 << 20,
            wal_segment_bytes: 64 << 20,
            block_bytes: 8 << 10,
            table_bytes: 32 << 20,
            level0_tables_compact: 4,
            level0_tables_slowdown: 20,
            level0_tables_stop: 36,
            level_bytes_base: 256 << 20,
            level_multiplier: 10,
            block_cache_bytes: 256 << 20,
            readahead_bytes: 256 << 10,
            bloom_bits_per_key: 10,
            compression: Compression::Lz4,
            uncompressed_levels: 0,
            value_threshold: 4 << 10,
            value_segment_bytes: 64 << 20,
            value_garbage_percent: 50,
            manifest_bytes: 4 << 20,
            background_bytes_per_second: 0,
            subcompactions: 2,
            lock_owner: "nokv".to_owned(),
            is_owner: false,
        }
    }
}

impl Options {
    /// Small everything: flushes, compactions and rolls happen after a few kilobytes. For tests and simulations.
    pub fn tiny() -> Self {
        Self {
            memtable_bytes: 16 << 10,
            wal_segment_bytes: 8 << 10,
            block_bytes: 512,
            table_bytes: 16 << 10,
            level0_tables_compact: 2,
            level0_tables_slowdown: 8,
            level0_tables_stop: 16,
            level_bytes_base: 32 << 10,
            level_multiplier: 4,
            block_cache_bytes: 64 << 10,
            readahead_bytes: 4 << 10,
            value_threshold: 200,
            value_segment_bytes: 32 << 10,
            manifest_bytes: 4 << 10,
            ..Self::default()
        }
    }

    /// Reads options from TOML: one `name = value` a line, with the names of the fields. What is not said keeps its default;
    /// a name that is not known is an error, as is a value that cannot work. Who the caller is (`lock_owner`, `is_owner`) is
    /// not a file's to say.
    ///
    /// ```
    /// let options = nokv_engine::Options::from_toml("memtable_bytes = 1_048_576\ncompression = \"none\"")?;
    /// assert_eq!(options.memtable_bytes, 1 << 20);
    /// let error = nokv_engine::Options::from_toml("\nmemtable_byte = 1").unwrap_err().to_string();
    /// assert!(error.starts_with("line 2, column 1: unknown field `memtable_byte`"), "{error}");
    /// # Ok::<(), nokv_engine::Error>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self> {
        let options: Self = toml::from_str(text).map_err(|error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Error::InvalidText { line, column, what: error.message().to_owned() }
        })?;
        options.validate()?;
        Ok(options)
    }

    /// The options as TOML that [`Options::from_toml`] reads.
    pub fn to_toml(&self) -> String {
        // Numbers above 2^63, which TOML has no way to write, are the only thing that could fail.
        toml::to_string(&self.bounded()).unwrap_or_default()
    }

    /// How blocks of tables at `level` are compressed.
    pub(crate) fn compression_at(&self, level: usize) -> Compression {
        if level < self.uncompressed_levels { Compression::None } else { self.compression }
    }

    /// Filter bits a key of tables at `level`, while there are tables at `deepest` and at no level below. Fewest false positives
    /// for the memory come with a rate that grows as the levels do, tenfold: 4.8 bits (Dayan, Athanassoulis and Idreos,
    /// "Monkey: Optimal Navigable Key-Value Store", SIGMOD 2017).
    pub(crate) fn bloom_bits_at(&self, level: usize, deepest: usize) -> u32 {
        match (self.bloom_bits_per_key, deepest.saturating_sub(level)) {
            (0, _) => 0,
            (bits, below) => (bits + 5 * below.min(2) as u32).min(BLOOM_BITS_MAX),
        }
    }

    /// With the largest sizes that TOML can write, where they are larger.
    fn bounded(&self) -> Self {
        Self { value_threshold: self.value_threshold.min(i64::MAX as usize), ..self.clone() }
    }

    /// Refuses values that cannot work, before anything is opened.
    pub fn validate(&self) -> Result<()> {
        let sane = [
            (self.memtable_bytes >= 1 << 10, "memtable_bytes must be at least 1024"),
            (
                (4 << 10..=2 << 30).contains(&self.wal_segment_bytes),
                "wal_segment_bytes must be 4 KiB to 2 GiB",
            ),
            ((128..=16 << 20).contains(&self.block_bytes), "block_bytes must be 128 bytes to 16 MiB"),
            (self.table_bytes >= 4 << 10, "table_bytes must be at least 4096"),
            (self.level0_tables_compact >= 1, "level0_tables_compact must be at least 1"),
            (
                self.level0_tables_compact <= self.level0_tables_slowdown
                    && self.level0_tables_slowdown <= self.level0_tables_stop,
                "level0_tables_compact, _slowdown and _stop must not decrease",
            ),
            (self.level_bytes_base >= self.table_bytes, "level_bytes_base must be at least table_bytes"),
            (self.level_multiplier >= 2, "level_multiplier must be at least 2"),
            (self.readahead_bytes <= 16 << 20, "readahead_bytes must be at most 16 MiB"),
            (self.bloom_bits_per_key <= BLOOM_BITS_MAX, "bloom_bits_per_key must be at most 64"),
            (self.value_threshold >= 32, "value_threshold must be at least 32"),
            (self.value_segment_bytes >= 4 << 10, "value_segment_bytes must be at least 4096"),
            ((1..=99).contains(&self.value_garbage_percent), "value_garbage_percent must be 1 to 99"),
            (
                self.background_bytes_per_second == 0 || self.background_bytes_per_second >= 4 << 10,
                "background_bytes_per_second must be 0 or at least 4096",
            ),
            ((1..=64).contains(&self.subcompactions), "subcompactions must be 1 to 64"),
            (!self.lock_owner.contains('\n'), "lock_owner must be one line"),
        ];
        match sane.iter().find(|(ok, _)| !ok) {
            Some((_, what)) => Err(Error::InvalidOption(what)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_valid_and_nonsense_is_refused() {
        Options::default().validate().unwrap();
        Options::tiny().validate().unwrap();
        let bad = Options { level_multiplier: 1, ..Options::default() };
        assert!(matches!(bad.validate(), Err(Error::InvalidOption(_))));
        for (text, is_valid) in [
            ("background_bytes_per_second = 0", true),
            ("background_bytes_per_second = 4_095", false),
            ("background_bytes_per_second = 10_000_000\nsubcompactions = 64", true),
            ("subcompactions = 0", false),
            ("subcompactions = 65", false),
        ] {
            assert_eq!(Options::from_toml(text).is_ok(), is_valid, "{text}");
        }
    }

    #[test]
    fn options_come_back_from_text() {
        for options in [Options::default(), Options::tiny()] {
            assert_eq!(Options::from_toml(&options.to_toml()).unwrap(), options);
        }
        let endless = Options { value_threshold: usize::MAX, ..Options::default() };
        assert_eq!(Options::from_toml(&endless.to_toml()).unwrap().value_threshold, i64::MAX as usize);
        assert_eq!(
            Options::from_toml("uncompressed_levels = 2").unwrap().compression_at(1),
            Compression::None
        );
        let error = |text: &str| Options::from_toml(text).unwrap_err().to_string();
        assert!(
            error("block_bytes = 512\n  level_multiplier = \"two\"")
                .starts_with("line 2, column 22: invalid type")
        );
        assert!(error("lock_owner = \"me\"").contains("unknown field"));
        assert!(error("compression = \"zstd\"").contains("unknown variant"));
        assert_eq!(error("level_multiplier = 1"), "invalid option: level_multiplier must be at least 2");
    }
}
