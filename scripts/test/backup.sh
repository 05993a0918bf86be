#!/usr/bin/env bash
# Export, backup and restore between two real clusters on loopback: taken while transactions run, killed in the middle and
# run again, damaged and refused, restored and compared byte for byte.
#
# usage: backup.sh [--workdir DIR] [--records N] [--port-offset N]      (the binary is NOKV_BIN or target/release/nokv)
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh
workdir='' records=60000 port_offset=6000
options workdir records port-offset -- "$@"
prepare "$workdir"
unset NOKV_COORDINATOR_ADDR
offset=$port_offset

pids=()
cleanup() {
    touch "$work/stop"
    for pid in ${pids[@]+"${pids[@]}"}; do kill "$pid" 2>/dev/null && kill -CONT "$pid" 2>/dev/null || true; done
    wait
}
trap cleanup EXIT
# refused EXIT CODE TEXT COMMAND...
refused() {
    local exit=$1 code=$2 text=$3 got=0
    shift 3
    "$nokv" "$@" >"$work/out" 2>"$work/err" </dev/null || got=$?
    [ "$got" -eq "$exit" ] && grep -qF "error[$code]" "$work/err" && grep -qF -- "$text" "$work/err" && return 0
    cat "$work/err" >&2
    die "nokv $*: exit $got, want $exit, $code and: $text"
}

# start NAME OFFSET: a demo cluster, which is reached with --config $work/NAME/raft_config.json.
start() {
    "$nokv" demo --dir "$work/$1" --port-offset "$2" >"$work/$1.out" 2>"$work/$1.err" </dev/null &
    pids+=($!)
    for _ in $(seq 600); do
        if grep -qs '^ready in' "$work/$1.out"; then return 0; fi
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/$1.err" >&2
    die "no cluster $1"
}

# killed FILE PATTERN COUNT COMMAND...: runs a command, and kills it when FILE has COUNT lines with PATTERN.
killed() {
    local file=$1 pattern=$2 count=$3 found
    shift 3
    "$nokv" "$@" >"$work/out" 2>"$work/err" </dev/null &
    local pid=$!
    while kill -0 $pid 2>/dev/null; do
        found=$(grep -c -- "$pattern" "$file" 2>/dev/null) || true
        if [ "${found:-0}" -ge "$count" ]; then
            kill -9 $pid
            wait $pid 2>/dev/null || true
            say "killed nokv $1 ${2:-} in the middle"
            return 0
        fi
        sleep 0.01
    done
    cat "$work/out" "$work/err" >&2
    die "nokv $* ended before it could be killed"
}

# asleep DIR COMMAND...: runs a backup into DIR, and stops it (SIGSTOP) when it has its first file. Sets `sleeper` and `ts`.
asleep() {
    local progress=$1/PROGRESS.json
    shift
    "$nokv" "$@" >"$work/sleeper.out" 2>"$work/sleeper.err" </dev/null &
    sleeper=$!
    pids+=($sleeper)
    until grep -qs '"name"' "$progress"; do
        kill -0 $sleeper 2>/dev/null || { cat "$work/sleeper.err" >&2 && die "nokv $* ended before it could be stopped"; }
    done
    kill -STOP $sleeper
    [ -e "$progress" ] || die "nokv $* was done before it could be stopped"
    ts=$(sed -n 's/^ *"timestamp": \([0-9]*\).*/\1/p' "$progress")
}
# have N: how many versions the short-lived cluster has of its first key, and of its last.
have() { for key in k000000 k019999; do "$nokv" mvcc get "${short[@]}" $key | grep -q "^records *$1" || return 1; done; }

say 'a cluster of one store that keeps old versions for a second'
base=$((offset + 200)) home=$work/short
short=(--coordinator-addr 127.0.0.1:$((2379 + base)))
mkdir -p "$home"
cat >"$home/raft_config.json" <<END
{ "stores": [{ "store_id": 1, "addr": "127.0.0.1:$((20170 + base))" }],
  "regions": [{ "id": 1, "start_key": "", "end_key": "", "epoch": { "version": 1, "conf_version": 1 }, "peers": [{ "store_id": 1, "peer_id": 101 }] }] }
END
peers=() roots=()
for n in 1 2 3; do
    peers+=(--peer $n=127.0.0.1:$((3379 + n + base))) roots+=(--root-peer $n=127.0.0.1:$((2379 + n + base)))
done
serve() { # NAME COMMAND...
    local name=$1
    shift
    "$nokv" "$@" >"$home/$name.log" 2>&1 </dev/null &
    pids+=($!)
}
for n in 1 2 3; do
    serve meta-root-$n meta-root --workdir "$home/meta-root-$n" --node-id $n --addr 127.0.0.1:$((2379 + n + base)) \
        --transport-addr 127.0.0.1:$((3379 + n + base)) "${peers[@]}"
