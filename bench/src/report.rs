//! Medians of records, as Markdown.

use crate::engine::NAMES;
use crate::plot;
use crate::record::Record;
use crate::workload::Phase;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Prints tables, and writes plots to `plots`.
pub fn report(records: &[Record], plots: Option<&Path>) -> Result<()> {
    print!("{}", tables(records));
    if let Some(dir) = plots {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        for group in groups(records) {
            for metric in METRICS.iter().filter(|metric| metric.is_plotted) {
                let path = dir.join(format!("{}-{}.svg", metric.name, group.value_bytes));
                fs::write(&path, plot::bars(metric, &group)).with_context(|| path.display().to_string())?;
            }
        }
    }
    Ok(())
}

/// One figure of a record.
pub struct Metric {
    /// For file names.
    pub name: &'static str,
    /// For readers.
    pub title: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    is_plotted: bool,
    of: fn(&Record) -> Option<f64>,
}

const METRICS: &[Metric] = &[
    Metric {
        name: "cpu",
        title: "processor µs per operation, background work until rest included",
        more_is_better: false,
        is_plotted: true,
        of: |record| Some(record.cpu_us),
    },
    Metric {
        name: "throughput",
        title: "operations per second",
        more_is_better: true,
        is_plotted: true,
        of: |record| Some(record.per_second),
    },
    Metric {
        name: "p50",
        title: "p50, µs",
        more_is_better: false,
        is_plotted: false,
        of: |record| Some(record.p50_us),
    },
    Metric {
        name: "p99",
        title: "p99, µs",
        more_is_better: false,
        is_plotted: true,
        of: |record| Some(record.p99_us),
    },
    Metric {
        name: "p999",
        title: "p999, µs",
        more_is_better: false,
        is_plotted: false,
        of: |record| Some(record.p999_us),
    },
    Metric {
        name: "memory",
        title: "peak memory, MiB",
        more_is_better: false,
        is_plotted: true,
        of: |record| Some(record.memory_mib),
    },
    Metric {
        name: "write-amplification",
        title: "bytes written to disk per byte put, until rest",
        more_is_better: false,
        is_plotted: true,
        of: |record| record.write_amplification,
    },
    Metric {
        name: "space-amplification",
        title: "bytes on disk per byte of data, at rest",
        more_is_better: false,
        is_plotted: true,
        of: |record| record.space_amplification,
    },
];

/// Records of one size of values.
pub struct Group<'a> {
    /// That size.
    pub value_bytes: usize,
    /// Engines that have any, ours first.
    pub engines: Vec<&'a str>,
    /// A line about the conditions.
    pub conditions: String,
    records: BTreeMap<(Phase, &'a str), Vec<&'a Record>>,
}

impl Group<'_> {
    /// Phases in order.
    pub fn phases(&self) -> BTreeSet<Phase> {
        self.records.keys().map(|(phase, _)| *phase).collect()
    }

    /// The median of a figure. Spoiled records count only if there are no others.
    pub fn median(&self, metric: &Metric, phase: Phase, engine: &str) -> Option<f64> {
        let records = self.records.get(&(phase, engine))?;
        let all_spoiled = records.iter().all(|record| record.discarded);
        let usable = records.iter().filter(|record| all_spoiled || !record.discarded);
        let mut figures: Vec<f64> = usable.filter_map(|record| (metric.of)(record)).collect();
        median(&mut figures)
    }
}

fn median(figures: &mut [f64]) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        len if len % 2 == 1 => Some(figures[middle]),
        _ => Some(f64::midpoint(figures[middle - 1], figures[middle])),
    }
}

/// Records by size of values, the smallest first.
pub fn groups(records: &[Record]) -> Vec<Group<'_>> {
    let sizes: BTreeSet<usize> = records.iter().map(|record| record.value_bytes).collect();
    let group = |value_bytes: usize| {
        let mut by_phase: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in records.iter().filter(|record| record.value_bytes == value_bytes) {
            by_phase.entry((record.phase, record.engine.as_str())).or_default().push(record);
        }
        let present: BTreeSet<&str> = by_phase.keys().map(|(_, engine)| *engine).collect();
        let mut engines: Vec<&str> = present.into_iter().collect();
        engines.sort_by_key(|engine| NAMES.iter().position(|name| name == engine).unwrap_or(NAMES.len()));
        let conditions = conditions(by_phase.values().flatten().copied());
        Group { value_bytes, engines, conditions, records: by_phase }
    };
    sizes.into_iter().map(group).collect()
}

