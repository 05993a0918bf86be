//! `nokv status`: asks every process there should be, and says what the answers add up to.
//!
//! Coordinators, meta-roots and stores are asked directly and at the same time, each with a short patience, so a
//! dead process is seen at once and not only when its heartbeats have been missed for long.

mod look;
mod show;

pub use show::bytes;

use crate::args::client::Status;
use crate::args::values::IdAddress;
use crate::args::{Format, Global, Scope};
use crate::cmd::{reach, regions, security};
use crate::config::Cluster;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use crate::rows;
use crate::signals::Signals;
use look::{Asked, Picture, Root};
use nokv_env::Env;
use nokv_env::clock::rfc3339;
use nokv_proto::coordinator::v1::RegionRoute;
use std::collections::BTreeMap;
use std::io::IsTerminal;

/// Prints the state of the cluster; the exit code is its health.
pub async fn run(env: &Env, args: &Status, global: &Global) -> Result<u8> {
    let asked = whom(args)?;
    let (picture, judgement) = look(env, &asked).await?;
    if let Some(layout) = global.layout() {
        let hot = regions::hottest(&picture.regions, args.hot.unwrap_or_default());
        rows::print(layout, &regions::COLUMNS, hot.iter().map(regions::Listed::cells))?;
        return Ok(judgement.health.exit());
    }
    let mut out = Out::new();
    match global.format() {
        Format::Plain => out.write(show::text(&picture, &judgement, args.hot).as_bytes())?,
        Format::Json => out.json(&show::json(&picture, &judgement, args.hot))?,
        Format::Jsonl => out.line(&show::json(&picture, &judgement, args.hot).to_string())?,
    }
    out.flush()?;
    Ok(judgement.health.exit())
}

/// Prints it again and again until a signal comes; the exit code is that of the last look.
pub fn watch(args: &Status, global: &Global) -> Result<u8> {
    crate::logging::start("error")?;
    let interval = args.watch.unwrap_or_default();
    if global.layout().is_some() {
        return Err(
            Failure::usage("--watch prints whole pictures, not rows").next("-o jsonl, or leave --watch out")
        );
    }
    let asked = whom(args)?;
    let tls = security::Dial::cluster(&args.cluster).tls()?;
    let runtime = crate::cmd::runtime()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let env = crate::cmd::real_env(tls)?;
        let redraws = std::io::stdout().is_terminal() && global.format() == Format::Plain;
        let mut exit = 0;
        loop {
            let began = env.clock.now();
            let Ok(looked) = signals.race(look(&env, &asked)).await else { return Ok(exit) };
            let (picture, judgement) = looked?;
            exit = judgement.health.exit();
            let mut out = Out::new();
            match global.format() {
                Format::Plain => {
                    let text = show::text(&picture, &judgement, args.hot);
                    out.write(frame(&text, &env, redraws).as_bytes())?;
                }
                // Documents that follow one another are lines.
                _ => out.line(&show::json(&picture, &judgement, args.hot).to_string())?,
            }
            out.flush()?;
            drop(out);
            if signals.race(env.clock.sleep_until(began + interval)).await.is_err() {
                return Ok(exit);
            }
        }
    });
    runtime.shutdown_background();
    ended
}

/// A look under its time. On a terminal it is drawn over the last one, line by line, so that nothing flickers.
fn frame(text: &str, env: &Env, redraws: bool) -> String {
    let nanos = i64::try_from(env.clock.unix_millis()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    let time = format!("{}  (Ctrl-C ends this)\n", rfc3339(nanos));
    if !redraws {
        return format!("{time}{text}\n");
    }
    let lines: Vec<&str> = time.lines().chain(text.lines()).collect();
    format!("\x1b[H{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n"))
}

/// Who is asked: coordinators, and meta-roots by node id.
pub struct Whom {
    pub coordinators: Vec<String>,
    pub roots: Vec<(u64, String)>,
}

fn whom(args: &Status) -> Result<Whom> {
    let file = reach::file(&args.cluster)?;
    let coordinators = reach::coordinators(&args.cluster, file.as_ref())?;
    Ok(Whom { coordinators, roots: roots(&args.root_peer, file.as_ref(), args.cluster.scope) })
}

