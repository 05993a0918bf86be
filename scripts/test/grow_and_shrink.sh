#!/usr/bin/env bash
# Grows a real cluster from three stores to five and shrinks it to three others while a client writes without a pause and
# something is killed with SIGKILL every few seconds. No acknowledged write may be lost, no write may fail for good, and
# every region must end on the three stores that stay. Prints how long writes took meanwhile.
#
# usage: grow_and_shrink.sh [--workdir DIR]
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
work=
while [ $# -gt 0 ]; do
    case $1 in
    --workdir) work=$2 && shift 2 ;;
    *) echo "unknown argument $1" >&2 && exit 2 ;;
    esac
done
prepare "$work"

declare -A serving
writer=
cleanup() {
    touch "$work/stop"
    # Its last write must not find another cluster at the same addresses.
    [ -z "$writer" ] || wait "$writer" || true
    kill -9 "${serving[@]}" 2>/dev/null || true
    stop_cluster
}
trap cleanup EXIT

serve() { # a store that nobody has heard of
    "$nokv" serve --store-id "$1" --workdir "$work/store-$1" --addr "127.0.0.1:2018$1" \
        --coordinator-addr $NOKV_COORDINATOR_ADDR >>"$work/store-$1.log" 2>&1 &
    serving[$1]=$!
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

start_cluster
write &
writer=$!
sleep 3

say 'five stores, five regions'
serve 4
serve 5
for key in 40 80 c0; do "$nokv" region split "$key" --timeout 60s >/dev/null; done
sleep 5
say 'kill -9 store-4'
kill -9 "${serving[4]}"
sleep 2
serve 4
sleep 8
for store in 1 2; do
    say "store-$store is to be empty"
    "$nokv" store decommission "$store" --wait 240s >"$work/decommission-$store" 2>&1 &
    waiting=$!
    sleep 4
    [ "$store" = 1 ] && kill_hard coordinator-1 2 || kill_hard meta-root-1 2
    sleep 6
    kill_hard store-3 2
    wait $waiting || { cat "$work/decommission-$store" >&2 && die "store-$store did not get empty"; }
    tail -n 1 "$work/decommission-$store"
    kill -9 "$(pid "store-$store")"
done
sleep 5
touch "$work/stop"
wait $writer

[ ! -e "$work/failed" ] || { cat "$work/failed" "$work/write.log" >&2 && die 'writes failed'; }
say 'every acknowledged write against a scan'
cut -f1,2 "$work/written" | LC_ALL=C sort >"$work/expected"
"$nokv" scan --limit 0 -o plain --timeout 60s >"$work/scan"
cmp "$work/scan" "$work/expected" || die 'the scan differs from what was acknowledged'
"$nokv" regions -o json >"$work/regions.json"
grep -qE '"store_id": *[12]\b' "$work/regions.json" && { cat "$work/regions.json" >&2 && die 'a replica is on a store that left'; }
cut -f3 "$work/written" | sort -n | awk '{ ms[NR] = $1 } END {
    printf "ok %d writes, process start included: p50 %d ms, p99 %d ms, longest %d ms\n", NR, ms[int(NR * 0.5) + 1], ms[int(NR * 0.99) + 1], ms[NR] }'
"$nokv" operators | grep -c 'move-peer' | awk '{ printf "ok %d replicas were moved\n", $1 }'
