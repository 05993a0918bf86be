//! The commands that look: what they print, that it follows `docs/schemas`, that they change nothing, and what they say
//! of what is no database or not whole.
//!
//! `NOKV_GOLDEN=write` writes the golden files anew.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of whole processes on real files and sockets"
)]

mod fixture;
mod schema;

use fixture::{
    FAR, Server, Shape, ended, fails, flip, json, newest, nokv, port, seeded, shape, small, standalone, text,
};
use schema::Schema;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A directory that holds the directory `name`.
fn home(name: &str) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(name);
    (home, dir)
}

fn path(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inspect/golden").join(name);
    if std::env::var_os("NOKV_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} differs; see the head of this test", path.display());
}

fn follows(name: &str, value: &Value) {
    let problems = Schema::load(name).problems(value);
    assert!(problems.is_empty(), "{name}: {problems:#?}\n{value:#}");
}

#[test]
fn a_store_looks_like_this() {
    let (_home, dir) = home("store-1");
    seeded(&dir);
    for command in ["stats", "manifest", "vlog", "regions"] {
        let args = [command, "--workdir", path(&dir)];
        let document = text(&[&args[..], &["--json"]].concat());
        assert_eq!(document, text(&[&args[..], &["-o", "json"]].concat()), "{command} twice");
        golden(&format!("{command}.json"), &document);
        follows(command, &serde_json::from_str(&document).unwrap());
        golden(&format!("{command}.txt"), &text(&args));
    }
    let stats = json(&["stats", "--workdir", path(&dir), "--json"]);
    assert_eq!(
        (&stats["region"]["running"], &stats["wal"]["record_counts"]["entries"]),
        (&2.into(), &20.into())
    );
    let without = json(&["stats", "--workdir", path(&dir), "--json", "--no-region-metrics"]);
    assert_eq!((&without["region"]["total"], &without["omitted"][0]), (&0.into(), &"region".into()));
    follows("stats", &without);
    let checked = text(&["check", "--deep", path(&dir)]);
    golden("check.txt", &checked.replace(path(&dir), "DIR"));
}

#[test]
fn a_database_without_a_cluster_has_no_regions_and_that_is_no_error() {
    let (_home, dir) = home("db");
    standalone(&dir);
    let output = nokv(&["regions", "--workdir", path(&dir), "--json"]);
    assert!(output.status.success());
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), serde_json::json!({"regions": []}));
    let note = String::from_utf8_lossy(&output.stderr);
    assert!(note.contains("mode standalone: no region catalog"), "{note}");
    assert_eq!(text(&["regions", "--workdir", path(&dir)]), "Regions: (none)\n");
    assert_eq!(json(&["stats", "--workdir", path(&dir), "--json"])["raft"]["group_count"], 0);
}