/// Meta-roots: those of the flag, else those of the file.
pub fn roots(given: &[IdAddress], file: Option<&Cluster>, scope: Scope) -> Vec<(u64, String)> {
    match (given, file) {
        ([], Some(file)) => file
            .meta_roots
            .iter()
            .filter_map(|root| Some((root.node_id, root.addr(scope)?.clone())))
            .collect(),
        (given, _) => given.iter().map(|peer| (peer.id, peer.addr.clone())).collect(),
    }
}

async fn look(env: &Env, whom: &Whom) -> Result<(Picture, Judgement)> {
    let picture = look::look(env, &whom.coordinators, &whom.roots).await;
    if let Some(failure) = picture.distrust() {
        return Err(failure);
    }
    let judgement = judge(&picture);
    Ok((picture, judgement))
}

/// The same as `status -o json` prints, and where stores are.
pub async fn gather(env: &Env, whom: &Whom) -> Result<(serde_json::Value, BTreeMap<u64, String>)> {
    let (picture, judgement) = look(env, whom).await?;
    let stores = picture.stores.iter().map(|(store, _)| (store.store_id, store.address.clone())).collect();
    Ok((show::json(&picture, &judgement, None), stores))
}

/// What the answers add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    Healthy,
    /// It serves, but something is down or unknown.
    Degraded,
    /// Some keys cannot be read or written, or nothing can.
    Unavailable,
}

impl Health {
    fn name(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Unavailable => "unavailable",
        }
    }

    fn exit(self) -> u8 {
        match self {
            Health::Healthy => 0,
            Health::Degraded => Code::Degraded.exit(),
            Health::Unavailable => Code::ClusterDown.exit(),
        }
    }
}

/// The health, and a sentence for each thing that is wrong.
struct Judgement {
    health: Health,
    problems: Vec<String>,
}

impl Judgement {
    fn add(&mut self, health: Health, problem: String) {
        self.health = self.health.max(health);
        self.problems.push(problem);
    }
}

fn judge(picture: &Picture) -> Judgement {
    let mut judgement = Judgement { health: Health::Healthy, problems: Vec::new() };
    judge_roots(picture, &mut judgement);
    judge_coordinators(picture, &mut judgement);
    judge_stores(picture, &mut judgement);
    judge_regions(picture, &mut judgement);
    judgement
}

fn judge_roots(picture: &Picture, judgement: &mut Judgement) {
    for (root, asked) in &picture.roots {
        if let Err(why) = &asked.answer {
            judgement.add(
                Health::Degraded,
                format!("meta-root-{} does not answer at {}: {why}", root, asked.addr),
            );
        }
    }
    let up = picture.roots.iter().filter(|(_, asked)| asked.answer.is_ok()).count();
    if !picture.roots.is_empty() && up * 2 <= picture.roots.len() {
        let total = picture.roots.len();
        judgement.add(
            Health::Unavailable,
            format!("the meta-root has no quorum: {up} of {total} answer; no new routes, ids or timestamps"),
        );
    } else if !picture.roots.is_empty() && picture.leading_root().is_none() {
        judgement.add(Health::Degraded, "no meta-root leads just now; an election may be under way".into());
    }
}

fn judge_coordinators(picture: &Picture, judgement: &mut Judgement) {
    for asked in &picture.coordinators {
        if let Err(why) = &asked.answer {
            judgement
                .add(Health::Degraded, format!("the coordinator at {} does not answer: {why}", asked.addr));
        }
    }
    let answers = picture.coordinators.iter().filter_map(|asked| asked.answer.as_ref().ok());
    if answers.clone().count() == 0 {
        judgement.add(Health::Unavailable, "no coordinator answers".into());
    } else if picture.lease_holder().is_none() {
        let newest = answers.clone().max_by_key(|status| status.lease_generation);
        let why = newest.map_or_else(String::new, |status| match status.lease_phase.as_str() {
            "active" => {
                let holder = &status.lease_holder;
                format!(" ({holder} has generation {} and does not answer)", status.lease_generation)
            }
            "sealed" => {
                format!(" (generation {} is sealed and has no successor yet)", status.lease_generation)
            }
            _ => String::new(),
        });
        let problem = format!("no coordinator holds the lease{why}; no ids or timestamps");
        judgement.add(Health::Unavailable, problem);
    }
    for status in answers.filter(|status| !status.root_available) {
        judgement.add(
            Health::Degraded,
            format!("coordinator {} cannot reach the meta-root", status.coordinator_id),
        );
    }
}

