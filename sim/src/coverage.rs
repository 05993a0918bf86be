//! What a sweep may reach: every probe and chance point of the product, and every kind of fault.
//!
//! A run only says what it reached. What was *never* reached needs the list of everything, so the list is written
//! down, in `catalogue.txt` beside this crate's manifest; a test scans the sources and fails when the two differ.
//! [`Required`] is the part of it that a fixed set of seeds has to reach.

use std::collections::BTreeSet;
use std::sync::OnceLock;

/// What a name in the catalogue stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// A kind of fault; its name in plans.
    Fault,
    /// A state worth reaching.
    Probe,
    /// A point where the product may take a rare branch in simulation.
    Chance,
}

impl Sort {
    /// The word in the catalogue.
    pub fn word(self) -> &'static str {
        match self {
            Sort::Fault => "fault",
            Sort::Probe => "probe",
            Sort::Chance => "chance",
        }
    }
}

/// Everything that there is to reach.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Kinds of faults.
    pub faults: BTreeSet<&'static str>,
    /// Probes.
    pub probes: BTreeSet<&'static str>,
    /// Chance points.
    pub chances: BTreeSet<&'static str>,
}

impl Catalogue {
    /// Probes and chance points together: a run counts both in one table.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.probes.union(&self.chances).copied()
    }

    /// Whether there is something of that name.
    pub fn knows(&self, name: &str) -> bool {
        self.probes.contains(name) || self.chances.contains(name) || fault(name, self).is_some()
    }
}

fn fault(name: &str, catalogue: &Catalogue) -> Option<&'static str> {
    catalogue.faults.get(name.strip_prefix("fault:")?).copied()
}

/// The checked-in catalogue.
pub fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        let mut catalogue = Catalogue::default();
        for line in include_str!("../catalogue.txt").lines() {
            match line.split_once(' ') {
                Some(("fault", name)) => catalogue.faults.insert(name),
                Some(("probe", name)) => catalogue.probes.insert(name),
                Some(("chance", name)) => catalogue.chances.insert(name),
                _ => false,
            };
        }
        catalogue
    })
}

/// Something that a fixed set of seeds must reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Required {
    /// A probe, a chance point, or `fault:KIND`.
    pub name: String,
    /// Why it matters.
    pub why: String,
}

/// Reads a list of names, one a line: the name, then why it matters. Empty lines and those that begin with `#` are
/// skipped. The error names the line and the name that nobody has.
pub fn required(text: &str) -> Result<Vec<Required>, String> {
    let mut all: Vec<Required> = Vec::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, why) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let at = index + 1;
        if !catalogue().knows(name) {
            return Err(format!("line {at}: no probe, chance point or fault:KIND is called '{name}'"));
        }
        if all.iter().any(|other| other.name == name) {
            return Err(format!("line {at}: '{name}' is listed twice"));
        }
        all.push(Required { name: name.to_owned(), why: why.trim().to_owned() });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_names_must_exist_and_be_said_once() {
        let read = required("# head\n\nengine.flush  tables are written\nfault:kill\n").expect("readable");
        assert_eq!(read[0].name, "engine.flush");
        assert_eq!(read[0].why, "tables are written");
        assert_eq!((read[1].name.as_str(), read[1].why.as_str()), ("fault:kill", ""));
        let wrong = required("engine.flush a\nengine.flash b\n").expect_err("no such probe");
        assert!(wrong.contains("line 2") && wrong.contains("'engine.flash'"), "{wrong}");
        assert!(required("engine.flush a\nengine.flush b\n").expect_err("twice").contains("twice"));
        assert!(required("kill x").is_err(), "kinds of faults need their prefix");
    }

    #[test]
    fn what_ci_requires_can_be_read() {
        assert!(required(include_str!("../required-probes.txt")).expect("readable").len() > 20);
    }
}
