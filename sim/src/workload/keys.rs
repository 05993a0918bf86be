//! Keys and values of the workload.
//!
//! Keys begin with two hex digits of a hash of their name, so every kind of key is spread over all regions,
//! whose borders are such digits. Values carry a number that is unique in the run and filler computed from it:
//! a value that nobody wrote is recognised.

use crate::history::Account;
use crate::trace::digest;
use bytes::Bytes;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A register.
    Key(u32),
    /// A bank account.
    Account(u32),
    /// A list.
    List(u32),
    /// A side of a pair in which write skew may show: even and odd.
    Skew(u32),
    /// A side of a pair in which long forks may show: even and odd.
    Fork(u32),
    /// Written and deleted by the liveness check, one for each sixteenth of the keys.
    Alive(u32),
}

impl Name {
    /// The key itself.
    pub fn key(self) -> Bytes {
        let name = match self {
            Name::Alive(number) => return Bytes::from(format!("{:02x}/v{number}", number * 16)),
            Name::Key(number) => format!("k{number}"),
            Name::Account(number) => format!("a{number}"),
            Name::List(number) => format!("l{number}"),
            Name::Skew(number) => format!("s{number}"),
            Name::Fork(number) => format!("f{number}"),
        };
        Bytes::from(format!("{:02x}/{name}", spread(&name)))
    }

    /// What a key is for; `None` for keys of nobody.
    pub fn parse(key: &[u8]) -> Option<Name> {
        let (_, name) = std::str::from_utf8(key).ok()?.split_once('/')?;
        let number = name.get(1..)?.parse().ok()?;
        let parsed = match name.as_bytes().first()? {
            b'k' => Name::Key(number),
            b'a' => Name::Account(number),
            b'l' => Name::List(number),
            b's' => Name::Skew(number),
            b'f' => Name::Fork(number),
            b'v' if number < 16 => Name::Alive(number),
            _ => return None,
        };
        (parsed.key() == key).then_some(parsed)
    }
}

fn spread(name: &str) -> u8 {
    let hash = digest(name.as_bytes());
    (hash ^ hash >> 8 ^ hash >> 24 ^ hash >> 40) as u8
}

/// Borders between `regions` regions: one less than regions.
pub fn borders(regions: u64) -> Vec<Bytes> {
    (1..regions).map(|i| Bytes::from(format!("{:02x}", i * 256 / regions))).collect()
}

/// Where the rows lie that were there before the cluster: behind all other keys.
pub const OLD: &str = "old/";

/// Such rows: short ones and long ones, ascending.
pub fn old_rows(count: u32) -> impl Iterator<Item = (Bytes, Bytes)> {
    (0..count).map(|number| {
        let bytes = if number % 5 == 0 { 300 + number % 7 } else { 16 + number % 40 };
        (Bytes::from(format!("{OLD}{number:06}")), value(u64::from(number), bytes))
    })
}

/// The value numbered `number`, of `bytes` bytes (at least 16).
pub fn value(number: u64, bytes: u32) -> Bytes {
    let mut value = Vec::with_capacity(bytes as usize);
    value.extend_from_slice(&number.to_be_bytes());
    value.extend_from_slice(&u64::from(bytes).to_be_bytes());
    value.extend((16..u64::from(bytes)).map(|i| filler(number, i)));
    Bytes::from(value)
}

/// The number of a value, or what is wrong with it.
pub fn number(value: &[u8]) -> Result<u64, String> {
    let bad = |what: &str| {
        format!("{what} in a value of {} bytes: {:02x?}", value.len(), &value[..value.len().min(32)])
    };
    let word =
        |at: usize| value.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_be_bytes);
    let (Some(number), Some(bytes)) = (word(0), word(8)) else { return Err(bad("no number")) };
    if bytes.max(16) != value.len() as u64 {
        return Err(bad("wrong length"));
    }
    match (16..bytes).find(|i| value[*i as usize] != filler(number, *i)) {
        Some(_) => Err(bad("wrong filler")),
        None => Ok(number),
    }
}

fn filler(number: u64, at: u64) -> u8 {
    (number.wrapping_mul(31).wrapping_add(at) % 251) as u8
}

/// An account as bytes.
pub fn account(account: Account) -> Bytes {
    let mut bytes = account.balance.to_be_bytes().to_vec();
    bytes.extend_from_slice(&account.transfers.to_be_bytes());
    bytes.extend_from_slice(&account.writer.to_be_bytes());
    Bytes::from(bytes)
}

/// An account from bytes.
pub fn parse_account(bytes: &[u8]) -> Option<Account> {
    let (words, []) = bytes.as_chunks::<8>() else { return None };
    let [balance, transfers, writer] = *words else { return None };
    Some(Account {
        balance: i64::from_be_bytes(balance),
        transfers: u64::from_be_bytes(transfers),
        writer: u64::from_be_bytes(writer),
    })
}

/// A list as bytes.
pub fn list(values: &[u64]) -> Bytes {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// A list from bytes.
pub fn parse_list(bytes: &[u8]) -> Option<Vec<u64>> {
    let (words, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| words.iter().map(|word| u64::from_be_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_recognised() {
        for name in
            [Name::Key(3), Name::Account(7), Name::List(0), Name::Skew(1), Name::Fork(2), Name::Alive(11)]
        {
            assert_eq!(Name::parse(&name.key()), Some(name));
        }
        assert_eq!(Name::parse(b"zz/k3"), None);
        for bytes in [16, 17, 500] {
            assert_eq!(number(&value(77, bytes)), Ok(77));
        }
        let mut damaged = value(77, 100).to_vec();
        damaged[50] ^= 1;
        assert!(number(&damaged).is_err());
        assert_eq!(parse_list(&list(&[1, 2])), Some(vec![1, 2]));
    }

    #[test]
    fn keys_of_a_kind_are_spread_over_regions() {
        let border = &borders(2)[0];
        let low = (0..8).filter(|number| Name::Account(*number).key() < *border).count();
        assert!((2..=6).contains(&low), "{low} of 8 accounts in the first of two regions");
    }
}
