//! From positioned JSON to [`Cluster`], collecting every problem on the way.

use super::json::{Json, Node, Pos};
use super::model::{Cluster, Coordinator, MetaRoot, Region, Store, Tls};
use crate::args::values;
use crate::usage::near_miss;
use std::path::PathBuf;

/// Something wrong in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub pos: Pos,
    /// What.
    pub what: String,
}

/// Collects problems.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes one.
    pub fn add(&mut self, pos: Pos, what: impl Into<String>) {
        self.0.push(Problem { pos, what: what.into() });
    }
}

/// Decodes the whole file.
pub fn cluster(node: &Node, problems: &mut Problems) -> Cluster {
    let mut cluster = Cluster::default();
    let Some(mut file) = Object::open(node, "the document", problems) else { return cluster };
    cluster.max_retries = file.number("max_retries", problems);
    if let Some(node) = file.take("coordinator") {
        cluster.coordinator = coordinator(node, problems);
    }
    if let Some(node) = file.take("tls") {
        cluster.tls = tls(node, problems);
    }
    if let Some(node) = file.take("meta_root") {
        cluster.meta_roots = meta_roots(node, problems);
    }
    cluster.store_work_dir_template = file.template("store_work_dir_template", problems);
    cluster.store_docker_work_dir_template = file.template("store_docker_work_dir_template", problems);
    cluster.stores = file.list("stores", problems, store);
    cluster.regions = file.list("regions", problems, region);
    file.close(problems);
    cluster
}

fn coordinator(node: &Node, problems: &mut Problems) -> Coordinator {
    let mut out = Coordinator::default();
    let Some(mut object) = Object::open(node, "coordinator", problems) else { return out };
    out.addr = object.address_list("addr", problems);
    out.docker_addr = object.address_list("docker_addr", problems);
    out.work_dir = object.path("work_dir", problems);
    out.docker_work_dir = object.path("docker_work_dir", problems);
    object.close(problems);
    out
}

fn tls(node: &Node, problems: &mut Problems) -> Option<Tls> {
    let mut object = Object::open(node, "tls", problems)?;
    let ca = object.path("ca", problems);
    let (certificate, key) = (object.path("cert", problems), object.path("key", problems));
    object.close(problems);
    if ca.is_none() {
        problems.add(node.pos, "tls: 'ca' is missing: the authorities to trust");
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            problems.add(node.pos, "tls: 'cert' without 'key'");
            None
        }
        (None, Some(_)) => {
            problems.add(node.pos, "tls: 'key' without 'cert'");
            None
        }
    };
    Some(Tls { ca: ca?, identity })
}

fn meta_roots(node: &Node, problems: &mut Problems) -> Vec<MetaRoot> {
    let Some(mut object) = Object::open(node, "meta_root", problems) else { return Vec::new() };
    let peers = object.list("peers", problems, meta_root);
    if peers.len() != 3 {
        problems.add(node.pos, format!("meta_root.peers: need exactly 3, got {}", peers.len()));
    }
    object.close(problems);
    peers
}

fn meta_root(node: &Node, problems: &mut Problems) -> Option<MetaRoot> {
    let mut object = Object::open(node, "a meta_root peer", problems)?;
    let peer = MetaRoot {
        pos: node.pos,
        node_id: object.id("node_id", problems),
        addr: object.address("addr", problems),
        docker_addr: object.address("docker_addr", problems),
        transport_addr: object.address("transport_addr", problems),
        docker_transport_addr: object.address("docker_transport_addr", problems),
        work_dir: object.path("work_dir", problems),
        docker_work_dir: object.path("docker_work_dir", problems),
    };
    for (name, value) in [("addr", &peer.addr), ("transport_addr", &peer.transport_addr)] {
        if value.is_none() && !object.has(name) {
            problems.add(node.pos, format!("a meta_root peer: '{name}' is missing"));
        }
    }
    object.close(problems);
    Some(peer)
}

fn store(node: &Node, problems: &mut Problems) -> Option<Store> {
    let mut object = Object::open(node, "a store", problems)?;
    let store = Store {
        pos: node.pos,
        store_id: object.id("store_id", problems),
        addr: object.address("addr", problems),
        docker_addr: object.address("docker_addr", problems),
        listen_addr: object.address("listen_addr", problems),
        docker_listen_addr: object.address("docker_listen_addr", problems),
        work_dir: object.path("work_dir", problems),
        docker_work_dir: object.path("docker_work_dir", problems),
    };
    object.close(problems);
    Some(store)
}

fn region(node: &Node, problems: &mut Problems) -> Option<Region> {
    let mut object = Object::open(node, "a region", problems)?;
    let mut region = Region {
        pos: node.pos,
        id: object.id("id", problems),
        start_key: object.string("start_key", problems).unwrap_or_default(),
        end_key: object.string("end_key", problems).unwrap_or_default(),
        leader_store_id: object.number("leader_store_id", problems).unwrap_or(0),
        peers: object.list("peers", problems, peer),
        ..Region::default()
    };
    match object.take("epoch") {
        Some(node) => {
            if let Some(mut epoch) = Object::open(node, "epoch", problems) {
                region.version = epoch.number("version", problems).unwrap_or(1);
                region.conf_version = epoch.number("conf_version", problems).unwrap_or(1);
                epoch.close(problems);
            }
        }
        None => problems.add(node.pos, "a region: 'epoch' is missing"),
    }
    object.close(problems);
    Some(region)
}

