//! How the cluster is, in words: what is wrong, worst first, and the command that shows more.

use super::probe::Answers;
use crate::cmd::reach;
use nokv_coordinator::Survey;
use nokv_proto::coordinator::v1::StoreInfo;

/// Problems that are shown one by one.
const SHOWN: usize = 12;
/// A store with less than this part of its disk free gets no more replicas.
const FULL_PART: u64 = 10;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing.
    Note,
    /// It serves, but something is down or unknown.
    Degraded,
    /// Some keys cannot be read or written, or nothing can.
    Unavailable,
}

impl Level {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Level::Note => "note",
            Level::Degraded => "degraded",
            Level::Unavailable => "unavailable",
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub level: Level,
    /// What is wrong, and what that means.
    pub text: String,
    /// The command that shows more.
    pub next: String,
}

/// Regions of a kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ids {
    count: usize,
    first: Vec<u64>,
}

impl Ids {
    /// One more.
    pub fn add(&mut self, id: u64) {
        self.count += 1;
        if self.first.len() < 5 {
            self.first.push(id);
        }
    }

    /// `2 regions (7, 9) have`.
    fn have(&self) -> String {
        let ids: Vec<String> = self.first.iter().map(u64::to_string).collect();
        let more = if self.count > ids.len() { ", …" } else { "" };
        match self.count {
            1 => format!("Region {} has", ids.join("")),
            count => format!("{count} regions ({}{more}) have", ids.join(", ")),
        }
    }
}

/// Regions that are not as they should be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Most of their stores are down.
    pub no_quorum: Ids,
    /// Nobody is known to lead them, though somebody could.
    pub no_leader: Ids,
    /// Fewer replicas than wanted.
    pub few: Ids,
    /// A replica differs from the others.
    pub quarantined: Ids,
}

/// How the cluster is, and what is wrong, worst first.
pub fn judge(survey: &Survey, answers: &Answers, troubles: &Troubles) -> (Level, Vec<Problem>) {
    let mut found = Found { at: place(&survey.addr), problems: Vec::new() };
    found.regions(survey, troubles);
    found.lease(survey, answers);
    found.roots(survey, answers);
    found.stores(survey, answers);
    found.coordinators(answers);
    found.waiting(survey);
    let mut problems = found.problems;
    problems.sort_by_key(|problem| std::cmp::Reverse(problem.level));
    let level = problems.first().map_or(Level::Note, |worst| worst.level);
    if problems.len() > SHOWN {
        let more = problems.len() - SHOWN;
        let next = format!("nokv status{}", place(&survey.addr));
        problems.truncate(SHOWN);
        problems.push(Problem { level: Level::Note, text: format!("And {more} more of the kind."), next });
    }
    (level, problems)
}

/// The flag that leads a command to this coordinator, where it is not the usual one.
fn place(addr: &str) -> String {
    if addr == reach::COORDINATOR || addr.is_empty() {
        String::new()
    } else {
        format!(" --coordinator-addr {addr}")
    }
}

struct Found {
    at: String,
    problems: Vec<Problem>,
}

impl Found {
    fn add(&mut self, level: Level, text: String, command: &str) {
        let next = format!("{command}{}", self.at);
        self.problems.push(Problem { level, text, next });
    }

    fn regions(&mut self, survey: &Survey, troubles: &Troubles) {
        if survey.regions.is_empty() && survey.state["root"]["available"] == true {
            let text = "No region is known yet. Stores publish them when they start.";
            self.add(Level::Unavailable, text.to_owned(), "nokv status");
        }
        let Troubles { no_quorum, no_leader, few, quarantined } = troubles;
        if no_quorum.count > 0 {
            let text = format!(
                "{} no quorum: most of the stores with a replica are down. These keys can be neither read nor written until they are back.",
                no_quorum.have()
            );
            self.add(Level::Unavailable, text, "nokv status");
        }
        if no_leader.count > 0 {
            let text = format!("{} no known leader. An election may be under way.", no_leader.have());
            self.add(Level::Degraded, text, "nokv regions");
        }
        if quarantined.count > 0 {
            let text = format!(
                "{} a replica that differs from the others. It is in quarantine and serves nothing.",
                quarantined.have()
            );
            let check = match quarantined.first.first() {
                Some(id) => format!("nokv region check --region {id}"),
                None => "nokv regions".to_owned(),
            };
            self.add(Level::Degraded, text, &check);
        }
        if few.count > 0 {
            let text = format!(
                "{} fewer than {} replicas that vote. The scheduler adds them where a store can take them.",
                few.have(),
                survey.replicas_wanted
            );
            self.add(Level::Degraded, text, "nokv operators");
        }
    }

