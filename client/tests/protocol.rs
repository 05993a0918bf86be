//! What the client asks, in which order, and what it makes of the answers.

mod harness;

use harness::{Cluster, Say, abort, conflict, locked, region};
use nokv_client::ClientError;
use nokv_proto::error::v1::{NotLeader, RegionError};
use nokv_proto::id::Timestamp;
use nokv_proto::key::KeyRange;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_put_is_one_timestamp_request_and_one_round_trip() {
    let (cluster, client) = Cluster::new();
    assert_eq!(client.put("a", "1").await.unwrap(), Timestamp(2));
    assert_eq!(cluster.settled(&client).await, ["c1 tso 2", "s1 r1 prewrite a primary=a start=1 1pc=2"]);
}

#[tokio::test(start_paused = true)]
async fn every_request_to_a_store_says_on_whose_behalf_it_is() {
    let work = async |client: &nokv_client::Client| {
        client.put("a", "1").await.unwrap();
        client.get("a").await.unwrap();
        client.scan(KeyRange::default(), 10).await.unwrap();
    };
    let (cluster, client) = Cluster::with(|config| config.trace_id = "order-17".into());
    work(&client).await;
    assert_eq!((cluster.trace_ids(), client.trace_id()), (vec!["order-17".to_owned()], "order-17"));
    // What would not fit into a log line is not sent, and there is always one.
    let (cluster, client) = Cluster::with(|config| config.trace_id = "two words".into());
    work(&client).await;
    let [drawn] = &cluster.trace_ids()[..] else { panic!("{:?}", cluster.trace_ids()) };
    assert!(drawn.len() == 16 && drawn.bytes().all(|byte| byte.is_ascii_hexdigit()), "{drawn}");
    assert_eq!(client.trace_id(), drawn);
}

