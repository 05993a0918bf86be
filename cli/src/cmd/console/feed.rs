//! What a browser is told, and what it knows already.
//!
//! Each region is one row. A row remembers in which round it changed; a browser says which round it has seen and gets the
//! rows of later ones, and the ids of regions that are gone. So a cluster of ten thousand regions costs a megabyte once,
//! and afterwards what happens in it.

use super::health::{self, Ids, Level, Troubles};
use super::probe::{Answers, Load};
use crate::output::base64;
use nokv_coordinator::{RegionSurvey, Survey};
use nokv_env::Instant;
use nokv_proto::coordinator::v1::{
    CoordinatorStatusResponse, OperatorRecord, OperatorState, TransitionEntry, TransitionReason,
};
use nokv_proto::meta::v1::RegionReplicaState;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// Two rounds are at least this far apart, however many browsers there are.
const ROUND: Duration = Duration::from_millis(500);
/// Rates of writes come from two reports of a leader that are no further apart.
const RATE_OVER: Duration = Duration::from_secs(30);
/// Regions that are gone and remembered; a browser that has missed more begins anew.
const GONE_MAX: usize = 4_096;
/// Operators that have ended and are shown.
const ENDED_SHOWN: usize = 40;

/// What is odd about a region: the bits of the last member of its row.
mod flag {
    pub const MERGING: u32 = 1;
    pub const LEAVING: u32 = 2;
    pub const QUARANTINED: u32 = 4;
    pub const LEARNER: u32 = 8;
    pub const SILENT: u32 = 16;
    pub const FEW: u32 = 32;
    pub const NO_QUORUM: u32 = 64;
    pub const MANY: u32 = 128;
}

/// Everything that is shown.
pub struct Feed {
    /// Rounds of another run of this process mean nothing.
    run: u64,
    round: u64,
    taken: Option<Instant>,
    survey: Arc<Survey>,
    rows: BTreeMap<u64, Row>,
    /// Regions that went, with the round.
    gone: VecDeque<(u64, u64)>,
    /// Browsers that have seen nothing after this round begin anew.
    floor: u64,
    troubles: Troubles,
    totals: Totals,
    loads: BTreeMap<u64, Load>,
    /// Stores that have answered and measure nothing: of their regions there is only the estimate.
    unmeasuring: BTreeSet<u64>,
    /// When a transition was first seen here.
    since: BTreeMap<String, Instant>,
}

/// A region as it is sent.
struct Row {
    text: String,
    /// The round in which it changed.
    round: u64,
    writes: Writes,
    /// Bytes as some leader measured them last: one that begins to lead has yet to measure.
    measured: Option<u64>,
}

/// How fast the log of a region grows.
#[derive(Debug, Clone, Copy, Default)]
struct Writes {
    /// The leader's store, its applied index, and when it said so.
    last: Option<(u64, u64, Instant)>,
    per_second: f64,
}

