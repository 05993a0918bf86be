//! The disk is full from some operation on, whichever it is, until there is room again. What it refuses never happened;
//! reads go on, and so does everything else once there is room, without a restart.

use super::life::{Life, SHAPES, Step, options, read, script};
use crate::Pressure;
use Step::{Apply, Checkpoint, Export, Flush, Import, Ingest, Reopen, RequestFlush, Settle};
use nokv_env::mem_disk::{CrashMode, DiskFaults};
use std::collections::BTreeMap;

const SYNC: Step = Step::Write { sync: true };
const WRITE: Step = Step::Write { sync: false };

/// What is asked of a database on a full disk.
const WHILE_FULL: [Step; 14] = [
    SYNC,
    Apply,
    Flush,
    WRITE,
    Import,
    Export,
    Ingest,
    Apply,
    RequestFlush,
    Checkpoint,
    Settle,
    WRITE,
    SYNC,
    Flush,
];

/// How often the disk refused which step.
type Refusals = BTreeMap<String, usize>;

/// A life, and what the disk refused of it.
struct Hardship<'a> {
    life: Life,
    refusals: &'a mut Refusals,
}

impl Hardship<'_> {
    /// Takes a step that the disk may refuse; whether it did not.
    fn attempt(&mut self, step: Step) -> bool {
        if matches!(step, Step::Write { .. }) && self.waits() {
            return false;
        }
        let before = self.life.attempted();
        let Err(error) = self.life.take(step) else { return true };
        assert!(error.is_disk_full(), "{step:?}: {error}");
        *self.refusals.entry(format!("{step:?}")).or_default() += 1;
        self.life.take_back(before);
        false
    }

    /// Whether a write would wait for room in memory, which a flush makes.
    fn waits(&self) -> bool {
        let Some(db) = &self.life.db else { return false };
        self.life.world.go_on_for_a_while();
        let waits = db.pressure() == Pressure::Stop;
        assert!(!waits || db.is_disk_full(), "it waits for nothing");
        waits
    }

    /// Reads go on, and are right.
    fn look(&self) {
        let Some(db) = &self.life.db else { return };
        assert_eq!(db.failed(), None);
        assert_eq!(read(&db.snapshot()).unwrap(), self.life.content());
        self.life.look_at_held();
    }

    fn make_room(&mut self) {
        self.life.world.platter.set_faults(DiskFaults::default());
        self.life.is_patient = false;
    }
}

/// Lives with a disk that is full from operation `at` on. False: the life has fewer operations.
fn suffer(at: u64, shape: u64, refusals: &mut Refusals) -> bool {
    let mut life = Life::new(SHAPES * at + shape, options(shape));
    life.world.platter.set_faults(DiskFaults { full_from_op: Some(at), ..DiskFaults::default() });
    life.is_patient = true;
    let mut hardship = Hardship { life, refusals };
    let opened = hardship.life.open();
    if let Err(error) = &opened {
        assert!(error.is_disk_full(), "{error}");
    }
    let is_over = opened.is_ok() && script().into_iter().all(|step| hardship.attempt(step));
    if is_over && hardship.life.world.platter.ops() < at {
        return false;
    }
    hardship.look();
    for step in WHILE_FULL {
        if hardship.life.db.is_some() {
            hardship.attempt(step);
            hardship.look();
        }
    }
    if at.is_multiple_of(3) {
        // It goes down before there is room, and may try to come up again.
        hardship.life.crash([CrashMode::PowerLoss, CrashMode::ProcessKill][at as usize % 2]);
        if let Err(error) = hardship.life.open() {
            assert!(error.is_disk_full(), "{error}");
        }
        hardship.look();
    }
    hardship.make_room();
    let life = &mut hardship.life;
    if life.db.is_none() {
        life.open().unwrap_or_else(|error| panic!("full in operation {at}: {error}"));
    }
    if at % 3 == 1 {
        life.live_on(&[Flush]);
        let whole = life.states();
        life.live_on(&[Reopen]);
        assert_eq!(life.states(), whole, "another state after a restart");
    }
    life.live_on(&[SYNC, Settle]);
    assert!(life.db.as_ref().is_some_and(|db| !db.is_disk_full()), "full for ever");
    life.go_on();
    true
}

#[test]
fn a_disk_that_is_full_from_any_operation_on_refuses_and_loses_nothing() {
    let mut refusals = Refusals::new();
    // Without a value log fewer things take room.
    for shape in 0..2 {
        let mut at = 1;
        while suffer(at, shape, &mut refusals) {
            at += 1;
        }
        assert!(at > 700, "the life has only {at} operations");
    }
    // Whatever takes room was refused it.
    for step in [SYNC, WRITE, Flush, Import, Ingest, Export, Checkpoint, Reopen, Step::Die] {
        let times = refusals.get(&format!("{step:?}")).copied().unwrap_or_default();
        assert!(times >= 5, "{step:?} was refused {times} times: {refusals:?}");
    }
}
