use super::*;
use nokv_coordinator::Replica;
use nokv_proto::coordinator::v1::StoreInfo;
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer};

fn second(n: u64) -> Instant {
    Instant(n * 1_000_000_000)
}

fn region(id: u64, start: &[u8], end: &[u8], applied: u64, at: Instant) -> RegionSurvey {
    let peers: Vec<RegionPeer> =
        (1..=3).map(|store_id| RegionPeer { store_id, peer_id: store_id * 100 + id }).collect();
    let replica = |peer: &RegionPeer| Replica {
        store_id: peer.store_id,
        peer_id: peer.peer_id,
        term: 5,
        applied_index: applied - (peer.store_id - 1) * 2,
        bytes: 1_000 * peer.store_id,
        at,
        up: true,
    };
    RegionSurvey {
        leader: Some(peers[0]),
        replicas: peers.iter().map(replica).collect(),
        region: RegionDescriptor {
            region_id: id,
            start_key: start.to_vec().into(),
            end_key: end.to_vec().into(),
            epoch: Some(RegionEpoch { version: 1, conf_version: 1 }),
            peers,
            state: RegionReplicaState::Running.into(),
            ..RegionDescriptor::default()
        },
        ..RegionSurvey::default()
    }
}

fn survey(at: Instant, regions: Vec<RegionSurvey>) -> Survey {
    let store = |store_id| StoreInfo { store_id, up: true, ..StoreInfo::default() };
    Survey {
        at,
        coordinator_id: "c1".into(),
        state: json!({"root": {"available": true, "root_lag": 0}, "gc": {"safe_point": 467_113_216_000_000_001_u64}}),
        stores: (1..=3).map(store).collect(),
        regions,
        replicas_wanted: 3,
        ..Survey::default()
    }
}

fn ask(feed: &Feed, since: &str) -> Value {
    serde_json::from_str(&feed.cluster(&Answers::default(), since, 0)).expect("it is JSON")
}

fn ids(answer: &Value) -> Vec<u64> {
    answer["regions"].as_array().unwrap().iter().map(|row| row[0].as_u64().unwrap()).collect()
}

#[test]
fn a_row_says_all_of_a_region_and_no_key_breaks_it() {
    let mut feed = Feed::new(77);
    let at = second(1);
    let evil = b"\"</script><img src=x onerror=alert(1)>\\\x00\xff";
    feed.take_in(
        survey(at, vec![region(1, b"", evil, 50, at), region(2, evil, b"", 50, at)]),
        &Answers { stores: BTreeMap::from([(1, Ok(BTreeMap::new()))]), ..Answers::default() },
    );
    let text = feed.cluster(&Answers::default(), "", 0);
    assert!(!text.contains("</script"), "keys travel as base64");
    let answer = ask(&feed, "");
    let row = json!([1, "", null, 1, 1, [1, 101, 2, 201, 3, 301], 1, 1_000, 0, 0, 4, 0]);
    assert_eq!(answer["regions"][0], row);
    assert_eq!(answer["regions"][1][1], base64(evil));
    assert_eq!(answer["regions"][1][2], "", "nothing follows");
    assert_eq!(answer["state"]["gc"]["safe_point"], "467113216000000001");
    assert_eq!((&answer["health"]["state"], &answer["full"]), (&json!("healthy"), &json!(true)));
    assert_eq!((&answer["stores"][1]["bytes"], &answer["stores"][1]["leaders"]), (&json!(2_000), &json!(0)));
    assert_eq!(answer["stores"][0]["leaders"], 2);
}

#[test]
fn only_what_is_new_is_sent_again() {
    let mut feed = Feed::new(77);
    let three = |applied, at| {
        vec![region(1, b"", b"f", applied, at), region(2, b"f", b"m", 50, at), region(3, b"m", b"", 50, at)]
    };
    feed.take_in(survey(second(1), three(50, second(1))), &Answers::default());
    let first = ask(&feed, "");
    let since = first["since"].as_str().unwrap().to_owned();
    assert_eq!((ids(&first), ids(&ask(&feed, &since))), (vec![1, 2, 3], vec![]));

    feed.take_in(survey(second(3), three(150, second(3))), &Answers::default());
    let second_answer = ask(&feed, &since);
    assert_eq!((ids(&second_answer), &second_answer["full"]), (vec![1], &json!(false)));
    assert_eq!(second_answer["regions"][0][9], 50.0, "a hundred entries in two seconds");
    assert_eq!(second_answer["totals"]["writes"], 50.0);

    let mut merged = three(150, second(4));
    merged.remove(2);
    merged[1].region.end_key = Vec::new().into();
    feed.take_in(survey(second(4), merged), &Answers::default());
    let third = ask(&feed, second_answer["since"].as_str().unwrap());
    assert_eq!((ids(&third), &third["gone"]), (vec![1, 2], &json!([3])));
    for unknown in ["78.1", "77.999", "x", "77.", "-1.2"] {
        assert_eq!(ids(&ask(&feed, unknown)), [1, 2], "{unknown} is of no use: all of it");
    }
}

