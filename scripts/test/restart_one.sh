#!/usr/bin/env bash
# Stops one store of a real cluster with SIGTERM while a client writes: others must lead its regions before it ends, it must end
# with exit code 0 within 10 s, no write may fail, and after a restart it must hold what the others hold. Then the same with both
# other stores dead: nobody can take over, and it must end in time all the same.
#
# usage: restart_one.sh [--workdir DIR]
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
begin "$@"
writer='' child=''
cleanup() {
    touch "$work/stop"
    [ -z "$writer" ] || wait "$writer" || true
    [ -z "$child" ] || kill -9 "$child" 2>/dev/null || true
    stop_cluster
}
trap cleanup EXIT

# Writes until told to stop. `failed` must stay empty.
write() {
    local i=0
    while [ ! -e "$work/stop" ]; do
        i=$((i + 1))
        if "$nokv" put "$(printf '%02x-%05d' $((i * 37 % 256)) $i)" "value $i" --timeout 30s >/dev/null 2>>"$work/write.log"; then
            echo "$i" >>"$work/written"
        else
            echo "$i" >>"$work/failed"
        fi
    done
}
written() { wc -l <"$work/written"; }
more_than() { [ "$(written)" -gt "$1" ]; }

# store_3: as a child of this script, so that its exit code can be seen.
store_3() {
    local args
    { read -r _ && mapfile -t args; } <"$dir/commands/store-3"
    env -u NOKV_COORDINATOR_ADDR "$nokv" "${args[@]}" >>"$work/store-3.log" 2>&1 &
    child=$!
    wait_for 30 'store-3 is ready' ready store-3
}

# terminate: SIGTERM to it; sets `took` in milliseconds.
terminate() {
    local began code=0
    began=$(date +%s%3N)
    kill -TERM "$child"
    wait "$child" || code=$?
    child='' took=$(($(date +%s%3N) - began))
    [ "$code" -eq 0 ] || { tail -n 5 "$work/store-3.log" >&2 && die "store-3 ended with exit code $code"; }
    [ "$took" -le 10000 ] || die "store-3 took $took ms to end"
}

# lead REGION: store-3 leads it.
lead() { "$nokv" region transfer-leader --region "$1" --store 3 --timeout 5s; }

say 'a store alone: it starts, and says what it misses'
mkdir -p "$dir/commands"
printf '%s\n' 127.0.0.1:20179 serve --store-id 9 --workdir "$work/alone" --addr 127.0.0.1:20179 --metrics-addr 127.0.0.1:30179 \
    --coordinator-addr 127.0.0.1:2379 >"$dir/commands/store-9"
{ read -r _ && mapfile -t args; } <"$dir/commands/store-9"
"$nokv" "${args[@]}" >>"$work/store-9.log" 2>&1 &
child=$!
wait_for 20 'it says what it misses' eval "page store-9 /readyz | grep -q '^\[-\]coordinator: 127.0.0.1:2379 unreachable'"
page store-9 /readyz | grep -F '[-]'
page store-9 /livez | grep -qx ok || die 'it is alive, and should say so'
kill -TERM "$child"
wait "$child" || die "it ended with exit code $?"
child=''
rm "$dir/commands/store-9"

start_cluster --metrics
kill -TERM "$(pid store-3)"
wait_for 15 'the first store-3 has ended' eval '! kill -0 "$(pid store-3)"'
rm -f "$dir/pids/store-3"
store_3
: >"$work/written"
write &
writer=$!
disown "$writer"
for region in 1 2; do wait_for 20 "store-3 leads region $region" lead "$region"; done
wait_for 20 'it leads both regions' is store-3 nokv_store_leaders 2
wait_for 20 'writes go on' more_than "$(($(written) + 20))"

say 'SIGTERM under load'
terminate
grep -q '"moved":[12],"kept":0' "$work/store-3.log" || { tail -n 5 "$work/store-3.log" >&2 && die 'leaders were left behind'; }
say "others lead, exit code 0 after $took ms"
wait_for 20 'writes go on' more_than "$(($(written) + 20))"

say 'restart'
store_3
wait_for 20 'everything is applied' is store-3 nokv_store_apply_lag_entries 0
touch "$work/stop"
wait_for 30 'the last write' eval "! kill -0 $writer"
writer=''
[ ! -e "$work/failed" ] || { cat "$work/write.log" >&2 && die "$(wc -l <"$work/failed") writes failed"; }
wait_for 30 'all replicas are equal' "$nokv" region check --all --timeout 10s
say "$(written) writes, none failed, replicas are equal"

say 'a second SIGTERM'
twice=0
for _ in 1 2 3; do
    [ "$twice" -ne 143 ] || break
    : >"$work/store-3.log"
    kill -TERM "$child"
    wait_for 10 'it begins to stop' grep -q 'Shutting down' "$work/store-3.log"
    # Streams of its peers keep it for two seconds, unless this script stood still for so long.
    kill -TERM "$child" 2>/dev/null || true
    twice=0
    wait "$child" || twice=$?
    store_3
done
[ "$twice" -eq 143 ] || die "a second SIGTERM has no effect: exit code $twice"
say 'exit code 143'

say 'SIGTERM while both other stores are dead'
for region in 1 2; do wait_for 20 "store-3 leads region $region" lead "$region"; done
kill -9 "$(pid store-1)" "$(pid store-2)"
terminate
say "exit code 0 after $took ms"
say ok
