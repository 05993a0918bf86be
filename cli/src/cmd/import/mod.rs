//! `nokv import`: a file of records, written in transactions of many, several under way at once.
//!
//! Batches finish in any order; progress is the end of the last batch before which all are done. A batch waits
//! while a record of the same key is under way, so of equal keys the last one wins, as if the file were written
//! line by line. Writing a record twice is harmless, so every failure that may pass is simply tried again, and a
//! later run may start a little early.
#![allow(clippy::disallowed_methods, reason = "reads the file that the user names")]

mod reader;
mod state;

use crate::args::client::Import;
use crate::args::values::show_duration;
use crate::args::{Format, Global};
use crate::cmd::flight::{Flight, STOP_GRACE, UnderWay, fly};
use crate::cmd::reach::{Reach, reach};
use crate::cmd::stall::Stall;
use crate::errors::{Failure, Result};
use crate::output::Out;
use crate::signals::{Reason, Signals};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use nokv_client::ClientError;
use nokv_env::{ClockExt, Env, Instant};
use reader::{Batch, Reader};
use state::{State, StateFile};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often progress is written down.
const SAVE_INTERVAL: Duration = Duration::from_millis(500);
/// How often a stall is mentioned.
const STALL_NOTE_INTERVAL: Duration = Duration::from_secs(5);

/// Imports a file.
pub fn run(args: &Import, global: &Global) -> Result<u8> {
    crate::logging::start("error")?;
    let tls = crate::cmd::security::Dial::cluster(&args.cluster).tls()?;
    let runtime = crate::cmd::runtime()?;
    let ended = runtime.block_on(async {
        let signals = Signals::new()?;
        let env = crate::cmd::real_env(tls)?;
        import(&env, args, global, signals).await
    });
    runtime.shutdown_background();
    ended
}

async fn import(env: &Env, args: &Import, global: &Global, mut signals: Signals) -> Result<u8> {
    let reach = reach(env, &args.cluster)?;
    let from_stdin = args.file == Path::new("-");
    let state_file = if from_stdin {
        None
    } else {
        Some(StateFile::new(&*env.disk, &args.file, &state_path(args), args.format)?)
    };
    let resumed = state_file.as_ref().map(StateFile::load).transpose()?.flatten();
    let (input, length) = open(args, resumed.as_ref())?;
    let start = Start::of(resumed.as_ref());
    let name = if from_stdin { "standard input".into() } else { args.file.display().to_string() };
    let reader = Reader::new(input, args.format, args.batch as usize, &name, start.offset, start.lines);
    let bar = progress_bar(length, start.offset);
    if start.records > 0 {
        note(&bar, &format!("going on after {} records that were imported before", start.records));
    }
    let work = Work {
        env,
        reach: &reach,
        args,
        bar: &bar,
        progress: Progress::new(env, &reach),
        began: env.clock.now(),
    };
    let mut flight = Records::new(&work, reader, state_file, start);
    let ended = flight.run(&mut signals).await;
    flight.save(true)?;
    bar.finish_and_clear();
    reach.client.close(STOP_GRACE).await;
    let kept = flight.state.as_ref().map(|file| file.path().display().to_string());
    match ended {
        Ok(()) => {
            flight.state.as_ref().map(StateFile::remove).transpose()?;
            flight.summary(global)?;
            Ok(0)
        }
        Err(failure) => {
            let failure = failure.detail("records_done", flight.records);
            Err(kept.into_iter().fold(failure, |failure, path| failure.detail("state", path)))
        }
    }
}

fn state_path(args: &Import) -> PathBuf {
    args.state.clone().unwrap_or_else(|| {
        let mut name = args.file.clone().into_os_string();
        name.push(".nokv-import");
        name.into()
    })
}

/// Where this run begins.
#[derive(Debug, Clone, Copy, Default)]
struct Start {
    offset: u64,
    lines: u64,
    records: u64,
}

impl Start {
    fn of(state: Option<&State>) -> Self {
        state.map(|s| Self { offset: s.offset, lines: s.lines, records: s.records }).unwrap_or_default()
    }
}

