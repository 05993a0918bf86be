//! What is exported, what the documents say of it, and what alerts and dashboard ask for.

use super::exposition::{Exposition, Family};
use super::{Check, answer, coordinator, meta_root, process, store};
use nokv_metaroot::{Cursor, Status};
use nokv_proto::id::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn status() -> Status {
    Status {
        cluster_id: "00000000002a".into(),
        addr: "h:1".into(),
        node_id: 1,
        cluster_epoch: 2,
        membership_epoch: 3,
        id_fence: 4,
        tso_fence: Timestamp::compose(5_000, 1).0,
        gc_safe_point: Timestamp::compose(4_000, 0).0,
        last_committed: Cursor { term: 1, index: 2 },
        descriptor_count: 1,
        pending_peer_changes: 0,
        pending_range_changes: 0,
        is_leader: true,
        leader_id: 1,
        term: 1,
        applied_index: 2,
        lease_holder: "c1".into(),
        lease_generation: 1,
        sealed_generation: 0,
        decommissioned_stores: Vec::new(),
    }
}

/// One page a role, with something in every family that can be empty.
fn pages() -> BTreeMap<&'static str, Exposition> {
    let moment = Some(Duration::from_millis(1500));
    let mut pages = BTreeMap::new();
    let mut add = |role, fill: &dyn Fn(&mut Exposition)| {
        let mut page = Exposition::default();
        process::metrics(&mut page, role);
        fill(&mut page);
        pages.insert(role, page);
    };
    let mut one = nokv_raftstore::Observation {
        coordinators: vec![nokv_raftstore::CoordinatorContact {
            addr: "a\"b".into(),
            heard_ago: moment,
            ..Default::default()
        }],
        safe_point: Timestamp::compose(1_000, 0),
        unix_millis: 61_000,
        ..Default::default()
    };
    one.engine.levels = vec![nokv_engine::LevelStats::default(); 2];
    add("store", &|page| store::metrics(page, &one));
    let operators = vec![nokv_coordinator::OperatorCount { kind: "move-peer", ..Default::default() }];
    let mut one = nokv_coordinator::Observation { operators, ..Default::default() };
    one.lease.held_for = moment;
    add("coordinator", &|page| coordinator::metrics(page, &one));
    let node = nokv_metaroot::Observation { heard_peers: Some(2), ..Default::default() };
    add("meta-root", &|page| meta_root::metrics(page, &status(), &node));
    pages
}

/// Every family with the roles that export it.
fn exported() -> BTreeMap<Family, Vec<&'static str>> {
    let mut exported: BTreeMap<Family, Vec<&'static str>> = BTreeMap::new();
    for (role, page) in pages() {
        for family in page.families() {
            exported.entry(*family).or_default().push(role);
        }
    }
    exported
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `nokv_...` words of a text.
fn words(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with("nokv_")).collect()
}

#[test]
fn names_follow_the_rules() {
    for family in exported().keys() {
        let Family { name, kind, help } = *family;
        assert!(name.starts_with("nokv_") && help.ends_with('.') && !help.contains('\n'), "{family:?}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{family:?}");
        for unit in ["_ms", "_millis", "_nanos", "_us", "_kb", "_mb", "_percent"] {
            assert!(!name.trim_end_matches("_total").ends_with(unit), "{family:?}: base units only");
        }
    }
}

/// A reader of the format as strict as the format: names, labels, numbers, types before samples, buckets that add up.
#[test]
fn every_line_can_be_read_back() {
    for (role, page) in pages() {
        let text = page.into_text();
        let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
        let mut samples: BTreeSet<&str> = BTreeSet::new();
        let mut buckets: BTreeMap<String, f64> = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(kinds.insert(name, kind).is_none(), "{role}: {name} twice");
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{role}: {line}"));
            assert!(samples.insert(series), "{role}: {series} twice");
            let name = series.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .into_iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|base| kinds.get(base) == Some(&"histogram"))
                .unwrap_or(name);
            assert!(kinds.contains_key(family), "{role}: {line} has no type");
            if let Some((before, _)) = series.split_once("le=") {
                let last = buckets.entry(before.to_owned()).or_default();
                assert!(value >= *last, "{role}: {line} counts less than the bucket before");
                *last = value;
            }
            if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
                let inner = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix("\"}")).unwrap();
                for pair in inner.split("\",") {
                    let (label, quoted) = pair.split_once("=\"").unwrap_or_else(|| panic!("{role}: {line}"));
                    assert!(label.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{role}: {line}");
                    let plain = quoted.replace("\\\\", "").replace("\\\"", "").replace("\\n", "");
                    assert!(!plain.contains(['"', '\\']), "{role}: {line} is not escaped");
                }
            }
        }
        assert!(samples.len() > 20, "{role}");
    }
}

