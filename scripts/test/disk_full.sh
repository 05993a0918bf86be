#!/usr/bin/env bash
# Fills the disk of one store of a real cluster, a tmpfs. Below its reserve the store takes no new data and says so (exit code 8,
# `disk_full`), reads go on; below a quarter of it nothing of other leaders is taken either, and the others go on without it. Nothing is
# restarted: when there is room again, it takes data again, and holds what the others hold. The same without a reserve, when the disk
# is full to the last byte; and a store that is killed then starts again.
#
# usage: disk_full.sh [--workdir DIR]          (mounts a tmpfs; says so and ends with 0 where that is refused)
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
begin "$@"
disk=$dir/store-2
mkdir -p "$disk"
if ! mount -t tmpfs -o size=256m nokv-test "$disk" 2>"$work/mount.log"; then
    say "SKIPPED: no tmpfs can be mounted here: $(head -n 1 "$work/mount.log")"
    exit 0
fi
cleanup() {
    stop_cluster
    umount "$disk" || umount -l "$disk"
}
trap cleanup EXIT

MIB=$((1 << 20))
free() { df --output=avail -B1 "$disk" | tail -n 1 | tr -d ' '; }
# leave MIB: so much stays free, beside what the store itself holds.
leave() {
    local more=$(($(free) - $1 * MIB))
    [ "$more" -gt 0 ] || die "only $(free) bytes are free already"
    head -c "$more" /dev/zero >>"$disk/ballast"
}
lead() { "$nokv" region transfer-leader --region "$1" --store "$2" --timeout 5s; }
refused() {
    local code=0
    "$nokv" put a-key value --timeout 10s >/dev/null 2>"$work/err" || code=$?
    [ "$code" -eq 8 ] && grep -q 'error\[disk_full\]' "$work/err"
}
status() { "$nokv" status --config raft_config.example.json --coordinator-addr "$NOKV_COORDINATOR_ADDR"; }

start_cluster --metrics --disk-reserve $((64 * MIB))
wait_for 20 'store-2 is ready' ready store-2
wait_for 20 'store-2 leads region 1' lead 1 2
wait_for 20 'store-1 leads region 2' lead 2 1
wait_for 20 'a first write' "$nokv" put a-key 'a value' --timeout 5s

say 'less is free than the reserve'
leave 40
wait_for 10 'it is read-only' is store-2 nokv_store_read_only 1
wait_for 20 'store-2 leads region 1' lead 1 2
wait_for 20 'a write is refused' refused
sed 's/^/   /' "$work/err"
[ "$("$nokv" get a-key)" = 'a value' ] || die 'a read failed'
"$nokv" put z-key value >/dev/null || die 'a write to a region that is led elsewhere failed'
wait_for 20 'the status says so' eval 'status | grep "store-2 is read-only: .* free, needs 64 MiB"'
status | grep -F '! store-2 is read-only' || true
page store-2 /readyz | grep -e '^\[-\]disk: read-only' || die 'readyz does not say so'

say 'less is free than a quarter of the reserve'
wait_for 20 'store-1 leads region 1' lead 1 1
leave 8
wait_for 10 'it takes nothing of other leaders' is store-2 nokv_store_closed_to_entries 1
value=$(head -c 30000 /dev/zero | tr '\0' x)
for i in $(seq 60); do
    "$nokv" put "a-$i" "$value" --timeout 20s >/dev/null || die 'a write failed that a majority could take'
done
page store-2 /livez | grep -qx ok || die 'store-2 is not alive'

say 'there is room again'
rm "$disk/ballast"
wait_for 10 'it takes data again' is store-2 nokv_store_read_only 0
wait_for 20 'store-2 is ready' ready store-2
wait_for 30 'all replicas are equal' "$nokv" region check --all --timeout 10s
wait_for 20 'store-2 leads region 1' lead 1 2
"$nokv" put a-key 'another value' --timeout 10s >/dev/null || die 'a write failed'
unharmed() { ! grep -q '"level":"ERROR".*the server stopped itself' "$dir/logs/store-2.log" || die 'store-2 had to stop'; }
unharmed

say 'no reserve, and not one byte is left'
stop_cluster
start_cluster --metrics --disk-reserve 0
wait_for 20 'store-2 is ready' ready store-2
wait_for 20 'store-2 leads region 1' lead 1 2
"$nokv" put a-key 'a value' --timeout 10s >/dev/null
cat /dev/zero >>"$disk/filler" 2>/dev/null || true
[ "$(free)" -eq 0 ] || die "$(free) bytes are free"
for i in $(seq 400); do "$nokv" put "a-$i" "$value" --timeout 20s >/dev/null 2>&1 || break; done
wait_for 10 'it is read-only' is store-2 nokv_store_read_only 1
wait_for 20 'store-2 leads region 1' lead 1 2
wait_for 20 'a write is refused' refused
sed 's/^/   /' "$work/err"
[ "$("$nokv" get a-key)" = 'a value' ] || die 'a read failed'
page store-2 /livez | grep -qx ok || die 'store-2 is not alive'
unharmed

say 'killed, it starts again although there is no room'
kill_hard store-2 1
wait_for 30 'it is there, and read-only' is store-2 nokv_store_read_only 1
page store-2 /livez | grep -qx ok || die 'store-2 is not alive'
wait_for 20 'the others go on' "$nokv" put a-key 'a value' --timeout 5s
[ "$("$nokv" get a-key)" = 'a value' ] || die 'a read failed'

say 'there is room again'
rm "$disk/filler"
wait_for 10 'it takes data again' is store-2 nokv_store_read_only 0
wait_for 20 'store-2 is ready' ready store-2
wait_for 20 'store-2 leads region 1' lead 1 2
"$nokv" put a-key 'another value' --timeout 10s >/dev/null || die 'a write failed'
wait_for 30 'all replicas are equal' "$nokv" region check --all --timeout 10s
unharmed
say ok
