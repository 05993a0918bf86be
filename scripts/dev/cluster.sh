#!/usr/bin/env bash
# Runs a local cluster, every process on its own: three meta-roots, one or more coordinators, the stores of the
# configuration file. Fresh store directories get their regions from the file; used ones keep theirs.
#
# usage: cluster.sh [--workdir DIR] [--config FILE] [--coordinators N] [--background] [MORE]
#        cluster.sh [--workdir DIR] stop                 stops what --background started
#        cluster.sh [--workdir DIR] restart NAME         starts NAME (store-1, coordinator-1, meta-root-1) again
#
#   --workdir DIR             data, logs/NAME.log and pids/NAME          (./artifacts/cluster)
#   --config FILE             stores and regions                         (./raft_config.example.json)
#   --coordinators N          on ports 2379, 2378, ..., consoles on 9379, 9378, ... (1)
#   --coordinator-listen ADDR address of the first coordinator           (127.0.0.1:2379)
#   --coordinator-id ID       name of the first coordinator              (coordinator-1)
#   --root-refresh, --lease-ttl, --lease-renew-before                    (200ms, 10s, 3s)
#   --split-bytes             size at which stores split regions         (that of nokv serve)
#   --raft-debug-log, --no-raft-debug-log                                (off)
#   --tls                     certificates in DIR/tls, one for each process, and TLS on every connection
#   --insecure                listen beyond loopback without TLS
#   --metrics                 stores and meta-roots serve /metrics etc. on their port + 10000 (off)
#   --disk-reserve            bytes that stores keep free                (that of nokv serve)
#   --slow-log                which requests stores log as slow          (that of nokv serve)
#   --background              return once all ports answer; without it, logs go to the terminal until Ctrl-C
#
# The binary is NOKV_BIN or target/release/nokv, which is built when missing.
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."

workdir=./artifacts/cluster config=./raft_config.example.json
coordinators=1 listen=127.0.0.1:2379 coordinator_id=coordinator-1
root_refresh=200ms lease_ttl=10s lease_renew_before=3s raft_debug_log=false split_bytes= disk_reserve= slow_log= metrics=false
background=false command=start name= tls=false more=()

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2 && exit "${2:-1}"; }
usage_error() { printf 'error: %s\nsee %s --help\n' "$*" "$0" >&2 && exit 2; }
value() { [ $# -ge 2 ] || usage_error "$1 needs a value"; }

while [ $# -gt 0 ]; do
    case $1 in
    --*=*) # --flag=value
        flag=${1%%=*} rest=${1#*=}
        shift
        set -- "$flag" "$rest" "$@"
        continue
        ;;
    --workdir) value "$@" && workdir=$2 && shift ;;
    --config) value "$@" && config=$2 && shift ;;
    --coordinators) value "$@" && coordinators=$2 && shift ;;
    --coordinator-listen) value "$@" && listen=$2 && shift ;;
    --coordinator-id) value "$@" && coordinator_id=$2 && shift ;;
    --root-refresh) value "$@" && root_refresh=$2 && shift ;;
    --lease-ttl) value "$@" && lease_ttl=$2 && shift ;;
    --lease-renew-before) value "$@" && lease_renew_before=$2 && shift ;;
    --split-bytes) value "$@" && split_bytes=$2 && shift ;;
    --disk-reserve) value "$@" && disk_reserve=$2 && shift ;;
    --slow-log) value "$@" && slow_log=$2 && shift ;;
    --metrics) metrics=true ;;
    --raft-debug-log) raft_debug_log=true ;;
    --no-raft-debug-log) raft_debug_log=false ;;
    --tls) tls=true ;;
    --insecure) more+=(--insecure) ;;
    --background) background=true ;;
    -h | --help) sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    stop) command=stop ;;
    restart) value "$@" && command=restart name=$2 && shift ;;
    *) usage_error "unknown argument '$1'" ;;
    esac
    shift
done
case $coordinators in '' | *[!0-9]* | 0) usage_error "--coordinators needs a number above 0, not '$coordinators'" ;; esac

nokv=${NOKV_BIN:-$PWD/target/release/nokv}
if [ ! -x "$nokv" ]; then
    [ -z "${NOKV_BIN:-}" ] || die "NOKV_BIN=$NOKV_BIN is not a program"
    cargo build --release
fi
mkdir -p "$workdir/pids" "$workdir/logs" "$workdir/commands"
workdir=$(cd "$workdir" && pwd)
# What is meant for clients must not configure servers.
for variable in $(env | sed -n 's/^\(NOKV_[A-Z_]*\)=.*/\1/p'); do
    case $variable in NOKV_LOG | NOKV_BIN) ;; *) unset "$variable" ;; esac
done

# ---- what runs where -------------------------------------------------------------------------------------------

