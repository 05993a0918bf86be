#!/usr/bin/env bash
# From a stand-alone database to a cluster of several stores on this machine: plan, init, serve, expand, report. Every step may be
# interrupted; the same command goes on. At the end the cluster runs until Ctrl-C, which stops all that was started here.
#
# usage: migrate-cluster.sh --workdir DIR --seed-store N --seed-region N --seed-peer N --target STORE:PEER[@HOST:PORT]...
#                           [MORE]
#
#   --workdir DIR            the stand-alone database; it becomes the directory of the seed store
#   --cluster-dir DIR        directories, logs and pids of everything else      (DIR of --workdir, with -cluster behind it)
#   --artifacts DIR          summary.txt, summary.json, logs                    (./artifacts/migration)
#   --transfer-leader PEER   then has this peer lead
#   --remove-peer PEER       then takes this peer away
#   --wait DURATION          patience with each step                            (60s)
#   --exit                   stops everything at the end instead of waiting for Ctrl-C
#
# Stores listen on 127.0.0.1:20169 + their id unless a target names its address, the coordinator on 2379, meta-roots on 2380-2382
# and 3380-3382. Replicas are where the targets say: the coordinator runs with --no-scheduler.
set -eu
here=$(dirname "$(readlink -f "$0")")
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$here/lib.sh"
set_usage '--workdir DIR --seed-store N --seed-region N --seed-peer N --target STORE:PEER[@HOST:PORT]... (see the head of the file)'

workdir='' store='' region='' peer='' home='' artifacts=./artifacts/migration leader='' leaving='' wait=60s stay=true
targets=()
while [ $# -gt 0 ]; do
    case $1 in
    --*=*) # --flag=value
        flag=${1%%=*} rest=${1#*=}
        shift
        set -- "$flag" "$rest" "$@"
        continue
        ;;
    -h | --help) sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --exit) stay=false ;;
    --workdir | --seed-store | --seed-region | --seed-peer | --target | --cluster-dir | --artifacts | --transfer-leader | --remove-peer | --wait)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
        --workdir) workdir=$2 ;;
        --seed-store) store=$2 ;;
        --seed-region) region=$2 ;;
        --seed-peer) peer=$2 ;;
        --target) targets+=("$2") ;;
        --cluster-dir) home=$2 ;;
        --artifacts) artifacts=$2 ;;
        --transfer-leader) leader=$2 ;;
        --remove-peer) leaving=$2 ;;
        --wait) wait=$2 ;;
        esac
        shift
        ;;
    *) fail "unknown argument '$1'" ;;
    esac
    shift
done
[ -n "$workdir" ] || fail '--workdir must be given'
[ -n "$store" ] || fail '--seed-store must be given'
[ -n "$region" ] || fail '--seed-region must be given'
[ -n "$peer" ] || fail '--seed-peer must be given'
[ ${#targets[@]} -gt 0 ] || fail '--target must be given at least once'
home=${home:-${workdir%/}-cluster}
nokv=$(find_nokv)
mkdir -p "$home/logs" "$artifacts"
# What is meant for clients must not configure servers.
for variable in $(env | sed -n 's/^\(NOKV_[A-Z_]*\)=.*/\1/p'); do
    case $variable in NOKV_LOG | NOKV_BIN) ;; *) unset "$variable" ;; esac
done

