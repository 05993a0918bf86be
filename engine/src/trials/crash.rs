//! The machine goes down in every operation of the disk, and in every way that the disk knows.

use super::life::{Life, Reached, SHAPES, Step, options, read, script};
use crate::testing::World;
use crate::{Db, Error, inspect, manifest};
use CrashMode::{PowerLoss, PowerLossWorst, ProcessKill};
use nokv_env::mem_disk::{CrashMode, DiskFaults};

/// Lives until the disk's operation `at`, in which the machine goes down. `None`: the whole life has fewer operations.
fn life_until(at: u64, seed: u64) -> Option<Life> {
    let mut life = Life::new(seed, options(seed));
    set_crash(&life, at);
    let result = life.live(&script());
    if !life.world.platter.crashed() {
        result.unwrap();
        life.world.settle();
        if !life.world.platter.crashed() {
            return None;
        }
    } else if let Err(error) = result {
        assert!(error.is_crashed() || matches!(error, Error::Poisoned(_)), "{error}");
    }
    Some(life)
}

/// The machine goes down in the `after`-th operation from now on; 0: never.
fn set_crash(life: &Life, after: u64) {
    let crash_at_op = (after > 0).then(|| life.world.platter.ops() + after);
    life.world.platter.set_faults(DiskFaults { crash_at_op, ..DiskFaults::default() });
}

/// What a crash leaves is no damage, for nobody who looks, and looking changes nothing.
fn look(life: &Life) {
    let disk = &life.world.disk;
    if manifest::read_current(&**disk, World::dir()).unwrap().is_none() {
        return;
    }
    let before = life.world.platter.files();
    let checked = inspect::check(&**disk, World::dir(), true).unwrap();
    assert_eq!(checked.findings, [], "a crash is taken for damage");
    let db = Db::open_read_only_at(disk.clone(), World::dir(), options(0), life.now()).unwrap();
    life.judge(&read(&db.snapshot()).unwrap());
    assert_eq!(life.world.platter.files(), before);
}

/// Every place to crash in, in one way.
fn crash_everywhere(mode: CrashMode, seed: u64) {
    let mut at = 1;
    while let Some(mut life) = life_until(at, SHAPES * (at + 10_000 * seed) + seed % SHAPES) {
        life.crash(mode);
        look(&life);
        life.open().unwrap_or_else(|error| panic!("crash in operation {at}: {error}"));
        life.go_on();
        at += 1;
    }
    assert!(at > 700, "the life has only {at} operations");
}

#[test]
fn in_the_life_everything_happens() {
    let mut reached = [Reached::default(); SHAPES as usize];
    for (seed, reached) in reached.iter_mut().enumerate() {
        let mut life = Life::new(seed as u64, options(seed as u64));
        life.live(&script()).unwrap();
        life.look_back();
        *reached = life.reached;
        life.go_on();
    }
    let [small, large, inline] = reached;
    assert!(small.flushes >= 15 && small.compactions >= 8, "{small:?}");
    assert!(small.purged >= 15 && small.rewritten >= 3 && small.replayed >= 3, "{small:?}");
    assert!(inline.tables_deleted >= 1 && small.rows_buried >= 3, "{small:?} {large:?} {inline:?}");
    assert!(small.collected > 0 && small.values_removed >= 5, "{small:?}");
    assert!(large.flushes >= 8 && large.segments >= 3 && large.collected > 0, "{large:?}");
    assert!(inline.flushes >= 15 && inline.moves >= 1, "{inline:?}");
    assert!(inline.parts >= 4 && small.waited_bytes > 40_000, "{small:?} {inline:?}");
    assert!(large.gathered >= 1 && small.in_pauses + large.in_pauses + inline.in_pauses >= 2, "{reached:?}");
    assert!(small.expired >= 10 && large.expired >= 10 && inline.expired >= 10, "{reached:?}");
}

#[test]
fn a_power_loss_at_any_moment_leaves_what_was_promised() {
    (0..3).for_each(|seed| crash_everywhere(PowerLoss, seed));
}

#[test]
fn the_worst_power_loss_at_any_moment_leaves_what_was_promised() {
    crash_everywhere(PowerLossWorst, 3);
}

#[test]
fn a_kill_at_any_moment_leaves_what_was_promised() {
    crash_everywhere(ProcessKill, 7);
}

/// Recovery is no safe place either: from some crashes on, a second one in each of its operations.
#[test]
fn a_crash_in_any_operation_of_a_recovery_is_survived() {
    let modes = [(PowerLoss, PowerLoss), (PowerLossWorst, PowerLossWorst), (ProcessKill, PowerLoss)];
    let mut crashes = 0;
    for (number, first) in (20..).step_by(197).enumerate() {
        let (mode, second) = modes[number % modes.len()];
        for after in 1.. {
            let Some(mut life) = life_until(first, first) else { break };
            life.crash(mode);
            set_crash(&life, after);
            let opened = life.open();
            life.world.settle();
            if !life.world.platter.crashed() {
                opened.unwrap();
                break;
            }
            crashes += 1;
            set_crash(&life, 0);
            life.crash(second);
            look(&life);
            life.open().unwrap_or_else(|error| panic!("crashes in {first} and then {after}: {error}"));
            life.go_on();
        }
        if life_until(first, first).is_none() {
            break;
        }
    }
    assert!(crashes > 300, "only {crashes} second crashes");
}

/// The disk refuses one operation, whichever it is. Nobody is lied to: what was promised before is there afterwards.
#[test]
fn an_io_error_in_any_operation_breaks_no_promise() {
    for seed in 0..4 {
        for at in (1 + seed / 2..).step_by(2) {
            let mut life = Life::new(seed, options(seed));
            let io_error_at_op = Some(at);
            life.world.platter.set_faults(DiskFaults { io_error_at_op, ..DiskFaults::default() });
            let lived = life.live(&script());
            life.world.settle();
            if life.world.platter.faults().io_error_at_op.is_some() {
                lived.unwrap();
                break;
            }
            if let Some(db) = &life.db {
                // Reads go on, unless it is they that were refused.
                read(&db.snapshot()).unwrap_or_else(|error| panic!("error in operation {at}: {error}"));
            }
            if seed > 1 {
                // The page cache may show the next process what a failed sync lost. It must not build on that.
                life.lose_power();
                life.crash(ProcessKill);
                life.open().unwrap_or_else(|error| panic!("error in operation {at}: {error}"));
                life.live_on(&[Step::Write { sync: true }]);
            }
            life.crash([PowerLossWorst, PowerLoss][seed as usize % 2]);
            life.open().unwrap_or_else(|error| panic!("error in operation {at}: {error}"));
            life.go_on();
        }
    }
}
