#!/usr/bin/env bash
# Kills parts of the control plane of a real cluster. The coordinator that holds the lease: the lease moves, and timestamps never go
# back. One meta-root: nothing is noticed. A second one: reads of known regions go on, and what needs the meta-roots says
# `root_quorum_lost`, exit code 4, and who is dead. One comes back: all goes on by itself.
#
# usage: control_plane_down.sh [--workdir DIR]
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
begin "$@"
trap stop_cluster EXIT

# stamp: writes, and notes the commit timestamp, which must be above all before.
last=0 stamps=0
stamp() {
    local ts
    ts=$("$nokv" put "key-$stamps" "value $stamps" --timeout 30s -o json 2>"$work/err" | tr -d ' \n' | sed -n 's/.*"commit_ts":\([0-9]*\).*/\1/p')
    [ -n "$ts" ] || { cat "$work/err" >&2 && die 'a write failed'; }
    [ "$ts" -gt "$last" ] || die "timestamp $ts comes after $last"
    last=$ts stamps=$((stamps + 1))
}
stamp_all() { for _ in $(seq "$1"); do stamp; done; }

holder_is_not() {
    local now
    now=$(leading coordinator)
    [ -n "$now" ] && [ "$now" != "$1" ]
}

# quorum_lost: a write says what is wrong.
quorum_lost() {
    local code=0
    "$nokv" put some value --timeout 3s >/dev/null 2>"$work/err" || code=$?
    [ "$code" -eq 4 ] && grep -q 'error\[root_quorum_lost\]' "$work/err"
}
writes() { "$nokv" put some value --timeout 3s; }

start_cluster --metrics --lease-ttl 3s --lease-renew-before 1s
stamp_all 5
if command -v promtool >/dev/null; then
    for process in $(ls "$dir/commands"); do
        page "$process" /metrics | promtool check metrics >"$work/promtool" 2>&1 && [ ! -s "$work/promtool" ] ||
            { cat "$work/promtool" >&2 && die "promtool refuses the metrics of $process"; }
    done
    say 'promtool takes the metrics of all processes'
fi
holder=$(leading coordinator)
say "kill -9 $holder, which holds the lease"
kill -9 "$(pid "$holder")"
stamp_all 5
wait_for 30 'the lease moves' holder_is_not "$holder"
"$cluster" --workdir "$dir" restart "$holder"
say "$(leading coordinator) holds it, $stamps timestamps, each above all before"

holder=$(leading coordinator)
say "SIGTERM to $holder: it seals its generation"
kill -TERM "$(pid "$holder")"
wait_for 30 'the lease moves' holder_is_not "$holder"
stamp_all 5
grep -q 'coordinator lease granted' "$dir/logs/$(leading coordinator).log" || die 'no grant in the log of the new holder'
"$cluster" --workdir "$dir" restart "$holder"
wait_for 20 "$holder is ready, as a standby" ready "$holder"

first=$(leading meta-root)
say "kill -9 $first, which leads"
kill -9 "$(pid "$first")"
stamp_all 5
second=meta-root-$((${first##*-} % 3 + 1)) third=meta-root-$(((${first##*-} + 1) % 3 + 1))
say "kill -9 $second"
kill -9 "$(pid "$second")"
wait_for 40 'root_quorum_lost is said' quorum_lost
for dead in "$first" "$second"; do
    grep -q "$dead (" "$work/err" || { cat "$work/err" >&2 && die "$dead is not named"; }
done
! grep -q "$third (" "$work/err" || { cat "$work/err" >&2 && die "$third is alive and is named"; }
sed 's/^/   /' "$work/err"
[ "$("$nokv" get key-0)" = 'value 0' ] || die 'a read of a known region failed'
for process in "$third" coordinator-1; do
    wait_for 30 "$process says that it is not ready" eval "page $process /readyz | grep -q 'check failed'"
    page "$process" /readyz | sed "s/^/   $process /"
    page "$process" /livez | grep -qx ok || die "$process is alive, and should say so"
done

say "$second comes back"
"$cluster" --workdir "$dir" restart "$second"
wait_for 40 'writes go on' writes
stamp_all 5
wait_for 30 "$third is ready" ready "$third"
say "$stamps timestamps, each above all before"
say ok