started=()
banner() { printf '\n== %s\n' "$*"; }
finish() {
    trap '' INT TERM EXIT
    local at
    kill "${nap:-}" 2>/dev/null || true
    [ ${#started[@]} -eq 0 ] || banner 'stopping'
    # The other way round: stores, coordinator, meta-roots.
    for ((at = ${#started[@]} - 1; at >= 0; at--)); do
        kill -TERM "${started[at]}" 2>/dev/null || continue
        wait "${started[at]}" 2>/dev/null || true
    done
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

answers() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }

# launch NAME ADDR ARG...: starts a server unless somebody answers there, and waits until it does.
launch() {
    local name=$1 addr=$2 deadline=$((SECONDS + 30)) pid
    shift 2
    ! answers "$addr" || { printf '%s answers at %s already\n' "$name" "$addr" && return 0; }
    setsid "$nokv" "$@" >>"$home/logs/$name.log" 2>&1 </dev/null &
    pid=$!
    started+=("$pid")
    until answers "$addr"; do
        kill -0 "$pid" 2>/dev/null || { tail -n 10 "$home/logs/$name.log" >&2 && exit 1; }
        [ $SECONDS -lt $deadline ] || { printf 'error: %s does not answer at %s\n' "$name" "$addr" >&2 && exit 4; }
        sleep 0.1
    done
    printf '%s at %s (pid %s)\n' "$name" "$addr" "$pid"
}

addr_of() { echo "127.0.0.1:$((20169 + $1))"; }

mode=$("$nokv" migrate status --workdir "$workdir" --json | sed -n 's/^ *"mode": "\([a-z]*\)".*/\1/p' | head -n 1)
if [ "$mode" = standalone ]; then
    banner 'plan'
    "$nokv" migrate plan --workdir "$workdir"
fi
banner 'init'
"$nokv" migrate init --workdir "$workdir" --store "$store" --region "$region" --peer "$peer"

banner 'serve'
for n in 1 2 3; do
    launch "meta-root-$n" "127.0.0.1:$((2379 + n))" meta-root --addr "127.0.0.1:$((2379 + n))" --workdir "$home/meta-root-$n" \
        --node-id "$n" --transport-addr "127.0.0.1:$((3379 + n))" \
        --peer 1=127.0.0.1:3380 --peer 2=127.0.0.1:3381 --peer 3=127.0.0.1:3382
done
launch coordinator 127.0.0.1:2379 coordinator --coordinator-id migration --no-scheduler \
    --root-peer 1=127.0.0.1:2380 --root-peer 2=127.0.0.1:2381 --root-peer 3=127.0.0.1:2382
seed_addr=$(addr_of "$store")
launch "store-$store" "$seed_addr" serve --store-id "$store" --workdir "$workdir" --addr "$seed_addr" --coordinator-addr 127.0.0.1:2379
expand=()
for target in "${targets[@]}"; do
    id=${target%%:*}
    case $id in '' | *[!0-9]*) fail "target '$target': want <store>:<peer>[@addr]" ;; esac
    case $target in *@*) addr=${target#*@} ;; *) addr=$(addr_of "$id") ;; esac
    launch "store-$id" "$addr" serve --store-id "$id" --workdir "$home/store-$id" --addr "$addr" --coordinator-addr 127.0.0.1:2379
    expand+=(--target "${target%%@*}@$addr")
done

banner 'expand'
"$nokv" migrate expand --addr "$seed_addr" --region "$region" "${expand[@]}" --workdir "$workdir" --wait "$wait"
at=$seed_addr
if [ -n "$leader" ]; then
    banner "transfer leader to peer $leader"
    "$nokv" migrate transfer-leader --addr "$at" --region "$region" --peer "$leader" --workdir "$workdir" --wait "$wait"
    at=${expand[1]#*@}
fi
if [ -n "$leaving" ]; then
    banner "remove peer $leaving"
    "$nokv" migrate remove-peer --addr "$at" --region "$region" --peer "$leaving" --workdir "$workdir" --wait "$wait"
fi

banner 'report'
"$nokv" migrate report --workdir "$workdir" --addr "$seed_addr" --region "$region" | tee "$artifacts/summary.txt"
"$nokv" migrate report --workdir "$workdir" --addr "$seed_addr" --region "$region" --json >"$artifacts/summary.json"
cp "$home/logs/"*.log "$artifacts/"
printf '\nsummary: %s, logs: %s\n' "$artifacts/summary.txt" "$artifacts"
if "$stay"; then
    printf 'the cluster runs; Ctrl-C stops it\n'
    # In the background, so that a signal is acted upon at once.
    while :; do
        sleep 3600 &
        nap=$!
        wait "$nap"
    done
fi
