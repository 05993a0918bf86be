#!/usr/bin/env bash
# Imports into a real cluster whose stores split regions at a small size: the regions must become many while clients write,
# none may be left far above the limit, every record must be there, and operators must be able to see why.
#
# usage: split_by_size.sh [--workdir DIR] [--records N] [--limit BYTES]     (the binary is NOKV_BIN or target/release/nokv)
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh
workdir= records=60000 limit=2097152
options workdir records limit -- "$@"
prepare "$workdir"
trap stop_cluster EXIT
regions() { "$nokv" regions | grep -c 'id='; }
by_size() { for port in 20170 20171 20172; do "$nokv" execution --addr 127.0.0.1:$port; done | grep -c 'action=split by size outcome=applied' || true; }

# Keys of both regions, in no order, with values that lie apart from their records.
awk -v n="$records" 'BEGIN { for (i = 0; i < n; i++) { k = (i * 7919) % n; printf "%s%07d\t%0300d\n", (k % 2 ? "a" : "x"), k, k } }' >"$work/data.tsv"
start_cluster --split-bytes "$limit"
wait_for 60 'two regions' eval '[ "$(regions)" -eq 2 ]'
before=$(regions)
say "$before regions; importing $records records of $(wc -c <"$work/data.tsv") bytes, split at $limit"
"$nokv" import --format tsv "$work/data.tsv" >"$work/import.log" 2>&1 || { cat "$work/import.log" && die 'the import failed'; }
say "$(regions) regions after the import"

# A record takes its key thrice and its value once, and some bytes more: at least this many regions must come of it.
want=$(($(wc -c <"$work/data.tsv") / limit))
# Each rests for ten seconds after a split; when nothing has happened for two rests, they are done.
after=0 calm=0
for _ in $(seq 120); do
    sleep 2
    now=$(regions)
    if [ "$now" -eq "$after" ]; then calm=$((calm + 2)); else calm=0 after=$now; fi
    [ $calm -lt 24 ] || break
done
[ $calm -ge 24 ] || die "regions are still split although nothing is written: $after by now"
[ "$after" -ge "$want" ] || die "$after regions, and at least $want were to be"
[ "$(by_size)" -gt 0 ] || die 'nokv execution shows no split by size'
"$nokv" scan --limit 0 >"$work/scan.tsv"
LC_ALL=C sort "$work/data.tsv" | cmp - "$work/scan.tsv" || die 'the scan differs from what was imported'
say "ok: $before regions became $after, all $records records are there, and the splits have come to rest"