store_ids() { "$nokv" config stores --config "$config" | cut -d' ' -f1; }
store_addr() { "$nokv" config stores --config "$config" | awk -v id="$1" '$1 == id { print ($2 == "-" ? $3 : $2) }'; }

coordinator_name() { if [ "$1" -eq 1 ]; then echo "$coordinator_id"; else echo "coordinator-$1"; fi; }
coordinator_addr() { echo "${listen%:*}:$((${listen##*:} - $1 + 1))"; }
# Where its console is: on this machine, 7000 above its port.
console_addr() { echo "127.0.0.1:$((${listen##*:} - $1 + 7001))"; }
coordinator_list() {
    local n list=
    for n in $(seq "$coordinators"); do list=$list,$(coordinator_addr "$n"); done
    echo "${list#,}"
}

# names: every process, in the order in which they start.
names() {
    local n
    for n in 1 2 3; do echo "meta-root-$n"; done
    for n in $(seq "$coordinators"); do coordinator_name "$n"; done
    for n in $(store_ids); do echo "store-$n"; done
}

# certify NAME HOST: makes the authority, a client's certificate and that of a process, where they are missing.
certify() {
    local home=$workdir/tls
    [ -f "$home/ca/ca.crt" ] || "$nokv" cert create-ca --dir "$home/ca" --name 'NoKV development CA' >/dev/null
    [ -f "$home/client.admin.crt" ] || "$nokv" cert create-client --ca-dir "$home/ca" --out "$home" --name admin --role admin >/dev/null
    [ -f "$home/$1/node.crt" ] ||
        "$nokv" cert create-node --ca-dir "$home/ca" --out "$home/$1" --name "$1" --host "127.0.0.1,localhost,$2" >/dev/null
}

# arguments NAME: fills `args` with its command line, `addr` with where it will answer.
arguments() {
    role_arguments "$1"
    args+=(${more[@]+"${more[@]}"})
    if $tls; then
        certify "$1" "${addr%:*}"
        args+=(--tls-ca "$workdir/tls/ca/ca.crt" --tls-cert "$workdir/tls/$1/node.crt" --tls-key "$workdir/tls/$1/node.key")
    fi
}

role_arguments() {
    local n
    case $1 in
    meta-root-*)
        n=${1##*-}
        addr=127.0.0.1:$((2379 + n))
        args=(meta-root --addr "$addr" --workdir "$workdir/$1" --node-id "$n" --transport-addr "127.0.0.1:$((3379 + n))"
            --peer 1=127.0.0.1:3380 --peer 2=127.0.0.1:3381 --peer 3=127.0.0.1:3382)
        ;;
    store-*)
        n=${1##*-}
        addr=$(store_addr "$n")
        [ -n "$addr" ] || die "$config has no store $n"
        args=(serve --config "$config" --store-id "$n" --workdir "$workdir/$1" --coordinator-addr "$(coordinator_list)"
            "--raft-debug-log=$raft_debug_log" ${split_bytes:+--split-bytes "$split_bytes"}
            ${disk_reserve:+--disk-reserve "$disk_reserve"}
            ${slow_log:+--slow-log "$slow_log"})
        ;;
    *)
        for n in $(seq "$coordinators") 0; do
            [ "$n" -ne 0 ] || die "there is no process $1; there are: $(names | tr '\n' ' ')"
            [ "$(coordinator_name "$n")" != "$1" ] || break
        done
        addr=$(coordinator_addr "$n")
        args=(coordinator --addr "$addr" --coordinator-id "$1" --metrics-addr "$(console_addr "$n")" --root-refresh "$root_refresh" --lease-ttl "$lease_ttl"
            --lease-renew-before "$lease_renew_before"
            --root-peer 1=127.0.0.1:2380 --root-peer 2=127.0.0.1:2381 --root-peer 3=127.0.0.1:2382)
        ;;
    esac
    # Coordinators have theirs for the console.
    case $metrics$1 in truemeta-root-* | truestore-*) args+=(--metrics-addr "127.0.0.1:$((${addr##*:} + 10000))") ;; esac
}

# ---- starting and stopping -------------------------------------------------------------------------------------

# alive NAME: its pid is there and belongs to a nokv: not to a newcomer with an old number, nor to a dead process that
# nobody has waited for yet (in containers, often nobody ever does).
alive() {
    local pid stat
    pid=$(cat "$workdir/pids/$1" 2>/dev/null) && kill -0 "$pid" 2>/dev/null || return 1
    if [ ! -d /proc/self ]; then return 0; fi
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
    case $stat in
    *') Z '*) return 1 ;;
    *"($(basename "$nokv" | cut -c1-15)) "*) return 0 ;;
    *) return 1 ;;
    esac
}

