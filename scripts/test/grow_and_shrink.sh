#!/usr/bin/env bash
# Grows a real cluster from one store to five and shrinks it to three others, while a client writes without a pause and
# something is killed with SIGKILL every ten seconds. No acknowledged write may be lost, no write may fail for good, and every
# region must end with three replicas, equal ones, on the stores that stay. Prints how long writes took meanwhile.
#
# usage: grow_and_shrink.sh [--workdir DIR]
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
begin "$@"

writer=
tormentor=
cleanup() {
    touch "$work/stop"
    # Its last write must not find another cluster at the same addresses.
    for job in $writer $tormentor; do wait "$job" || true; done
    for store in 2 3 4 5; do kill -9 "$(cat "$work/pid-$store" 2>/dev/null)" 2>/dev/null || true; done
    stop_cluster
}
trap cleanup EXIT

serve() { # a store that nobody has heard of, or its restart
    "$nokv" serve --store-id "$1" --workdir "$work/store-$1" --addr "127.0.0.1:2018$1" \
        --coordinator-addr $NOKV_COORDINATOR_ADDR >>"$work/store-$1.log" 2>&1 &
    echo $! >"$work/pid-$1"
    disown
}

# Writes keys one after the other until told to stop; says which were acknowledged, and after how many milliseconds.
write() {
    local i=0 before
    while [ ! -e "$work/stop" ]; do
        i=$((i + 1)) before=$(date +%s%3N)
        if "$nokv" put "$(printf '%02x-%06d' $((i * 37 % 256)) $i)" "value $i" --timeout 60s >/dev/null 2>>"$work/write.log"; then
            printf '%02x-%06d\tvalue %d\t%d\n' $((i * 37 % 256)) $i $i $(($(date +%s%3N) - before)) >>"$work/written"
        else
            echo "write $i failed" >>"$work/failed"
        fi
    done
}

# Kills something every ten seconds until told to stop.
torment() {
    local victim rest
    while :; do
        for victim in coordinator-1 store-4 meta-root-1 store-3 coordinator-2 store-5; do
            for rest in $(seq 16); do
                [ ! -e "$work/stop" ] || return 0
                sleep 0.5
            done
            case $victim in
            store-*)
                say "kill -9 $victim"
                kill -9 "$(cat "$work/pid-${victim#store-}")"
                sleep 2
                serve "${victim#store-}"
                ;;
            *) kill_hard "$victim" 2 ;;
            esac
        done
    done
}

# replicated: every region has three replicas.
replicated() {
    local regions replicas
    "$nokv" regions -o json >"$work/regions.json" 2>/dev/null || return 1
    regions=$(grep -o '"epoch":' "$work/regions.json" | wc -l)
    replicas=$(grep -o '"peer_id":' "$work/regions.json" | wc -l)
    [ "$regions" -ge 4 ] && [ "$replicas" -eq $((3 * regions)) ]
}

start_cluster --config scripts/test/one_store.json
write &
writer=$!
sleep 2

say 'five stores, four regions'
for store in 2 3 4 5; do serve $store; done
for key in 40 80 c0; do "$nokv" region split "$key" --timeout 60s >/dev/null; done
torment &
tormentor=$!
deadline=$((SECONDS + 240))
until replicated; do
    [ $SECONDS -lt $deadline ] || { cat "$work/regions.json" >&2 && die 'some region does not have three replicas'; }
    sleep 1
done
say "three replicas of every region after $SECONDS s"
for store in 1 2; do
    say "store-$store is to be empty"
    "$nokv" store decommission "$store" --wait 240s >"$work/decommission-$store" 2>&1 ||
        { cat "$work/decommission-$store" >&2 && die "store-$store did not get empty"; }
    tail -n 1 "$work/decommission-$store"
done
kill -9 "$(pid store-1)" "$(cat "$work/pid-2")"
sleep 12
touch "$work/stop"
wait $writer $tormentor

[ ! -e "$work/failed" ] || { cat "$work/failed" "$work/write.log" >&2 && die 'writes failed'; }
say 'every acknowledged write against a scan'
cut -f1,2 "$work/written" | LC_ALL=C sort >"$work/expected"
"$nokv" scan --limit 0 -o plain --timeout 60s >"$work/scan"
cmp "$work/scan" "$work/expected" || die 'the scan differs from what was acknowledged'
replicated || { cat "$work/regions.json" >&2 && die 'some region does not have three replicas'; }
grep -qE '"store_id": *[12]\b' "$work/regions.json" && { cat "$work/regions.json" >&2 && die 'a replica is on a store that left'; }
say 'every replica against the others'
compared=
for _ in 1 2 3 4 5; do
    "$nokv" region check --all --timeout 60s >"$work/check" 2>&1 && compared=yes && break
    if grep -q DIFFERS "$work/check"; then break; fi
    sleep 2
done
[ -n "$compared" ] || { cat "$work/check" >&2 && die 'replicas could not be found equal'; }
cut -f3 "$work/written" | sort -n | awk '{ ms[NR] = $1 } END {
    printf "ok %d writes, process start included: p50 %d ms, p99 %d ms, longest %d ms\n", NR, ms[int(NR * 0.5) + 1], ms[int(NR * 0.99) + 1], ms[NR] }'
"$nokv" operators | grep -cE 'move-peer|add-peer' | awk '{ printf "ok %d replicas came or were moved\n", $1 }'
