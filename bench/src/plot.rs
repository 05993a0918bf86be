//! Bar charts as SVG: static, without scripts or fonts of their own, readable on light and on dark.
//!
//! Each phase is a group of bars with a scale of its own, because a read that finds nothing and a scan differ by a
//! factor of a hundred. Every bar says its figure.

use crate::report::{Group, Metric, shown};
use std::fmt::Write;

const LABEL_WIDTH: f64 = 260.0;
const BAR_WIDTH_MAX: f64 = 420.0;
const FIGURE_WIDTH: f64 = 90.0;
const BAR_HEIGHT: f64 = 14.0;
const GROUP_GAP: f64 = 10.0;
const HEAD_HEIGHT: f64 = 64.0;
/// Fill classes; with more engines than these they repeat.
const COLORS: [&str; 6] = ["#d9480f", "#1c7ed6", "#2f9e44", "#9c36b5", "#b08900", "#0c8599"];

/// The medians of one figure, grouped by phase.
pub fn bars(metric: &Metric, group: &Group<'_>) -> String {
    let mut body = String::new();
    let mut y = HEAD_HEIGHT;
    for phase in group.phases() {
        let figures: Vec<_> = group
            .engines
            .iter()
            .enumerate()
            .filter_map(|(index, engine)| Some((index, group.median(metric, phase, engine)?)))
            .collect();
        let Some(most) = figures.iter().map(|(_, figure)| *figure).reduce(f64::max) else { continue };
        let middle = y + BAR_HEIGHT * figures.len() as f64 / 2.0 + 4.0;
        let x = LABEL_WIDTH - 8.0;
        let _ = writeln!(body, r#"<text x="{x}" y="{middle}" text-anchor="end">{}</text>"#, phase.title());
        for (index, figure) in figures {
            let width = if most > 0.0 { figure / most * BAR_WIDTH_MAX } else { 0.0 };
            let (height, color) = (BAR_HEIGHT - 2.0, COLORS[index % COLORS.len()]);
            let _ = writeln!(
                body,
                r#"<rect x="{LABEL_WIDTH}" y="{y}" width="{width:.1}" height="{height}" fill="{color}"><title>{}: {}</title></rect>"#,
                group.engines[index],
                shown(Some(figure)),
            );
            let (x, y_text) = (LABEL_WIDTH + width + 4.0, y + BAR_HEIGHT - 4.0);
            let _ = writeln!(
                body,
                r#"<text class="figure" x="{x:.1}" y="{y_text}">{}</text>"#,
                shown(Some(figure))
            );
            y += BAR_HEIGHT;
        }
        y += GROUP_GAP;
    }
    let width = LABEL_WIDTH + BAR_WIDTH_MAX + FIGURE_WIDTH;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img">
<style>
text {{ font: 12px sans-serif; fill: #1f2328; }} .title {{ font-weight: bold; }} .figure {{ font-size: 11px; }}
.ground {{ fill: #ffffff; }}
@media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3; }} .ground {{ fill: #0d1117; }} }}
</style>
<rect class="ground" width="{width}" height="{y}"/>
<text class="title" x="12" y="22">{}, values of {} bytes ({} is better)</text>
{}{body}</svg>
"#,
        metric.title,
        group.value_bytes,
        if metric.more_is_better { "more" } else { "less" },
        legend(&group.engines),
    )
}

fn legend(engines: &[&str]) -> String {
    let mut out = String::new();
    for (index, engine) in engines.iter().enumerate() {
        let x = 12.0 + index as f64 * 90.0;
        let color = COLORS[index % COLORS.len()];
        let _ = writeln!(
            out,
            r#"<rect x="{x}" y="36" width="12" height="12" fill="{color}"/><text x="{}" y="46">{engine}</text>"#,
            x + 17.0
        );
    }
    out
}