#[test]
fn a_database_of_small_values_has_no_value_log() {
    let (_home, dir) = home("db");
    small(&dir);
    let output = nokv(&["vlog", "--workdir", path(&dir), "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), serde_json::json!({"buckets": []}));
    assert!(String::from_utf8_lossy(&output.stderr).contains("this database has no value log"));
    assert!(text(&["vlog", "--workdir", path(&dir)]).contains("all values are in its tables"));
}

/// The time of rows is past; who reads without opening the database for writing does not see them either.
#[test]
fn a_table_says_how_many_of_its_rows_have_an_end() {
    let (_home, dir) = home("db");
    ended(&dir);
    let document = json(&["manifest", "--workdir", path(&dir), "--json"]);
    follows("manifest", &document);
    let expiry = &document["tables"][0]["expiry"];
    assert_eq!((&expiry["entries"], &expiry["first_unix_ms"]), (&2.into(), &FAR.into()));
    let lines = text(&["manifest", "--workdir", path(&dir)]);
    assert!(lines.contains(&format!(" expiring=2 ends={FAR}..{}\n", FAR + 1)), "{lines}");
    assert!(text(&["check", "--deep", path(&dir)]).contains("no damage"));
    let rows = text(&["scan", "--workdir", path(&dir)]);
    assert!(rows.contains("later") && rows.contains("stays") && !rows.contains("over"), "{rows}");
}

/// Every command that looks at a directory.
fn all(dir: &Path) -> Vec<Vec<&str>> {
    let mut commands = Vec::new();
    for format in ["plain", "json", "jsonl"] {
        for command in ["stats", "manifest", "vlog", "regions", "check"] {
            commands.push(vec![command, "--workdir", path(dir), "-o", format]);
        }
        commands.push(vec!["check", "--deep", path(dir), "-o", format]);
        commands.push(vec!["stats", "--no-region-metrics", "--workdir", path(dir), "-o", format]);
    }
    commands
}

/// Runs them all; whatever they say, the directory stays as it is.
fn leave_alone(dir: &Path, exit: i32) {
    let before: Shape = shape(dir);
    for args in all(dir) {
        let output = nokv(&args);
        let code = output.status.code();
        assert!(
            code == Some(exit) || code == Some(0),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(shape(dir) == before, "{args:?} changed something");
    }
}

#[test]
fn nothing_is_changed_by_looking() {
    let (_home, dir) = home("store-1");
    seeded(&dir);
    leave_alone(&dir, 0);
    // Without a LOCK none is made.
    std::fs::remove_file(dir.join("LOCK")).unwrap();
    leave_alone(&dir, 0);
    // A torn tail is not cut.
    let wal = newest(&dir, ".wal");
    let whole = std::fs::read(&wal).unwrap();
    let torn = [&whole[..], b"\xf7NoK half a frame"].concat();
    std::fs::write(&wal, &torn).unwrap();
    leave_alone(&dir, 0);
    assert_eq!(json(&["stats", "--workdir", path(&dir), "--json"])["wal"]["torn_bytes"], 17);
    assert!(text(&["check", path(&dir)]).contains("17 bytes of an unfinished write"));
    std::fs::write(&wal, &whole).unwrap();
    // What may only be read is read.
    let mode = |bits| std::fs::Permissions::from_mode(bits);
    for (file, _) in shape(&dir).into_iter().filter(|(file, _)| file.is_file()) {
        std::fs::set_permissions(file, mode(0o444)).unwrap();
    }
    std::fs::set_permissions(&dir, mode(0o555)).unwrap();
    leave_alone(&dir, 0);
    std::fs::set_permissions(&dir, mode(0o755)).unwrap();
}

#[test]
fn damage_is_listed_and_left_alone() {
    let (_home, dir) = home("store-1");
    seeded(&dir);
    let (table, wal) = (newest(&dir, ".sst"), newest(&dir, ".wal"));
    flip(&table, 10);
    flip(&table, std::fs::metadata(&table).unwrap().len() as usize / 2);
    flip(&wal, 60);
    flip(&dir.join("MODE.json"), 12);
    let before = shape(&dir);
    let message = fails(6, "corrupt", &["check", path(&dir)]);
    assert!(message.contains("damaged in 4 places"), "{message}");
    let output = nokv(&["check", "--deep", path(&dir), "--json"]);
    assert_eq!(output.status.code(), Some(6));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["sound"], report["findings"].as_array().unwrap().len()), (&false.into(), 4));
    for finding in report["findings"].as_array().unwrap() {
        assert!(finding["offset"].is_u64() && finding["file"].is_string(), "{finding}");
    }
    assert!(report["findings"][0]["expected_crc"].is_string(), "{report:#}");
    assert!(shape(&dir) == before);
}

#[test]
fn a_damaged_manifest_is_named_with_its_checksums() {
    let (_home, dir) = home("store-1");
    seeded(&dir);
    let name = json(&["manifest", "--workdir", path(&dir), "--json"])["manifest"]["name"].clone();
    let manifest = dir.join(name.as_str().unwrap());
    for (file, at) in [(dir.join("CURRENT"), 10), (manifest.clone(), 60)] {
        flip(&file, at);
        let before = shape(&dir);
        for command in ["stats", "manifest", "regions"] {
            let message = fails(6, "manifest_corrupt", &[command, "--workdir", path(&dir)]);
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(message.contains(name) && message.contains("nokv check"), "{message}");
            assert!(message.contains("expected crc") && message.contains("offset"), "{message}");
            let output = nokv(&[command, "--workdir", path(&dir), "--json"]);
            let error: Value = serde_json::from_slice(&output.stderr).unwrap();
            let details = &error["error"]["details"];
            assert!(details["offset"].is_u64() && details["expected_crc"].is_string(), "{error}");
            assert!(output.stdout.is_empty());
        }
        assert!(shape(&dir) == before);
        flip(&file, at);
    }
    std::fs::rename(manifest, dir.join("elsewhere")).unwrap();
    let message = fails(6, "manifest_corrupt", &["manifest", "--workdir", path(&dir)]);
    assert!(message.contains("is missing"), "{message}");
}

#[test]
fn what_is_no_store_is_explained() {
    let (home, dir) = home("store-1");
    seeded(&dir);
    let at = |name: &str| home.path().join(name);
    std::fs::create_dir(at("empty")).unwrap();
    std::fs::create_dir(at("foreign")).unwrap();
    std::fs::write(at("foreign").join("notes.txt"), "mine").unwrap();
    std::fs::write(at("file"), "x").unwrap();
    std::fs::create_dir(at("root")).unwrap();
    std::fs::write(at("root").join("root.checkpoint"), "x").unwrap();
    let cases = [
        ("none", "no such directory"),
        ("empty", "is empty"),
        ("foreign", "there is no CURRENT"),
        ("file", "is a file"),
        ("root", "directory of a meta-root"),
    ];
    for (name, what) in cases {
        for command in ["stats", "manifest", "vlog", "regions", "check"] {
            let message = fails(3, "not_a_workdir", &[command, "--workdir", path(&at(name))]);
            assert!(message.contains(what), "{message}");
            assert!(message.contains("store-1"), "the one beside it is suggested: {message}");
        }
    }
    let message = fails(3, "not_a_workdir", &["stats", "--workdir", path(home.path())]);
    assert!(message.contains("store-1"), "{message}");
    assert!(!at("none").exists());
    std::fs::rename(dir.join("CURRENT"), at("CURRENT")).unwrap();
    for command in ["stats", "manifest", "vlog", "regions"] {
        fails(6, "current_missing", &[command, "--workdir", path(&dir)]);
    }
    let message = fails(6, "corrupt", &["check", path(&dir)]);
    assert!(message.contains("CURRENT is missing"), "{message}");
    let message = fails(2, "usage", &["stats"]);
    assert!(message.contains("give --workdir DIR (offline) or --expvar URL (live)"), "{message}");
    fails(2, "usage", &["manifest"]);
    fails(2, "usage", &["check"]);
    fails(2, "usage", &["check", "a", "--workdir", "b"]);
}

/// Answers one request with these bytes, or never.
fn answer(with: Option<&'static str>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        match with {
            Some(text) => {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(text.as_bytes());
            }
            None => std::thread::sleep(Duration::from_secs(60)),
        }
    });
    port
}

