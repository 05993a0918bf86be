//! Reading and writing little-endian numbers, varints and length-prefixed bytes.

/// Appends `value`, seven bits a byte, low bits first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the length (u32) and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Whether LZ4 data behind its size (u32) may become as many bytes as it says, and no more than `bytes_max`: a byte of it
/// makes 255 at most. Whoever believed a larger size would ask for memory that nothing is going to fill.
pub(crate) fn is_lz4_size_sane(sized: &[u8], bytes_max: usize) -> bool {
    Reader::new(sized)
        .u32()
        .is_some_and(|size| size as usize <= bytes_max.min(sized.len().saturating_mul(255)))
}

/// Takes values off the front of a slice; `None` where the slice ends too early.
pub(crate) struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// A reader that starts at `at`.
    pub(crate) fn at(data: &'a [u8], at: usize) -> Self {
        Self { data, at }
    }

    /// Where the next value starts.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.data.len()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let bytes = self.data.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    /// Bytes behind their length (u32).
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        // Nearly all are short.
        if let Some(&byte) = self.data.get(self.at)
            && byte < 0x80
        {
            self.at += 1;
            return Some(u64::from(byte));
        }
        self.long_varint()
    }

    /// Three lengths, which nearly always take a byte each.
    #[inline]
    pub(crate) fn three_varlens(&mut self) -> Option<(usize, usize, usize)> {
        if let Some(&[a, b, c]) = self.data.get(self.at..).and_then(<[u8]>::first_chunk)
            && (a | b | c) < 0x80
        {
            self.at += 3;
            return Some((usize::from(a), usize::from(b), usize::from(c)));
        }
        Some((self.varlen()?, self.varlen()?, self.varlen()?))
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A varint that is a length in memory.
    pub(crate) fn varlen(&mut self) -> Option<usize> {
        self.varint().and_then(|value| usize::try_from(value).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let mut out = Vec::new();
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            out.clear();
            put_varint(&mut out, value);
            assert_eq!(Reader::new(&out).varint(), Some(value));
            assert_eq!(Reader::new(&out[..out.len() - 1]).varint(), None);
        }
        out.clear();
        put_bytes(&mut out, b"abc");
        assert_eq!(out, b"\x03\0\0\0abc");
        assert_eq!(Reader::new(&out).bytes(), Some(b"abc".as_slice()));
        assert_eq!(Reader::new(&[0xff; 11]).varint(), None);
    }

    #[test]
    fn what_compresses_best_is_believed() {
        for len in [0, 1, 100, 1 << 20] {
            let sized = lz4_flex::block::compress_prepend_size(&vec![7; len]);
            assert!(is_lz4_size_sane(&sized, len));
            assert_eq!(is_lz4_size_sane(&sized, len.saturating_sub(1)), len == 0);
        }
        assert!(!is_lz4_size_sane(&[0, 0, 0, 1, 9, 9], usize::MAX) && !is_lz4_size_sane(&[0, 0, 0], 9));
    }
}
