//! The whole comparison: every engine and phase in a process of its own, engines in turns (A B A B …), rounds on
//! fresh directories.

use crate::phase::Order;
use crate::record::Record;
use crate::workload::Phase;
use crate::{Setup, engine, report};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// More stolen processors than this spoil a measurement.
const STOLEN_MAX: f64 = 0.7;

/// What to compare.
#[derive(Debug, Args)]
pub struct Plan {
    /// Engines; all that this binary has, if none are named.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Phases; all, if none are named. Those that need data are preceded by `fill-random`.
    #[arg(long, value_delimiter = ',')]
    phases: Vec<Phase>,
    /// Sizes of values in bytes.
    #[arg(long, value_delimiter = ',', default_value = "100,1024,16384")]
    values: Vec<usize>,
    /// How often; medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A small data set and short phases, once: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Where records go, one a line of JSON; appended to.
    #[arg(long, default_value = "bench.jsonl")]
    out: PathBuf,
    /// Directory for plots.
    #[arg(long)]
    plots: Option<PathBuf>,
    #[command(flatten)]
    setup: Setup,
}

impl Plan {
    /// Does it.
    pub fn run(mut self) -> Result<()> {
        if self.engines.is_empty() {
            self.engines = engine::NAMES.iter().map(ToString::to_string).collect();
        }
        for name in &self.engines {
            let known = engine::NAMES.contains(&name.as_str());
            ensure!(known, "no engine `{name}` in this binary; it has {}", engine::NAMES.join(", "));
        }
        if self.quick {
            self.rounds = 1;
            self.setup.seconds = 2;
            self.setup.operations = self.setup.operations.min(40_000);
            self.setup.data_mib = self.setup.data_mib.min(64);
            self.setup.cache_mib = self.setup.cache_mib.min(16);
            self.setup.memtable_mib = self.setup.memtable_mib.min(8);
        }
        let phases = self.phases_in_order();
        let mut records = Vec::new();
        for round in 0..self.rounds {
            for &value_bytes in &self.values {
                self.round(round, value_bytes, &phases, &mut records)?;
            }
        }
        report::report(&records, self.plots.as_deref())
    }

    fn phases_in_order(&self) -> Vec<Phase> {
        let mut phases: BTreeSet<Phase> = self.phases.iter().copied().collect();
        if phases.is_empty() {
            phases.extend(Phase::value_variants());
        }
        if phases.iter().any(|phase| !phase.wants_empty()) {
            phases.insert(Phase::FillRandom);
        }
        phases.into_iter().collect()
    }

    fn round(
        &self,
        round: usize,
        value_bytes: usize,
        phases: &[Phase],
        records: &mut Vec<Record>,
    ) -> Result<()> {
        let mut failed = BTreeSet::new();
        for phase in phases {
            // Whoever is first in one round is last in another.
            for turn in 0..self.engines.len() {
                let engine = &self.engines[(turn + round) % self.engines.len()];
                if failed.contains(engine) {
                    continue;
                }
                let dir = self.setup.dir.join(engine);
                let order = Order {
                    engine: engine.clone(),
                    phase: *phase,
                    value_bytes,
                    setup: Setup { dir: dir.clone(), ..self.setup.clone() },
                };
                match measured(&order) {
                    Ok(record) => self.keep(Record { round, ..record }, records)?,
                    Err(error) => {
                        eprintln!("{engine}, {}: {error:#}; left out until the next round", phase.title());
                        failed.insert(engine.clone());
                    }
                }
                if !phase.leaves_data() {
                    remove(&dir)?;
                }
            }
        }
        for engine in &self.engines {
            remove(&self.setup.dir.join(engine))?;
        }
        Ok(())
    }

    fn keep(&self, record: Record, records: &mut Vec<Record>) -> Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.out)?;
        writeln!(file, "{}", serde_json::to_string(&record)?)?;
        eprintln!(
            "round {} {:>6} B {:<24} {:<8} {:>10.0}/s {:>9.2} us cpu {:>9.1} us p99 {:>6.0} MiB, {:.2} stolen, {:.2} others{}",
            record.round + 1,
            record.value_bytes,
            record.phase.title().split(" (").next().unwrap_or_default(),
            record.engine,
            record.per_second,
            record.cpu_us,
            record.p99_us,
            record.memory_mib,
            record.stolen,
            record.others,
            if record.discarded { ", discarded" } else { "" },
        );
        records.push(record);
        Ok(())
    }
}

/// Measures; once more if others had the machine.
fn measured(order: &Order) -> Result<Record> {
    let once = || {
        if order.phase.wants_empty() {
            remove(&order.setup.dir)?;
        }
        in_child(order)
    };
    let mut record = once()?;
    if record.stolen > STOLEN_MAX && order.phase.is_repeatable() {
        record = once()?;
    }
    record.discarded = record.stolen > STOLEN_MAX;
    Ok(record)
}

fn in_child(order: &Order) -> Result<Record> {
    let phase = order.phase.to_possible_value().context("every phase has a name")?;
    let output = Command::new(std::env::current_exe()?)
        .arg("phase")
        .arg(format!("--engine={}", order.engine))
        .arg(format!("--phase={}", phase.get_name()))
        .arg(format!("--value-bytes={}", order.value_bytes))
        .arg("--dir")
        .arg(&order.setup.dir)
        .args(order.setup.to_arguments())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("its process ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("its process printed something else than a record")
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| dir.display().to_string())
        }
        _ => Ok(()),
    }
}
