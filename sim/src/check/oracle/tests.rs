use super::*;

const K: Name = Name::Key(1);

/// An oracle, a clock, and writes named by small numbers.
#[derive(Default)]
struct Run {
    oracle: Oracle,
    now: u64,
}

impl Run {
    fn id(number: u64) -> WriteId {
        WriteId(1 << 36 | number << 4)
    }
    fn ticket(&mut self) -> Ticket {
        self.now += 1;
        self.oracle.invoke(0, self.now)
    }
    fn begin(&mut self, number: u64, deletes: bool, start: u64) {
        let ticket = self.ticket();
        self.oracle.write(&ticket, K, Self::id(number), deletes, start);
    }
    fn done(&mut self, number: u64, at: u64) -> Result<(), Violation> {
        self.now += 1;
        self.oracle.committed(K, Self::id(number), at, self.now)
    }
    fn put(&mut self, number: u64, at: u64) {
        self.begin(number, false, 0);
        self.done(number, at).expect("commits");
    }
    fn delete(&mut self, number: u64, at: u64) {
        self.begin(number, true, 0);
        self.done(number, at).expect("commits");
    }
    fn refuse(&mut self, number: u64) -> Result<(), Violation> {
        self.now += 1;
        self.oracle.refused(K, Self::id(number), self.now)
    }
    fn at(&mut self, at: u64, seen: u64) -> Result<(), Violation> {
        let ticket = self.ticket();
        let seen = (seen > 0).then_some(Self::id(seen));
        self.oracle.snapshot_read(&ticket, K, at, seen, self.now + 1)
    }
    fn get(&mut self, seen: u64) -> Result<(), Violation> {
        let before = self.oracle.before(K);
        self.get_since(&before, seen)
    }
    fn get_since(&mut self, before: &Before, seen: u64) -> Result<(), Violation> {
        let ticket = self.ticket();
        let seen = (seen > 0).then_some(Self::id(seen));
        self.oracle.newest_read(&ticket, K, before, seen, self.now + 1)
    }
}

fn rule(judged: Result<(), Violation>) -> &'static str {
    judged.expect_err("a violation").checker
}

#[test]
fn good_histories_pass() {
    let mut run = Run::default();
    assert_eq!(run.get(0), Ok(()));
    run.put(1, 10);
    assert_eq!((run.get(1), run.at(9, 0), run.at(12, 1)), (Ok(()), Ok(()), Ok(())));
    run.put(2, 20);
    assert_eq!((run.at(15, 1), run.at(20, 2), run.get(2)), (Ok(()), Ok(()), Ok(())));
    run.delete(3, 30);
    assert_eq!((run.get(0), run.at(29, 2), run.at(31, 0)), (Ok(()), Ok(()), Ok(())));
}

#[test]
fn values_of_nobody_and_refused_ones_are_found() {
    let mut run = Run::default();
    assert_eq!(rule(run.get(7)), PHANTOM);
    run.begin(1, false, 0);
    assert_eq!(run.refuse(1), Ok(()));
    assert_eq!(rule(run.get(1)), REFUSED);
    run.begin(2, false, 0);
    assert_eq!(run.get(2), Ok(()), "it may be under way");
    assert_eq!(rule(run.refuse(2)), REFUSED);
}

#[test]
fn reads_that_go_back_are_stale() {
    let mut run = Run::default();
    run.put(1, 10);
    let before = run.oracle.before(K);
    run.put(2, 20);
    assert_eq!(run.get_since(&before, 1), Ok(()), "it began before the second write ended");
    assert_eq!(rule(run.get(1)), STALE);
    assert_eq!(rule(run.get(0)), STALE, "nobody deleted it");
    run.begin(3, true, 0);
    assert_eq!(run.get(0), Ok(()), "the delete is under way");
    run.done(3, 30).expect("fine");
    assert_eq!(rule(run.get(2)), STALE, "risen from the dead");
}

#[test]
fn what_was_seen_once_does_not_vanish() {
    let mut run = Run::default();
    run.put(1, 10);
    run.begin(2, false, 0);
    assert_eq!((run.get(1), run.get(2)), (Ok(()), Ok(())));
    assert_eq!(rule(run.get(1)), STALE, "the open write was seen");
    let mut run = Run::default();
    run.begin(2, false, 0);
    assert_eq!(run.get(2), Ok(()));
    run.put(1, 30);
    assert_eq!(run.get(1), Ok(()), "it came later");
    assert_eq!(rule(run.done(2, 40)), SNAPSHOT, "no: it was overwritten before");
}

