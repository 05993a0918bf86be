#!/usr/bin/env bash
# Imports a real word list into a real cluster while the processes that matter most are killed with SIGKILL:
# the store that leads a region, the coordinator that holds the lease, the meta-root that leads. Then checks
# that a full scan and 1 000 random gets agree with the file, kills everything at once, restarts, checks again.
#
# usage: import_under_fire.sh [--workdir DIR] [--records N]
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
workdir= records=150000
options workdir records -- "$@"
prepare "$workdir"
trap stop_cluster EXIT

# The word list: Debian's, straight from its package when it is not installed; else this repository's own words.
words() {
    local list=/usr/share/dict/american-english-large
    if [ ! -f $list ]; then
        (cd "$work" && { apt-get download wamerican-large >/dev/null 2>&1 ||
            { apt-get update >/dev/null 2>&1 && apt-get download wamerican-large >/dev/null 2>&1; }; } &&
            dpkg -x wamerican-large_*.deb words) || true
        list=$work/words$list
    fi
    if [ -f $list ]; then
        head -n "$records" "$list"
    else
        seq -f 'word-%08.0f' 1 "$records"
    fi
}

words | awk '{ printf "%s\t%d:%s:%s\n", $0, NR, $0, $0 }' | LC_ALL=C sort -t "$(printf '\t')" -k1,1 -u >"$work/data.tsv"
total=$(wc -l <"$work/data.tsv")
# A keyed shuffle, so that the import touches both regions all the time.
LC_ALL=C awk '{ printf "%s\t%s\n", (NR * 7919) % 1000003, $0 }' "$work/data.tsv" | sort -n | cut -f2- >"$work/import.tsv"
say "$total records"

leading() { # what: store | coordinator | meta-root, as `nokv status` names it
    local name
    for _ in $(seq 60); do
        name=$("$nokv" status --config raft_config.example.json --json 2>/dev/null |
            sed -n "s/.*\"leading_$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1)
        [ -n "$name" ] && echo "$name" && return 0
        sleep 0.5
    done
    die "nobody knows the leading $1"
}

check() {
    say 'full scan against the file'
    "$nokv" scan --limit 0 -o plain >"$work/scan.tsv"
    cmp "$work/scan.tsv" "$work/data.tsv" || die 'the scan differs from the file'
    say '1000 random gets against the file'
    awk -v seed="$RANDOM" 'BEGIN { srand(seed) } { if (n < 1000) r[n++] = $0; else { i = int(rand() * NR); if (i < 1000) r[i] = $0 } }
        END { for (i = 0; i < n; i++) print r[i] }' "$work/data.tsv" >"$work/sample.tsv"
    cut -f1 "$work/sample.tsv" | while IFS= read -r key; do
        "$nokv" get -- "$key" || exit 1
    done >"$work/got" || die 'a get failed'
    cut -f2 "$work/sample.tsv" | cmp - "$work/got" || die 'a get differs from the file'
}

start_cluster
say 'import, with kills on the way'
# Small batches, so that the import is still under way at the last kill.
"$nokv" import "$work/import.tsv" --format tsv --batch 32 --jobs 4 --state "$work/import.state" --retry-for 120s 2>"$work/import.log" &
import=$!
sleep 2
kill_hard "$(leading store)"
kill_hard "$(leading coordinator)"
kill_hard "$(leading meta-root)"
kill -0 $import 2>/dev/null && say 'the import outlived all three kills' || say 'the import was done before the last kill'
wait $import || { tail -n 20 "$work/import.log" >&2 && die 'the import failed'; }
tail -n 3 "$work/import.log"
check

say 'kill -9 every process at once'
kill -9 $(cat "$dir"/pids/*) || true
sleep 1
start_cluster
check
say "ok: $total records survived"
