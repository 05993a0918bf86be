"""A client that knows NoKV only by the reference's published messages, against a running cluster.

usage: client.py RAFT_CONFIG

It does what a NoKV client does: asks any coordinator for routes and timestamps, guesses that the first peer leads,
follows `not_leader` and `epoch_not_match`, prewrites and commits region by region, the primary first, and resolves
the locks of others. Each step states what it expects; the first that differs ends the run with status 1.
"""

import json
import os
import sys
import time

import grpc

import coordinator_pb2 as pd
import coordinator_pb2_grpc
import kv_pb2 as kv
import kv_pb2_grpc

TRIES = 60
PAUSE_SECONDS = 0.1
LOCK_TTL_MS = 3000


class Cluster:
    """Routes, stores and timestamps, with nothing remembered that a restart would not find again."""

    def __init__(self, config):
        coordinators = config["coordinator"]["addr"].split(",")
        self.coordinators = [
            coordinator_pb2_grpc.CoordinatorStub(grpc.insecure_channel(address)) for address in coordinators
        ]
        self.stores = {
            store["store_id"]: kv_pb2_grpc.NoKVStub(grpc.insecure_channel(store["addr"])) for store in config["stores"]
        }
        self.leaders = {}

    def ask(self, method, request):
        """The first coordinator that answers."""
        last = None
        for _ in range(TRIES):
            for stub in self.coordinators:
                try:
                    return getattr(stub, method)(request, timeout=3)
                except grpc.RpcError as error:
                    last = error
            time.sleep(PAUSE_SECONDS)
        raise SystemExit(f"no coordinator answers {method}: {last}")

    def timestamp(self):
        reply = self.ask("Tso", pd.TsoRequest(count=1))
        assert reply.count == 1 and reply.consumed_frontier == reply.timestamp, reply
        return reply.timestamp

    def region(self, key):
        reply = self.ask("GetRegionByKey", pd.GetRegionByKeyRequest(key=key, freshness=pd.FRESHNESS_BEST_EFFORT))
        assert not reply.not_found, f"no region holds {key}"
        return reply.region_descriptor

    def call(self, method, key, request_type, payload):
        """One request to the leader of the region that holds `key`."""
        for _ in range(TRIES):
            region = self.region(key)
            peer = self.leaders.get(region.region_id) or region.peers[0]
            context = kv.Context(region_id=region.region_id, region_epoch=region.epoch, peer=peer)
            try:
                reply = getattr(self.stores[peer.store_id], method)(
                    request_type(context=context, request=payload), timeout=5
                )
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                others = [other for other in region.peers if other.store_id != peer.store_id]
                self.leaders[region.region_id] = others[int(time.time() * 10) % len(others)]
                time.sleep(PAUSE_SECONDS)
                continue
            if not reply.HasField("region_error"):
                return reply.response
            self.leaders.pop(region.region_id, None)
            if reply.region_error.not_leader.HasField("leader"):
                self.leaders[region.region_id] = reply.region_error.not_leader.leader
            else:
                time.sleep(PAUSE_SECONDS)
        raise SystemExit(f"{method}: the region of {key} does not serve")

    def by_region(self, keys):
        groups = {}
        for key in keys:
            groups.setdefault(self.region(key).region_id, []).append(key)
        return list(groups.values())

    def get(self, key, version):
        return self.call("KvGet", key, kv.KvGetRequest, kv.GetRequest(key=key, version=version))

    def prewrite(self, mutations, primary, start):
        """Locks all keys; the errors of the first group that has some."""
        wanted = {mutation.key: mutation for mutation in mutations}
        for keys in self.by_region(wanted):
            request = kv.PrewriteRequest(
                mutations=[wanted[key] for key in keys],
                primary_lock=primary,
                start_version=start,
                lock_ttl=LOCK_TTL_MS,
                txn_size=len(wanted),
            )
            reply = self.call("KvPrewrite", keys[0], kv.KvPrewriteRequest, request)
            if reply.errors:
                return list(reply.errors)
        return []

    def commit(self, keys, start, at):
        for group in self.by_region(keys):
            request = kv.CommitRequest(keys=group, start_version=start, commit_version=at)
            reply = self.call("KvCommit", group[0], kv.KvCommitRequest, request)
            assert not reply.HasField("error"), reply
        return at

    def write(self, **values):
        """A whole transaction; None deletes. Returns its commit timestamp."""
        start = self.timestamp()
        mutations = [mutation(key.encode(), value) for key, value in values.items()]
        keys = [m.key for m in mutations]
        errors = self.prewrite(mutations, keys[0], start)
        assert not errors, errors
        at = self.timestamp()
        self.commit(keys[:1], start, at)
        return self.commit(keys[1:], start, at) if keys[1:] else at


def mutation(key, value):
    if value is None:
        return kv.Mutation(op=kv.Mutation.Delete, key=key)
    return kv.Mutation(op=kv.Mutation.Put, key=key, value=value.encode())


def step(text):
    print(f"ok {text}", flush=True)