# spawn NAME: starts what commands/NAME says (address, then one argument a line), out of reach of the terminal's
# Ctrl-C: that is ours to pass on.
spawn() {
    local addr args log=$workdir/logs/$1.log
    ! alive "$1" || die "$1 runs already (pid $(cat "$workdir/pids/$1")); stop it: $0 --workdir $workdir stop"
    { read -r addr && mapfile -t args; } <"$workdir/commands/$1"
    setsid "$nokv" "${args[@]}" >>"$log" 2>&1 </dev/null &
    echo $! >"$workdir/pids/$1"
    wait_port "$1" $! "$addr" "$log"
}

answers() { (exec 3<>"/dev/tcp/${1%:*}/${1##*:}") 2>/dev/null; }

# wait_port NAME PID ADDR LOG
wait_port() {
    local deadline=$((SECONDS + 30))
    until answers "$3"; do
        if ! kill -0 "$2" 2>/dev/null; then
            tail -n 10 "$4" >&2
            die "$1 ended at once; its log is $4"
        fi
        [ $SECONDS -lt $deadline ] || die "$1 does not answer at $3 after 30 s; its log is $4"
        sleep 0.1
    done
    # Somebody answers. If our process is gone, it found the port taken.
    sleep 0.1
    kill -0 "$2" 2>/dev/null || { tail -n 10 "$4" >&2 && die "$1 ended at once; its log is $4"; }
}

# stop NAME: asks it to stop; kills it if it does not.
stop() {
    local deadline=$((SECONDS + 15)) pid
    if alive "$1"; then
        pid=$(cat "$workdir/pids/$1")
        kill -INT "$pid" 2>/dev/null || true
        while alive "$1"; do
            if [ $SECONDS -ge $deadline ]; then
                say "$1 does not stop, killing it"
                kill -9 "$pid" 2>/dev/null || true
            fi
            sleep 0.05
        done
    fi
    rm -f "$workdir/pids/$1"
}

# stop_all: stores, then coordinators, then meta-roots.
stop_all() {
    local name pids
    pids=$(ls "$workdir/pids")
    for name in $(grep '^store-' <<<"$pids") $(grep -v -e '^store-' -e '^meta-root-' <<<"$pids") $(grep '^meta-root-' <<<"$pids"); do
        stop "$name"
    done
}

# seed ID: gives a fresh store directory its regions, leaves a used one alone. A dirty one is refused by nokv.
seed() {
    local dir=$workdir/store-$1
    if [ -f "$dir/MODE.json" ]; then return 0; fi
    "$nokv" config seed --config "$config" --store-id "$1" --workdir "$dir"
}

start_all() {
    local id name
    "$nokv" config check --config "$config" >/dev/null
    for id in $(store_ids); do seed "$id"; done
    rm -f "$workdir"/commands/*
    for name in $(names); do
        arguments "$name"
        printf '%s\n' "$addr" "${args[@]}" >"$workdir/commands/$name"
    done
    for name in $(names); do spawn "$name"; done
}

# follow: the logs on the terminal, each line with the name of its process.
follow() {
    local name
    for name in $(names); do
        tail -n +1 -F "$workdir/logs/$name.log" 2>/dev/null > >(exec sed -u "s/^/[$name] /") &
        tails+=($!)
    done
}

finish() {
    trap '' INT TERM EXIT
    say 'stopping'
    stop_all
    kill ${tails[@]+"${tails[@]}"} 2>/dev/null || true
    say "stopped; the data stays in $workdir"
}

case $command in
stop) stop_all && say 'stopped' ;;
restart)
    [ -f "$workdir/commands/$name" ] || die "there is no process $name; there are: $(ls "$workdir/commands" | tr '\n' ' ')"
    stop "$name"
    spawn "$name"
    ;;
start)
    tails=()
    for name in $(ls "$workdir/pids"); do
        ! alive "$name" || die "$name runs already (pid $(cat "$workdir/pids/$name")); stop it: $0 --workdir $workdir stop"
    done
    trap 'stop_all' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # A log of an earlier run would be shown again.
    $background || rm -f "$workdir"/logs/*.log
    start_all
    say "coordinators: $(coordinator_list)"
    say "console: http://$(console_addr 1)/"
    if $tls; then
        say "clients need: export NOKV_TLS_CA=$workdir/tls/ca/ca.crt NOKV_TLS_CERT=$workdir/tls/client.admin.crt NOKV_TLS_KEY=$workdir/tls/client.admin.key"
    fi
    if $background; then
        trap - EXIT
        say "running; data, logs and pids in $workdir; stop it: $0 --workdir $workdir stop"
        exit 0
    fi
    trap 'finish; exit 0' INT TERM EXIT
    follow
    told=' '
    while sleep 1; do
        for name in $(names); do
            if alive "$name"; then
                told=${told/ $name / }
            elif [[ $told != *" $name "* ]]; then
                told+="$name "
                say "$name ended; bring it back: $0 --workdir $workdir restart $name"
            fi
        done
    done
    ;;
esac
