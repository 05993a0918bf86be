#!/usr/bin/env bash
# A stand-alone database becomes a cluster while its tools are killed, and holds what it held.
#
# `migrate init` is killed with SIGKILL at many moments on copies of one database, and repeated; what cannot be migrated is refused
# and left alone. Then one copy goes all the way with scripts/ops/migrate-cluster.sh: three stores, `expand` interrupted half
# way, the leader moved, the first peer removed; the content read through the cluster equals the one read before.
#
# usage: migrate.sh [WORKDIR]       the binary is NOKV_BIN or target/release/nokv
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh
prepare "$@"
unset NOKV_COORDINATOR_ADDR
export NOKV_BIN=$nokv
pids=()
cleanup() {
    for pid in ${pids[@]+"${pids[@]}"}; do kill -TERM "$pid" 2>/dev/null || true; done
    wait || true
}
trap cleanup EXIT

tree() { (cd "$1" && find . -type f | sort | xargs sha256sum && find . | sort && find . -type f -printf '%p %s %T@\n' | sort) | sha256sum; }
init=(migrate init --store 1 --region 1 --peer 101 --workdir)

say 'a stand-alone database'
rm -rf "$work/db" "$work/db-cluster"
"$nokv" bench load --workdir "$work/db" --keys 100000 --value-size 200
"$nokv" put --workdir "$work/db" hello world
"$nokv" put --workdir "$work/db" long "$(head -c 3000 /dev/zero | tr '\0' x)"
content() { "$nokv" scan "$@" --limit 0 --hex | sha256sum; }
before=$(content --workdir "$work/db")

say 'looking changes nothing'
was=$(tree "$work/db")
"$nokv" migrate plan --workdir "$work/db"
"$nokv" migrate status --workdir "$work/db" --json >/dev/null
"$nokv" migrate report --workdir "$work/db" >/dev/null
[ "$(tree "$work/db")" = "$was" ] || die 'plan, status or report changed the directory'

say 'what cannot be migrated is refused and left alone'
# refused EXIT ARG...
refused() {
    local want=$1 got=0
    shift
    "$nokv" "$@" >"$work/out" 2>&1 || got=$?
    [ "$got" -eq "$want" ] || { cat "$work/out" && die "nokv $*: exit $got, not $want"; }
}
mkdir -p "$work/empty" "$work/foreign" && echo text >"$work/foreign/notes.txt"
refused 3 "${init[@]}" "$work/empty"
refused 3 "${init[@]}" "$work/nowhere"
refused 5 "${init[@]}" "$work/foreign"
[ "$(ls -A "$work/empty")" = '' ] && [ "$(ls "$work/foreign")" = notes.txt ] || die 'a refusal left something behind'
refused 2 migrate init --workdir "$work/db" --store 0 --region 1 --peer 101
refused 2 migrate init --workdir "$work/db" --store 1 --region 1 --peer 100000
refused 2 migrate init --workdir "$work/db" --store 1 --region 1
[ "$(tree "$work/db")" = "$was" ] || die 'a refused init changed the directory'
cp -r "$work/db" "$work/torn" && printf '\1\2\3' >>"$(ls "$work"/torn/*.wal | tail -n 1)"
"$nokv" migrate plan --workdir "$work/torn" | grep -q 'Warnings.*3 bytes' || die 'a torn tail is not told'
cp -r "$work/db" "$work/bad" && rm "$work/bad/CURRENT"
refused 5 migrate plan --workdir "$work/bad"
rm -rf "$work/torn" "$work/bad"

say 'init, killed at many moments'
began=$(date +%s%N)
cp -r "$work/db" "$work/copy" && "$nokv" "${init[@]}" "$work/copy" >/dev/null
took=$((($(date +%s%N) - began) / 1000000))
rm -rf "$work/copy"
killed=0 half=0
for turn in $(seq 0 29); do
    cp -r "$work/db" "$work/copy"
    attempts=0
    while :; do
        attempts=$((attempts + 1))
        "$nokv" "${init[@]}" "$work/copy" >"$work/out" 2>&1 &
        pid=$!
        delay=$((turn * took * 12 / 300 / attempts + turn % 3))
        sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
        kill -9 "$pid" 2>/dev/null && killed=$((killed + 1))
        if wait "$pid" 2>/dev/null; then break; fi
        mode=$("$nokv" migrate status --workdir "$work/copy" --json | sed -n 's/^ *"mode": "\([a-z]*\)".*/\1/p' | head -n 1)
        if [ "$mode" = preparing ]; then
            half=$((half + 1))
            refused 5 get --workdir "$work/copy" hello
            refused 5 serve --store-id 1 --workdir "$work/copy" --coordinator-addr 127.0.0.1:1
            refused 5 migrate init --workdir "$work/copy" --store 1 --region 1 --peer 102
        elif [ "$mode" = standalone ]; then
            [ "$(content --workdir "$work/copy")" = "$before" ] || die "turn $turn: the database is not what it was"
        fi
        if [ "$attempts" -eq 3 ]; then "$nokv" "${init[@]}" "$work/copy" >/dev/null && break; fi
    done
    "$nokv" migrate status --workdir "$work/copy" --json | grep -q '"stage": "seeded-finalized"' || die "turn $turn: not finished"
    [ "$turn" -eq 29 ] || rm -rf "$work/copy"