    fn lease(&mut self, survey: &Survey, answers: &Answers) {
        let lease = &survey.state["lease"];
        let (phase, generation) = (lease["phase"].as_str().unwrap_or_default(), &lease["cert_generation"]);
        let held = answers.coordinators.values().flatten().any(|status| status.holds_lease);
        if survey.standby.is_none() || held || survey.state["root"]["available"] != true {
            return;
        }
        let holder = lease["holder_id"].as_str().unwrap_or_default();
        let nothing = "No ids and timestamps are handed out, so nothing can be written";
        let text = match (phase, answers.coordinators.get(&survey.holder_addr)) {
            ("none", _) => format!("Nobody has held the lease yet. {nothing}."),
            ("sealed" | "released", _) => {
                format!("Generation {generation} of the lease has ended and has no successor yet. {nothing}.")
            }
            (_, Some(Err(why))) => format!(
                "{holder} has generation {generation} of the lease and does not answer at {} ({why}). {nothing} until the lease has run out and another coordinator takes over.",
                survey.holder_addr
            ),
            _ => return,
        };
        self.add(Level::Unavailable, text, "nokv status");
    }

    fn roots(&mut self, survey: &Survey, answers: &Answers) {
        let down = answers.roots.values().filter(|answer| answer.is_err()).count();
        let up = survey.root_peers.len() - down.min(survey.root_peers.len());
        for (node, why) in
            answers.roots.iter().filter_map(|(node, answer)| Some((node, answer.as_ref().err()?)))
        {
            let addr = survey.root_peers.get(node).map_or("", String::as_str);
            let rest = if up * 2 > survey.root_peers.len() {
                format!(" The other {up} are enough to go on.")
            } else {
                String::new()
            };
            let text = format!("meta-root-{node} does not answer at {addr}: {why}.{rest}");
            self.add(Level::Degraded, text, "nokv status");
        }
        let (root, of) = (&survey.state["root"], survey.root_peers.len());
        if answers.asked && up * 2 <= of {
            let text = format!(
                "The meta-roots have no quorum: {up} of {of} answer. Nothing new is handed out: no ids, no timestamps beyond the fence, no changed routes."
            );
            self.add(Level::Unavailable, text, "nokv status");
        } else if root["available"] != true {
            let why = root["last_reload_error"].as_str().filter(|why| !why.is_empty());
            let text =
                format!("This coordinator cannot reach the meta-roots: {}.", why.unwrap_or("no answer yet"));
            self.add(Level::Degraded, text, "nokv status");
        }
    }

    fn stores(&mut self, survey: &Survey, answers: &Answers) {
        for store in &survey.stores {
            let (id, addr) = (store.store_id, &store.address);
            let answer = answers.stores.get(&id);
            match (store.up, answer) {
                (false, _) => self.add(Level::Degraded, silent(store, survey), "nokv operators"),
                (true, Some(Err(why))) => {
                    let text = format!(
                        "store-{id} does not answer at {addr}: {why}. {}.",
                        until_replaced(store, survey)
                    );
                    self.add(Level::Degraded, text, "nokv status");
                }
                (true, _) if store.read_only => {
                    let text = format!(
                        "store-{id} takes no new data: {} of its disk are free, and it keeps {} for itself. Free some space, and it goes on by itself.",
                        bytes_in_words(store.available),
                        bytes_in_words(store.disk_reserve)
                    );
                    self.add(Level::Degraded, text, "nokv status");
                }
                (true, _) if store.capacity > 0 && store.available < store.capacity / FULL_PART => {
                    let text = format!(
                        "store-{id} has {} of its disk's {} free: it gets no more replicas.",
                        bytes_in_words(store.available),
                        bytes_in_words(store.capacity)
                    );
                    self.add(Level::Degraded, text, "nokv status");
                }
                (true, _) => {}
            }
            if store.decommissioning {
                let text = match store.peer_num {
                    0 => format!("store-{id} has been emptied and may be stopped."),
                    left => format!("store-{id} is being emptied: {left} replicas are left."),
                };
                self.add(Level::Note, text, "nokv operators");
            }
        }
    }

