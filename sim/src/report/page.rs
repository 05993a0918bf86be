//! The page: tables and story as JSON inside a template that draws them.

use super::causes::causes;
use super::story::{Story, session_name};
use super::tables::{Kind, Row, Tables};
use super::text;
use super::turns::Turns;
use crate::check::seconds;
use crate::record::NEVER;
use crate::run::{Resolved, RunOptions, Verdict, run_keeping};
use crate::trace::Keep;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The page without its data.
const TEMPLATE: &str = include_str!("page.html");
/// Where the data goes.
const PLACE: &str = "/*DATA*/";

/// What a reader of the page runs next.
#[derive(Debug, Clone, Default)]
pub struct Commands {
    /// What was run: a seed, or the file of a case.
    pub title: String,
    /// Replays it.
    pub replay: String,
    /// Makes it smaller, if there is something to shrink.
    pub shrink: Option<String>,
    /// Writes this page again.
    pub report: String,
}

/// Runs `options`, recorded, and tells it as one page of HTML.
pub fn page(options: &RunOptions, commands: &Commands) -> (Verdict, String) {
    let ran = run_keeping(options, Keep::Recording(Box::default()));
    let Keep::Recording(recording) = ran.kept else { return (ran.verdict, String::new()) };
    let run = options.resolve();
    let tables = Tables::new(&run, &recording, &ran.verdict);
    let story = Story::of(&tables, &ran.verdict);
    let data = data(&run, &ran.verdict, &tables, &story, commands).to_string();
    // Nothing in the data may end the script element that holds it.
    let page = TEMPLATE.replacen(PLACE, &data.replace("</", "<\\/").replace("<!", "<\\u0021"), 1);
    (ran.verdict, page)
}

fn micros(ns: u64) -> Value {
    if ns == NEVER { Value::Null } else { json!((ns + 500) / 1_000) }
}

fn data(run: &Resolved, verdict: &Verdict, tables: &Tables, story: &Story, commands: &Commands) -> Value {
    let failure = verdict.failure.as_ref();
    let (done, causes) = causes(run, tables, verdict);
    let later = Turns::new(tables).born();
    let mut words = Words::default();
    let rows: Vec<Value> = tables.rows.iter().map(|row| words.row(row, tables)).collect();
    let regions: BTreeMap<&String, String> =
        tables.regions.iter().map(|(key, region)| (key, format!("region {region}"))).collect();
    json!({
        "title": commands.title,
        "replay": commands.replay,
        "shrink": commands.shrink,
        "report": commands.report,
        "verdict": if verdict.passed() { "pass" } else { "fail" },
        "checker": failure.map(|failure| &failure.checker),
        "facts": failure.map(|failure| &failure.facts),
        "headline": story.headline,
        "done": done,
        "causes": causes.iter().map(|cause| json!([cause.text, cause.at_ns.map(micros), cause.row])).collect::<Vec<_>>(),
        "at": failure.map(|failure| micros(failure.at_ns)),
        "when": failure.map(|failure| seconds(failure.at_ns)),
        "line": text::line(&Verdict { wall: None, ..verdict.clone() }).replace(" wall=?s", ""),
        "seed": verdict.seed,
        "end": micros(verdict.sim_ns),
        "counts": {
            "ops": verdict.ops, "answered": verdict.answered, "faults": verdict.faults,
            "decisions": verdict.decisions, "events": verdict.events, "leftOut": tables.left_out,
            "calls": verdict.net.calls, "load": run.load_ms,
        },
        "world": {
            "roots": run.config.roots, "coordinators": run.config.coordinators,
            "stores": run.config.stores, "clients": run.config.clients,
        },
        "nodes": tables.nodes,
        "sessions": tables.sessions.iter().map(|session| json!([session_name(session.number), session.node])).collect::<Vec<_>>(),
        "groups": tables.groups.iter().map(|group| group.to_string()).collect::<Vec<_>>(),
        "ranges": tables.ranges.iter().chain(&later).map(|(id, range)| (format!("region {id}"), json!(range))).collect::<serde_json::Map<_, _>>(),
        "later": later.iter().map(|(id, _)| format!("region {id}")).collect::<Vec<_>>(),
        "regions": regions,
        "notes": tables.notes.iter().map(|(at, note)| json!([micros(*at), note])).collect::<Vec<_>>(),
        "story": story.lines.iter().map(|line| json!([micros(line.at_ns), line.text, line.row, line.evidence])).collect::<Vec<_>>(),
        "evidence": story.evidence,
        "focus": {
            "keys": story.keys,
            "groups": story.groups.iter().map(|group| group.to_string()).collect::<Vec<_>>(),
            "from": micros(story.from_ns), "until": micros(story.until_ns),
        },
        "words": words.list,
        "rows": rows,
    })
}

/// Texts that many rows share, listed once.
#[derive(Default)]
struct Words {
    list: Vec<String>,
    places: BTreeMap<String, usize>,
}

impl Words {
    fn place(&mut self, word: &str) -> usize {
        if let Some(place) = self.places.get(word) {
            return *place;
        }
        self.list.push(word.to_owned());
        self.places.insert(word.to_owned(), self.list.len() - 1);
        self.list.len() - 1
    }

    /// kind, from, until, node, other, state, text, detail, group, keys, nodes
    fn row(&mut self, row: &Row, tables: &Tables) -> Value {
        let group = row.group.and_then(|group| tables.groups.iter().position(|known| *known == group));
        let keys: Vec<usize> = row.keys.iter().map(|key| self.place(key)).collect();
        let mut value = json!([
            row.kind as u8,
            micros(row.from_ns),
            micros(row.until_ns),
            row.node,
            row.other,
            row.state,
            self.place(&row.text),
            self.place(&row.detail),
            group,
            keys,
        ]);
        if row.kind == Kind::Fault
            && let Some(fields) = value.as_array_mut()
        {
            fields.push(json!(row.nodes));
        }
        value
    }
}