/// Where Prometheus' own tool is installed, it has the last word.
#[test]
fn promtool_accepts_the_pages() {
    for (role, page) in pages() {
        let tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut tool) = tool else {
            eprintln!("promtool is not installed; the reader above has checked the pages");
            return;
        };
        let mut input = tool.stdin.take().unwrap();
        input.write_all(page.into_text().as_bytes()).unwrap();
        drop(input);
        let ended = tool.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.is_empty(), "{role}: {said}");
    }
}

/// The table between two marks in docs/monitoring.md is made of what is exported.
#[test]
fn the_documents_list_every_metric() {
    const BEGIN: &str = "<!-- metrics begin -->\n";
    const END: &str = "<!-- metrics end -->";
    let mut table = String::from("| metric | type | roles | meaning |\n|---|---|---|---|\n");
    for (Family { name, kind, help }, roles) in exported() {
        let roles = if roles.len() == 3 { "all".to_owned() } else { roles.join(", ") };
        table.push_str(&format!("| `{name}` | {kind} | {roles} | {help} |\n"));
    }
    let text = file("docs/monitoring.md");
    let (head, rest) = text.split_once(BEGIN).expect("the mark where the table begins");
    let (found, tail) = rest.split_once(END).expect("the mark where it ends");
    if found != table && std::env::var_os("NOKV_WRITE_DOCS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring.md");
        #[allow(clippy::disallowed_methods, reason = "a person asked this test to write the table anew")]
        std::fs::write(path, format!("{head}{BEGIN}{table}{END}{tail}")).unwrap();
        return;
    }
    assert_eq!(found, table, "write it anew: NOKV_WRITE_DOCS=1 cargo test -p nokv-cli the_documents");
}

/// An alert or a panel on a metric that does not exist never fires, and nobody notices.
#[test]
fn alerts_and_dashboard_ask_for_what_exists() {
    let exported = exported();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for Family { name, kind, .. } in exported.keys() {
        known.insert((*name).to_owned());
        if *kind == "histogram" {
            known.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
        }
    }
    for name in
        ["deploy/prometheus/alerts.yml", "deploy/prometheus/alerts_test.yml", "deploy/grafana/nokv.json"]
    {
        let text = file(name);
        let used = words(&text);
        assert!(used.len() > 5, "{name} uses {used:?}");
        let unknown: Vec<_> = used.iter().filter(|word| !known.contains(**word)).collect();
        assert!(unknown.is_empty(), "{name} asks for {unknown:?}");
    }
}

#[test]
fn answers_are_worded_as_kubernetes_does() {
    let good = [Check::new("a", None), Check::new("b", None)];
    let bad = [Check::new("a", None), Check::new("b", Some("broken\nin two".into()))];
    let text = |checks: &[Check], query| {
        let reply = answer("readyz", checks, query);
        (reply.status.as_u16(), String::from_utf8(reply.body.to_vec()).unwrap())
    };
    assert_eq!(text(&good, ""), (200, "ok".into()));
    assert_eq!(text(&good, "verbose"), (200, "[+]a ok\n[+]b ok\nreadyz check passed\n".into()));
    assert_eq!(text(&good, "x=1&verbose=1"), text(&good, "verbose"));
    assert_eq!(text(&bad, ""), (503, "[+]a ok\n[-]b: broken in two\nreadyz check failed\n".into()));
}
