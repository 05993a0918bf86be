#!/usr/bin/env bash
# A cluster is asked why it is slow: which regions are hot, by numbers that add up, in each format, and what its slow log says of a request
# whose trace id we chose. Then a store stands still (SIGSTOP), and the error of the write that waited for it has the trace id of
# the line in the log of the leader.
#
# usage: slow_cluster.sh [--workdir DIR]
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
begin "$@"
trap 'kill -CONT $stopped 2>/dev/null || true; stop_cluster' EXIT
stopped=

# Two milliseconds are long here, so that there is something to tell.
start_cluster --metrics --slow-log 2ms

say 'a loaded cluster says which regions are hot'
"$nokv" bench --clients 8 --seconds 20 --phases put >"$work/bench" 2>&1 &
bench=$!
# hot: the first row has the most keys written, and a hundred and some bytes for each: 128 of value, and the key.
hot() {
    "$nokv" regions --sort write -o csv >"$work/regions.csv" && tr -d '\r' <"$work/regions.csv" | awk -F, '
        NR == 1 { for (n = 1; n <= NF; n++) at[$n] = n; next }
        NR == 2 { first = $at["write_keys_per_second"]; bytes = $at["write_bytes_per_second"] / (first + 0.001) }
        $at["write_keys_per_second"] > first { exit 1 }
        END { exit !(first > 20 && bytes > 128 && bytes < 170) }'
}
wait_for 18 'rates of a hot region that add up' hot
"$nokv" regions --sort write -o json >"$work/regions.json"
"$nokv" regions --sort write -o table >"$work/regions.table"
"$nokv" regions --sort write >"$work/regions.txt"
"$nokv" status --hot 3 >"$work/status.txt" || [ $? -eq 11 ]
"$nokv" status --hot --json >"$work/status.json" || [ $? -eq 11 ]
"$nokv" store list -o csv >"$work/stores.csv"
wait "$bench" || die 'the load failed'

head -n 1 "$work/regions.csv" | grep -q '^id,state,.*,write_keys_per_second,write_bytes_per_second' || die 'no header in the CSV'
grep -Eq '"write_keys_per_second": [1-9]' "$work/regions.json" || die 'no rates in the JSON'
grep -q '^ID .*WRITE_KEYS_PER_SECOND' "$work/regions.table" || die 'no table'
grep -Eq 'leader=store-[0-9]+ size=[0-9]+ requests=[1-9][0-9]*/s' "$work/regions.txt" || die 'no rates in the text'
grep -A 2 '^hot regions' "$work/status.txt" | grep -q 'B' || die 'status --hot shows no region'
grep -q '"hot_regions"' "$work/status.json" || die 'status --hot --json has no hot_regions'
[ "$(wc -l <"$work/stores.csv")" -eq 4 ] || die 'store list does not list three stores'
sed -n '/^hot regions/,$p' "$work/status.txt"

say 'rows in each format'
"$nokv" put 'a,"b"' $'two\nlines' >/dev/null
"$nokv" scan --prefix a -o csv >"$work/scan.csv"
printf 'key,value\r\n"a,""b""","two\nlines"\r\n' | cmp - "$work/scan.csv" || die 'the CSV of a scan'
"$nokv" scan --prefix a -o table >"$work/scan.table"
[ "$(wc -l <"$work/scan.table")" -eq 2 ] || die 'a line feed in a value breaks the table'
for format in table csv plain; do
    code=0
    "$nokv" --json -o $format scan >/dev/null 2>"$work/err" || code=$?
    { [ $code -eq 2 ] && grep -q contradict "$work/err"; } || die "--json and -o $format"
done

# line ID: the last line of the slow log with this trace id, whichever store wrote it.
line() { cat "$dir"/logs/store-* | grep '"a request was slow"' | grep "\"trace_id\":\"$1\"" | tail -n 1; }
say 'a slow request is told of, with where the time went'
# A megabyte takes three stores and their disks two milliseconds, sooner or later.
head -c 1048576 /dev/zero | tr '\0' v >"$work/value"
told() { "$nokv" put slow-key --value-file "$work/value" --trace-id test/one >/dev/null && [ -n "$(line test/one)" ]; }
wait_for 60 'a line in the slow log' told
line test/one
line test/one | grep -q '"first_key":"736c6f772d6b6579"' || die 'the line does not name the key'
line test/one | grep -Eq '"commit_ms":[0-9.]+' || die 'the line does not say where the time went'
slow=0
for store in 1 2 3; do slow=$((slow + $(metric "store-$store" nokv_store_slow_requests_total))); done
[ "$slow" -ge 1 ] || die 'the metric counts no slow request'

say 'a write that nobody can commit'
leader=$("$nokv" regions -o csv | tr -d '\r' | awk -F, '$1 == 2 { print $7 }')
for store in 1 2 3; do [ "$store" = "$leader" ] || stopped="$stopped $(pid "store-$store")"; done
kill -STOP $stopped
code=0
"$nokv" put slow-key value --timeout 1500ms --json >/dev/null 2>"$work/err" || code=$?
kill -CONT $stopped
[ $code -eq 4 ] || { cat "$work/err" >&2; die "exit code $code, not 4"; }
trace=$(sed -n 's/.*"trace_id":"\([0-9a-f]*\)".*/\1/p' "$work/err")
[ -n "$trace" ] || { cat "$work/err" >&2; die 'the error has no trace id'; }
logged() { [ -n "$(line "$trace")" ]; }
wait_for 10 'the same trace id in the log of the leader' logged
line "$trace"
say passed