/// The input from where we go on, and its length if it is a file.
fn open(args: &Import, resumed: Option<&State>) -> Result<(Box<dyn Read>, Option<u64>)> {
    if args.file == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), None));
    }
    let failed = |error: std::io::Error| Failure::io(format!("open {}", args.file.display()), &error);
    let mut file = std::fs::File::open(&args.file).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("{} is a directory", args.file.display())));
    }
    file.seek(SeekFrom::Start(resumed.map_or(0, |state| state.offset))).map_err(failed)?;
    Ok((Box::new(file), Some(metadata.len())))
}

/// Draws on standard error, and only on a terminal.
pub(super) fn progress_bar(length: Option<u64>, done: u64) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length).with_position(done),
            "{bar:30} {percent}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {bytes_per_sec}  {msg}"),
    };
    bar.reset_eta();
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A line on standard error that does not tear the bar.
fn note(bar: &ProgressBar, line: &str) {
    bar.suspend(|| eprintln!("{line}"));
}

/// What all transactions share.
struct Work<'a> {
    env: &'a Env,
    reach: &'a Reach,
    args: &'a Import,
    bar: &'a ProgressBar,
    progress: Progress,
    began: Instant,
}

/// When something was written last; decides when to give up.
struct Progress {
    stall: RefCell<Stall>,
    noted: AtomicU64,
    retries: AtomicU64,
}

impl Progress {
    fn new(env: &Env, reach: &Reach) -> Self {
        let now = env.clock.now();
        let stall = RefCell::new(Stall::new(now, reach.client.deadline()));
        Self { stall, noted: AtomicU64::new(now.0), retries: AtomicU64::new(0) }
    }
}

impl Work<'_> {
    /// Writes one batch, again and again while that may help.
    async fn write(&self, pairs: Vec<(Bytes, Bytes)>) -> Result {
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match self.reach.client.put_many(pairs.clone()).await {
                Ok(_) => {
                    self.progress.stall.borrow_mut().moved(self.env.clock.now());
                    return Ok(());
                }
                Err(error) => error,
            };
            let stalled = self.progress.stall.borrow_mut().failed(self.env.clock.now());
            let again = error.is_retryable() || matches!(error, ClientError::OutcomeUnknown { .. });
            if !again || stalled >= self.args.retry_for {
                let failure = self.reach.failure(&error);
                return Err(if again {
                    failure.next(format!(
                    "nothing could be written for {}; run the same command again to go on (--retry-for waits longer)",
                    show_duration(Duration::from_secs(stalled.as_secs()))
                ))
                } else {
                    failure
                });
            }
            self.progress.retries.fetch_add(1, Ordering::Relaxed);
            self.mention(stalled, &error);
            self.env.clock.sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Says now and then why nothing moves.
    fn mention(&self, stalled: Duration, error: &ClientError) {
        let (now, noted) = (self.env.clock.now(), &self.progress.noted);
        let last = noted.load(Ordering::Relaxed);
        if stalled < Duration::from_secs(1) || now.since(Instant(last)) < STALL_NOTE_INTERVAL {
            return;
        }
        if noted.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            note(self.bar, &format!("nothing written for {} s, trying again: {error}", stalled.as_secs()));
        }
    }
}

/// Batches under way, and how far the file is done.
struct Records<'a> {
    work: &'a Work<'a>,
    reader: Reader,
    state: Option<StateFile<'a>>,
    start: Start,
    under_way: UnderWay<'a>,
    /// Keys of each batch under way, by its number.
    keys: BTreeMap<u64, BTreeSet<Bytes>>,
    /// Ends of batches that are not contiguous yet: number -> (end, lines, records, bytes, done).
    ends: BTreeMap<u64, Ending>,
    /// Read, but waiting for a key that is under way.
    waiting: Option<Batch>,
    next_number: u64,
    input_ended: bool,
    offset: u64,
    lines: u64,
    records: u64,
    bytes: u64,
    saved: Instant,
    saved_offset: u64,
}

struct Ending {
    end: u64,
    line: u64,
    records: u64,
    bytes: u64,
    done: bool,
}