done
serve coordinator coordinator --coordinator-id c1 --addr 127.0.0.1:$((2379 + base)) --gc-life 1s "${roots[@]}"
store=(--config "$home/raft_config.json" --store-id 1 --workdir "$home/store-1")
"$nokv" config seed "${store[@]}" >/dev/null
serve store serve "${store[@]}" "${short[@]}"
# versions NAME: writes another version of every key.
versions() { awk -v n=20000 -v name="$1" 'BEGIN { for (i = 0; i < n; i++) printf "{\"key\":\"k%06d\",\"value\":\"%s %0150d\"}\n", i, name, i * i }' >"$home/$1.jsonl" &&
    "$nokv" import "${short[@]}" --format jsonl "$home/$1.jsonl" | tail -n 1; }
versions first
# It will sleep for longer than a hold lasts without renewal, and be looked at in the end.
asleep "$work/slept" backup create "${short[@]}" --file-bytes 65536 --to "$work/slept"
slept=$ts slept_pid=$sleeper
versions second

say "a cluster with $records records, some of them binary"
start one "$offset"
one=(--config "$work/one/raft_config.json")
awk -v n="$records" 'BEGIN { for (i = 0; i < n; i++) printf "{\"key\":\"%c%06d\",\"value\":\"first %d %0150d\"}\n", 97 + i % 26, i, i, i * i }' >"$work/first.jsonl"
printf '{"key_base64":"AP8=","value_base64":"/wAKCQ0="}\n{"key":"a\\t\\n\\"","value":""}\n{"key":"\xef\xbb\xbf","value":"a,\\"b\\"\\n"}\n' >>"$work/first.jsonl"
"$nokv" import "${one[@]}" --format jsonl "$work/first.jsonl" | tail -n 1