impl Writes {
    /// What the leader said last is taken in.
    fn learn(self, region: &RegionSurvey) -> Self {
        let leader = region.leader.map_or(0, |peer| peer.store_id);
        let Some(said) = region.replicas.iter().find(|replica| replica.store_id == leader) else {
            return Self::default();
        };
        let last = Some((leader, said.applied_index, said.at));
        match self.last {
            Some((store, _, at)) if store == leader && at == said.at => self,
            Some((store, applied, at)) if store == leader && said.at.since(at) <= RATE_OVER => {
                let entries = said.applied_index.saturating_sub(applied) as f64;
                Self { last, per_second: entries / said.at.since(at).as_secs_f64().max(0.001) }
            }
            _ => Self { last, per_second: 0.0 },
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    leaders: u64,
    bytes: u64,
    requests: u64,
    writes: f64,
}

#[derive(Debug, Clone, Default)]
struct Totals {
    all: Sum,
    /// By store: what it holds, and what it leads.
    stores: BTreeMap<u64, Sum>,
    lag_max: u64,
}

impl Feed {
    /// Nothing is known yet. `run` tells this process from an earlier one.
    pub fn new(run: u64) -> Self {
        Self {
            run,
            round: 0,
            taken: None,
            survey: Arc::default(),
            rows: BTreeMap::new(),
            gone: VecDeque::new(),
            floor: 0,
            troubles: Troubles::default(),
            totals: Totals::default(),
            loads: BTreeMap::new(),
            unmeasuring: BTreeSet::new(),
            since: BTreeMap::new(),
        }
    }

    /// Whether it is time for another look.
    pub fn is_due(&self, now: Instant) -> bool {
        self.taken.is_none_or(|taken| now.since(taken) >= ROUND)
    }

    /// The last look.
    pub fn survey(&self) -> Arc<Survey> {
        self.survey.clone()
    }

    /// Takes in a new look at the cluster.
    pub fn take_in(&mut self, survey: Survey, answers: &Answers) {
        self.round += 1;
        self.taken = Some(survey.at);
        self.loads = answers.loads();
        let measures_nothing = |said: &BTreeMap<u64, Load>| said.values().all(|load| load.bytes.is_none());
        let answered =
            answers.stores.iter().filter_map(|(store, answer)| Some((*store, answer.as_ref().ok()?)));
        self.unmeasuring =
            answered.filter(|(_, said)| measures_nothing(said)).map(|(store, _)| store).collect();
        (self.troubles, self.totals) = Default::default();
        let up: BTreeSet<u64> =
            survey.stores.iter().filter(|store| store.up).map(|store| store.store_id).collect();
        let mut known = std::mem::take(&mut self.rows);
        let mut regions = survey.regions.iter().peekable();
        while let Some(region) = regions.next() {
            let follows = regions.peek().is_some_and(|next| next.region.start_key == region.region.end_key);
            let id = region.region.region_id;
            let before = known.remove(&id);
            let writes = before.as_ref().map_or_else(Writes::default, |row| row.writes).learn(region);
            let load = self.loads.get(&id).copied().unwrap_or_default();
            let measured = load.bytes.or(before.as_ref().and_then(|row| row.measured));
            let bytes = self.size(region, measured);
            let sum = Sum { bytes, requests: load.requests, writes: writes.per_second, ..Sum::default() };
            let text = self.row(region, follows, sum, &up, survey.replicas_wanted);
            let round = before.filter(|row| row.text == text).map_or(self.round, |row| row.round);
            self.rows.insert(id, Row { text, round, writes, measured });
        }
        for id in known.into_keys() {
            self.gone.push_back((self.round, id));
        }
        while self.gone.len() > GONE_MAX {
            self.floor = self.gone.pop_front().map_or(self.floor, |(round, _)| round);
        }
        let seen = std::mem::take(&mut self.since);
        let first_seen = |entry: &TransitionEntry| {
            let id = entry.transition_id.clone();
            let at = seen.get(&id).copied().unwrap_or(survey.at);
            (id, at)
        };
        self.since = survey.transitions.iter().map(first_seen).collect();
        self.survey = Arc::new(survey);
    }

    /// Bytes of a region: as measured, or 0 until somebody has; what its tables suggest where nobody will.
    fn size(&self, seen: &RegionSurvey, measured: Option<u64>) -> u64 {
        let leader = seen.leader.map_or(0, |peer| peer.store_id);
        let suggested = || if self.unmeasuring.contains(&leader) { estimate(seen, leader) } else { 0 };
        measured.unwrap_or_else(suggested)
    }

    /// One region as it is sent, which is counted on the way:
    /// `[id, start, end, version, conf_version, [store, peer, …], leader's store, bytes, requests, writes, lag, flags]`.
    /// The end is null if that is where the next region begins.
    fn row(
        &mut self,
        seen: &RegionSurvey,
        follows: bool,
        load: Sum,
        up: &BTreeSet<u64>,
        wanted: usize,
    ) -> String {
        let region = &seen.region;
        let id = region.region_id;
        let Sum { bytes, requests, writes, .. } = load;
        let leader = seen.leader.map_or(0, |peer| peer.store_id);
        let lag = lag(seen);
        let totals = &mut self.totals;
        totals.lag_max = totals.lag_max.max(lag);
        totals.all = Sum {
            leaders: totals.all.leaders + u64::from(leader != 0),
            bytes: totals.all.bytes + bytes,
            requests: totals.all.requests + requests,
            writes: totals.all.writes + writes,
        };
        for peer in &region.peers {
            totals.stores.entry(peer.store_id).or_default().bytes += bytes;
        }
        if leader != 0 {
            let led = totals.stores.entry(leader).or_default();
            led.leaders += 1;
            led.requests += requests;
            led.writes += writes;
        }
        let flags = flags(seen, up, wanted);
        let odd = [
            (flags & flag::NO_QUORUM != 0, &mut self.troubles.no_quorum),
            (leader == 0 && flags & flag::NO_QUORUM == 0, &mut self.troubles.no_leader),
            (flags & flag::FEW != 0, &mut self.troubles.few),
            (flags & flag::QUARANTINED != 0, &mut self.troubles.quarantined),
        ];
        odd.into_iter().filter(|(is_so, _)| *is_so).for_each(|(_, ids): (bool, &mut Ids)| ids.add(id));
        let (version, conf_version) = region.epoch_pair();
        let mut text = format!("[{id},\"{}\",", base64(&region.start_key));
        text += &if follows { "null".to_owned() } else { format!("\"{}\"", base64(&region.end_key)) };
        // Writing to a string cannot fail.
        let _ = write!(text, ",{version},{conf_version},[");
        for (n, peer) in region.peers.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let _ = write!(text, "{comma}{},{}", peer.store_id, peer.peer_id);
        }
        let _ = write!(text, "],{leader},{bytes},{requests},{},{lag},{flags}]", short(writes));
        text
    }

    /// The answer to `/api/cluster`: all of it, or what is new after the round `since` (`RUN.ROUND`).
    pub fn cluster(&self, answers: &Answers, since: &str, wall_millis: u64) -> String {
        let seen = since
            .split_once('.')
            .and_then(|(run, round)| Some((run.parse::<u64>().ok()?, round.parse::<u64>().ok()?)))
            .filter(|(run, round)| *run == self.run && *round >= self.floor && *round <= self.round)
            .map(|(_, round)| round);
        let gone: Vec<u64> = match seen {
            Some(seen) => self.gone.iter().filter(|(round, _)| *round > seen).map(|(_, id)| *id).collect(),
            None => Vec::new(),
        };
        let mut text = self.head(answers, seen.is_none(), &gone, wall_millis).to_string();
        text.pop();
        text.push_str(",\"regions\":[");
        let new = self.rows.values().filter(|row| seen.is_none_or(|seen| row.round > seen));
        for (n, row) in new.enumerate() {
            text.push_str(if n == 0 { "\n" } else { ",\n" });
            text.push_str(&row.text);
        }
        text.push_str("]}\n");
        text
    }

    fn head(&self, answers: &Answers, full: bool, gone: &[u64], wall_millis: u64) -> Value {
        let survey = &*self.survey;
        let (level, problems) = health::judge(survey, answers, &self.troubles);
        let problems: Vec<Value> = problems
            .iter()
            .map(|problem| json!({"level": problem.level.name(), "text": problem.text, "next": problem.next}))
            .collect();
        json!({
            "format": 1,
            "since": format!("{}.{}", self.run, self.round),
            "full": full,
            "gone": gone,
            "wall_ms": wall_millis,
            "self": {
                "id": survey.coordinator_id,
                "addr": survey.addr,
                "holds_lease": survey.standby.is_none(),
                "standby": survey.standby,
            },
            "asked": answers.asked,
            "health": {"state": if level == Level::Note { "healthy" } else { level.name() }, "problems": problems},
            "totals": {
                "regions": survey.regions.len(),
                "bytes": self.totals.all.bytes,
                "requests": self.totals.all.requests,
                "writes": short(self.totals.all.writes),
                "replica_lag": self.totals.lag_max,
                "root_lag": survey.state["root"]["root_lag"],
                "replicas_wanted": survey.replicas_wanted,
            },
            "roots": roots(survey, answers),
            "coordinators": coordinators(survey, answers),
            "stores": self.stores(answers),
            "state": exact(survey.state.clone()),
            "operators": survey.operators.as_ref().map(|listed| operators(&listed.operators)),
            "waiting": survey.operators.as_ref().map(|listed| &listed.waiting),
            "transitions": self.transitions(),
        })
    }

    fn stores(&self, answers: &Answers) -> Vec<Value> {
        let row = |store: &nokv_proto::coordinator::v1::StoreInfo| {
            let sum = self.totals.stores.get(&store.store_id).copied().unwrap_or_default();
            let (answers, error) = told(answers.stores.get(&store.store_id));
            json!({
                "id": store.store_id,
                "addr": store.address,
                "up": store.up,
                "age_ms": (store.heartbeat_age_ms != u64::MAX).then_some(store.heartbeat_age_ms),
                "answers": answers,
                "error": error,
                "capacity": store.capacity,
                "available": store.available,
                "leaders": sum.leaders,
                "peers": store.peer_num,
                "decommissioning": store.decommissioning,
                "read_only": store.read_only,
                "bytes": sum.bytes,
                "requests": sum.requests,
                "writes": short(sum.writes),
            })
        };
        self.survey.stores.iter().map(row).collect()
    }

    fn transitions(&self) -> Vec<Value> {
        let row = |entry: &TransitionEntry| {
            let since = self.since.get(&entry.transition_id).copied().unwrap_or(self.survey.at);
            json!({
                "id": entry.transition_id,
                "region": entry.key,
                "planned": entry.reason() == TransitionReason::MatchingPending,
                "seen_ms": self.survey.at.since(since).as_millis() as u64,
            })
        };
        self.survey.transitions.iter().map(row).collect()
    }

    /// Everything about one region.
    pub fn region(&self, id: u64) -> Option<Value> {
        let seen = self.survey.regions.iter().find(|known| known.region.region_id == id)?;
        let region = &seen.region;
        let (version, conf_version) = region.epoch_pair();
        let leads = seen.leader.map_or(0, |peer| peer.peer_id);
        let load = self.loads.get(&id).copied().unwrap_or_default();
        let measured = self.rows.get(&id).and_then(|row| row.measured);
        let ahead = applied(seen, leads).unwrap_or(0);
        let replica = |peer: &nokv_proto::meta::v1::RegionPeer| {
            let said = seen.replicas.iter().find(|replica| replica.peer_id == peer.peer_id);
            let vote = if seen.learners.contains(&peer.peer_id) { "learner" } else { "voter" };
            json!({
                "store": peer.store_id,
                "peer": peer.peer_id,
                "role": if peer.peer_id == leads { "leader" } else { vote },
                "leaving": region.leaving_peer_id == peer.peer_id,
                "quarantined": region.quarantined_peer_ids.contains(&peer.peer_id),
                "silent": seen.silent.contains(&peer.peer_id),
                "up": said.is_some_and(|said| said.up),
                "term": said.map(|said| said.term),
                "applied": said.map(|said| said.applied_index),
                "lag": said.filter(|_| leads != 0).map(|said| ahead.saturating_sub(said.applied_index)),
                "heard_ms": said.map(|said| self.survey.at.since(said.at).as_millis() as u64),
            })
        };
        let of_it = |record: &&OperatorRecord| record.region_id == id;
        let records: Vec<OperatorRecord> = self
            .survey
            .operators
            .as_ref()
            .map(|listed| listed.operators.iter().filter(of_it).cloned().collect())
            .unwrap_or_default();
        Some(json!({
            "id": id,
            "start": base64(&region.start_key),
            "end": base64(&region.end_key),
            "version": version,
            "conf_version": conf_version,
            "root_epoch": region.root_epoch,
            "merging": region.state() == RegionReplicaState::Merging,
            "leader": seen.leader.map_or(0, |peer| peer.store_id),
            "fill": seen.fill,
            "requests": load.requests,
            "bytes": self.size(seen, measured),
            "measured": measured.is_some(),
            "writes": short(self.rows.get(&id).map_or(0.0, |row| row.writes.per_second)),
            "replicas": region.peers.iter().map(replica).collect::<Vec<_>>(),
            "operators": operators(&records),
            "transitions": self.transitions().into_iter().filter(|entry| entry["region"] == id).collect::<Vec<_>>(),
        }))
    }
}

/// How far the replica of `peer` has applied the log.
fn applied(seen: &RegionSurvey, peer: u64) -> Option<u64> {
    seen.replicas.iter().find(|replica| replica.peer_id == peer).map(|replica| replica.applied_index)
}

/// About how much a region takes, from the bounds of its leader's tables: far too much where many regions share a table.
fn estimate(seen: &RegionSurvey, leader: u64) -> u64 {
    seen.replicas.iter().find(|replica| replica.store_id == leader).map_or(0, |replica| replica.bytes)
}

/// How many entries the slowest replica that is up is behind its leader; reports are of different moments, so a few mean nothing.
fn lag(seen: &RegionSurvey) -> u64 {
    let Some(ahead) = seen.leader.and_then(|leader| applied(seen, leader.peer_id)) else { return 0 };
    let up = seen.replicas.iter().filter(|replica| replica.up && seen.region.peer(replica.peer_id).is_some());
    up.map(|replica| ahead.saturating_sub(replica.applied_index)).max().unwrap_or(0)
}

fn flags(seen: &RegionSurvey, up: &BTreeSet<u64>, wanted: usize) -> u32 {
    let region = &seen.region;
    let voters = region.peers.iter().filter(|peer| !seen.learners.contains(&peer.peer_id));
    let (of, up) = (voters.clone().count(), voters.filter(|peer| up.contains(&peer.store_id)).count());
    let bits = [
        (region.state() == RegionReplicaState::Merging, flag::MERGING),
        (region.leaving_peer_id != 0, flag::LEAVING),
        (!region.quarantined_peer_ids.is_empty(), flag::QUARANTINED),
        (!seen.learners.is_empty(), flag::LEARNER),
        (!seen.silent.is_empty(), flag::SILENT),
        (of < wanted, flag::FEW),
        (of > wanted, flag::MANY),
        (up * 2 <= of, flag::NO_QUORUM),
    ];
    bits.into_iter().filter(|(is_so, _)| *is_so).fold(0, |all, (_, bit)| all | bit)
}

/// A rate with no more digits than it is worth.
fn short(rate: f64) -> f64 {
    if rate >= 10.0 { rate.round() } else { (rate * 10.0).round() / 10.0 }
}

/// Whether somebody answered (null: was not asked yet), and why not.
fn told<T>(answer: Option<&Result<T, String>>) -> (Option<bool>, Option<&str>) {
    (answer.map(Result::is_ok), answer.and_then(|answer| answer.as_ref().err()).map(String::as_str))
}

fn roots(survey: &Survey, answers: &Answers) -> Vec<Value> {
    let row = |(node, addr): (&u64, &String)| {
        let answer = answers.roots.get(node);
        let (is_well, error) = told(answer);
        let status = answer.and_then(|answer| answer.as_ref().ok());
        json!({
            "id": node,
            "addr": addr,
            "answers": is_well,
            "error": error,
            "leader": status.map(|status| status.is_leader),
            "term": status.map(|status| status.term),
            "applied": status.map(|status| status.applied_index),
        })
    };
    survey.root_peers.iter().map(row).collect()
}

/// This one first, then the others as they say themselves.
fn coordinators(survey: &Survey, answers: &Answers) -> Vec<Value> {
    let own = json!({
        "id": survey.coordinator_id,
        "addr": survey.addr,
        "self": true,
        "answers": true,
        "holds_lease": survey.standby.is_none(),
        "root_lag": survey.state["root"]["root_lag"],
        "root_available": survey.state["root"]["available"],
    });
    let row = |(addr, answer): (&String, &Result<CoordinatorStatusResponse, String>)| {
        let (is_well, error) = told(Some(answer));
        let status = answer.as_ref().ok();
        json!({
            "id": status.map(|status| &status.coordinator_id),
            "addr": addr,
            "self": false,
            "answers": is_well,
            "error": error,
            "holds_lease": status.map(|status| status.holds_lease),
            "root_lag": status.map(|status| status.root_lag),
            "root_available": status.map(|status| status.root_available),
            "console": status.map(|status| &status.console_addr).filter(|addr| !addr.is_empty()),
        })
    };
    // This one may be known by another address than its own.
    let is_other = |answer: &Result<CoordinatorStatusResponse, String>| {
        answer.as_ref().map_or(true, |status| status.coordinator_id != survey.coordinator_id)
    };
    let others = answers.coordinators.iter().filter(|(_, answer)| is_other(answer));
    std::iter::once(own).chain(others.map(row)).collect()
}

/// All that are under way, and the latest that have ended.
fn operators(records: &[OperatorRecord]) -> Vec<Value> {
    let state = |record: &OperatorRecord| match record.state() {
        OperatorState::Running => "running",
        OperatorState::Done => "done",
        OperatorState::Cancelled => "cancelled",
        OperatorState::Unspecified => "unknown",
    };
    let (running, ended): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.state() == OperatorState::Running);
    let shown = running.into_iter().chain(ended.into_iter().take(ENDED_SHOWN));
    let row = |record: &OperatorRecord| {
        json!({
            "id": record.operator_id,
            "kind": record.kind,
            "region": record.region_id,
            "from": record.from_store_id,
            "to": record.to_store_id,
            "state": state(record),
            "reason": record.reason,
            "progress": record.progress,
            "age_ms": record.age_ms,
            "took_ms": record.took_ms,
        })
    };
    shown.map(row).collect()
}

/// Timestamps are larger than the whole numbers that browsers can tell apart, so these travel as text.
fn exact(value: Value) -> Value {
    const EXACT_MAX: u64 = 1 << 53;
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(large) if large > EXACT_MAX => Value::String(large.to_string()),
            _ => Value::Number(number),
        },
        Value::Array(members) => members.into_iter().map(exact).collect(),
        Value::Object(members) => members.into_iter().map(|(name, member)| (name, exact(member))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests;