done
say "killed $killed times, $half times half way"
[ "$killed" -gt 5 ] || die 'hardly any attempt was killed'
refused 5 get --workdir "$work/copy" hello

say 'all the way, with the copy that was killed last'
rm -rf "$work/copy-cluster"
scripts/ops/migrate-cluster.sh --workdir "$work/copy" --seed-store 1 --seed-region 1 --seed-peer 101 --target 2:201 \
    --artifacts "$work/artifacts" >"$work/migrate.log" 2>&1 &
pids+=($!)
until grep -q 'the cluster runs' "$work/migrate.log"; do
    kill -0 "${pids[0]}" 2>/dev/null || { cat "$work/migrate.log" && die 'migrate-cluster.sh ended'; }
    sleep 0.2
done
[ "$(content)" = "$before" ] || die 'the cluster holds something else than the database did'
[ "$("$nokv" get hello)" = world ] || die 'hello is gone'
"$nokv" put hello again >/dev/null

say 'one more store: expand is interrupted, and goes on'
"$nokv" serve --store-id 3 --workdir "$work/copy-cluster/store-3" --addr 127.0.0.1:20172 --coordinator-addr 127.0.0.1:2379 \
    >"$work/store-3.log" 2>&1 &
pids+=($!)
expand=(migrate expand --addr 127.0.0.1:20170 --region 1 --target 2:201@127.0.0.1:20171 --target 3:301@127.0.0.1:20172
    --target 4:401@127.0.0.1:20173 --workdir "$work/copy")
got=0
# Store 4 does not exist.
"$nokv" "${expand[@]}" --wait 6s >"$work/out" 2>&1 || got=$?
cat "$work/out"
[ "$got" -eq 9 ] && grep -q '2 of 3 targets done' "$work/out" || die "expand to a store that does not exist: exit $got"
"$nokv" "${expand[@]}" --wait 60s >"$work/out" 2>&1 &
pid=$!
sleep 1
kill -INT "$pid"
got=0
wait "$pid" || got=$?
[ "$got" -eq 9 ] && grep -q 'rerun the same command' "$work/out" || { cat "$work/out" && die "Ctrl-C: exit $got"; }
"$nokv" serve --store-id 4 --workdir "$work/copy-cluster/store-4" --addr 127.0.0.1:20173 --coordinator-addr 127.0.0.1:2379 \
    >"$work/store-4.log" 2>&1 &
pids+=($!)
"$nokv" "${expand[@]}" --wait 60s --json >"$work/expand.json"
[ "$(grep -c '"target_hosted": true' "$work/expand.json")" -eq 3 ] || { cat "$work/expand.json" && die 'not on three stores'; }

say 'the leader moves, the first peer goes'
"$nokv" migrate transfer-leader --addr 127.0.0.1:20171 --target-addr 127.0.0.1:20171 --region 1 --peer 201 --workdir "$work/copy"
"$nokv" migrate transfer-leader --addr 127.0.0.1:20171 --region 1 --peer 201 2>&1 | grep -q 'nothing to do' || die 'not idempotent'
# Asked at a store that does not lead: it goes on where the leader is.
"$nokv" migrate remove-peer --addr 127.0.0.1:20170 --target-addr 127.0.0.1:20170 --region 1 --peer 101 --workdir "$work/copy" ||
    die 'the first peer does not go'
refused 5 migrate transfer-leader --addr 127.0.0.1:20171 --region 1 --peer 101
refused 3 migrate expand --addr 127.0.0.1:20171 --region 77 --target 2:201
refused 5 migrate expand --addr 127.0.0.1:2379 --region 1 --target 2:201
for port in 20170 20171 20172 20173; do "$nokv" execution --addr "127.0.0.1:$port" --json >/dev/null; done
"$nokv" migrate report --workdir "$work/copy" --addr 127.0.0.1:20171 --region 1
"$nokv" put hello world >/dev/null
[ "$(content)" = "$before" ] || die 'the content changed on the way'

say 'everything stops'
cleanup
trap - EXIT
grep -q stopping "$work/migrate.log" || die 'migrate-cluster.sh was not asked to stop'
! pgrep -f "$work/copy" >/dev/null || die 'something is left running'
echo 'ok: the cluster holds what the database held'
