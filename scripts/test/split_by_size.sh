#!/usr/bin/env bash
# Imports into a real cluster whose stores split regions at a small size: the regions must become many while clients write,
# none may be left far above the limit, every record must be there, and operators must be able to see why.
#
# usage: split_by_size.sh [--workdir DIR] [--records N] [--limit BYTES]     (the binary is NOKV_BIN or target/release/nokv)
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
work= records=60000 limit=2097152
while [ $# -gt 0 ]; do
    case $1 in
    --workdir) work=$2 && shift 2 ;;
    --records) records=$2 && shift 2 ;;
    --limit) limit=$2 && shift 2 ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) echo "unknown argument $1" >&2 && exit 2 ;;
    esac
done
[ -n "$work" ] || work=$(mktemp -d)
mkdir -p "$work"
work=$(cd "$work" && pwd)
nokv=${NOKV_BIN:-$PWD/target/release/nokv}
[ -x "$nokv" ] || cargo build --release
cluster="$PWD/scripts/dev/cluster.sh"
dir=$work/cluster

say() { printf '== %s\n' "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2 && exit 1; }
cleanup() { NOKV_BIN=$nokv "$cluster" --workdir "$dir" stop >/dev/null 2>&1 || true; }
trap cleanup EXIT
regions() { "$nokv" regions | grep -c 'id='; }
by_size() { for port in 20170 20171 20172; do "$nokv" execution --addr 127.0.0.1:$port; done | grep -c 'action=split by size outcome=applied' || true; }

# Keys of both regions, in no order, with values that lie apart from their records.
awk -v n="$records" 'BEGIN { for (i = 0; i < n; i++) { k = (i * 7919) % n; printf "%s%07d\t%0300d\n", (k % 2 ? "a" : "x"), k, k } }' >"$work/data.tsv"
NOKV_BIN=$nokv "$cluster" --workdir "$dir" --split-bytes "$limit" --background
for _ in $(seq 120); do
    "$nokv" put '~probe~' yes >/dev/null 2>&1 && "$nokv" del '~probe~' >/dev/null 2>&1 && [ "$(regions)" -eq 2 ] && break
    sleep 0.5
done
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
