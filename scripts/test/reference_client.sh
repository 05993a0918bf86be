#!/usr/bin/env bash
# A client in another language, generated from the reference's messages alone (reference_client/*.proto), talks to a
# real cluster: routes, timestamps, transactions, scans, locks left behind, region errors. Needs python3 and the
# packages grpcio and grpcio-tools; installs them into a folder of its own below target/ when they are missing.
#
# usage: reference_client.sh [--port-offset N]
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
port_offset=700
options port-offset -- "$@"
offset=$port_offset
find_nokv
work=$(mktemp -d)
demo=
cleanup() {
    [ -z "$demo" ] || { kill -TERM "$demo" 2>/dev/null && wait "$demo" || true; }
    rm -rf "$work"
}
trap cleanup EXIT

python=$PWD/target/reference-client/bin/python
command -v python3 >/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; } >/dev/null
if ! "$python" -c 'import grpc, grpc_tools' 2>/dev/null; then
    python3 -m venv target/reference-client
    "$python" -m pip install --quiet --disable-pip-version-check grpcio grpcio-tools
fi
"$python" -m grpc_tools.protoc -I scripts/test/reference_client --python_out="$work" --grpc_python_out="$work" \
    scripts/test/reference_client/{meta,error,kv,coordinator}.proto

"$nokv" demo --dir "$work/demo" --port-offset "$offset" >"$work/demo.log" 2>&1 &
demo=$!
for _ in $(seq 240); do
    grep -q '^ready in' "$work/demo.log" && break
    kill -0 "$demo" 2>/dev/null || { cat "$work/demo.log" >&2 && exit 1; }
    sleep 0.5
done
PYTHONPATH=$work "$python" scripts/test/reference_client/client.py "$work/demo/raft_config.json"