    fn coordinators(&mut self, answers: &Answers) {
        for (addr, answer) in &answers.coordinators {
            match answer {
                Err(why) => {
                    let text = format!("The coordinator at {addr} does not answer: {why}.");
                    self.add(Level::Degraded, text, "nokv status");
                }
                Ok(status) if !status.root_available => {
                    let text = format!("{} cannot reach the meta-roots.", status.coordinator_id);
                    self.add(Level::Degraded, text, "nokv status");
                }
                Ok(_) => {}
            }
        }
    }

    fn waiting(&mut self, survey: &Survey) {
        let waiting = survey.operators.iter().flat_map(|listed| &listed.waiting);
        for what in waiting {
            self.add(Level::Note, format!("The scheduler waits: {what}."), "nokv operators");
        }
    }
}

/// A store that sends no heartbeats.
fn silent(store: &StoreInfo, survey: &Survey) -> String {
    let (id, addr) = (store.store_id, &store.address);
    if store.heartbeat_age_ms == u64::MAX {
        return format!("store-{id} is a member and has not been heard of since this coordinator started.");
    }
    let (age, then) = (store.heartbeat_age_ms / 1000, until_replaced(store, survey));
    format!("store-{id} at {addr} has sent no heartbeat for {}. {then}.", ago(age))
}

/// What becomes of the replicas on a store that is down.
fn until_replaced(store: &StoreInfo, survey: &Survey) -> String {
    let left = survey.repair_after.as_secs().saturating_sub(store.heartbeat_age_ms / 1000);
    match (store.peer_num, left) {
        (0, _) => "It holds no replica".to_owned(),
        (replicas, 0) => {
            format!("Its {replicas} replicas are being replaced where other stores can take them")
        }
        (replicas, left) => {
            format!("Its {replicas} replicas are replaced in {} unless it comes back", ago(left))
        }
    }
}

/// Bytes for people.
fn bytes_in_words(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let fits = units.iter().enumerate().rev().find(|(n, _)| bytes >= 1 << (10 * (n + 1)));
    fits.map_or_else(
        || format!("{bytes} B"),
        |(n, unit)| format!("{:.1} {unit}", bytes as f64 / (1_u64 << (10 * (n + 1))) as f64),
    )
}