impl<'a> Flight<'a> for Records<'a> {
    fn under_way(&mut self) -> &mut UnderWay<'a> {
        &mut self.under_way
    }

    fn fill(&mut self) -> Result {
        while self.under_way.len() < self.work.args.jobs as usize && !self.input_ended {
            let batch = match self.waiting.take() {
                Some(batch) => batch,
                None => match self.reader.next_batch()? {
                    Some(batch) => batch,
                    None => {
                        self.input_ended = true;
                        break;
                    }
                },
            };
            let keys: BTreeSet<Bytes> = batch.pairs.iter().map(|(key, _)| key.clone()).collect();
            if self.keys.values().any(|others| !others.is_disjoint(&keys)) {
                self.waiting = Some(batch);
                break;
            }
            self.launch(batch, keys);
        }
        Ok(())
    }

    fn landed(&mut self, number: u64, ended: Result) -> Result {
        self.keys.remove(&number);
        ended?;
        if let Some(ending) = self.ends.get_mut(&number) {
            ending.done = true;
        }
        while let Some(first) = self.ends.first_entry() {
            if !first.get().done {
                break;
            }
            let done = first.remove();
            (self.offset, self.lines) = (done.end, done.line);
            self.records += done.records;
            self.bytes += done.bytes;
        }
        self.work.bar.set_position(self.offset);
        self.work.bar.set_message(format!("{} records", self.records));
        self.save(false)
    }
}

impl<'a> Records<'a> {
    fn new(work: &'a Work<'a>, reader: Reader, state: Option<StateFile<'a>>, start: Start) -> Self {
        Self {
            work,
            reader,
            state,
            start,
            under_way: UnderWay::new(),
            keys: BTreeMap::new(),
            ends: BTreeMap::new(),
            waiting: None,
            next_number: 0,
            input_ended: false,
            offset: start.offset,
            lines: start.lines,
            records: start.records,
            bytes: 0,
            saved: work.env.clock.now(),
            saved_offset: start.offset,
        }
    }

    /// Runs to the end of the file, a failure or a signal.
    async fn run(&mut self, signals: &mut Signals) -> Result {
        let env = self.work.env;
        match fly(self, env, signals).await? {
            None => Ok(()),
            Some(reason) => Err(self.stopped(reason)),
        }
    }

    fn launch(&mut self, batch: Batch, keys: BTreeSet<Bytes>) {
        let number = self.next_number;
        self.next_number += 1;
        let bytes = batch.pairs.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        let records = batch.pairs.len() as u64;
        let ending = Ending { end: batch.end, line: batch.end_line, records, bytes, done: false };
        self.ends.insert(number, ending);
        self.keys.insert(number, keys);
        let work = self.work;
        self.under_way.push(Box::pin(async move { (number, work.write(batch.pairs).await) }));
    }

    /// Writes progress down, if some time has passed or `now`.
    fn save(&mut self, now: bool) -> Result {
        let clock = self.work.env.clock.now();
        let due = now || clock.since(self.saved) >= SAVE_INTERVAL;
        if let Some(state) = &self.state
            && due
            && self.offset > self.saved_offset
        {
            state.save(self.offset, self.lines, self.records)?;
            (self.saved, self.saved_offset) = (clock, self.offset);
        }
        Ok(())
    }

    fn stopped(&self, reason: Reason) -> Failure {
        let stop = reason.failure();
        let message = format!("{}; {} records are imported", stop.message(), self.records);
        match &self.state {
            Some(_) => Failure::new(stop.code(), message).next("run the same command again to go on"),
            None => Failure::new(stop.code(), message),
        }
    }

    fn summary(&self, global: &Global) -> Result {
        let seconds = self.work.env.clock.now().since(self.work.began).as_secs_f64().max(0.001);
        let records = self.records - self.start.records;
        let rate = records as f64 / seconds;
        let mut out = Out::new();
        match global.format() {
            Format::Plain => {
                let before = match self.start.records {
                    0 => String::new(),
                    n => format!(" ({n} more were imported before)"),
                };
                out.line(&format!(
                    "imported {records} records, {} bytes in {seconds:.1} s: {rate:.0} records/s{before}",
                    self.bytes
                ))?;
            }
            _ => out.json(&serde_json::json!({
                "records": records,
                "bytes": self.bytes,
                "seconds": seconds,
                "records_per_second": rate,
                "records_before": self.start.records,
                "retries": self.work.progress.retries.load(Ordering::Relaxed),
            }))?,
        }
        out.flush()
    }
}

/// The records of a file, for tests of what writes such files.
#[cfg(test)]
pub fn read_all(file: Vec<u8>, format: crate::args::client::ImportFormat) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut reader = Reader::new(Box::new(std::io::Cursor::new(file)), format, 2, "file", 0, 0);
    let mut records = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        records.extend(batch.pairs.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
    records
}
