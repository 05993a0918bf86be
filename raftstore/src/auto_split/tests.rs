use super::*;
use crate::mvcc::{CF_DEFAULT, CF_LOCK, CF_WRITE};
use crate::testing::World;
use nokv_engine::{Cf, Db, Options, WriteBatch};
use nokv_env::mem_disk::MemDisk;
use nokv_proto::key::{KeyRange, encode_key};
use std::path::Path;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Instant {
    Instant(seconds * 1_000_000_000)
}

/// Rows as (family, key, bytes of the value), with one version each.
fn survey(range: &KeyRange, limit: u64, rows: &[(Cf, String, usize)]) -> Size {
    let (world, platter) = (World::default(), MemDisk::new(1));
    let db =
        world.run(Db::open(&world.env(1, &platter), Path::new("/db"), Options::tiny())).expect("a database");
    for (number, (family, key, bytes)) in rows.iter().enumerate() {
        let mut stored = encode_key(key.as_bytes());
        if *family != CF_LOCK {
            stored.extend_from_slice(&(number as u64).to_be_bytes());
        }
        let mut batch = WriteBatch::new();
        batch.put(*family, stored, vec![7; *bytes]);
        db.apply(batch).expect("applied");
    }
    let mut survey = Survey::new(range, limit);
    while survey.page(&db.snapshot()).expect("a page") {}
    survey.size()
}

fn everything() -> KeyRange {
    KeyRange::new("", "")
}

#[test]
fn the_middle_of_equal_keys_is_in_the_middle() {
    let rows: Vec<_> = (0..100).map(|key| (CF_WRITE, format!("{key:02}"), 88)).collect();
    let size = survey(&everything(), 1 << 20, &rows);
    assert_eq!(size.bytes, 100 * (2 + 2 + 8 + 88));
    assert_eq!(size.middle, None, "the whole is smaller than one step");
    let size = survey(&everything(), 6_400, &rows);
    assert_eq!((size.bytes, size.middle), (10_000, Some("50".into())));
    let size = survey(&KeyRange::new("20", "60"), 6_400, &rows);
    assert_eq!((size.bytes, size.middle), (4_000, Some("40".into())));
}

#[test]
fn a_first_key_many_times_the_limit_does_not_hide_the_second() {
    let rows = [
        (CF_WRITE, "a".to_owned(), 100_000),
        (CF_WRITE, "b".to_owned(), 2_000),
        (CF_WRITE, "c".to_owned(), 10),
    ];
    let size = survey(&everything(), 1_000, &rows);
    assert_eq!(size.middle, Some("b".into()), "{} bytes were seen", size.bytes);
}

#[test]
fn long_values_and_locks_count_where_their_keys_are() {
    let records = (0..100).map(|key| (CF_WRITE, format!("{key:02}"), 20));
    let values = (80..100).map(|key| (CF_DEFAULT, format!("{key:02}"), 1_000));
    let locks = (0..10).map(|key| (CF_LOCK, format!("{key:02}"), 50));
    let rows: Vec<_> = records.chain(values).chain(locks).collect();
    let size = survey(&everything(), 20_000, &rows);
    assert_eq!(size.bytes, 100 * 32 + 20 * 1_012 + 10 * 54);
    let middle = size.middle.expect("a middle");
    assert!((Bytes::from("86")..=Bytes::from("90")).contains(&middle), "{middle:?}");
}

#[test]
fn one_key_with_many_versions_has_no_middle() {
    let rows: Vec<_> = (0..2_000).map(|_| (CF_WRITE, "k".to_owned(), 100)).collect();
    assert_eq!(survey(&everything(), 10_000, &rows).middle, None);
    let mut two = rows.clone();
    two.push((CF_WRITE, "l".to_owned(), 100));
    assert_eq!(survey(&everything(), 100_000, &two).middle, Some("l".into()));
}

#[test]
fn of_a_huge_region_the_beginning_is_enough() {
    let rows: Vec<_> = (0..1_000).map(|key| (CF_WRITE, format!("{key:03}"), 87)).collect();
    let size = survey(&everything(), 1_000, &rows);
    assert!((4_000..5_000).contains(&size.bytes), "{}", size.bytes);
    let middle = size.middle.expect("a middle");
    assert!((Bytes::from("015")..=Bytes::from("025")).contains(&middle), "{middle:?}");
}

fn watched() -> Watched {
    Watched::new(1, Instant(0))
}

fn measured(bytes: u64, grown: u64) -> Watched {
    let size = Size { bytes, middle: Some("m".into()) };
    Watched { measured: Some(Measured { size, grown, on_disk: 100 }), ..watched() }
}