/// Seconds for people.
fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nokv_coordinator::RegionSurvey;
    use nokv_proto::coordinator::v1::{CoordinatorStatusResponse, ListOperatorsResponse};
    use nokv_proto::meta::v1::MetadataRootStatusResponse;
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn good() -> (Survey, Answers) {
        let store = |store_id| StoreInfo {
            store_id,
            address: format!("s{store_id}:1"),
            up: true,
            capacity: 100,
            available: 50,
            peer_num: 2,
            ..StoreInfo::default()
        };
        let survey = Survey {
            addr: "127.0.0.1:2379".into(),
            state: json!({"root": {"available": true}, "lease": {"phase": "active", "cert_generation": 6, "holder_id": "c2"}}),
            root_peers: (1..=3).map(|node| (node, format!("r{node}:1"))).collect(),
            stores: (1..=3).map(store).collect(),
            regions: vec![RegionSurvey::default()],
            replicas_wanted: 3,
            repair_after: Duration::from_secs(1_800),
            holder_addr: "c2:1".into(),
            ..Survey::default()
        };
        let holder =
            CoordinatorStatusResponse { root_available: true, holds_lease: false, ..Default::default() };
        let answers = Answers {
            asked: true,
            roots: (1..=3).map(|node| (node, Ok(MetadataRootStatusResponse::default()))).collect(),
            coordinators: BTreeMap::from([("c2:1".to_owned(), Ok(holder))]),
            stores: (1..=3).map(|store| (store, Ok(BTreeMap::new()))).collect(),
        };
        (survey, answers)
    }

    fn texts(survey: &Survey, answers: &Answers, troubles: &Troubles) -> (Level, Vec<String>) {
        let (level, problems) = judge(survey, answers, troubles);
        (level, problems.into_iter().map(|problem| problem.text).collect())
    }

    #[test]
    fn all_well_is_no_problem() {
        let (survey, answers) = good();
        assert_eq!(texts(&survey, &answers, &Troubles::default()), (Level::Note, vec![]));
    }

    #[test]
    fn the_worst_comes_first_and_every_problem_has_a_command() {
        let (mut survey, mut answers) = good();
        survey.addr = "h:9".into();
        (survey.stores[0].up, survey.stores[0].heartbeat_age_ms) = (false, 60_000);
        answers.roots.insert(2, Err("refused".into()));
        survey.operators =
            Some(ListOperatorsResponse { waiting: vec!["region 5".into()], ..Default::default() });
        let mut troubles = Troubles::default();
        (1..=7).for_each(|id| troubles.no_quorum.add(id));
        let (level, problems) = judge(&survey, &answers, &troubles);
        assert_eq!(level, Level::Unavailable);
        assert!(problems[0].text.starts_with("7 regions (1, 2, 3, 4, 5, …) have no quorum"), "{problems:?}");
        assert!(
            problems.iter().all(|problem| problem.next.ends_with(" --coordinator-addr h:9")),
            "{problems:?}"
        );
        let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
        assert!(
            texts.contains(&"meta-root-2 does not answer at r2:1: refused. The other 2 are enough to go on."),
            "{texts:?}"
        );
        let store = "store-1 at s1:1 has sent no heartbeat for 60 s. Its 2 replicas are replaced in 29 min unless it comes back.";
        assert!(texts.contains(&store), "{texts:?}");
        assert_eq!(problems.last().map(|problem| problem.level), Some(Level::Note));
    }

    #[test]
    fn a_lease_that_nobody_holds_is_said_with_the_reason() {
        let (mut survey, mut answers) = good();
        survey.standby = Some("held by c2".into());
        assert_eq!(
            texts(&survey, &answers, &Troubles::default()).0,
            Level::Note,
            "it may have changed hands just now"
        );
        answers.coordinators.insert("c2:1".into(), Err("refused".into()));
        let (level, lines) = texts(&survey, &answers, &Troubles::default());
        assert_eq!(level, Level::Unavailable);
        assert!(
            lines[0].starts_with("c2 has generation 6 of the lease and does not answer at c2:1 (refused)."),
            "{lines:?}"
        );
        survey.state["lease"]["phase"] = "sealed".into();
        assert!(
            texts(&survey, &answers, &Troubles::default()).1[0]
                .starts_with("Generation 6 of the lease has ended")
        );
    }

    #[test]
    fn roots_without_quorum_and_full_disks_are_told() {
        let (mut survey, mut answers) = good();
        survey.stores[2].available = 9;
        for node in [1, 3] {
            answers.roots.insert(node, Err("refused".into()));
        }
        let (level, lines) = texts(&survey, &answers, &Troubles::default());
        assert_eq!(level, Level::Unavailable);
        assert!(lines[0].contains("no quorum: 1 of 3 answer"), "{lines:?}");
        assert!(
            lines.contains(&"store-3 has 9 B of its disk's 100 B free: it gets no more replicas.".to_owned()),
            "{lines:?}"
        );
    }

    #[test]
    fn a_store_without_room_says_what_it_needs() {
        let (mut survey, answers) = good();
        let store = &mut survey.stores[1];
        (store.read_only, store.available, store.disk_reserve) = (true, 4 << 20, 512 << 20);
        let (level, lines) = texts(&survey, &answers, &Troubles::default());
        assert_eq!(level, Level::Degraded);
        assert!(
            lines[0].starts_with(
                "store-2 takes no new data: 4.0 MiB of its disk are free, and it keeps 512.0 MiB"
            ),
            "{lines:?}"
        );
    }

    #[test]
    fn endless_lists_are_cut() {
        let (mut survey, answers) = good();
        survey.operators = Some(ListOperatorsResponse {
            waiting: (0..20).map(|n| format!("region {n}")).collect(),
            ..Default::default()
        });
        let lines = texts(&survey, &answers, &Troubles::default()).1;
        assert_eq!((lines.len(), lines[12].as_str()), (13, "And 8 more of the kind."));
    }
}
