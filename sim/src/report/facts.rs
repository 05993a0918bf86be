//! Protocol facts by name and fields, as their `Debug` form lists them.
//!
//! The report shows whatever nodes tell, also facts that were added after it was written: it knows the names and the
//! fields that it has better words for, and lists the others as they are. Nested structs are flat here: a peer's
//! `domain`, `group` and `node` are fields of its fact.

use nokv_env::Fact;
use std::collections::BTreeMap;

/// A fact, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: String,
    fields: BTreeMap<String, String>,
}

impl Known {
    pub(super) fn of(fact: &Fact) -> Self {
        Self::parse(&format!("{fact:?}"))
    }

    fn parse(text: &str) -> Self {
        let (name, mut rest) = ident(text);
        let mut fields = BTreeMap::new();
        while !rest.is_empty() {
            let (word, after) = ident(rest);
            match after.strip_prefix(": ") {
                Some(value) if !word.is_empty() => {
                    let (value, after) = value_of(value);
                    fields.insert(word.to_owned(), value.to_owned());
                    rest = after;
                }
                _ if word.is_empty() => rest = skip_one(rest),
                _ => rest = after,
            }
        }
        Self { name: name.to_owned(), fields }
    }

    pub(super) fn text(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    pub(super) fn number(&self, field: &str) -> Option<u64> {
        self.fields.get(field)?.parse().ok()
    }

    /// A list of bytes.
    pub(super) fn bytes(&self, field: &str) -> Option<Vec<u8>> {
        let listed = self.fields.get(field)?.strip_prefix('[')?.strip_suffix(']')?;
        listed.split(", ").filter(|byte| !byte.is_empty()).map(|byte| byte.parse().ok()).collect()
    }

    /// The raft group, if the fact is about one.
    pub(super) fn group(&self) -> Option<Group> {
        let group = self.number("group")?;
        Some(if self.text("domain") == "root" { Group::Roots } else { Group::Region(group) })
    }

    /// The raft peer.
    pub(super) fn peer(&self) -> Option<u64> {
        self.number("node")
    }

    /// First number and count, if it hands out numbers.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        Some((self.number("first")?, self.number("count")?))
    }

    /// The fields that place it nowhere yet, as they are.
    pub(super) fn others(&self) -> String {
        let listed =
            self.fields.iter().filter(|(name, _)| !["domain", "group", "node", "peer"].contains(&&***name));
        listed.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
    }
}

/// A raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Group {
    Roots,
    Region(u64),
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Group::Roots => f.write_str("roots"),
            Group::Region(id) => write!(f, "region {id}"),
        }
    }
}

fn ident(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

fn skip_one(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}

/// A value and what follows it. A struct gives its name; its fields follow.
fn value_of(text: &str) -> (&str, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        let end = quoted.find('"').unwrap_or(quoted.len());
        return (&quoted[..end], quoted.get(end + 1..).unwrap_or_default());
    }
    if text.starts_with('[') {
        let end = text.find(']').map_or(text.len(), |end| end + 1);
        return text.split_at(end);
    }
    let end = text.find([',', ' ', '}', ')', '(']).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_apart_however_they_are_nested() {
        let flat = Known::parse(r#"Leader { domain: "region", group: 2, term: 7, node: 203 }"#);
        let nested =
            Known::parse(r#"Leader { peer: Peer { domain: "region", group: 2, node: 203 }, term: 7 }"#);
        for known in [&flat, &nested] {
            assert_eq!((known.name.as_str(), known.group()), ("Leader", Some(Group::Region(2))));
            assert_eq!((known.peer(), known.number("term")), (Some(203), Some(7)));
            assert_eq!(known.others(), "term 7");
        }
        let listed =
            Known::parse(r#"Members { voters: [1, 2], promise: Vote { term: 3 }, holder: "coord1" }"#);
        assert_eq!(
            (listed.text("voters"), listed.text("promise"), listed.text("holder")),
            ("[1, 2]", "Vote", "coord1")
        );
        assert_eq!(listed.number("term"), Some(3));
    }
}