fn judge_stores(picture: &Picture, judgement: &mut Judgement) {
    for (store, probe) in &picture.stores {
        let (id, addr) = (store.store_id, &store.address);
        if store.read_only {
            let (free, needed) = (show::bytes(store.available), show::bytes(store.disk_reserve));
            judgement.add(Health::Degraded, format!("store-{id} is read-only: {free} free, needs {needed}"));
        }
        match probe {
            Err(why) => {
                judgement.add(Health::Degraded, format!("store-{id} does not answer at {addr}: {why}"));
            }
            Ok(_) if !store.up => judgement.add(
                Health::Degraded,
                format!(
                    "store-{id} sends no heartbeats (the last one {} s ago)",
                    store.heartbeat_age_ms / 1000
                ),
            ),
            Ok(look) => {
                if !store.read_only && store.available / 2 < store.disk_reserve {
                    let (free, least) = (show::bytes(store.available), show::bytes(store.disk_reserve));
                    let problem = format!("store-{id} has {free} free, and becomes read-only at {least}");
                    judgement.add(Health::Degraded, problem);
                }
                for alarm in &look.alarms {
                    judgement.add(Health::Degraded, format!("store-{id} {alarm}"));
                }
            }
        }
    }
}

fn judge_regions(picture: &Picture, judgement: &mut Judgement) {
    let answered = picture.coordinators.iter().any(|asked| asked.answer.is_ok());
    if answered && picture.regions.is_empty() {
        judgement.add(Health::Unavailable, "no region is known; stores publish them when they start".into());
    }
    for route in &picture.regions {
        let Some(region) = &route.descriptor else { continue };
        let up = region.peers.iter().filter(|peer| picture.store_is_up(peer.store_id)).count();
        let id = region.region_id;
        if up * 2 <= region.peers.len() {
            let total = region.peers.len();
            judgement.add(
                Health::Unavailable,
                format!("region {id} has no quorum: {up} of {total} stores are up"),
            );
        } else if picture.leader(route).is_none() {
            judgement.add(
                Health::Degraded,
                format!("region {id} has no known leader; an election may be under way"),
            );
        }
        for peer in region.peers.iter().filter(|peer| region.quarantined_peer_ids.contains(&peer.peer_id)) {
            let (peer, store) = (peer.peer_id, peer.store_id);
            let problem = format!(
                "region {id}: peer {peer} on store-{store} is in quarantine: it differs from the others"
            );
            judgement.add(Health::Degraded, problem);
        }
    }
}

impl Picture {
    /// The failure, if every coordinator and meta-root turns us away or is turned away: then nothing is known of the
    /// cluster's health.
    fn distrust(&self) -> Option<Failure> {
        let coordinators =
            self.coordinators.iter().map(|asked| (&asked.addr, asked.answer.as_ref().map(drop)));
        let roots = self.roots.iter().map(|(_, asked)| (&asked.addr, asked.answer.as_ref().map(drop)));
        let mut failures = coordinators.chain(roots).map(|(addr, answer)| answer.err()?.about_trust(addr));
        let first = failures.next().flatten()?;
        failures.all(|failure| failure.is_some()).then_some(first)
    }

    /// The meta-root that leads in the newest term.
    fn leading_root(&self) -> Option<u64> {
        let leads = self.roots.iter().filter_map(|(node, asked)| {
            let root: &Root = asked.answer.as_ref().ok()?;
            root.is_leader.then_some((root.term, *node))
        });
        leads.max().map(|(_, node)| node)
    }

    /// The coordinator that holds the lease, by its own word.
    fn lease_holder(&self) -> Option<&str> {
        let held = self.coordinators.iter().filter_map(|asked: &Asked<_>| asked.answer.as_ref().ok());
        held.filter(|status| status.holds_lease)
            .max_by_key(|status| status.lease_generation)
            .map(|status| status.coordinator_id.as_str())
    }

    fn store_is_up(&self, store: u64) -> bool {
        self.stores.iter().any(|(info, probe)| info.store_id == store && info.up && probe.is_ok())
    }

