# shellcheck shell=bash
# Shared by the scripts that torment a real cluster on loopback: two coordinators, three meta-roots, stores.
#
# Source it from the top of the repository, then call `prepare`. It sets `work`, `dir` (the cluster's), `nokv` and `cluster`,
# and points the client at both coordinators. The binary is NOKV_BIN or target/release/nokv, which is built when missing.

say() { printf '== %s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2 && exit 1; }

# prepare [WORKDIR]: a fresh directory is made when none is given.
prepare() {
    work=${1:-$(mktemp -d)}
    mkdir -p "$work"
    nokv=${NOKV_BIN:-$PWD/target/release/nokv}
    [ -x "$nokv" ] || cargo build --release
    cluster=$PWD/scripts/dev/cluster.sh
    dir=$work/cluster
    export NOKV_COORDINATOR_ADDR=127.0.0.1:2379,127.0.0.1:2378
}

# start_cluster [MORE]: MORE goes to cluster.sh. Returns when the cluster serves.
start_cluster() {
    "$cluster" --workdir "$dir" --coordinators 2 "$@" --background
    for _ in $(seq 120); do
        "$nokv" put '~probe~' yes >/dev/null 2>&1 && "$nokv" del '~probe~' >/dev/null 2>&1 && return 0
        sleep 0.5
    done
    die 'the cluster does not serve'
}

stop_cluster() { "$cluster" --workdir "$dir" stop >/dev/null 2>&1 || true; }

pid() { cat "$dir/pids/$1"; }

# kill_hard NAME [SECONDS]: SIGKILL to one process of the cluster, and a restart after so long.
kill_hard() {
    say "kill -9 $1 (pid $(pid "$1"))"
    kill -9 "$(pid "$1")"
    sleep "${2:-3}"
    "$cluster" --workdir "$dir" restart "$1"
    say "restarted $1"
}