#[test]
fn a_region_is_measured_once_and_again_when_it_may_have_reached_the_limit() {
    assert!(watched().is_due(0, 800));
    let known = measured(300, 1_000);
    assert!(!known.is_due(1_000, 800) && !known.is_due(1_499, 800) && known.is_due(1_500, 800));
    let nearly = measured(799, 1_000);
    assert!(!nearly.is_due(1_099, 800) && nearly.is_due(1_100, 800), "an eighth at least");
    let above = measured(5_000, 1_000);
    assert!(!above.is_due(1_000, 800), "what cannot be split is not measured all the time");
}

#[test]
fn a_region_that_has_lost_half_is_measured_again() {
    let large = measured(300, 0);
    assert!(large.has_shrunk(|| 49, 800) && !large.has_shrunk(|| 50, 800), "its tables had 100");
    assert!(!measured(99, 0).has_shrunk(|| 0, 800), "a small one is known to be small");
    assert!(!watched().has_shrunk(|| 0, 800));
}

#[test]
fn how_full_a_region_is_follows_from_the_limit_that_is_nearer() {
    let limits = |bytes, requests| SplitLimits { bytes, requests, ..SplitLimits::default() };
    let asked = |per_second| Asked { at: Instant(0), requests: 0, per_second, hot_since: None };
    let known = Watched { asked: Some(asked(50)), ..measured(300, 1_000) };
    let fill =
        |known: &Watched, bytes, requests| known.fill(1_100, &limits(bytes, requests)).map(|fill| fill.at(1));
    assert_eq!(fill(&known, 800, 0), Some(500), "a hundred were written since");
    assert_eq!(known.burden(1_100), Burden { per_second: 50, bytes: Some(400) });
    assert_eq!(measured(0, 0).burden(0).bytes, Some(0), "known to be empty is not unknown");
    assert_eq!(watched().burden(9), Burden::default());
    assert_eq!(fill(&known, 800, 1_000), Some(500));
    assert_eq!(fill(&known, 800, 50), Some(1_000));
    assert_eq!(fill(&known, 0, 1_000), Some(50));
    assert_eq!(fill(&known, 0, 0), None, "nothing splits it");
    assert_eq!(fill(&measured(300, 0), 800, 9), None, "nobody has listened yet");
    let unmeasured = Watched { asked: Some(asked(0)), ..watched() };
    assert_eq!(fill(&unmeasured, 800, 9), None);
    assert_eq!(fill(&unmeasured, 0, 9), Some(1), "known to be empty is not unknown");
    assert_eq!(known.fill(1_100, &limits(800, 0)).expect("known").at(2), 0, "of another range");
}

#[test]
fn the_limit_itself_is_too_large() {
    assert_eq!(measured(799, 0).too_large(800), None);
    assert_eq!(measured(800, 0).too_large(800), Some(("m".into(), Cause::Size { bytes: 800 })));
    let one_key = Watched {
        measured: Some(Measured { size: Size { bytes: 9_000, middle: None }, grown: 0, on_disk: 0 }),
        ..watched()
    };
    assert_eq!(one_key.too_large(800), None);
}

/// Asks for `requests` keys within each of some seconds and says when the region is to be split.
fn hot_after(requests: &[u32], limits: &SplitLimits) -> Option<u64> {
    let (mut known, mut load) = (watched(), Load::default());
    known.listen(&mut load, at(0), limits);
    for (second, requests) in (1..).zip(requests) {
        (0..*requests).for_each(|key| load.note(std::iter::once(&Bytes::from(format!("{key:04}")))));
        known.listen(&mut load, at(second), limits);
        if known.too_hot(&load, limits).is_some() {
            return Some(second);
        }
    }
    None
}

#[test]
fn only_a_load_that_lasts_splits_a_region() {
    let limits = SplitLimits { requests: 100, requests_for: seconds(3), ..SplitLimits::default() };
    assert_eq!(hot_after(&[100, 100, 100], &limits), Some(3));
    assert_eq!(hot_after(&[100, 100, 99, 100, 100, 100], &limits), Some(6), "a pause begins anew");
    assert_eq!(hot_after(&[1_000, 0, 0, 1_000, 1_000], &limits), None);
    assert_eq!(hot_after(&[1_000; 9], &SplitLimits { requests: 0, ..limits }), None, "0 is never");
}

#[test]
fn what_was_asked_before_the_load_rose_does_not_count() {
    let limits = SplitLimits { requests: 100, requests_for: seconds(1), ..SplitLimits::default() };
    let (mut known, mut load) = (watched(), Load::default());
    known.listen(&mut load, at(0), &limits);
    (0..99).for_each(|_| load.note(std::iter::once(&"a".into())));
    known.listen(&mut load, at(1), &limits);
    (0..200).for_each(|_| load.note(std::iter::once(&"b".into())));
    known.listen(&mut load, at(2), &limits);
    assert_eq!(known.too_hot(&load, &limits), None, "one hot key");
}
