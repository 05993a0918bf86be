//! Data files: pairs in key order, in blocks with checksums.
//!
//! All numbers are little-endian.
//!
//! ```text
//! header  | "NOKVBKUP" | version u32 | number u32 | backup id [16] | crc32c of what precedes u32 |
//! block   | crc32c of what follows u32 | kind u8 | pairs u32 | plain bytes u32 | stored bytes u32 | stored |
//!         kind 1: pairs as they are; 2: the same, LZ4; 3: the end of the file, stored = | pairs u64 | plain bytes u64 |
//! pair    | key bytes u16 | value bytes u32 | key | value |
//! ```

use super::catalogue::DataFile;
use bytes::Bytes;
use nokv_env::File;
use nokv_proto::key::KeyRange;
use nokv_proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use std::io;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"NOKVBKUP";
/// On disk: never change what a number means.
pub const VERSION: u32 = 1;
const HEADER: usize = 36;
const BLOCK_HEADER: usize = 17;
const PAIR_HEADER: usize = 6;
const PLAIN: u8 = 1;
const LZ4: u8 = 2;
const END: u8 = 3;
const END_BYTES: usize = 16;

/// A block is closed when it has this many plain bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// No block can have more: the last pair may be as large as pairs can be.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + PAIR_HEADER + KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// Who a data file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The backup it belongs to.
    pub backup: u128,
    /// Its place there, from 1.
    pub number: u32,
}

impl Identity {
    fn header(self) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend(self.number.to_le_bytes());
        header.extend(self.backup.to_be_bytes());
        header.extend(crc32c::crc32c(&header).to_le_bytes());
        header
    }
}

/// Sums of a data file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Pairs.
    pub pairs: u64,
    /// Bytes of keys and values.
    pub content_bytes: u64,
    /// Bytes of blocks before compression.
    pub plain_bytes: u64,
    /// Length of the file.
    pub bytes: u64,
    /// XXH3 of the whole file.
    pub hash: u64,
}

/// Writes a data file.
pub struct Writer {
    file: Arc<dyn File>,
    compress: bool,
    sums: Sums,
    hash: Xxh3,
    block: Vec<u8>,
    block_pairs: u32,
}

impl Writer {
    /// Begins an empty file.
    pub fn new(file: Arc<dyn File>, identity: Identity, compress: bool) -> io::Result<Self> {
        let block = Vec::with_capacity(BLOCK_BYTES + PAIR_HEADER);
        let mut writer =
            Self { file, compress, sums: Sums::default(), hash: Xxh3::new(), block, block_pairs: 0 };
        writer.append(&identity.header())?;
        Ok(writer)
    }

    /// Bytes of keys and values so far.
    pub fn content_bytes(&self) -> u64 {
        self.sums.content_bytes
    }

    /// Adds a pair; keys ascend.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::other("a key or value is longer than they can be");
        let key_bytes = u16::try_from(key.len()).map_err(too_long)?;
        let value_bytes = u32::try_from(value.len()).map_err(too_long)?;
        self.block.extend(key_bytes.to_le_bytes());
        self.block.extend(value_bytes.to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.block_pairs += 1;
        self.sums.pairs += 1;
        self.sums.content_bytes += (key.len() + value.len()) as u64;
        if self.block.len() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> io::Result<()> {
        if self.block_pairs == 0 {
            return Ok(());
        }
        self.sums.plain_bytes += self.block.len() as u64;
        let small = self.compress.then(|| lz4_flex::block::compress(&self.block));
        let block = match small.filter(|small| small.len() < self.block.len()) {
            Some(small) => block(LZ4, self.block_pairs, self.block.len(), &small),
            None => block(PLAIN, self.block_pairs, self.block.len(), &self.block),
        };
        self.append(&block)?;
        self.block.clear();
        self.block_pairs = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.sums.bytes)?;
        self.hash.update(bytes);
        self.sums.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file, durably.
    pub fn finish(mut self) -> io::Result<Sums> {
        self.close_block()?;
        let mut sums = self.sums.pairs.to_le_bytes().to_vec();
        sums.extend(self.sums.plain_bytes.to_le_bytes());
        self.append(&block(END, 0, sums.len(), &sums))?;
        self.file.sync_data()?;
        Ok(Sums { hash: self.hash.digest(), ..self.sums })
    }
}

fn block(kind: u8, pairs: u32, plain: usize, stored: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 4];
    block.push(kind);
    block.extend(pairs.to_le_bytes());
    block.extend((plain as u32).to_le_bytes());
    block.extend((stored.len() as u32).to_le_bytes());
    block.extend_from_slice(stored);
    let crc = crc32c::crc32c(&block[4..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
    block
}

/// What is wrong with a data file.
#[derive(Debug)]
pub enum Bad {
    /// From this byte on it is not what was written.
    Damage(u64, String),
    /// It could not be read.
    Io(io::Error),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Bad::Io(error)
    }
}

type Checked<T> = Result<T, Bad>;

/// Reads a data file, and checks it against what the catalogue says.
pub struct Reader {
    file: Arc<dyn File>,
    length: u64,
    offset: u64,
    range: KeyRange,
    want: Sums,
    sums: Sums,
    hash: Xxh3,
    last: Option<Bytes>,
    is_ended: bool,
}

impl Reader {
    /// Begins to read the file that the catalogue calls `facts`.
    pub fn new(file: Arc<dyn File>, identity: Identity, facts: &DataFile) -> Checked<Self> {
        let length = file.len()?;
        let want = facts.sums();
        let mut reader = Self {
            file,
            length,
            offset: 0,
            range: facts.range(),
            want,
            sums: Sums::default(),
            hash: Xxh3::new(),
            last: None,
            is_ended: false,
        };
        let header = reader.take(HEADER)?;
        if header.is_empty() || header[..8] != MAGIC[..] {
            return Err(Bad::Damage(0, "this is no data file of a backup".into()));
        }
        if header[8..12] != VERSION.to_le_bytes() {
            return Err(Bad::Damage(8, format!("the file's version is not {VERSION}")));
        }
        if crc32c::crc32c(&header[..32]).to_le_bytes() != header[32..] {
            return Err(Bad::Damage(0, "the header's checksum is wrong".into()));
        }
        if header[..] != identity.header()[..] {
            return Err(Bad::Damage(
                12,
                "the file belongs to another backup, or to another place in this one".into(),
            ));
        }
        Ok(reader)
    }