#[test]
fn an_endpoint_that_is_none_is_explained() {
    let ask = |port: u16| {
        fails(
            4,
            "endpoint_unreachable",
            &["stats", "--timeout", "1s", "--expvar", &format!("127.0.0.1:{port}")],
        )
    };
    let cases = [
        (port(), "cannot connect"),
        (answer(Some("HTTP/1.1 404 Not Found\r\n\r\nno")), "404 Not Found"),
        (answer(Some("HTTP/1.1 200 OK\r\n\r\n<html>")), "not JSON"),
        (answer(Some("HTTP/1.1 200 OK\r\n\r\n{\"cmdline\": []}")), "no numbers of a store"),
        (answer(Some("220 mail ready\r\n\r\n")), "does not speak HTTP"),
        (answer(None), "no answer within 1s"),
    ];
    for (port, what) in cases {
        let message = ask(port);
        assert!(message.contains(what) && message.contains("--metrics-addr"), "{message}");
    }
    let output = nokv(&["stats", "--json", "--expvar", &format!("127.0.0.1:{}", port())]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(
        error["error"]["details"]["elapsed_ms"].is_u64() && error["error"]["retryable"] == true,
        "{error}"
    );
    fails(2, "usage", &["stats", "--expvar", "https://127.0.0.1:1"]);
    let port = answer(Some("HTTP/1.1 200 OK\r\n\r\n{\"nokv_coordinator\": {}}"));
    fails(5, "wrong_service", &["stats", "--expvar", &format!("127.0.0.1:{port}")]);
    let port = answer(Some("HTTP/1.1 200 OK\r\n\r\n{\"entries\": 7, \"new_member\": {\"x\": 1}}"));
    let bare = json(&["stats", "--json", "--expvar", &format!("http://127.0.0.1:{port}/")]);
    assert_eq!((&bare["entries"], &bare["new_member"]["x"]), (&7.into(), &1.into()));
}

/// The whole of `/debug/vars`.
fn vars(port: u16) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /debug/vars HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Asks until it is so.
fn until(port: u16, done: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let document = vars(port);
        if done(&document) {
            return document;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{document:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_running_store_says_all_of_it_and_its_directory_is_read_beside_it() {
    let (_home, dir) = home("store-1");
    seeded(&dir);
    let (grpc, metrics, nobody) = (port(), port(), port());
    let at = |port: u16| format!("127.0.0.1:{port}");
    let (addr, endpoint) = (at(grpc), at(metrics));
    let args = [
        "serve",
        "--store-id",
        "1",
        "--workdir",
        path(&dir),
        "--addr",
        &addr,
        "--coordinator-addr",
        &at(nobody),
        "--metrics-addr",
        &endpoint,
    ];
    let server = Server::start(&args, metrics);
    let document = until(metrics, |document| document["NoKV.Stats"]["store"]["leaders"] == 2);
    let live = &document["NoKV.Stats"];
    follows("expvar-nokv-stats", live);
    assert_eq!(
        (&live["region"]["running"], &live["unavailable_offline"]),
        (&2.into(), &serde_json::json!([]))
    );
    assert!(live["write"]["sync_count"].as_u64() > Some(0) && live["raft"]["group_count"] == 2, "{live:#}");
    assert!(document["memstats"]["RSS"].as_u64() > Some(1 << 20) && document["cmdline"][1] == "serve");
    assert!(document["NoKV.Prefetch.Launched"].is_u64() && document["NoKV.Prefetch.Aborted"].is_u64());
    let fetched = json(&["stats", "--json", "--expvar", &endpoint]);
    follows("expvar-nokv-stats", &fetched);
    assert!(text(&["stats", "--expvar", &endpoint]).contains("\nRaft.Groups              2 lagging=0"));
    follows("stats", &{
        let mut plain = json(&["stats", "--no-region-metrics", "--json", "--expvar", &endpoint]);
        assert_eq!(plain["omitted"], serde_json::json!(["region"]));
        plain.as_object_mut().unwrap().remove("store");
        plain
    });
    for args in all(&dir) {
        let output = nokv(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {stderr}");
        assert!(stderr.contains(&format!("note: live process pid {}", server.pid())), "{args:?}: {stderr}");
    }
    let execution = json(&["execution", "--json", "--addr", &addr]);
    follows("execution", &execution);
    assert_eq!(execution["restart"]["raft_group_count"], 2);
    json(&["execution", "--json", "--addr", &addr, "--region", "2"]);
    json(&["execution", "--json", "--addr", &addr, "--region", "0"]);
    let message = fails(3, "region_not_found", &["execution", "--addr", &addr, "--region", "999"]);
    assert!(message.contains("regions there: 1, 2"), "{message}");
    fails(3, "transition_not_found", &["execution", "--addr", &addr, "--transition", "nosuch"]);
    drop(server);
    // Killed as it was, it leaves a directory that is sound.
    assert!(text(&["check", "--deep", path(&dir)]).contains("no damage"));
    assert_eq!(json(&["stats", "--workdir", path(&dir), "--json"])["raft"]["group_count"], 2);
}

#[test]
fn coordinators_and_meta_roots_say_all_of_it() {
    let home = tempfile::tempdir().unwrap();
    let ports: Vec<u16> = (0..6).map(|_| port()).collect();
    let at = |index: usize| format!("127.0.0.1:{}", ports[index]);
    let roots = [0, 1].map(|index| format!("{}={}", index + 1, at(index)));
    let third = "3=127.0.0.1:1".to_owned();
    let metrics: Vec<String> = (0..3).map(|_| format!("127.0.0.1:{}", port())).collect();
    let metrics_port = |index: usize| metrics[index].rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let dirs: Vec<String> =
        (1..=2).map(|n| path(&home.path().join(format!("root-{n}"))).to_owned()).collect();
    let transports = [at(2), at(3)];
    let peers = [format!("1={}", at(2)), format!("2={}", at(3)), "3=127.0.0.1:2".to_owned()];
    // Two of three, which is enough.
    let servers: Vec<Server> = (0..2)
        .map(|index| {
            let (addr, id) = (at(index), (index + 1).to_string());
            let args = [
                "meta-root",
                "--workdir",
                &dirs[index],
                "--node-id",
                &id,
                "--transport-addr",
                &transports[index],
                "--addr",
                &addr,
                "--peer",
                &peers[0],
                "--peer",
                &peers[1],
                "--peer",
                &peers[2],
                "--metrics-addr",
                &metrics[index],
            ];
            Server::start(&args, metrics_port(index))
        })
        .collect();
    let root = until(metrics_port(0), |document| document["nokv_meta_root"]["leader_id"] != 0);
    follows("expvar-nokv-meta-root", &root["nokv_meta_root"]);
    let addr = at(4);
    let args = [
        "coordinator",
        "--coordinator-id",
        "c1",
        "--addr",
        &addr,
        "--root-peer",
        &roots[0],
        "--root-peer",
        &roots[1],
        "--root-peer",
        &third,
        "--metrics-addr",
        &metrics[2],
    ];
    let coordinator = Server::start(&args, metrics_port(2));
    let held = |document: &Value| {
        let state = &document["nokv_coordinator"]["state"];
        state["lease"]["usable_by_self"] == true && state["root"]["served_by_leader"] == true
    };
    let document = until(metrics_port(2), held);
    let member = &document["nokv_coordinator"];
    follows("expvar-nokv-coordinator", member);
    let root = &member["state"]["root"];
    assert_eq!(
        (&member["root_mode"], &root["catch_up_state"]),
        (&"remote".into(), &"CATCH_UP_STATE_FRESH".into())
    );
    assert!(root["storage_leader_id"].as_u64() > Some(0) && root["last_reload_unix_nano"].as_i64() > Some(0));
    let message = fails(5, "wrong_service", &["execution", "--addr", &addr]);
    assert!(message.contains("it is a coordinator") && message.contains(":20160"), "{message}");
    let message = fails(5, "wrong_service", &["execution", "--addr", &at(0)]);
    assert!(message.contains("it is a meta-root"), "{message}");
    let message = fails(5, "wrong_service", &["stats", "--expvar", &metrics[2]]);
    assert!(message.contains("coordinator"), "{message}");
    drop(servers);
    let alone = until(metrics_port(2), |document| {
        document["nokv_coordinator"]["state"]["root"]["degraded_mode"] == "DEGRADED_MODE_ROOT_UNAVAILABLE"
    });
    follows("expvar-nokv-coordinator", &alone["nokv_coordinator"]);
    drop(coordinator);
}