#[test]
fn snapshots_show_the_newest_version_below_them() {
    let mut run = Run::default();
    run.put(1, 10);
    run.put(2, 20);
    assert_eq!(rule(run.at(25, 1)), SNAPSHOT, "too old");
    assert_eq!(rule(run.at(15, 2)), SNAPSHOT, "too new");
    assert_eq!(rule(run.at(15, 0)), SNAPSHOT, "gone");
    assert_eq!(run.at(15, 1), Ok(()));
    run.begin(3, false, 0);
    assert_eq!(rule(run.at(15, 3)), SNAPSHOT, "two reads of one timestamp");
}

#[test]
fn a_commit_below_a_snapshot_that_missed_it_is_found() {
    let mut run = Run::default();
    run.put(1, 10);
    run.begin(2, false, 12);
    assert_eq!(run.at(30, 1), Ok(()));
    assert_eq!(rule(run.done(2, 25)), SNAPSHOT);
    let mut run = Run::default();
    run.begin(2, false, 12);
    assert_eq!(run.at(30, 2), Ok(()));
    assert_eq!(rule(run.done(2, 31)), SNAPSHOT, "it was seen below its commit");
}

#[test]
fn open_writes_have_their_place_once_seen() {
    let mut run = Run::default();
    run.put(1, 10);
    run.begin(2, false, 0);
    assert_eq!(run.at(30, 2), Ok(()));
    assert_eq!(run.at(20, 1), Ok(()), "committed between 20 and 30, then");
    run.put(3, 40);
    assert_eq!(rule(run.at(50, 2)), SNAPSHOT, "overwritten by the third");
    assert_eq!(run.at(45, 3), Ok(()));
    assert_eq!(rule(run.at(35, 1)), SNAPSHOT, "the second lies between");
}

#[test]
fn an_unknown_delete_explains_absence() {
    let mut run = Run::default();
    run.put(1, 10);
    run.begin(2, true, 0);
    assert_eq!((run.at(30, 0), run.get(0)), (Ok(()), Ok(())));
    assert_eq!(run.refuse(2), Ok(()));
    assert_eq!(rule(run.at(40, 0)), SNAPSHOT);
}

#[test]
fn overlapping_writers_lose_updates() {
    let mut run = Run::default();
    run.begin(1, false, 5);
    run.begin(2, false, 6);
    run.done(1, 10).expect("first committer wins");
    assert_eq!(rule(run.done(2, 11)), LOST_UPDATE);
    let mut run = Run::default();
    run.begin(1, false, 5);
    run.begin(2, false, 6);
    run.done(2, 11).expect("first acknowledged");
    assert_eq!(rule(run.done(1, 10)), LOST_UPDATE, "whoever is acknowledged first");
    let mut run = Run::default();
    run.begin(1, false, 5);
    run.done(1, 10).expect("fine");
    run.begin(2, false, 12);
    assert_eq!(run.done(2, 15), Ok(()));
}

#[test]
fn timestamps_are_unique_and_grow() {
    let mut oracle = Oracle::default();
    let early = oracle.invoke(0, 1);
    assert_eq!(oracle.stamps(&early, 10, 5), Ok(()));
    assert_eq!(rule(oracle.stamps(&early, 14, 1)), TIME, "twice");
    assert_eq!(rule(oracle.stamps(&early, 8, 4)), TIME, "twice");
    assert_eq!(oracle.stamps(&early, 9, 1), Ok(()), "asked for before");
    let late = oracle.invoke(0, 2);
    assert_eq!(rule(oracle.stamps(&late, 7, 1)), TIME, "not above what was known");
    assert_eq!(oracle.stamps(&late, 15, 1), Ok(()));
}

#[test]
fn write_numbers_name_session_and_step() {
    assert_eq!(WriteId(4 << 36 | 12 << 4).to_string(), "3/12");
    assert_eq!(WriteId(4 << 36 | 12 << 4 | 2).to_string(), "3/12+2");
}