    /// Reads on, without trusting lengths.
    fn take(&mut self, length: usize) -> Checked<Vec<u8>> {
        if self.offset + length as u64 > self.length {
            let rest = self.length - self.offset;
            return Err(Bad::Damage(
                self.offset,
                format!("the file is cut off: {length} bytes are due, {rest} are there"),
            ));
        }
        let bytes = self.file.read_exact_at(length, self.offset)?;
        self.hash.update(&bytes);
        self.offset += length as u64;
        Ok(bytes)
    }

    /// The pairs of the next block; `None` at the end, when all sums are right.
    pub fn next_block(&mut self) -> Checked<Option<Vec<(Bytes, Bytes)>>> {
        if self.is_ended {
            return Ok(None);
        }
        let start = self.offset;
        let damaged = |what: &str| Bad::Damage(start, what.to_owned());
        let header = self.take(BLOCK_HEADER)?;
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (crc, kind, pairs, plain, stored) =
            (number(0), header[4], number(5), number(9) as usize, number(13) as usize);
        if plain > BLOCK_BYTES_MAX || stored > plain {
            return Err(damaged("a block's length is impossible"));
        }
        let content = self.take(stored)?;
        if crc32c::crc32c_append(crc32c::crc32c(&header[4..]), &content) != crc {
            return Err(damaged("a block's checksum is wrong"));
        }
        if kind == END {
            return self.end(start, &content).map(|()| None);
        }
        let content = match kind {
            PLAIN if stored == plain => content,
            LZ4 => lz4_flex::block::decompress(&content, plain)
                .ok()
                .filter(|content| content.len() == plain)
                .ok_or_else(|| damaged("a block cannot be decompressed"))?,
            _ => return Err(damaged("a block is of an unknown kind")),
        };
        self.sums.plain_bytes += plain as u64;
        let pairs = self.pairs(start, content.into(), pairs)?;
        Ok(Some(pairs))
    }

    fn pairs(&mut self, start: u64, mut rest: Bytes, count: u32) -> Checked<Vec<(Bytes, Bytes)>> {
        let damaged = |what: String| Bad::Damage(start, what);
        let mut pairs = Vec::new();
        while !rest.is_empty() {
            if rest.len() < PAIR_HEADER {
                return Err(damaged("a pair is cut off".into()));
            }
            let header = rest.split_to(PAIR_HEADER);
            let key_bytes = usize::from(u16::from_le_bytes([header[0], header[1]]));
            let value_bytes = u32::from_le_bytes([header[2], header[3], header[4], header[5]]) as usize;
            if rest.len() < key_bytes + value_bytes {
                return Err(damaged("a pair is cut off".into()));
            }
            let key = rest.split_to(key_bytes);
            let value = rest.split_to(value_bytes);
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                return Err(damaged(format!("key \"{}\" is out of order", key.escape_ascii())));
            }
            if !self.range.contains(&key) {
                return Err(damaged(format!(
                    "key \"{}\" lies outside of the file's range",
                    key.escape_ascii()
                )));
            }
            self.last = Some(key.clone());
            self.sums.pairs += 1;
            self.sums.content_bytes += (key_bytes + value_bytes) as u64;
            pairs.push((key, value));
        }
        if pairs.len() as u64 != u64::from(count) {
            return Err(damaged(format!("a block holds {} pairs instead of {count}", pairs.len())));
        }
        Ok(pairs)
    }

