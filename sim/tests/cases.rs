//! Saved cases must pass for ever, and reach what they exist for.

use nokv_sim::cases::Case;
use nokv_sim::report;
use std::path::Path;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "cases are files of the repository, read before any world begins"
)]
fn saved_cases_pass() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let Ok(entries) = std::fs::read_dir(&dir) else { return };
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    for path in paths {
        let text = String::from_utf8(std::fs::read(&path).expect("readable")).expect("text");
        let case = Case::parse(&text).expect("a case");
        let verdict = case.run();
        assert!(verdict.passed(), "{}: {}\n{}", path.display(), case.about, report::failure(&verdict));
    }
}