    /// The store that leads a region, if it is up.
    fn leader(&self, route: &RegionRoute) -> Option<u64> {
        route.leader.map(|peer| peer.store_id).filter(|store| self.store_is_up(*store))
    }

    /// How many entries the slowest follower that answers has yet to apply.
    fn lag(&self, route: &RegionRoute) -> Option<u64> {
        let id = route.descriptor.as_ref()?.region_id;
        let applied = |store: u64| {
            let (_, probe) = self.stores.iter().find(|(info, _)| info.store_id == store)?;
            probe.as_ref().ok()?.applied.get(&id).copied()
        };
        let leader = applied(self.leader(route)?)?;
        let peers = &route.descriptor.as_ref()?.peers;
        peers.iter().filter_map(|peer| applied(peer.store_id)).map(|index| leader.saturating_sub(index)).max()
    }

    /// The store that leads most regions.
    fn leading_store(&self) -> Option<u64> {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for store in self.regions.iter().filter_map(|route| self.leader(route)) {
            *counts.entry(store).or_default() += 1;
        }
        counts
            .into_iter()
            .max_by_key(|&(store, count)| (count, std::cmp::Reverse(store)))
            .map(|(store, _)| store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::reach::NoAnswer;
    use crate::cmd::status::look::StoreLook;
    use nokv_proto::coordinator::v1::{CoordinatorStatusResponse, StoreInfo};
    use nokv_proto::meta::v1::{RegionDescriptor, RegionPeer};

    fn asked<T>(addr: &str, answer: T) -> Asked<T> {
        Asked { addr: addr.to_owned(), answer: Ok(answer) }
    }

    fn good() -> Picture {
        let root = |node: u64| {
            let root = Root { is_leader: node == 2, term: 3, applied_index: 7 };
            (node, asked("r", root))
        };
        let coordinator = |id: &str, holds_lease| {
            asked(
                id,
                CoordinatorStatusResponse {
                    coordinator_id: id.into(),
                    holds_lease,
                    root_available: true,
                    ..Default::default()
                },
            )
        };
        let store =
            |id| (StoreInfo { store_id: id, up: true, ..Default::default() }, Ok(StoreLook::default()));
        let peers: Vec<RegionPeer> =
            (1..=3).map(|store_id| RegionPeer { store_id, peer_id: store_id + 100 }).collect();
        let region = |id, leader: usize| RegionRoute {
            descriptor: Some(RegionDescriptor { region_id: id, peers: peers.clone(), ..Default::default() }),
            leader: Some(peers[leader - 1]),
            ..Default::default()
        };
        Picture {
            roots: (1..=3).map(root).collect(),
            coordinators: vec![coordinator("c1", false), coordinator("c2", true)],
            stores: (1..=3).map(store).collect(),
            regions: vec![region(1, 3), region(2, 3), region(3, 1)],
        }
    }

    fn down<T>(what: &mut look::Answer<T>) {
        *what = Err(NoAnswer::Refused("refused".into()));
    }

    #[test]
    fn a_cluster_that_distrusts_us_is_not_called_down() {
        let distrusted = |what: &str| {
            NoAnswer::Distrusted(nokv_env::net::TlsFailure {
                problem: nokv_env::net::TlsProblem::Required,
                addr: "a:1".into(),
                what: what.into(),
            })
        };
        let mut picture = good();
        picture.coordinators.iter_mut().for_each(|asked| asked.answer = Err(distrusted("wants TLS")));
        assert!(picture.distrust().is_none(), "the meta-roots answered");
        picture.roots.iter_mut().for_each(|(_, asked)| asked.answer = Err(distrusted("wants TLS")));
        assert_eq!(picture.distrust().map(|failure| failure.code()), Some(Code::TlsRequired));
        down(&mut picture.coordinators[1].answer);
        assert!(picture.distrust().is_none(), "one of them is simply down");
        assert!(judge(&picture).problems.iter().any(|problem| problem.contains("wants TLS")));
    }

    #[test]
    fn all_green_names_who_leads() {
        let picture = good();
        let judgement = judge(&picture);
        assert_eq!((judgement.health, judgement.problems), (Health::Healthy, vec![]));
        assert_eq!(picture.leading_root(), Some(2));
        assert_eq!(picture.lease_holder(), Some("c2"));
        assert_eq!(picture.leading_store(), Some(3));
    }

    #[test]
    fn one_of_each_down_is_degraded() {
        let mut picture = good();
        down(&mut picture.roots[0].1.answer);
        down(&mut picture.coordinators[0].answer);
        down(&mut picture.stores[1].1);
        let judgement = judge(&picture);
        assert_eq!(judgement.health, Health::Degraded);
        assert!(judgement.problems.iter().any(|problem| problem.contains("store-2 does not answer")));
        assert_eq!(judgement.problems.len(), 3);
    }

    #[test]
    fn a_full_disk_is_named_with_what_it_needs() {
        let mut picture = good();
        let store = &mut picture.stores[1].0;
        (store.read_only, store.available, store.disk_reserve) = (true, 0, 512 << 20);
        let judgement = judge(&picture);
        assert_eq!(judgement.health, Health::Degraded);
        assert_eq!(judgement.problems, ["store-2 is read-only: 0 B free, needs 512 MiB"]);
    }

    #[test]
    fn without_quorum_lease_or_coordinator_nothing_serves() {
        let broken: [fn(&mut Picture); 4] = [
            |picture| picture.roots[..2].iter_mut().for_each(|root| down(&mut root.1.answer)),
            |picture| picture.stores[..2].iter_mut().for_each(|store| down(&mut store.1)),
            |picture| picture.coordinators.iter_mut().for_each(|asked| down(&mut asked.answer)),
            |picture| down(&mut picture.coordinators[1].answer),
        ];
        for breaks in broken {
            let mut picture = good();
            breaks(&mut picture);
            assert_eq!(judge(&picture).health, Health::Unavailable);
        }
    }

    #[test]
    fn a_lease_without_a_holder_says_which_generation_it_waits_for() {
        let problem = |phase: &str, answers: bool| {
            let mut picture = good();
            if let Ok(status) = &mut picture.coordinators[0].answer {
                status.lease_phase = phase.into();
                (status.lease_generation, status.lease_holder) = (6, "c2".into());
            }
            match &mut picture.coordinators[1].answer {
                Ok(status) if answers => status.holds_lease = false,
                answer => down(answer),
            }
            judge(&picture).problems.pop().unwrap_or_default()
        };
        assert!(problem("sealed", true).contains("generation 6 is sealed and has no successor yet"));
        assert!(problem("active", false).contains("c2 has generation 6 and does not answer"));
    }

    #[test]
    fn quarantine_alarms_and_full_disks_are_told() {
        let mut picture = good();
        if let Some(region) = &mut picture.regions[1].descriptor {
            region.quarantined_peer_ids = vec![103];
        }
        (picture.stores[0].0.disk_reserve, picture.stores[0].0.available) = (512 << 20, 700 << 20);
        if let Ok(look) = &mut picture.stores[1].1 {
            look.alarms.push("waits for nothing".into());
        }
        let judgement = judge(&picture);
        assert_eq!(judgement.health, Health::Degraded);
        let told = judgement.problems.join("\n");
        for problem in [
            "region 2: peer 103 on store-3 is in quarantine",
            "store-1 has 700 MiB free, and becomes read-only at 512 MiB",
            "store-2 waits for nothing",
        ] {
            assert!(told.contains(problem), "{told}");
        }
    }

    #[test]
    fn a_region_lags_as_far_as_its_last_follower() {
        let mut picture = good();
        for (index, applied) in [90, 100, 97].into_iter().enumerate() {
            if let Ok(look) = &mut picture.stores[index].1 {
                look.applied.insert(1, applied);
            }
        }
        // Store 3 leads region 1; who is ahead of it has only heard of the same entries sooner.
        assert_eq!(picture.lag(&picture.regions[0]), Some(7));
        assert_eq!(picture.lag(&picture.regions[1]), None);
    }

    #[test]
    fn a_dead_leader_is_no_leader() {
        let mut picture = good();
        down(&mut picture.stores[2].1);
        let judgement = judge(&picture);
        assert_eq!(judgement.health, Health::Degraded);
        assert!(judgement.problems.iter().any(|problem| problem.contains("region 1 has no known leader")));
        assert_eq!(picture.leading_store(), Some(1));
    }
}
