//! A sweep as one self-contained page: what failed, what was not reached, what runs were like.

use super::{Ended, Matrix, Shape, Summary};
use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn page(summary: &Summary) -> String {
    let mut html = String::new();
    let title = format!("Seeds {} to {}", summary.first_seed, summary.end_seed.saturating_sub(1));
    let _ = writeln!(
        html,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} — NoKV sweep</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>"
    );
    head(&mut html, &title, summary);
    failures(&mut html, summary);
    gaps(&mut html, summary);
    matrix(&mut html, &summary.matrix, summary.runs);
    shapes(&mut html, summary);
    slowest(&mut html, summary);
    html.push_str("</body></html>\n");
    html
}

fn head(html: &mut String, title: &str, summary: &Summary) {
    let (class, word) = match (summary.passed(), summary.ended) {
        (false, _) => ("failed", "failed"),
        (true, Ended::Complete) => ("", "passed"),
        (true, _) => ("part", "not finished"),
    };
    let ended = match summary.ended {
        Ended::Complete if !summary.required_missing.is_empty() => {
            format!("every seed ran; {} required states were not reached", summary.required_missing.len())
        }
        Ended::Complete => "every seed ran".to_owned(),
        Ended::AtFailure => "ended at the first failure".to_owned(),
        Ended::Interrupted => format!("interrupted after {} seeds", summary.runs),
    };
    let duration = summary.duration_ms.map_or_else(
        || "faulty phase of 10, 20 or 30 simulated seconds, as each seed draws".to_owned(),
        |ms| format!("faulty phase of {ms} ms"),
    );
    let _ = write!(
        html,
        "<h1><span class=\"state {class}\">{word}</span>{title}</h1><p class=\"soft\">{ended}; {duration}; \
         trace of all traces <code>{}</code></p><div class=\"tiles\">",
        summary.trace
    );
    let sim: u64 = summary.shapes.iter().filter(|s| s.name == "simulated seconds").map(|s| s.total).sum();
    let never = summary.never.len();
    let speed = &summary.speed;
    let tiles = [
        ("", number(summary.runs), "seeds ran"),
        (if summary.failed > 0 { "bad" } else { "" }, number(summary.failed), "failed"),
        (
            if summary.mismatches > 0 { "bad" } else { "" },
            format!("{} of {}", summary.mismatches, summary.repeated),
            "run twice and differed",
        ),
        (if never > 0 { "warn" } else { "" }, number(never as u64), "things never reached"),
        ("", number(sim), "simulated seconds"),
        ("", format!("{:.0}×", speed.sim_per_wall_on_one_core), "simulated per wall second, one core"),
        ("", format!("{:.1}", speed.seeds_per_minute_on_one_core), "seeds per minute, one core"),
        ("", format!("{:.0} s", speed.wall_s), "wall time, all threads together"),
    ];
    for (class, value, label) in tiles {
        let _ = write!(html, "<div class=\"tile {class}\"><b>{value}</b><span>{label}</span></div>");
    }
    html.push_str("</div>\n");
}

fn failures(html: &mut String, summary: &Summary) {
    if summary.failures.is_empty() {
        return;
    }
    html.push_str("<section><h2>Failures</h2>");
    for failed in &summary.failures {
        let _ = write!(
            html,
            "<div class=\"failure\"><b>seed {}</b>: {}<br><span class=\"mono\">{}</span><pre>{}</pre></div>",
            failed.seed,
            escape(&failed.checker),
            escape(&failed.facts),
            escape(&failed.commands.join("\n"))
        );
    }
    html.push_str("</section>\n");
}

fn gaps(html: &mut String, summary: &Summary) {
    html.push_str("<section><h2>What was not reached</h2>");
    if !summary.required_missing.is_empty() {
        html.push_str("<h3>Required, and no run reached it</h3><table class=\"plain\">");
        for missing in &summary.required_missing {
            let _ = write!(
                html,
                "<tr><td><span class=\"name bad\">{}</span></td><td class=\"left\">{}</td></tr>",
                escape(&missing.name),
                escape(&missing.why)
            );
        }
        html.push_str("</table>");
    } else if summary.required > 0 {
        let _ = write!(html, "<p>All {} required states were reached.</p>", summary.required);
    }
    let sections = [
        ("fault", "Kinds of faults that never struck"),
        ("probe", "Probes never reached"),
        ("chance", "Chance points never taken"),
    ];
    for (sort, title) in sections {
        let (never, all) =
            (summary.never_of(sort), summary.reached.iter().filter(|reached| reached.sort == sort).count());
        let _ = write!(html, "<h3>{title}: {} of {all}</h3><div class=\"names\">", never.len());
        for name in never {
            let _ = write!(html, "<span class=\"name\">{}</span>", escape(name));
        }
        html.push_str("</div>");
    }
    let Matrix { faults, probes, fault_runs, probe_runs, runs } = &summary.matrix;
    let (columns, rows) = (met(fault_runs, faults), met(probe_runs, probes));
    let apart: usize =
        rows.iter().map(|&row| columns.iter().filter(|&&column| runs[row][column] == 0).count()).sum();
    let _ = writeln!(
        html,
        "<h3>Pairs of a fault and a state that never met in one run: {apart} of {}</h3><p class=\"soft\">The \
         highlighted zeros below.</p></section>",
        rows.len() * columns.len()
    );
}

