//! Who lives where: three meta-roots, three coordinators, three stores, two regions split at "m".

use crate::config::Tls;
use serde_json::{Value, json};
use std::path::Path;

/// Name of the configuration file in the demo's directory.
pub const CONFIG_NAME: &str = "raft_config.json";

const NODES: u16 = 3;
const COORDINATOR_PORT: u16 = 2379;
const ROOT_PORT: u16 = 2380;
const ROOT_TRANSPORT_PORT: u16 = 3380;
const STORE_PORT: u16 = 20170;
/// From a coordinator's port to that of its console.
const CONSOLE_OFFSET: u16 = 7_000;

fn addr(port: u16, offset: u16) -> String {
    format!("127.0.0.1:{}", port + offset)
}

/// The address of the first coordinator.
pub fn coordinator_addr(offset: u16) -> String {
    addr(COORDINATOR_PORT, offset)
}

/// Where a coordinator's console is, next to the address that it serves clients on; `None`: no port is left for it.
pub fn console_addr(coordinator: &str) -> Option<String> {
    let (host, port) = coordinator.rsplit_once(':')?;
    let port = port.parse::<u16>().ok()?.checked_add(CONSOLE_OFFSET)?;
    Some(format!("{host}:{port}"))
}

/// The text of the configuration file.
pub fn configuration(dir: &Path, offset: u16, tls: Option<&Tls>) -> String {
    let inside = |name: &str| dir.join(name).display().to_string();
    // The first coordinator has the usual port; the others count down, since meta-roots count up from the next.
    let coordinators: Vec<String> = (0..NODES).map(|n| addr(COORDINATOR_PORT - n, offset)).collect();
    let roots: Vec<Value> = (0..NODES)
        .map(|n| {
            json!({
                "node_id": n + 1, "addr": addr(ROOT_PORT + n, offset),
                "transport_addr": addr(ROOT_TRANSPORT_PORT + n, offset),
                "work_dir": inside(&format!("meta-root-{}", n + 1)),
            })
        })
        .collect();
    let stores: Vec<Value> =
        (0..NODES).map(|n| json!({"store_id": n + 1, "addr": addr(STORE_PORT + n, offset)})).collect();
    let region = |id: u16, start: &str, end: &str| {
        let peers: Vec<Value> =
            (1..=NODES).map(|store| json!({"store_id": store, "peer_id": store * 100 + id})).collect();
        json!({
            "id": id, "start_key": start, "end_key": end, "epoch": {"version": 1, "conf_version": 1},
            "leader_store_id": id, "peers": peers,
        })
    };
    let mut document = json!({
        "coordinator": {"addr": coordinators.join(",")},
        "meta_root": {"peers": roots},
        "store_work_dir_template": inside("store-{id}"),
        "stores": stores,
        "regions": [region(1, "", "m"), region(2, "m", "")],
    });
    if let Some((tls, (certificate, key))) = tls.and_then(|tls| Some((tls, tls.identity.as_ref()?))) {
        document["tls"] = json!({"ca": tls.ca, "cert": certificate, "key": key});
    }
    format!("{document:#}\n")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test file")]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_a_good_configuration() {
        let dir = std::env::temp_dir().join(format!("nokv-demo-layout-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join(CONFIG_NAME);
        let tls = Tls { ca: dir.join("a"), identity: Some((dir.join("c"), dir.join("k"))) };
        std::fs::write(&file, configuration(&dir, 40_000, Some(&tls))).unwrap();
        let cluster = crate::config::load(&file);
        std::fs::remove_dir_all(&dir).unwrap();
        let cluster = cluster.unwrap();
        assert_eq!(cluster.tls, Some(tls));
        assert_eq!((cluster.stores.len(), cluster.meta_roots.len(), cluster.regions.len()), (3, 3, 2));
        assert_eq!(cluster.coordinators(crate::args::Scope::Host)[0], coordinator_addr(40_000));
    }

    #[test]
    fn a_console_is_next_to_its_coordinator() {
        assert_eq!(console_addr("127.0.0.1:2379").as_deref(), Some("127.0.0.1:9379"));
        assert_eq!(console_addr("[::1]:2378").as_deref(), Some("[::1]:9378"));
        assert_eq!((console_addr("h:60000"), console_addr("h")), (None, None));
    }
}