fn peer(node: &Node, problems: &mut Problems) -> Option<(u64, u64)> {
    let mut object = Object::open(node, "a region peer", problems)?;
    let peer = (object.id("store_id", problems), object.id("peer_id", problems));
    object.close(problems);
    Some(peer)
}

/// An object whose members are taken one by one; what is left over is unknown.
struct Object<'a> {
    what: &'static str,
    members: Vec<(&'a str, Pos, &'a Node, bool)>,
    asked: Vec<&'static str>,
}

impl<'a> Object<'a> {
    fn open(node: &'a Node, what: &'static str, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Json::Object(members) => {
                let members = members.iter().map(|m| (m.name.as_str(), m.pos, &m.node, false)).collect();
                Some(Self { what, members, asked: Vec::new() })
            }
            other => {
                problems.add(node.pos, format!("{what} must be an object, not {}", other.kind()));
                None
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(known, ..)| *known == name)
    }

    fn take(&mut self, name: &'static str) -> Option<&'a Node> {
        self.asked.push(name);
        let member = self.members.iter_mut().find(|(known, ..)| *known == name)?;
        member.3 = true;
        Some(member.2)
    }

    fn string(&mut self, name: &'static str, problems: &mut Problems) -> Option<String> {
        let node = self.take(name)?;
        match &node.value {
            Json::String(text) => Some(text.clone()),
            other => {
                problems.add(node.pos, format!("'{name}' must be a string, not {}", other.kind()));
                None
            }
        }
    }

    /// A string that must be something else underneath; empty counts as not given.
    fn parsed<T>(
        &mut self,
        name: &'static str,
        problems: &mut Problems,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.string(name, problems).filter(|text| !text.is_empty())?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(what) => {
                let pos = self.position(name);
                problems.add(pos, format!("'{name}': {what}"));
                None
            }
        }
    }

    fn position(&self, name: &str) -> Pos {
        self.members.iter().find(|(known, ..)| *known == name).map(|m| m.2.pos).unwrap_or_default()
    }

    fn address(&mut self, name: &'static str, problems: &mut Problems) -> Option<String> {
        self.parsed(name, problems, values::address)
    }

    fn address_list(&mut self, name: &'static str, problems: &mut Problems) -> Vec<String> {
        self.parsed(name, problems, values::addresses).map(|list| list.0).unwrap_or_default()
    }

    fn path(&mut self, name: &'static str, problems: &mut Problems) -> Option<PathBuf> {
        self.string(name, problems).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn template(&mut self, name: &'static str, problems: &mut Problems) -> Option<String> {
        self.parsed(name, problems, |text| {
            if text.contains("{id}") {
                Ok(text.to_owned())
            } else {
                Err(format!("'{text}' must contain {{id}}, or all stores would share one directory"))
            }
        })
    }

    fn number(&mut self, name: &'static str, problems: &mut Problems) -> Option<u64> {
        let node = self.take(name)?;
        if let Json::Number(text) = &node.value {
            match text.parse() {
                Ok(number) => return Some(number),
                Err(_) => problems.add(
                    node.pos,
                    format!("'{name}' must be a whole number from 0 to {}, not {text}", u64::MAX),
                ),
            }
        } else {
            problems.add(node.pos, format!("'{name}' must be a number, not {}", node.value.kind()));
        }
        None
    }

    /// A required number above zero; 0 when it is missing or wrong, which is reported here.
    fn id(&mut self, name: &'static str, problems: &mut Problems) -> u64 {
        let missing = !self.has(name);
        match self.number(name, problems) {
            Some(0) => problems.add(self.position(name), format!("'{name}' must be above 0")),
            Some(id) => return id,
            None if missing => {
                let pos = self.members.first().map(|m| m.1).unwrap_or_default();
                problems.add(pos, format!("{}: '{name}' is missing", self.what));
            }
            None => {}
        }
        0
    }

    fn list<T>(
        &mut self,
        name: &'static str,
        problems: &mut Problems,
        item: impl Fn(&Node, &mut Problems) -> Option<T>,
    ) -> Vec<T> {
        let Some(node) = self.take(name) else { return Vec::new() };
        match &node.value {
            Json::Array(items) => items.iter().filter_map(|node| item(node, problems)).collect(),
            other => {
                problems.add(node.pos, format!("'{name}' must be a list, not {}", other.kind()));
                Vec::new()
            }
        }
    }

    /// Reports members that nobody asked for.
    fn close(self, problems: &mut Problems) {
        for (name, pos, ..) in self.members.iter().filter(|member| !member.3) {
            let hint = near_miss(name, self.asked.iter().copied())
                .unwrap_or_else(|| format!("; known: {}", self.asked.join(", ")));
            problems.add(*pos, format!("{}: unknown member '{name}'{hint}", self.what));
        }
    }
}
