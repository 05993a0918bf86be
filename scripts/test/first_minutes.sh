#!/usr/bin/env bash
# What a newcomer does in the first minutes, as the book shows it: a demo cluster, data in and out, a store killed, the state
# understood, a bundle for support, an orderly end; and a stand-alone database that is filled, looked at and checked, which changes nothing.
#
# usage: first_minutes.sh [WORKDIR]       the binary is NOKV_BIN or target/release/nokv
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh
prepare "$@"
# Beside whatever else runs on this machine, and below the ports that connections are given.
offset=11000
export NOKV_COORDINATOR_ADDR=127.0.0.1:$((2379 + offset)),127.0.0.1:$((2378 + offset)),127.0.0.1:$((2377 + offset))
demo=''
trap '[ -z "$demo" ] || kill -9 "$demo" 2>/dev/null || true' EXIT

# wait_until SECONDS WHAT COMMAND...
wait_until() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        kill -0 "$demo" 2>/dev/null || { cat "$work/demo.log" >&2 && die "$what: the demo has ended"; }
        [ $SECONDS -lt $deadline ] || die "$what: not within the time"
        sleep 0.2
    done
}
# ends EXIT COMMAND...: standard output is left in $work/out.
ends() {
    local want=$1 got=0
    shift
    "$nokv" "$@" >"$work/out" 2>"$work/err" || got=$?
    [ "$got" -eq "$want" ] || { cat "$work/out" "$work/err" >&2 && die "nokv $*: exit code $got, not $want"; }
}
says() { grep -q -- "$1" "$work/out" || { cat "$work/out" >&2 && die "it does not say: $1"; }; }

say 'a demo'
"$nokv" demo --dir "$work/demo" --port-offset $offset >"$work/demo.log" 2>&1 &
demo=$!
wait_until 60 'the demo is ready' grep -q 'ready in' "$work/demo.log"
for line in 'meta-root-3 ' 'coordinator-3 ' 'store-3 ' 'console: http://' 'nokv put hello world'; do
    grep -q "$line" "$work/demo.log" || die "the demo does not tell of $line"
done

say 'data in and out'
ends 0 put hello world && says 'commit_ts='
ends 0 get hello && says '^world$'
ends 0 scan --prefix h -o json && says '"key":"hello"'
ends 0 txn <<<'get a; put a 1; put b 2'
ends 0 get b && says '^2$'
ends 3 get nothing-here
# From a program: HELLO_BIN, or the example as it is built here.
hello=("${HELLO_BIN:-}")
[ -n "${HELLO_BIN:-}" ] || hello=(cargo run --quiet --release -p nokv-client --example hello --)
"${hello[@]}" "127.0.0.1:$((2379 + offset))" >"$work/out" || die 'the example of the client fails'
says '^hello = world$' && says '^hello/again = world$'
ends 0 del hello/again
ends 0 status && says 'cluster: healthy'
ends 0 status --json && says '"health": *"healthy"' 

say 'a store is killed'
victim=$(awk '$1 == "store-2" { print $2 }' "$work/demo.log")
kill -9 "$victim"
degraded() { local got=0 && "$nokv" status >"$work/out" 2>/dev/null || got=$?; [ "$got" -eq 11 ]; }
wait_until 30 'the state says so' degraded
says 'store-2 does not answer'
ends 0 get hello && says '^world$'
ends 0 put hello again

say 'a bundle for support, with one store dead'
ends 0 debug bundle --to "$work/bundle.tar.gz" --redact --timeout 60s
tar xzf "$work/bundle.tar.gz" -C "$work"
grep -q '"missing"' "$work/nokv-debug/MANIFEST.json" && ! grep -q '"missing": \[\]' "$work/nokv-debug/MANIFEST.json" || die 'the bundle does not say what is missing'
! grep -rq 'hello' "$work/nokv-debug" || die 'the bundle tells of keys'

say 'an orderly end, and again'
kill -INT "$demo"
wait "$demo" || die "the demo ended with exit code $?"
demo=''
! pgrep -f "$work/demo/" >/dev/null || die 'something is left running'
"$nokv" demo --dir "$work/demo" --port-offset $offset >"$work/demo.log" 2>&1 &
demo=$!
wait_until 60 'the demo is ready' grep -q 'ready in' "$work/demo.log"
ends 0 get hello && says '^again$'
kill -INT "$demo"
wait "$demo" || die "the demo ended with exit code $?"
demo=''

say 'a stand-alone database'
tree() { (cd "$1" && find . | LC_ALL=C sort && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum && find . -type f -printf '%p %s %T@\n' | LC_ALL=C sort) | sha256sum; }
ends 0 bench load --workdir "$work/db" --keys 200000
was=$(tree "$work/db")
ends 0 stats --workdir "$work/db" && says '^Entries *200000$'
ends 0 stats --workdir "$work/db" --json && says '"queue_length": 0'
cp "$work/out" "$work/stats"
ends 0 stats --workdir "$work/db" --json
cmp "$work/out" "$work/stats" || die 'two looks differ'
ends 0 manifest --workdir "$work/db" && says 'Manifest Log Pointer'
ends 0 vlog --workdir "$work/db"
ends 0 regions --workdir "$work/db" && says '(none)'
ends 0 check "$work/db" --deep && says 'no damage'
[ "$(tree "$work/db")" = "$was" ] || die 'looking changed the directory'
echo 'ok: the first minutes are as the book tells'