/// Rows from the rarest to the most frequent, so that gaps are on top.
fn matrix(html: &mut String, matrix: &Matrix, runs: u64) {
    let _ = write!(
        html,
        "<section><h2>Which faults struck in the runs that reached a state</h2><p class=\"soft\">A row is a probe or \
         chance point, the rarest first; a column a kind of fault, the rarest first; a number the runs that had both. What \
         no run reached is listed above and left out here. <span class=\"key\"><i class=\"gap\">0</i> both occur, never \
         in one run <i style=\"background:rgba(var(--heat),.7)\">n</i> stronger: a larger share of the runs that reached \
         the state</span></p><table class=\"matrix\"><thead><tr><th></th><th><span>runs of {runs}</span></th>"
    );
    let columns = met(&matrix.fault_runs, &matrix.faults);
    for &column in &columns {
        let _ = write!(html, "<th><span>{}</span></th>", escape(&matrix.faults[column]));
    }
    html.push_str("</tr></thead><tbody><tr><th class=\"soft\">runs in which the fault struck</th><td></td>");
    for &column in &columns {
        let _ = write!(html, "<td class=\"total\">{}</td>", matrix.fault_runs[column]);
    }
    html.push_str("</tr>");
    for row in met(&matrix.probe_runs, &matrix.probes) {
        let (total, probe) = (matrix.probe_runs[row], escape(&matrix.probes[row]));
        let _ = write!(html, "<tr><th>{probe}</th><td class=\"total\">{total}</td>");
        for &column in &columns {
            let fault = escape(&matrix.faults[column]);
            let both = matrix.runs[row][column];
            let _ = if both == 0 {
                write!(html, "<td class=\"gap\" title=\"{probe}: never in a run with {fault}\">0</td>")
            } else {
                let heat = 0.08 + 0.62 * both as f64 / total as f64;
                write!(
                    html,
                    "<td style=\"background:rgba(var(--heat),{heat:.2})\" title=\"{probe} × {fault}\">{both}</td>"
                )
            };
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></section>\n");
}

/// What occurs at all, the rarest first.
fn met(runs: &[u64], names: &[String]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..names.len()).filter(|&index| runs[index] > 0).collect();
    order.sort_by_key(|&index| (runs[index], &names[index]));
    order
}

fn shapes(html: &mut String, summary: &Summary) {
    html.push_str(
        "<section><h2>What runs were like</h2><p class=\"soft\">How many runs had how much; the dashed line is the \
         median.</p><div class=\"shapes\">",
    );
    for shape in &summary.shapes {
        let zero = if shape.zero > 0 { format!("; none in {} runs", shape.zero) } else { String::new() };
        let _ = write!(
            html,
            "<div><b>{}</b> <span class=\"soft\">median {}, nine in ten at most {}{zero}</span>{}</div>",
            shape.name,
            number(shape.median),
            number(shape.p90),
            histogram(shape)
        );
    }
    html.push_str("</div></section>\n");
}

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 80.0;

fn histogram(shape: &Shape) -> String {
    let tallest = shape.bars.iter().copied().max().unwrap_or(0).max(1);
    let step = WIDTH / shape.bars.len().max(1) as f64;
    let width = (step - 1.0).clamp(0.5, 40.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", HEIGHT + 22.0);
    for (index, &runs) in shape.bars.iter().enumerate() {
        let height = HEIGHT * runs as f64 / tallest as f64;
        let from = shape.min + index as u64 * shape.bar_width;
        let to = from + shape.bar_width - 1;
        let range = if from == to { number(from) } else { format!("{} to {}", number(from), number(to)) };
        let _ = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{range}: {runs} runs</title></rect>",
            (index as f64 + 0.5) * step - width / 2.0,
            HEIGHT + 6.0 - height,
            width
        );
    }
    let middle = ((shape.median - shape.min) as f64 / shape.bar_width as f64 + 0.5) * step;
    let base = HEIGHT + 6.0;
    let _ = write!(
        svg,
        "<line class=\"mark\" x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"0\" y2=\"{base}\"/>\
         <line x1=\"0\" x2=\"{WIDTH}\" y1=\"{base}\" y2=\"{base}\"/><text x=\"0\" y=\"{}\">{}</text>\
         <text x=\"{WIDTH}\" y=\"{}\" text-anchor=\"end\">{}</text><text x=\"{}\" y=\"{}\" text-anchor=\"middle\">\
         tallest bar: {tallest} runs</text></svg>",
        base + 13.0,
        number(shape.min),
        base + 13.0,
        number(shape.max),
        WIDTH / 2.0,
        base + 13.0
    );
    svg
}

fn slowest(html: &mut String, summary: &Summary) {
    html.push_str(
        "<section><h2>Slowest seeds</h2><table class=\"plain\"><tr><th>seed</th><th>wall seconds</th>\
         <th>simulated seconds</th><th>events</th><th>simulated per wall second</th></tr>",
    );
    for slow in &summary.slowest {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{:.2}</td><td>{:.1}</td><td>{}</td><td>{:.0}</td></tr>",
            slow.seed,
            slow.wall_s,
            slow.sim_s,
            number(slow.events),
            if slow.wall_s > 0.0 { slow.sim_s / slow.wall_s } else { 0.0 }
        );
    }
    html.push_str("</table></section>\n");
}

/// Digits in groups of three.
fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
