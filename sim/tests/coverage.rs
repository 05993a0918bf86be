//! The catalogue of what can be reached is what the sources say.
#![allow(clippy::disallowed_methods, reason = "reads the sources and writes the catalogue anew on request")]

use nokv_sim::coverage::{Sort, catalogue};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Crates whose code runs in the simulated world.
const PRODUCT: [&str; 8] =
    ["env", "engine", "proto", "replica", "metaroot", "coordinator", "raftstore", "client"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All `*.rs` files below `dir` that hold no tests only.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for path in entries.map(|entry| entry.expect("readable").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// The product's part of a file: without the unit tests at its foot and without comments.
fn product_code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let tests = line.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if tests {
            break;
        }
        if !line.trim_start().starts_with("//") {
            let _ = writeln!(code, "{line}");
        }
    }
    code
}

/// The literals that are the first argument of `call(`.
fn first_arguments(code: &str, call: &str) -> BTreeSet<String> {
    let opening = format!("{call}(");
    code.match_indices(&opening)
        .filter(|(at, _)| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .filter_map(|(at, _)| code[at + opening.len()..].trim_start().strip_prefix('"'))
        .filter_map(|rest| rest.split_once('"'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// `SlowCpu` as plans write it.
fn snake(variant: &str) -> String {
    let mut name = String::new();
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// The variants of `enum Fault`.
fn fault_kinds() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("sim/src/plan.rs")).expect("readable");
    let (_, body) = text.split_once("pub enum Fault {").expect("the enum is there");
    let (body, _) = body.split_once("\n}").expect("it ends");
    let variants = body.lines().filter_map(|line| line.strip_prefix("    "));
    let variants = variants.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    variants.map(|line| snake(line.trim_end_matches([' ', '{', ',']))).collect()
}

#[test]
fn the_catalogue_is_what_the_sources_say() {
    let mut files = Vec::new();
    for name in PRODUCT {
        sources(&root().join(name).join("src"), &mut files);
    }
    let mut lines = BTreeSet::new();
    for path in files {
        let code = product_code(&std::fs::read_to_string(&path).expect("readable"));
        for sort in [Sort::Probe, Sort::Chance] {
            lines.extend(
                first_arguments(&code, sort.word()).iter().map(|name| format!("{} {name}", sort.word())),
            );
        }
    }
    assert!(lines.len() > 50, "the scan finds too little: {lines:?}");
    lines.extend(fault_kinds().iter().map(|kind| format!("fault {kind}")));
    let text = lines.iter().fold(String::new(), |text, line| text + line + "\n");
    let path = root().join("sim/catalogue.txt");
    if std::env::var_os("UPDATE_CATALOGUE").is_some() {
        std::fs::write(&path, &text).expect("writable");
        return;
    }
    let kept = std::fs::read_to_string(&path).expect("readable");
    let kept: BTreeSet<String> = kept.lines().map(str::to_owned).collect();
    let missing: Vec<_> = lines.difference(&kept).collect();
    let stale: Vec<_> = kept.difference(&lines).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "sim/catalogue.txt lacks {missing:?} and still has {stale:?}; \
         UPDATE_CATALOGUE=1 cargo test -p nokv-sim --test coverage writes it anew"
    );
}

#[test]
fn the_scan_sees_calls_and_skips_comments_and_tests() {
    let text = "env.probe(\"a.b\");\n// env.probe(\"no\");\nself.env.chance(\n    \"c.d\",\n 0.1);\nunprobe(\"no\");\n\
                #[cfg(test)]\nmod tests {\n env.probe(\"no\");\n}\n";
    let code = product_code(text);
    assert_eq!(first_arguments(&code, "probe").into_iter().collect::<Vec<_>>(), ["a.b"]);
    assert_eq!(first_arguments(&code, "chance").into_iter().collect::<Vec<_>>(), ["c.d"]);
}

#[test]
fn plans_draw_every_kind_of_fault_in_the_catalogue() {
    let mut drawn = BTreeSet::new();
    for seed in 0..120 {
        for timed in nokv_sim::RunOptions::seed(seed).resolve().plan.faults {
            let value = serde_json::to_value(&timed.fault).expect("serializable");
            drawn.insert(value["kind"].as_str().expect("a word").to_owned());
        }
    }
    let known: BTreeSet<String> = catalogue().faults.iter().map(|&kind| kind.to_owned()).collect();
    assert_eq!(drawn, known);
}
