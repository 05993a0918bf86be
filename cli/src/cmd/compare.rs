//! `nokv region check`: whether the replicas of a region hold the same.

use crate::args::client::RegionCheck;
use crate::args::{Format, Global};
use crate::cmd::region::Leaders;
use crate::errors::{Code, Failure, Result};
use crate::output::Out;
use nokv_env::{ClockExt, Env};
use nokv_proto::admin::v1::raft_admin_client::RaftAdminClient;
use nokv_proto::admin::v1::{CheckRegionRequest, CheckRegionResponse, CheckedReplica, ReplicaVerdict};
use serde_json::{Value, json};

/// Checks one region or all, and prints what each replica holds.
pub async fn run(env: &Env, args: &RegionCheck, global: &Global) -> Result<u8> {
    let ids = match args.region {
        Some(id) => vec![id],
        None => Leaders::new(env, &args.cluster)?.ids().await?,
    };
    let mut out = Out::new();
    let mut checked = Vec::new();
    for id in ids {
        // Each region has the whole time.
        let reply = check(env, &Leaders::new(env, &args.cluster)?, id).await?;
        match global.format() {
            Format::Plain => lines(id, &reply).iter().try_for_each(|line| out.line(line))?,
            Format::Jsonl => out.line(&to_json(id, &reply).to_string())?,
            Format::Json => {}
        }
        out.flush()?;
        checked.push((id, reply));
    }
    if global.format() == Format::Json {
        let regions: Vec<Value> = checked.iter().map(|(id, reply)| to_json(*id, reply)).collect();
        out.json(&json!({ "regions": regions }))?;
        out.flush()?;
    }
    verdict(&checked)
}

/// Asks whoever leads the region.
async fn check(env: &Env, leaders: &Leaders, id: u64) -> Result<CheckRegionResponse> {
    let what = format!("check region {id}");
    loop {
        let route = leaders.region(id).await?;
        let Some((_, address)) = leaders.leader_now(&what, &route).await? else { continue };
        let mut admin = RaftAdminClient::new(env.net.connect(&address));
        let asked = admin.check_region(CheckRegionRequest { region_id: id });
        match env.clock.timeout(leaders.left(), asked).await {
            Ok(Ok(reply)) => return Ok(reply.into_inner()),
            Ok(Err(status)) => leaders.again(&what, &status).await?,
            Err(_) => {
                let text = format!("{what}: replicas are still adding up");
                let why = "they read all data of the region at half speed, and finish without us";
                return Err(Failure::new(Code::Unavailable, text)
                    .why(why)
                    .next("the same with a longer --timeout"));
            }
        }
    }
}

/// The exit code, or what is wrong.
fn verdict(checked: &[(u64, CheckRegionResponse)]) -> Result<u8> {
    let with = |verdict: ReplicaVerdict| {
        let any = |reply: &CheckRegionResponse| reply.replicas.iter().any(|one| one.verdict() == verdict);
        let regions = checked.iter().filter(|(_, reply)| any(reply)).map(|(id, _)| id.to_string());
        regions.collect::<Vec<_>>().join(", ")
    };
    let (differ, unknown) = (with(ReplicaVerdict::Differs), with(ReplicaVerdict::Unknown));
    if !differ.is_empty() {
        let text = format!("replicas hold different data: region {differ}");
        let why = "a replica that differs from most others is in quarantine; the scheduler replaces it";
        return Err(Failure::new(Code::Corrupt, text).why(why).next("nokv regions"));
    }
    if !unknown.is_empty() {
        let text = format!("not every replica answered: region {unknown}");
        return Err(Failure::new(Code::PartlyDone, text).next("nokv status"));
    }
    Ok(0)
}

fn name(replica: &CheckedReplica) -> &'static str {
    match replica.verdict() {
        ReplicaVerdict::Equal => "equal",
        ReplicaVerdict::Differs => "DIFFERS",
        ReplicaVerdict::Unknown => "no answer",
    }
}

fn lines(id: u64, reply: &CheckRegionResponse) -> Vec<String> {
    let replica = |replica: &CheckedReplica| {
        let (store, peer) = (replica.store_id, replica.peer_id);
        let held = match replica.verdict() {
            ReplicaVerdict::Unknown => String::new(),
            _ => format!(" rows={} crc={:08x}", replica.rows, replica.crc32c),
        };
        format!("  - store={store} peer={peer}{held} {}", name(replica))
    };
    let head = format!("region {id} at index {}", reply.index);
    std::iter::once(head).chain(reply.replicas.iter().map(replica)).collect()
}

fn to_json(id: u64, reply: &CheckRegionResponse) -> Value {
    let replica = |replica: &CheckedReplica| {
        json!({
            "store_id": replica.store_id,
            "peer_id": replica.peer_id,
            "verdict": name(replica).to_lowercase().replace(' ', "-"),
            "rows": replica.rows,
            "crc32c": replica.crc32c,
        })
    };
    let replicas: Vec<Value> = reply.replicas.iter().map(replica).collect();
    json!({ "region_id": id, "index": reply.index, "replicas": replicas })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(verdicts: &[ReplicaVerdict]) -> CheckRegionResponse {
        let replica = |(store_id, verdict): (u64, &ReplicaVerdict)| CheckedReplica {
            store_id,
            peer_id: store_id + 100,
            verdict: (*verdict).into(),
            rows: 3,
            crc32c: 0xabc,
        };
        let replicas = (1..).zip(verdicts).map(replica).collect();
        CheckRegionResponse { index: 9, replicas, region: None }
    }

    #[test]
    fn what_differs_is_an_error_and_what_is_silent_too() {
        use ReplicaVerdict::{Differs, Equal, Unknown};
        assert_eq!(verdict(&[(1, reply(&[Equal, Equal]))]).map_err(|error| error.code()), Ok(0));
        let code = |replies: &[(u64, CheckRegionResponse)]| verdict(replies).unwrap_err().code();
        assert_eq!(code(&[(1, reply(&[Equal, Unknown]))]), Code::PartlyDone);
        assert_eq!(code(&[(1, reply(&[Equal, Unknown])), (2, reply(&[Equal, Differs]))]), Code::Corrupt);
        let text = lines(7, &reply(&[Equal, Differs, Unknown]));
        assert_eq!(text[0], "region 7 at index 9");
        assert_eq!(text[2], "  - store=2 peer=102 rows=3 crc=00000abc DIFFERS");
        assert_eq!(text[3], "  - store=3 peer=103 no answer");
    }
}