say 'what is exported is what was imported'
"$nokv" export "${one[@]}" --to "$work/one.jsonl"
LC_ALL=C sort "$work/first.jsonl" >"$work/want" && LC_ALL=C sort "$work/one.jsonl" >"$work/got"
cmp "$work/want" "$work/got" || die 'jsonl'
"$nokv" export "${one[@]}" --format csv --to - 2>"$work/err" | sed -n '1,$p' >"$work/one.csv"
[ "$(grep -c '^"' "$work/one.csv")" -ge "$records" ] || die 'csv'
refused 2 usage 'tsv cannot hold the record' export "${one[@]}" --format tsv --to "$work/one.tsv"
[ ! -e "$work/one.tsv" ] && [ ! -e "$work/one.tsv.tmp" ] || die 'a refused export left a file'
"$nokv" export "${one[@]}" --format tsv --prefix b --to "$work/b.tsv" >/dev/null
[ "$(wc -l <"$work/b.tsv")" -eq $(((records + 24) / 26)) ] || die "$(wc -l <"$work/b.tsv") records begin with b"
refused 5 file_exists 'exists already' export "${one[@]}" --to "$work/one.jsonl"
refused 2 usage 'lies in the future' export "${one[@]}" --at 18446744073709551615 --to "$work/late.jsonl"

say 'a backup while transactions run: each writes one number at two ends of the keys'
sed 's/first/second/' "$work/first.jsonl" >"$work/second.jsonl"
write_on() {
    local number=0
    while [ ! -e "$work/stop" ]; do
        number=$((number + 1))
        "$nokv" txn "${one[@]}" --retries 100 "put !left $number; put ~right $number" || true
    done
}
write_on >"$work/writers.out" 2>&1 &
writers=$!
"$nokv" import "${one[@]}" --format jsonl --jobs 2 "$work/second.jsonl" >"$work/import.out" 2>&1 &
importer=$!
for _ in $(seq 100); do "$nokv" get "${one[@]}" '~right' >/dev/null 2>&1 && break; done
create=(backup create "${one[@]}" --file-bytes 65536 --to "$work/backup")
killed "$work/backup/PROGRESS.json" '"name"' 3 "${create[@]}"
refused 9 partly_done 'is not finished' backup verify "$work/backup"
refused 5 backup_mismatch 'it is of all keys' backup create "${one[@]}" --prefix a --to "$work/backup"
refused 5 backup_mismatch 'as of' "${create[@]}" --at 1
"$nokv" "${create[@]}" 2>"$work/err"
grep -q 'going on behind' "$work/err" || die 'it did not go on'
touch "$work/stop"
wait $writers $importer
refused 5 backup_exists 'a whole backup' "${create[@]}"
"$nokv" backup verify "$work/backup"
"$nokv" backup show "$work/backup" | head -n 5
ts=$("$nokv" backup show "$work/backup" -o json | sed -n 's/^ *"timestamp": \([0-9]*\).*/\1/p')
"$nokv" export "${one[@]}" --at "$ts" --to "$work/then.jsonl"
sides=$(grep -E '"key":"(!left|~right)"' "$work/then.jsonl" | sed 's/.*"value":"\([0-9]*\)".*/\1/' | sort -u | wc -l)
[ "$sides" -eq 1 ] || die 'half of a transaction is in the backup'
"$nokv" export "${one[@]}" --to "$work/now.jsonl" >/dev/null
! cmp -s "$work/then.jsonl" "$work/now.jsonl" || die 'nothing was written meanwhile'

say 'damage is named, and nothing of it is restored'
start two $((offset + 100))
two=(--config "$work/two/raft_config.json")
# spoiled WHAT TEXT: verify and restore must name what is wrong with $work/bad.
spoiled() {
    refused 6 corrupt "$2" backup verify "$work/bad"
    refused 6 corrupt "$2" backup restore "${two[@]}" "$work/bad"
    say "$1: $(head -n 1 "$work/err")"
    rm -rf "$work/bad"
}
file=data-000002.nkb
cp -r "$work/backup" "$work/bad"
middle=$(($(stat -c %s "$work/bad/$file") / 2))
byte=$(od -An -tu1 -j $middle -N 1 "$work/bad/$file" | tr -d ' ')
printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of="$work/bad/$file" bs=1 seek=$middle conv=notrunc status=none
spoiled 'one bit' "$file: damaged at byte"
cp -r "$work/backup" "$work/bad" && truncate -s $middle "$work/bad/$file"
spoiled 'cut off' "$file: damaged at byte"
cp -r "$work/backup" "$work/bad" && rm "$work/bad/$file"
spoiled 'a file is gone' "$file: damaged at byte 0: the file is missing"
cp -r "$work/backup" "$work/bad" && cp "$work/bad/data-000001.nkb" "$work/bad/$file"
spoiled 'another file' "$file: damaged at byte 12"
cp -r "$work/backup" "$work/bad" && sed -i "s/\"timestamp\": $ts/\"timestamp\": 1/" "$work/bad/BACKUP.json"
spoiled 'the catalogue' 'BACKUP.json: damaged'
[ "$("$nokv" export "${two[@]}" --to - 2>/dev/null | wc -l)" -eq 0 ] || die 'something was written'
refused 3 not_a_backup 'no BACKUP.json' backup verify "$work"

say 'restored into another cluster, killed in the middle'
restore=(backup restore "${two[@]}" "$work/backup")
refused 5 target_not_empty 'has a key at' backup restore "${one[@]}" "$work/backup"
killed "$work/backup.nokv-restore" '"pairs": [1-9]' 1 "${restore[@]}" --batch 100 --jobs 2
sed 's/"backup_id": "[0-9a-f]*"/"backup_id": "00"/' "$work/backup.nokv-restore" >"$work/other.state"
refused 5 backup_mismatch 'belongs to backup' "${restore[@]}" --state "$work/other.state"
refused 5 backup_mismatch 'it is of cluster' backup restore "${one[@]}" "$work/backup"
"$nokv" "${restore[@]}" 2>"$work/err"
grep -q 'going on behind' "$work/err" || die 'it did not go on'
[ ! -e "$work/backup.nokv-restore" ] || die 'the state file is still there'
"$nokv" export "${two[@]}" --to "$work/two.jsonl"
cmp "$work/then.jsonl" "$work/two.jsonl" || die 'the restored cluster differs'
refused 5 target_not_empty 'has a key at' "${restore[@]}"

say 'a backup that was begun of one cluster does not go on with another'
killed "$work/half/PROGRESS.json" '"name"' 2 backup create "${one[@]}" --file-bytes 65536 --to "$work/half"
refused 5 backup_mismatch 'of another cluster' backup create "${two[@]}" --to "$work/half"
"$nokv" backup create "${two[@]}" --prefix b --restart --to "$work/half"
"$nokv" backup verify "$work/half"
refused 8 disk_full 'the next file needs' backup create "${one[@]}" --min-free 18446744073608507359 --to "$work/full"
say 'a backup that slept for longer than its hold lasts fails'
wait_for 120 'old versions are removed' have 1
refused 5 too_old 'is too old' export "${short[@]}" --at "$slept" --to "$work/slept.jsonl"
kill -CONT $slept_pid
got=0 && wait $slept_pid || got=$?
[ $got -eq 5 ] && grep -qF 'error[too_old]' "$work/sleeper.err" || { cat "$work/sleeper.err" >&2 && die "it ended with $got"; }
refused 9 partly_done 'is not finished' backup verify "$work/slept"
refused 5 too_old 'is too old' backup create "${short[@]}" --file-bytes 65536 --to "$work/slept"

say 'one that takes longer than garbage lives has its versions'
asleep "$work/slow" backup create "${short[@]}" --file-bytes 65536 --to "$work/slow"
versions third
sleep 6
have 2 || die 'versions that are held were removed'
kill -CONT $sleeper
wait $sleeper || { cat "$work/sleeper.err" >&2 && die 'a slow backup failed'; }
wait_for 30 'versions that are held no more are removed' have 1
# All of the second version, although it was garbage for long: seen through a restore.
"$nokv" scan "${short[@]}" --limit 0 | sed 's/^\([^\t]*\).*/del \1/' | "$nokv" txn "${short[@]}" --timeout 60s >/dev/null
"$nokv" backup restore "${short[@]}" "$work/slow"
"$nokv" export "${short[@]}" --to "$work/slow.jsonl"
cmp "$home/second.jsonl" "$work/slow.jsonl" || die 'a slow backup holds something else'
say 'ok'