def main():
    cluster = Cluster(json.load(open(sys.argv[1], encoding="utf-8")))

    # Keys far apart, so that regions differ where there are several.
    at = cluster.write(alpha="one", zulu="two")
    now = cluster.timestamp()
    assert cluster.get(b"alpha", now).value == b"one"
    assert cluster.get(b"zulu", now).value == b"two"
    assert cluster.get(b"alpha", at - 1).not_found, "visible before it was committed"
    step("a transaction over two keys is visible at and after its commit timestamp, not before")

    cluster.write(alpha="three")
    assert cluster.get(b"alpha", now).value == b"one"
    assert cluster.get(b"alpha", cluster.timestamp()).value == b"three"
    step("an older timestamp goes on seeing the older version")

    batch = kv.BatchGetRequest(requests=[kv.GetRequest(key=b"alpha", version=now)] * 2)
    assert [r.value for r in cluster.call("KvBatchGet", b"alpha", kv.KvBatchGetRequest, batch).responses] == [b"one"] * 2
    step("a batch of gets answers in order")

    names = {f"list{number:02}": str(number) for number in range(20)}
    cluster.write(**names)
    scan = kv.ScanRequest(start_key=b"list", limit=12, version=cluster.timestamp(), include_start=True)
    found = cluster.call("KvScan", b"list", kv.KvScanRequest, scan)
    assert [pair.key for pair in found.kvs] == [f"list{number:02}".encode() for number in range(12)], found
    assert [pair.value for pair in found.kvs] == [str(number).encode() for number in range(12)]
    step("a scan gives keys and values in order, up to its limit")

    cluster.write(alpha=None)
    assert cluster.get(b"alpha", cluster.timestamp()).not_found
    step("a deleted key is not found")

    late = cluster.timestamp()
    cluster.write(zulu="newer")
    errors = cluster.prewrite([mutation(b"zulu", "lost")], b"zulu", late)
    assert len(errors) == 1 and errors[0].write_conflict.start_ts == late, errors
    step("a transaction that began before another one committed is refused as a conflict")

    start = cluster.timestamp()
    assert not cluster.prewrite([mutation(b"stuck", "half")], b"stuck", start)
    locked = cluster.get(b"stuck", cluster.timestamp())
    assert locked.error.locked.lock_version == start and locked.error.locked.primary_lock == b"stuck", locked
    step("a lock of an unfinished transaction is told with its primary and version")

    time.sleep(LOCK_TTL_MS / 1000)
    for _ in range(TRIES):
        request = kv.CheckTxnStatusRequest(
            primary_key=b"stuck", lock_ts=start, current_ts=cluster.timestamp(), rollback_if_not_exist=True
        )
        status = cluster.call("KvCheckTxnStatus", b"stuck", kv.KvCheckTxnStatusRequest, request)
        if status.action == kv.CheckTxnStatusTTLExpireRollback:
            break
        assert status.lock_ttl > 0, status
        time.sleep(PAUSE_SECONDS)
    assert cluster.get(b"stuck", cluster.timestamp()).not_found
    request = kv.CommitRequest(keys=[b"stuck"], start_version=start, commit_version=cluster.timestamp())
    refused = cluster.call("KvCommit", b"stuck", kv.KvCommitRequest, request)
    assert refused.HasField("error"), "a transaction that was rolled back was committed"
    step("an expired lock is rolled back by a reader, and its owner is refused afterwards")

    start = cluster.timestamp()
    pair = [mutation(b"beta", "b"), mutation(b"yankee", "y")]
    assert not cluster.prewrite(pair, b"beta", start)
    at = cluster.commit([b"beta"], start, cluster.timestamp())
    assert cluster.get(b"yankee", cluster.timestamp()).error.locked.primary_lock == b"beta"
    request = kv.CheckTxnStatusRequest(primary_key=b"beta", lock_ts=start, current_ts=cluster.timestamp())
    status = cluster.call("KvCheckTxnStatus", b"beta", kv.KvCheckTxnStatusRequest, request)
    assert status.commit_version == at, status
    request = kv.ResolveLockRequest(start_version=start, commit_version=at, keys=[b"yankee"])
    resolved = cluster.call("KvResolveLock", b"yankee", kv.KvResolveLockRequest, request)
    assert resolved.resolved_locks == 1, resolved
    assert cluster.get(b"yankee", cluster.timestamp()).value == b"y"
    step("a secondary left behind is committed from what its primary says")

    region = cluster.region(b"beta")
    stale = kv.Context(region_id=region.region_id, peer=region.peers[0])
    stale.region_epoch.version = region.epoch.version + 7
    stub = cluster.stores[region.peers[0].store_id]
    request = kv.KvGetRequest(context=stale, request=kv.GetRequest(key=b"beta", version=at))
    error = stub.KvGet(request, timeout=5).region_error
    assert error.HasField("epoch_not_match") and error.epoch_not_match.current_epoch == region.epoch, error
    try:
        stub.KvGet(kv.KvGetRequest(request=kv.GetRequest(key=b"beta")), timeout=5)
        raise SystemExit("a request without a context was served")
    except grpc.RpcError as refused:
        assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT, refused
    step("wrong epochs and missing contexts are refused as the reference refuses them")

    first = cluster.ask("AllocID", pd.AllocIDRequest(count=5))
    second = cluster.ask("AllocID", pd.AllocIDRequest(count=1))
    assert first.consumed_frontier == first.first_id + 4 and second.first_id > first.consumed_frontier
    step("ids are handed out once")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    main()
    os._exit(0)  # grpc's channels may hold the interpreter back for seconds