fn conditions<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> String {
    let rounds = records.clone().map(|record| record.round + 1).max().unwrap_or(0);
    let discarded = records.clone().filter(|record| record.discarded).count();
    let stolen = records.clone().map(|record| record.stolen).fold(0.0, f64::max);
    let mut others: Vec<f64> = records.clone().map(|record| record.others).collect();
    let others = median(&mut others).unwrap_or(0.0);
    let Some(any) = records.clone().next() else { return String::new() };
    format!(
        "{} keys, {} MiB cache, {} MiB memtable, {}; medians of {rounds}, at most {stolen:.2} processors stolen, {others:.2} usually taken by other processes, {discarded} of {} measurements discarded",
        any.keys,
        any.cache_mib,
        any.memtable_mib,
        if any.lz4 { "LZ4" } else { "no compression" },
        records.count(),
    )
}

/// All tables, one a size of values and figure. Beside a peer's figure stands how many times its figure ours is.
pub fn tables(records: &[Record]) -> String {
    let mut out = String::new();
    for group in groups(records) {
        let _ = writeln!(out, "## Values of {} bytes\n\n{}.\n", group.value_bytes, group.conditions);
        for metric in METRICS {
            table(&mut out, metric, &group);
        }
    }
    out
}

fn table(out: &mut String, metric: &Metric, group: &Group<'_>) {
    let ours = group.engines.iter().copied().find(|engine| *engine == NAMES[0]);
    let peers: Vec<&str> = group.engines.iter().copied().filter(|engine| Some(*engine) != ours).collect();
    let mut lines = Vec::new();
    for phase in group.phases() {
        let our_figure = ours.and_then(|engine| group.median(metric, phase, engine));
        let figures: Vec<Option<f64>> =
            peers.iter().map(|engine| group.median(metric, phase, engine)).collect();
        if our_figure.is_none() && figures.iter().all(Option::is_none) {
            continue;
        }
        let best = figures
            .iter()
            .flatten()
            .copied()
            .reduce(|a, b| if metric.more_is_better { a.max(b) } else { a.min(b) });
        let mut line = format!("| {} | {} | ", phase.title(), shown(our_figure));
        line += &ratio(our_figure, best).map_or("–".to_owned(), |ratio| format!("**{ratio}**"));
        for figure in figures {
            let _ = write!(line, " | {}", shown(figure));
            if let Some(ratio) = ratio(our_figure, figure) {
                let _ = write!(line, " ({ratio})");
            }
        }
        lines.push(line + " |");
    }
    if lines.is_empty() {
        return;
    }
    let better = if metric.more_is_better { "more" } else { "less" };
    let _ = writeln!(out, "### {} ({better} is better)\n", metric.title);
    let _ = write!(out, "| | nokv | to the best peer |");
    for peer in &peers {
        let _ = write!(out, " {peer} |");
    }
    let _ = writeln!(out, "\n|---|--:|--:|{}", "--:|".repeat(peers.len()));
    let _ = writeln!(out, "{}\n", lines.join("\n"));
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<String> {
    let (ours, theirs) = (ours?, theirs?);
    (theirs > 0.0).then(|| format!("×{:.2}", ours / theirs))
}

/// Three digits that count.
pub fn shown(figure: Option<f64>) -> String {
    match figure {
        None => "–".to_owned(),
        Some(figure) if figure < 10.0 => format!("{figure:.2}"),
        Some(figure) if figure < 100.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.0}"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A record in which only what is given matters.
    pub fn record(engine: &str, phase: Phase, cpu_us: f64, discarded: bool) -> Record {
        Record {
            engine: engine.to_owned(),
            phase,
            round: 0,
            value_bytes: 100,
            keys: 1000,
            threads: 4,
            cache_mib: 1,
            memtable_mib: 1,
            compressible: 0.0,
            lz4: false,
            operations: 1000,
            seconds: 1.0,
            seconds_settling: 0.0,
            per_second: 1000.0,
            cpu_us,
            cpu_system_us: 0.0,
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
            max_us: 4.0,
            memory_mib: 10.0,
            write_amplification: None,
            space_amplification: None,
            disk_mib: 1.0,
            stolen: 0.0,
            others: 0.0,
            discarded,
        }
    }

    #[test]
    fn a_table_holds_medians_of_what_was_not_spoiled_and_ratios_to_peers() {
        let phase = Phase::ReadRandom;
        let records = [
            record("redb", phase, 8.0, false),
            record("nokv", phase, 2.0, false),
            record("nokv", phase, 90.0, true),
            record("nokv", phase, 4.0, false),
            record("lmdb", phase, 6.0, true),
        ];
        let text = tables(&records);
        let row = text.lines().find(|line| line.starts_with("| read random")).unwrap();
        let [ours, best, rest @ ..] = &row.split(" | ").skip(1).collect::<Vec<_>>()[..] else {
            panic!("{row}")
        };
        assert_eq!((*ours, *best), ("3.00", "**×0.50**"));
        assert_eq!(rest.len(), 2);
        assert!(rest.iter().any(|cell| cell.starts_with("8.00 (×0.38)")), "{row}");
        assert!(rest.iter().any(|cell| cell.starts_with("6.00 (×0.50)")), "{row}");
        assert!(!text.contains("bytes on disk"), "nothing to say of that");
    }
}
