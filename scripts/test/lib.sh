# shellcheck shell=bash
# Shared by the scripts that torment a real cluster on loopback: two coordinators, three meta-roots, stores.
#
# Source it from the top of the repository, then call `options`, if the script has any, and `prepare`. That sets `work`, `dir` (the
# cluster's), `nokv` and `cluster`, and points the client at both coordinators. The binary is NOKV_BIN or target/release/nokv, which is built when missing.

say() { printf '== %s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2 && exit 1; }

# options NAME... -- ARG...: reads `--NAME VALUE` into the variable of that name (with _ for -); --help shows the head of the script.
options() {
    local known=' ' name
    while [ "$1" != -- ]; do known+="$1 " && shift; done
    shift
    while [ $# -gt 0 ]; do
        case $1 in -h | --help) sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;; esac
        name=${1#--}
        if [ "--$name" != "$1" ] || [[ $known != *" $name "* ]]; then echo "unknown argument $1" >&2 && exit 2; fi
        [ $# -ge 2 ] || { echo "$1 needs a value" >&2 && exit 2; }
        printf -v "${name//-/_}" %s "$2"
        shift 2
    done
}

# find_nokv: sets `nokv`, and builds it if it is not there. The settings of whoever calls are none of ours.
find_nokv() {
    nokv=${NOKV_BIN:-$PWD/target/release/nokv}
    [ -x "$nokv" ] || cargo build --release
    local variable
    for variable in $(env | sed -n 's/^\(NOKV_[A-Z_]*\)=.*/\1/p'); do [ "$variable" = NOKV_BIN ] || unset "$variable"; done
}

# prepare [WORKDIR]: a fresh directory is made when none is given.
prepare() {
    work=${1:-$(mktemp -d)}
    mkdir -p "$work"
    work=$(cd "$work" && pwd)
    find_nokv
    cluster=$PWD/scripts/dev/cluster.sh
    dir=$work/cluster
    export NOKV_COORDINATOR_ADDR=127.0.0.1:2379,127.0.0.1:2378
}

# begin ARG...: prepares for a script whose only option is --workdir DIR; `workdir` is empty when that was not given.
begin() {
    workdir=
    options workdir -- "$@"
    prepare "$workdir"
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

# Of a cluster that was started with --metrics:

# page NAME PATH: the body of a page, whatever its status; empty when nobody answers.
page() {
    local port
    port=$(head -n 1 "$dir/commands/$1") port=${port##*:}
    case $1 in coordinator-*) port=$((port + 7000)) ;; *) port=$((port + 10000)) ;; esac
    {
        exec 3<>"/dev/tcp/127.0.0.1/$port" || return 0
        printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' "$2" >&3
        timeout 5 sed '1,/^\r$/d' <&3 || true
        exec 3>&-
    } 2>/dev/null
}

# metric NAME METRIC: the value of a metric without labels; empty when there is none.
metric() { page "$1" /metrics | sed -n "s/^$2 //p"; }

# wait_for SECONDS WHAT COMMAND...: waits until the command succeeds.
wait_for() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || die "$what: not within the time"
        sleep 0.2
    done
}

# is NAME METRIC VALUE
is() { [ "$(metric "$1" "$2")" = "$3" ]; }

ready() { page "$1" /readyz | grep -qx ok; }

# leading WHAT: store, coordinator or meta-root, as `nokv status` names it.
leading() {
    "$nokv" status --config raft_config.example.json --coordinator-addr "$NOKV_COORDINATOR_ADDR" --json 2>/dev/null |
        sed -n "s/.*\"leading_$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1
}

# kill_hard NAME [SECONDS]: SIGKILL to one process of the cluster, and a restart after so long.
kill_hard() {
    say "kill -9 $1 (pid $(pid "$1"))"
    kill -9 "$(pid "$1")"
    sleep "${2:-3}"
    "$cluster" --workdir "$dir" restart "$1"
    say "restarted $1"
}
