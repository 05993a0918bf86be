//! What the steps print: aligned rows for people, one object for programs.

use crate::args::{Format, Global};
use crate::errors::Result;
use crate::output::{Out, base64};
use nokv_proto::meta::v1::RegionDescriptor;
use serde_json::{Map, Value, json};

/// Rows of a name and a value.
#[derive(Default)]
pub struct Rows(Vec<(&'static str, String)>);

impl Rows {
    /// Adds a row.
    pub fn add(&mut self, name: &'static str, value: impl ToString) {
        self.0.push((name, value.to_string()));
    }

    /// Adds a row for each, the name in front of the first.
    pub fn add_all(&mut self, name: &'static str, values: &[String]) {
        for (at, value) in values.iter().enumerate() {
            self.add(if at == 0 { name } else { "" }, value);
        }
    }

    /// Prints the rows, or the object.
    pub fn show(&self, object: &Value, global: &Global) -> Result {
        let mut out = Out::new();
        match global.format() {
            Format::Plain => {
                let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
                self.0.iter().try_for_each(|(name, value)| out.line(&format!("{name:<width$}  {value}")))?;
            }
            Format::Json => out.json(object)?,
            Format::Jsonl => out.line(&object.to_string())?,
        }
        out.flush()
    }
}

/// A region as programs get it: no member that is empty or 0.
pub fn region(region: &RegionDescriptor) -> Value {
    let mut object = Map::new();
    object.insert("region_id".into(), json!(region.region_id));
    for (name, key) in [("start_key", &region.start_key), ("end_key", &region.end_key)] {
        if !key.is_empty() {
            object.insert(name.into(), json!(base64(key)));
        }
    }
    let (version, conf_version) = region.epoch_pair();
    object.insert("epoch".into(), json!({ "version": version, "conf_version": conf_version }));
    object.insert("peers".into(), peers(region));
    let state = (region.state - 1).max(0);
    if state != 0 {
        object.insert("state".into(), json!(state));
    }
    object.into()
}

/// Its peers.
pub fn peers(region: &RegionDescriptor) -> Value {
    region.peers.iter().map(|peer| json!({ "store_id": peer.store_id, "peer_id": peer.peer_id })).collect()
}

/// Its peers in one line.
pub fn peers_line(region: &RegionDescriptor) -> String {
    let peers: Vec<String> =
        region.peers.iter().map(|peer| format!("{}:{}", peer.store_id, peer.peer_id)).collect();
    peers.join(" ")
}

/// Adds the members that are not 0.
pub fn put_numbers<const N: usize>(object: &mut Value, members: [(&str, u64); N]) {
    for (name, number) in members.into_iter().filter(|(_, number)| *number != 0) {
        object[name] = json!(number);
    }
}
