//! One phase of one engine, in a process of its own: open, warm up, measure, come to rest, close.

use crate::Setup;
use crate::data::{KEY_BYTES, VALUE_BYTES_MIN, Values};
use crate::engine::{self, Config};
use crate::measure::{self, Usage};
use crate::record::Record;
use crate::workload::{Phase, Run, Scale};
use anyhow::{Result, ensure};
use clap::Args;
use std::fs;
use std::time::Duration;

/// Which phase of which engine.
#[derive(Debug, Clone, Args)]
pub struct Order {
    /// Engine.
    #[arg(long)]
    pub engine: String,
    /// Phase.
    #[arg(long)]
    pub phase: Phase,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024)]
    pub value_bytes: usize,
    /// The rest.
    #[command(flatten)]
    pub setup: Setup,
}

impl Order {
    /// Runs it in the directory as it is.
    pub fn run(&self) -> Result<Record> {
        let Order { phase, value_bytes, setup, .. } = self;
        ensure!(*value_bytes >= VALUE_BYTES_MIN, "values have at least {VALUE_BYTES_MIN} bytes");
        ensure!(setup.threads > 0, "there must be a thread");
        fs::create_dir_all(&setup.dir)?;
        let config = Config {
            cache_bytes: setup.cache_mib << 20,
            memtable_bytes: setup.memtable_mib << 20,
            lz4: setup.lz4,
            sync: phase.is_durable(),
        };
        let scale = Scale {
            keys: setup.keys(*value_bytes),
            operations: setup.operations,
            time: Duration::from_secs(setup.seconds),
            threads: setup.threads,
        };
        let values = Values::new(*value_bytes, setup.compressible);
        measure::clear_debts();
        let engine = engine::open(&self.engine, &setup.dir, config)?;
        let run = Run::new(&*engine, &values, *phase, scale);
        run.warm_up()?;
        measure::forget_peak_memory()?;
        let before = Usage::now()?;
        let outcome = run.measure()?;
        let after = Usage::now()?;
        if phase.settles() {
            engine.flush()?;
            measure::settle(|| engine.is_busy())?;
        }
        let asked = after.since(&before);
        let all = Usage::now()?.since(&before);
        let memory = measure::peak_memory()?;
        let disk = measure::disk_bytes(&setup.dir)?;
        engine.close()?;
        let operations = outcome.operations as f64;
        let latency = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
        let data_bytes = scale.keys * (KEY_BYTES + value_bytes) as u64;
        Ok(Record {
            engine: self.engine.clone(),
            phase: *phase,
            round: 0,
            value_bytes: *value_bytes,
            keys: scale.keys,
            threads: phase.threads(scale.threads),
            cache_mib: setup.cache_mib,
            memtable_mib: setup.memtable_mib,
            compressible: setup.compressible,
            lz4: setup.lz4,
            operations: outcome.operations,
            seconds: asked.wall,
            seconds_settling: all.wall - asked.wall,
            per_second: operations / asked.wall,
            cpu_us: (all.user + all.system) * 1e6 / operations,
            cpu_system_us: all.system * 1e6 / operations,
            p50_us: latency(0.5),
            p99_us: latency(0.99),
            p999_us: latency(0.999),
            max_us: latency(1.0),
            memory_mib: memory as f64 / f64::from(1 << 20),
            write_amplification: (outcome.put_bytes > 0)
                .then(|| all.written_bytes as f64 / outcome.put_bytes as f64),
            space_amplification: phase.writes_all().then(|| disk as f64 / data_bytes as f64),
            disk_mib: disk as f64 / f64::from(1 << 20),
            stolen: all.stolen,
            others: all.others,
            discarded: false,
        })
    }
}