    /// Compares what was read with what was to be read.
    fn end(&mut self, start: u64, content: &[u8]) -> Checked<()> {
        self.is_ended = true;
        let mut told = self.sums.pairs.to_le_bytes().to_vec();
        told.extend(self.sums.plain_bytes.to_le_bytes());
        if content.len() != END_BYTES || told != content {
            return Err(Bad::Damage(start, "blocks are missing before the end".into()));
        }
        if self.offset != self.length {
            return Err(Bad::Damage(self.offset, "there is more behind the end".into()));
        }
        self.sums.bytes = self.offset;
        self.sums.hash = self.hash.digest();
        let is_same = self.sums.pairs == self.want.pairs
            && self.sums.content_bytes == self.want.content_bytes
            && self.sums.bytes == self.want.bytes
            && self.sums.hash == self.want.hash;
        if is_same {
            Ok(())
        } else {
            Err(Bad::Damage(0, "it is another file than BACKUP.json speaks of".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_env::{Disk, MemDisk, OpenMode};
    use std::path::Path;

    const WHO: Identity = Identity { backup: 0x0102_0304, number: 1 };

    fn disk() -> Arc<dyn Disk> {
        MemDisk::new(1).mount()
    }

    fn create(disk: &dyn Disk) -> Arc<dyn File> {
        disk.open(Path::new("/f"), OpenMode::Create).unwrap()
    }

    fn written(file: &Arc<dyn File>, pairs: &[(Vec<u8>, Vec<u8>)], compress: bool) -> DataFile {
        let mut writer = Writer::new(file.clone(), WHO, compress).unwrap();
        for (key, value) in pairs {
            writer.add(key, value).unwrap();
        }
        DataFile::new(1, writer.finish().unwrap(), b"", b"")
    }

    fn pairs() -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..3000u32).map(|i| (i.to_be_bytes().to_vec(), vec![(i % 7) as u8; (i % 1500) as usize])).collect()
    }

    fn read(file: &Arc<dyn File>, facts: &DataFile) -> Checked<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut reader = Reader::new(file.clone(), WHO, facts)?;
        let mut found = Vec::new();
        while let Some(block) = reader.next_block()? {
            found.extend(block.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
        }
        Ok(found)
    }

    #[test]
    fn pairs_come_back_compressed_or_not() {
        for compress in [true, false] {
            let disk = disk();
            let file = create(&*disk);
            let facts = written(&file, &pairs(), compress);
            assert_eq!(read(&file, &facts).unwrap(), pairs());
            assert_eq!(facts.sums().pairs, 3000);
        }
    }

    #[test]
    fn the_bytes_of_a_small_file_are_these() {
        let disk = disk();
        let file = create(&*disk);
        let facts = written(&file, &[(b"k".to_vec(), b"v1".to_vec())], true);
        let bytes = file.read_exact_at(facts.sums().bytes as usize, 0).unwrap();
        assert_eq!(&bytes[..16], b"NOKVBKUP\x01\0\0\0\x01\0\0\0");
        assert_eq!(&bytes[16..32], &WHO.backup.to_be_bytes());
        assert_eq!(&bytes[40..53], b"\x01\x01\0\0\0\x09\0\0\0\x09\0\0\0");
        assert_eq!(&bytes[53..62], b"\x01\0\x02\0\0\0kv1");
        assert_eq!(&bytes[66..79], b"\x03\0\0\0\0\x10\0\0\0\x10\0\0\0");
        assert_eq!(&bytes[79..], b"\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0");
    }

    #[test]
    fn every_byte_counts() {
        let disk = disk();
        let file = create(&*disk);
        let small: Vec<_> = pairs().into_iter().take(40).collect();
        let facts = written(&file, &small, true);
        let whole = file.read_exact_at(facts.sums().bytes as usize, 0).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            file.write_at(&damaged, 0).unwrap();
            assert!(matches!(read(&file, &facts), Err(Bad::Damage(..))), "byte {at}");
        }
        for length in 0..whole.len() {
            file.truncate(0).unwrap();
            file.write_at(&whole[..length], 0).unwrap();
            assert!(matches!(read(&file, &facts), Err(Bad::Damage(..))), "length {length}");
        }
        file.write_at(&whole, 0).unwrap();
        file.write_at(b"x", whole.len() as u64).unwrap();
        assert!(matches!(read(&file, &facts), Err(Bad::Damage(..))));
    }

    #[test]
    fn order_range_and_place_are_checked() {
        let disk = disk();
        let file = create(&*disk);
        let message = |result: Checked<Vec<(Vec<u8>, Vec<u8>)>>| match result {
            Err(Bad::Damage(_, what)) => what,
            other => panic!("{other:?}"),
        };
        let facts = written(&file, &[(b"b".to_vec(), vec![]), (b"a".to_vec(), vec![])], false);
        assert!(message(read(&file, &facts)).contains("\"a\" is out of order"));
        file.truncate(0).unwrap();
        let facts = written(&file, &[(b"b".to_vec(), vec![])], false);
        let narrow = DataFile::new(1, facts.sums(), b"c", b"");
        assert!(message(read(&file, &narrow)).contains("outside"));
        let other = Identity { number: 2, ..WHO };
        assert!(matches!(Reader::new(file.clone(), other, &facts), Err(Bad::Damage(12, _))));
        let fewer = DataFile::new(1, Sums { pairs: 7, ..facts.sums() }, b"", b"");
        assert!(message(read(&file, &fewer)).contains("another file"));
    }
}