#[test]
fn whoever_has_missed_too_much_begins_anew() {
    let mut feed = Feed::new(7);
    let many = (0..=GONE_MAX as u64)
        .map(|id| region(id + 10, &id.to_be_bytes(), &(id + 1).to_be_bytes(), 50, second(1)));
    feed.take_in(survey(second(1), vec![region(1, b"", b"", 50, second(1))]), &Answers::default());
    let mut all: Vec<RegionSurvey> = many.collect();
    feed.take_in(survey(second(2), all.split_off(1)), &Answers::default());
    feed.take_in(survey(second(3), all), &Answers::default());
    assert_eq!(ask(&feed, "7.1")["full"], true);
    assert_eq!(ask(&feed, "7.2")["full"], false);
}

#[test]
fn what_is_odd_about_a_region_is_counted_and_flagged() {
    let mut odd = region(4, b"", b"", 50, second(1));
    odd.region.peers.pop();
    odd.region.leaving_peer_id = 104;
    odd.leader = None;
    let mut feed = Feed::new(7);
    let mut seen = survey(second(1), vec![odd]);
    seen.stores[1].up = false;
    feed.take_in(seen, &Answers::default());
    let answer = ask(&feed, "");
    assert_eq!(answer["regions"][0][11], flag::LEAVING | flag::FEW | flag::NO_QUORUM);
    assert_eq!(answer["health"]["state"], "unavailable");
    assert_eq!(answer["regions"][0][7], 0, "nobody can say");
}

#[test]
fn what_leaders_measured_goes_before_what_their_tables_suggest() {
    let mut answers = Answers::default();
    let load = |requests, bytes| BTreeMap::from([(1, Load { requests, bytes: Some(bytes) })]);
    answers.stores.insert(1, Ok(load(7, 99)));
    answers.stores.insert(2, Err("silent".into()));
    let mut feed = Feed::new(7);
    let at = second(1);
    feed.take_in(survey(at, vec![region(1, b"", b"m", 50, at), region(2, b"m", b"", 50, at)]), &answers);
    let told: Value = serde_json::from_str(&feed.cluster(&answers, "", 0)).unwrap();
    let row = |at: usize| (told["regions"][at][7].as_u64(), told["regions"][at][8].as_u64());
    assert_eq!(
        (row(0), row(1)),
        ((Some(99), Some(7)), (Some(0), Some(0))),
        "the other one is yet to be measured"
    );
    assert_eq!((&told["totals"]["bytes"], &told["stores"][2]["bytes"]), (&json!(99), &json!(99)));
    assert_eq!(told["stores"][1]["error"], "silent");
    assert_eq!(
        (&feed.region(1).unwrap()["measured"], &feed.region(2).unwrap()["measured"]),
        (&json!(true), &json!(false))
    );
}

#[test]
fn this_coordinator_is_not_listed_twice() {
    let status = |id: &str| CoordinatorStatusResponse {
        coordinator_id: id.into(),
        console_addr: "h:1".into(),
        ..Default::default()
    };
    let mut answers = Answers::default();
    answers.coordinators.insert("localhost:2379".into(), Ok(status("c1")));
    answers.coordinators.insert("h:2379".into(), Ok(status("c2")));
    answers.coordinators.insert("h:2378".into(), Err("silent".into()));
    let mut feed = Feed::new(7);
    feed.take_in(survey(second(1), Vec::new()), &answers);
    let told: Value = serde_json::from_str(&feed.cluster(&answers, "", 0)).unwrap();
    let rows = told["coordinators"].as_array().unwrap();
    let brief: Vec<_> = rows.iter().map(|row| (&row["id"], &row["answers"], &row["console"])).collect();
    let (yes, no, nothing) = (&json!(true), &json!(false), &Value::Null);
    assert_eq!(
        brief,
        [(&json!("c1"), yes, nothing), (nothing, no, nothing), (&json!("c2"), yes, &json!("h:1"))]
    );
}

#[test]
fn ten_thousand_regions_cost_little() {
    let key = |n: u64| format!("table/users/{n:010}").into_bytes();
    let all = |at| (0..10_000).map(|n| region(n + 1, &key(n), &key(n + 1), 50, at)).collect::<Vec<_>>();
    let mut feed = Feed::new(7);
    feed.take_in(survey(second(1), all(second(1))), &Answers::default());
    let whole = feed.cluster(&Answers::default(), "", 0);
    assert!(whole.len() < 1_200_000, "{}", whole.len());
    let since = serde_json::from_str::<Value>(&whole).unwrap()["since"].as_str().unwrap().to_owned();
    feed.take_in(survey(second(2), all(second(2))), &Answers::default());
    assert!(feed.cluster(&Answers::default(), &since, 0).len() < 4_000, "nothing happened");
}

#[test]
fn a_region_is_told_with_its_replicas() {
    let mut feed = Feed::new(7);
    let mut one = region(9, b"a", b"b", 50, second(1));
    one.learners = vec![309];
    one.region.quarantined_peer_ids = vec![209];
    feed.take_in(survey(second(3), vec![one]), &Answers::default());
    let told = feed.region(9).unwrap();
    let replicas = told["replicas"].as_array().unwrap();
    let brief: Vec<_> =
        replicas.iter().map(|r| (&r["role"], &r["lag"], &r["quarantined"], &r["heard_ms"])).collect();
    let heard = &json!(2_000);
    assert_eq!(brief[0], (&json!("leader"), &json!(0), &json!(false), heard));
    assert_eq!(brief[1], (&json!("voter"), &json!(2), &json!(true), heard));
    assert_eq!(brief[2], (&json!("learner"), &json!(4), &json!(false), heard));
    assert_eq!(feed.region(10), None);
}