#[tokio::test(start_paused = true)]
async fn a_refused_round_trip_goes_on_with_a_fresh_commit_timestamp() {
    let (cluster, client) = Cluster::new();
    cluster.script("prewrite", [Say::Locked]);
    assert_eq!(client.put("a", "1").await.unwrap(), Timestamp(3));
    assert_eq!(
        cluster.settled(&client).await[1..],
        ["s1 r1 prewrite a primary=a start=1 1pc=2", "c1 tso 1", "s1 r1 commit a start=1 at=3"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_pushed_commit_timestamp_is_drawn_again() {
    let (cluster, client) = Cluster::new();
    cluster.script("prewrite", [Say::Locked]);
    let expired = nokv_proto::kv::v1::KeyError {
        commit_ts_expired: Some(nokv_proto::kv::v1::CommitTsExpired::default()),
        ..Default::default()
    };
    cluster.script("commit", [Say::Key(expired)]);
    assert_eq!(client.put("a", "1").await.unwrap(), Timestamp(4));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_followed_by_a_refusal_is_settled_at_the_primary() {
    let (cluster, client) = Cluster::new();
    cluster.script("prewrite", [Say::Lost, Say::Key(conflict("a"))]);
    cluster.script("status", [Say::Committed(2)]);
    assert_eq!(client.put("a", "1").await.unwrap(), Timestamp(2), "it was committed by the first try");
    assert!(cluster.log().iter().any(|line| line.ends_with("status a start=1 caller=0 force=true")));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_that_turns_out_rolled_back_is_written_again() {
    let (cluster, client) = Cluster::new();
    cluster.script("prewrite", [Say::Lost, Say::Key(conflict("a"))]);
    cluster.script("status", [Say::RolledBack]);
    let commit = client.put("a", "1").await.unwrap();
    let log = cluster.settled(&client).await;
    let again = format!("r1 prewrite a primary=a start={} 1pc={}", commit.0 - 1, commit.0);
    assert!(commit > Timestamp(2) && log.iter().any(|line| line.ends_with(&again)), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_round_trip_the_primary_names_the_commit_timestamp() {
    let (cluster, client) = Cluster::new();
    // The first try is lost, the second finds locks (it was stripped), and the late first try commits at 2.
    cluster.script("prewrite", [Say::Lost, Say::Locked]);
    cluster.script("status", [Say::Committed(2)]);
    assert_eq!(client.put("a", "1").await.unwrap(), Timestamp(2));
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_an_answer_is_an_unknown_outcome() {
    let (cluster, client) = Cluster::new();
    cluster.script("prewrite", std::iter::repeat_n(Say::Lost, 1000));
    let error = client.with_deadline(Duration::from_secs(3)).put("a", "1").await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { start_ts: Timestamp(1), .. }), "{error}");
    assert!(!error.is_retryable());
    assert!(
        !cluster.settled(&client).await.iter().any(|line| line.contains("rollback")),
        "never after a doubt"
    );
}

/// A copy of the message may find a store that can.
#[tokio::test(start_paused = true)]
async fn a_commit_that_was_answered_with_not_now_is_an_unknown_outcome() {
    let (cluster, client) = Cluster::new();
    let client = client.with_deadline(Duration::from_secs(3));
    let not_now = || {
        let not_leader = Some(NotLeader { region_id: 1, leader: None });
        Say::Region(RegionError { not_leader, ..Default::default() })
    };
    cluster.script("prewrite", std::iter::repeat_with(not_now).take(1000));
    let error = client.put("a", "1").await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error}");
    // Only a message that can commit leaves that doubt.
    let mut txn = client.begin().await.unwrap();
    txn.put("a", "1").unwrap();
    txn.put("z", "1").unwrap();
    let error = txn.commit().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_cannot_even_prewrite_is_a_timeout_and_rolled_back() {
    let (cluster, client) = Cluster::new();
    let client = client.with_deadline(Duration::from_secs(3));
    let mut txn = client.begin().await.unwrap();
    txn.put("a", "1").unwrap();
    txn.put("z", "1").unwrap();
    cluster.script("prewrite", std::iter::repeat_n(Say::Lost, 1000));
    let error = txn.commit().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("connection reset"), "{error}");
    assert!(cluster.settled(&client).await.iter().any(|line| line.contains("rollback a start=1")));
}

#[tokio::test(start_paused = true)]
async fn two_regions_prewrite_the_primary_first_and_commit_the_rest_in_the_background() {
    let (cluster, client) = Cluster::new();
    cluster.script("commit", [Say::Locked, Say::Key(abort("lock not found"))]);
    let mut txn = client.begin().await.unwrap();
    txn.put("z", "2").unwrap();
    txn.put("a", "1").unwrap();
    txn.delete("b").unwrap();
    assert_eq!(txn.commit().await.unwrap(), Timestamp(2), "a failed secondary commit is nobody's problem");
    assert_eq!(
        cluster.settled(&client).await[1..],
        [
            "s1 r1 prewrite a,b primary=a start=1 1pc=0",
            "s2 r2 prewrite z primary=a start=1 1pc=0",
            "c1 tso 1",
            "s1 r1 commit a,b start=1 at=2",
            "s2 r2 commit z start=1 at=2",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn two_regions_that_are_locked_for_it_are_committed_without_another_round() {
    let (cluster, client) = Cluster::with(|_| {});
    let mut txn = client.begin().await.unwrap();
    txn.put("z", "2").unwrap();
    txn.put("a", "1").unwrap();
    assert_eq!(txn.commit().await.unwrap(), Timestamp(2));
    assert_eq!(
        cluster.settled(&client).await[1..],
        [
            "c1 tso 1",
            "s1 r1 prewrite a primary=a start=1 async=2 with=z",
            "s2 r2 prewrite z primary=a start=1 async=2 with=",
            "s2 r2 commit z start=1 at=2",
            "s1 r1 commit a start=1 at=2",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_region_that_refuses_the_timestamp_makes_it_two_phases() {
    let (cluster, client) = Cluster::with(|_| {});
    cluster.script("prewrite", [Say::Locked]);
    let mut txn = client.begin().await.unwrap();
    txn.put("z", "2").unwrap();
    txn.put("a", "1").unwrap();
    assert_eq!(txn.commit().await.unwrap(), Timestamp(3), "drawn when all were locked");
    assert!(cluster.settled(&client).await.contains(&"s1 r1 commit a start=1 at=3".to_owned()));
}

/// The last prewrite commits, and a copy of it may come late.
#[tokio::test(start_paused = true)]
async fn an_asynchronous_commit_without_all_answers_is_an_unknown_outcome() {
    let (cluster, client) = Cluster::with(|config| config.deadline = Duration::from_secs(3));
    let mut txn = client.begin().await.unwrap();
    txn.put("a", "1").unwrap();
    txn.put("z", "1").unwrap();
    cluster.script("prewrite", std::iter::repeat_n(Say::Lost, 1000));
    let error = txn.commit().await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { commit_ts: Timestamp(2), .. }), "{error}");
    assert!(!cluster.settled(&client).await.iter().any(|line| line.contains("rollback a")));
}

#[tokio::test(start_paused = true)]
async fn the_other_keys_of_an_asynchronous_commit_say_what_became_of_it() {
    let locked = || Say::Key(locked("a", "a", 1));
    let (cluster, client) = Cluster::with(|_| {});
    client.tso(1).await.unwrap();
    // Not all are locked, then all are: it is committed at 2, which the snapshot may see.
    cluster.script("get", [locked(), locked()]);
    cluster.script("status", [Say::Async(2), Say::Async(2)]);
    cluster.script("secondaries", [Say::Missing]);
    client.snapshot().await.unwrap().get("a").await.unwrap();
    let log = cluster.settled(&client).await;
    assert!(log.iter().any(|line| line.ends_with("resolve a start=1 at=2")), "{log:?}");
    assert_eq!(log.iter().filter(|line| line.contains("secondaries z start=1 rollback=")).count(), 2);
    // One is not: the primary is asked again, as one that decides alone.
    let (cluster, client) = Cluster::with(|_| {});
    client.tso(1).await.unwrap();
    cluster.script("get", [locked()]);
    cluster.script("status", [Say::Async(2), Say::RolledBack]);
    cluster.script("secondaries", [Say::Broken]);
    client.snapshot().await.unwrap().get("a").await.unwrap();
    let log = cluster.settled(&client).await;
    assert!(log.iter().any(|line| line.ends_with("resolve a start=1 at=0")), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_in_one_region_rolls_back_the_others() {
    let (cluster, client) = Cluster::new();
    cluster.script("prewrite", [Say::Locked, Say::Key(conflict("z"))]);
    let mut txn = client.begin().await.unwrap();
    txn.put("a", "1").unwrap();
    txn.put("z", "2").unwrap();
    let error = txn.commit().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Conflict { key, .. } if key == "z") && error.is_retryable(),
        "{error}"
    );
    let log = cluster.settled(&client).await;
    assert!(log.iter().any(|line| line == "s1 r1 rollback a start=1"), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("commit")), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_pushes_a_living_transaction_and_reads_past_its_lock() {
    let (cluster, client) = Cluster::new();
    cluster.script("get", [Say::Key(locked("a", "z", 7)), Say::Key(locked("a", "z", 7)), Say::Value("old")]);
    cluster.script("status", [Say::Pushed]);
    assert_eq!(client.get("a").await.unwrap().unwrap(), "old");
    assert_eq!(
        cluster.log(),
        [
            "s1 r1 get a at=0 bypass=[]",
            "c1 tso 1",
            "s1 r1 get a at=1 bypass=[]",
            "c1 tso 1",
            "s2 r2 status z start=7 caller=1 force=false",
            "s1 r1 get a at=1 bypass=[7]",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_finishes_what_the_primary_has_decided() {
    let (cluster, client) = Cluster::new();
    let txn = client.begin().await.unwrap();
    cluster.script("get", [Say::Key(locked("a", "z", 0)), Say::Value("new")]);
    cluster.script("status", [Say::Committed(1)]);
    assert_eq!(txn.get("a").await.unwrap().unwrap(), "new");
    assert!(cluster.log().iter().any(|line| line == "s1 r1 resolve a start=0 at=1"));
}

#[tokio::test(start_paused = true)]
async fn a_scan_walks_regions_and_goes_on_at_a_lock_it_has_cleared() {
    let (cluster, client) = Cluster::new();
    cluster.script("scan", [Say::Key(locked("c", "c", 9)), Say::Value("d"), Say::Value("z")]);
    cluster.script("status", [Say::RolledBack]);
    let pairs = client.scan(KeyRange::new("a", ""), 10).await.unwrap();
    assert_eq!(pairs.len(), 2);
    let scans: Vec<String> = cluster.log().into_iter().filter(|line| line.contains("scan")).collect();
    assert_eq!(scans, ["s1 r1 scan [a,m)", "s1 r1 scan [c,m)", "s2 r2 scan [m,)"]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_hint_is_followed_and_remembered() {
    let (cluster, client) = Cluster::new();
    let (_, leader) = region(1, 2);
    let not_leader = RegionError {
        not_leader: Some(NotLeader { region_id: 1, leader: Some(leader) }),
        ..Default::default()
    };
    cluster.script("get", [Say::Region(not_leader)]);
    client.get("a").await.unwrap();
    client.get("b").await.unwrap();
    assert_eq!(
        cluster.log(),
        ["s1 r1 get a at=0 bypass=[]", "s2 r1 get a at=0 bypass=[]", "s2 r1 get b at=0 bypass=[]"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_is_left_for_another_peer() {
    let (cluster, client) = Cluster::new();
    cluster.script("get", [Say::Silence]);
    client.get("a").await.unwrap();
    assert_eq!(cluster.log(), ["s1 r1 get a at=0 bypass=[]", "s2 r1 get a at=0 bypass=[]"]);
}

#[tokio::test(start_paused = true)]
async fn timestamps_come_from_whoever_holds_the_lease() {
    let (cluster, client) = Cluster::new();
    cluster.script("tso", [Say::NoLease]);
    assert_eq!(client.tso(1).await.unwrap(), Timestamp(1));
    assert_eq!(client.tso(1).await.unwrap(), Timestamp(2));
    assert_eq!(cluster.log(), ["c1 tso 1", "c2 tso 1", "c2 tso 1"]);
}

#[tokio::test(start_paused = true)]
async fn callers_that_wait_together_share_one_timestamp_request() {
    let (cluster, client) = Cluster::new();
    let together = (client.tso(1), client.tso(2), client.tso(1));
    let (a, b, c) = futures_util::join!(together.0, together.1, together.2);
    assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), (Timestamp(1), Timestamp(2), Timestamp(4)));
    assert_eq!(cluster.log(), ["c1 tso 4"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_coordinator_the_error_names_the_last_cause() {
    let (cluster, client) = Cluster::new();
    cluster.script("tso", std::iter::repeat_n(Say::NoLease, 1000));
    let error = client.with_deadline(Duration::from_secs(2)).put("a", "1").await.unwrap_err();
    assert!(
        matches!(error, ClientError::Timeout { .. }) && error.to_string().contains("lease not held"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_lock_to_end() {
    let (cluster, client) = Cluster::new();
    cluster.script("prewrite", [Say::Key(locked("a", "a", 9)), Say::Key(locked("a", "a", 9))]);
    cluster.script("status", [Say::Pushed, Say::RolledBack]);
    client.put("a", "1").await.unwrap();
    let log = cluster.log();
    assert!(log.iter().any(|line| line == "s1 r1 resolve a start=9 at=0"), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn own_writes_are_seen_before_the_commit() {
    let (_, client) = Cluster::new();
    let mut txn = client.begin().await.unwrap();
    txn.put("a", "mine").unwrap();
    txn.delete("b").unwrap();
    assert_eq!(txn.get("a").await.unwrap().unwrap(), "mine");
    assert_eq!(txn.get("b").await.unwrap(), None);
    assert_eq!(txn.scan(KeyRange::new("", "m"), 10).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_refused_before_anything_is_sent() {
    let (cluster, client) = Cluster::new();
    assert!(matches!(client.put("", "1").await, Err(ClientError::InvalidArgument(_))));
    assert!(matches!(
        client.put("k".repeat(5000), "1").await,
        Err(ClientError::TooLarge { what: "the key", .. })
    ));
    assert!(matches!(
        client.put("k", vec![0; 5 << 20]).await,
        Err(ClientError::TooLarge { what: "the value", .. })
    ));
    assert!(cluster.log().is_empty());
}
