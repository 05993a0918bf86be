#!/usr/bin/env bash
# Bad input, given to real processes with real files: every case must end with the right exit code, name the right
# error, and leave data directories as they were.
#
# usage: bad_input.sh [--workdir DIR]        (the binary is NOKV_BIN or target/release/nokv)
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh
begin "$@"
unset NOKV_COORDINATOR_ADDR
example=$PWD/raft_config.example.json

cases=0 failed=0 pids=()
cleanup() {
    for pid in ${pids[@]+"${pids[@]}"}; do kill -9 "$pid" 2>/dev/null || true; done
}
trap cleanup EXIT

wrong() {
    failed=$((failed + 1))
    printf 'WRONG  %s\n' "$1"
    shift
    printf '       %s\n' "$@"
    sed 's/^/       | /' "$work/err"
}

# expect EXIT CODE TEXT COMMAND...: runs nokv; TEXT must appear in the message.
expect() {
    local exit=$1 code=$2 text=$3 got=0
    shift 3
    cases=$((cases + 1))
    timeout -k 5 30 "$nokv" "$@" >"$work/out" 2>"$work/err" </dev/null || got=$?
    if [ "$got" -ne "$exit" ]; then
        wrong "nokv $*" "exit code $got, want $exit"
    elif ! grep -qF -e "error[$code]" -e "\"code\":\"$code\"" "$work/err"; then
        wrong "nokv $*" "no error[$code]"
    elif ! grep -qF -- "$text" "$work/err"; then
        wrong "nokv $*" "the message does not say: $text"
    fi
}

# fingerprint DIR: names and contents, without the lock file that says who looked last.
fingerprint() {
    (cd "$1" && find . -type f ! -name LOCK -print0 | LC_ALL=C sort -z | xargs -0 sha256sum && find . -type d | LC_ALL=C sort) |
        sha256sum
}

# untouched DIR EXIT CODE TEXT COMMAND...: the same, and DIR must stay as it is.
untouched() {
    local dir=$1 before after
    shift
    before=$(fingerprint "$dir")
    expect "$@"
    after=$(fingerprint "$dir")
    [ "$before" = "$after" ] || wrong "$*" "$dir was changed"
}

# flip FILE OFFSET: inverts the bits of one byte; a negative offset counts from the end.
flip() {
    local file=$1 at=$2 size byte
    size=$(stat -c %s "$file")
    [ "$at" -ge 0 ] || at=$((size + at))
    byte=$(od -An -tu1 -j "$at" -N 1 "$file" | tr -d ' ')
    printf "$(printf '\\%03o' $((byte ^ 255)))" | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
}
middle() { echo $(($(stat -c %s "$1") / 2)); }

# copy NAME FROM: a fresh copy of a directory to damage.
copy() {
    rm -rf "${work:?}/$1"
    cp -r "$2" "$work/$1"
    echo "$work/$1"
}

# hold COMMAND...: starts a server and waits for its port lines; `stop_held` ends it.
hold() {
    "$nokv" "$@" >"$work/held.out" 2>"$work/held.err" </dev/null &
    held=$!
    pids+=("$held")
    for _ in $(seq 100); do
        if grep -q 'listening on' "$work/held.out"; then return 0; fi
        kill -0 "$held" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/held.err" >&2
    echo "FAILED: nokv $* does not start" >&2
    exit 1
}
stop_held() {
    kill -INT "$held"
    wait "$held" || true
}

# ---- the command line ------------------------------------------------------------------------------------------

expect 2 unknown_command "did you mean 'status' or 'stats'" statsu
expect 2 unknown_command "did you mean 'serve'" serv
expect 2 unknown_command "unknown command 'stat'; did you mean " stat
expect 2 unknown_command "did you mean 'restore'" backup resotre d
expect 2 unknown_command "did you mean 'show'" config shwo
expect 2 unknown_command 'see: nokv config --help' config shwo
expect 2 unknown_command "did you mean 'bundle'" debug bundel
expect 2 unknown_command "no help on 'expotr'; did you mean 'export'" help expotr
expect 2 usage "did you mean '--timeout'" get --timeuot 3s k
expect 2 usage 'unknown flag' get --no-such-flag k
expect 2 usage 'needs a unit' get --timeout 30 k
expect 2 usage 'must be above zero' get --timeout 0s k
expect 2 usage 'has no port' get --coordinator-addr localhost k
expect 2 usage 'has port 0' get --coordinator-addr localhost:0 k
expect 2 usage 'contradict' get --json -o plain k
expect 2 usage 'contradict' scan --json -o table
expect 2 usage 'contradict' scan -o csv --json
expect 2 usage 'lists no rows' get -o csv k
expect 2 usage 'leave --watch out' status --watch --hot -o table
expect 2 usage 'neither sizes nor rates' regions --workdir . --sort write
expect 2 usage 'letters, digits' get --trace-id 'two words' k
expect 2 usage 'needs a unit' serve --store-id 1 --slow-log 30
expect 2 usage 'json' scan -o xml
expect 2 usage 'lies before' scan --start b --end a
expect 2 usage 'hexadecimal' get --hex abc
expect 2 usage '--split-bytes' serve --store-id 1 --split-bytes many
expect 2 usage '--disk-reserve' serve --store-id 1 --disk-reserve some
expect 2 usage '--metrics-addr' serve --store-id 1 --metrics-addr 9100
expect 2 usage '--split-requests' serve --store-id 1 --split-requests=-1
expect 2 usage 'hexadecimal' mvcc get --hex abc
expect 2 usage '--limit' mvcc get --limit 0 k
expect 2 usage '--store' mvcc get --store 0 k
expect 2 usage 'KEY' mvcc get
expect 2 unknown_command "did you mean 'get'" mvcc gett k
expect 2 usage '--store-id' serve --workdir "$work/none"
expect 2 usage 'scope' serve --store-id 1 --scope dokcer
expect 2 usage 'no coordinator' serve --store-id 1 --workdir "$work/none"
expect 2 usage '(got 2 and 2)' serve --store-id 1 --workdir "$work/none" --coordinator-addr a:1 --election-tick 2
expect 2 usage 'cannot be used with' scan --prefix a --start b
expect 2 usage 'statement 1' txn 'gt a'
expect 2 usage 'the script is empty' txn ''
expect 2 unknown_command "did you mean 'split'" region splti m
expect 2 usage '<KEY>' region split
expect 2 usage 'hexadecimal' region split --hex abc
expect 2 usage '--store' region transfer-leader --region 1
expect 2 usage 'ids start at 1' region add-peer --region 0 --store 1
expect 2 usage 'whole number above zero' region remove-peer --region x --store 1
expect 2 usage 'ids start at 1' operators --region 0
expect 2 usage '<ID>' store decommission
expect 2 usage 'needs a unit' store decommission 1 --wait 60
expect 2 usage 'cannot be used with' store decommission 1 --cancel --wait 1s
expect 2 usage '--addr' execution
expect 2 usage 'has no port' execution --addr localhost
expect 2 usage 'give --workdir DIR (offline) or --expvar URL (live)' stats
expect 2 usage 'only http is spoken' stats --expvar https://localhost:1
expect 2 usage '--workdir' manifest
expect 2 usage '--workdir' vlog
expect 2 usage '<DIR' check
expect 2 unknown_command "did you mean 'stats'" stast
expect 4 endpoint_unreachable 'cannot connect' stats --expvar 127.0.0.1:24999
root=(meta-root --workdir "$work/none" --node-id 1 --transport-addr 127.0.0.1:24380 --addr 127.0.0.1:24390)
one=(--peer 1=127.0.0.1:24380) two=(--peer 2=127.0.0.1:24381) three=(--peer 3=127.0.0.1:24382)
expect 2 usage 'need exactly 3 --peer, got 2 (1, 2)' "${root[@]}" "${one[@]}" "${two[@]}"
expect 2 usage 'need exactly 3 --peer, got 4' "${root[@]}" "${one[@]}" "${two[@]}" "${three[@]}" --peer 4=127.0.0.1:24383
expect 2 usage 'given twice' "${root[@]}" "${one[@]}" "${two[@]}" --peer 2=127.0.0.1:24382
expect 2 usage 'not among' meta-root --workdir "$work/none" --node-id 9 "${one[@]}" "${two[@]}" "${three[@]}"
expect 2 usage 'need exactly 3 --root-peer, got 2 (1, 2)' coordinator --coordinator-id c --root-peer 1=a:1 --root-peer 2=a:2
expect 2 usage '(3s >= 2s)' coordinator --coordinator-id c --root-peer 1=a:1 --root-peer 2=a:2 --root-peer 3=a:3 --lease-ttl 2s
[ ! -e "$work/none" ] || wrong 'refused servers' "$work/none was created"
expect 2 usage 'no seed' sim run --seeds 5..5

# ---- certificates ----------------------------------------------------------------------------------------------

serve=(serve --store-id 1 --workdir "$work/none" --coordinator-addr 127.0.0.1:24999)
expect 2 usage 'there is no TLS' "${serve[@]}" --addr 0.0.0.0:24160 --advertise-addr 127.0.0.1:24160
expect 2 usage 'there is no TLS' meta-root --workdir "$work/none" --node-id 1 --transport-addr 127.0.0.1:24380 --addr '[::]:24390' "${one[@]}" "${two[@]}" "${three[@]}"
expect 2 usage 'there is no TLS' coordinator --coordinator-id c --addr 0.0.0.0:24379 --root-peer 1=a:1 --root-peer 2=a:2 --root-peer 3=a:3
expect 2 usage '--metrics-addr' "${serve[@]}" --addr 127.0.0.1:24160 --metrics-addr 0.0.0.0:24101
expect 2 usage 'certificate of its own' "${serve[@]}" --tls-ca "$example"
expect 2 usage 'contradict' get --insecure --tls-ca "$example" k
expect 2 usage '--tls-cert without --tls-key' get --tls-ca "$example" --tls-cert "$example" k
expect 2 usage 'whom to trust' get --tls-cert "$example" --tls-key "$example" k
expect 3 file_not_found "$work/none" get --tls-ca "$work/none" k
expect 7 certificate_invalid 'has no certificate in it' get --tls-ca "$example" k
[ ! -e "$work/none" ] || wrong 'refused servers' "$work/none was created"
expect 2 usage '--dir' cert create-ca
expect 2 usage '--days' cert create-ca --dir "$work/ca" --days 0
expect 2 usage 'is empty' cert create-ca --dir "$work/ca" --name ' '
expect 2 usage 'at most 64' cert create-ca --dir "$work/ca" --name "$(printf 'a%.0s' $(seq 65))"
"$nokv" cert create-ca --dir "$work/ca" --days 30 >/dev/null
untouched "$work/ca" 5 file_exists 'ca.crt is there already' cert create-ca --dir "$work/ca"
by=(--ca-dir "$work/ca" --out "$work/certs")
expect 2 usage '--host' cert create-node "${by[@]}"
expect 2 usage 'leave the port out' cert create-node "${by[@]}" --host 127.0.0.1:20160
expect 2 usage 'no host name' cert create-node "${by[@]}" --host 'a b'
expect 2 usage 'letters, digits' cert create-client "${by[@]}" --name ../me
expect 2 usage 'client, admin' cert create-client "${by[@]}" --name me --role root
expect 3 file_not_found 'ca.crt' cert create-node --ca-dir "$work/nowhere" --out "$work/certs" --host h
expect 6 io 'create' cert create-node --ca-dir "$work/ca" --out "$example/below" --host h
"$nokv" cert create-node "${by[@]}" --host 127.0.0.1,store-1 >/dev/null 2>&1
"$nokv" cert create-client "${by[@]}" --name me --days 1 >/dev/null 2>&1
untouched "$work/certs" 5 file_exists 'node.crt is there already' cert create-node "${by[@]}" --host h
untouched "$work/certs" 5 file_exists 'client.me.crt is there already' cert create-client "${by[@]}" --name me
own=(--tls-ca "$work/ca/ca.crt" --tls-cert "$work/certs/client.me.crt")
expect 7 certificate_invalid 'is not the key of' get "${own[@]}" --tls-key "$work/certs/node.key" k
expect 7 certificate_invalid 'is no authority' get --tls-ca "$work/certs/node.crt" k
expect 4 unavailable '127.0.0.1:24999' get "${own[@]}" --tls-key "$work/certs/client.me.key" --coordinator-addr 127.0.0.1:24999 --timeout 1s k
"$nokv" cert create-ca --dir "$work/ca2" >/dev/null
expect 7 certificate_invalid 'is not issued by an authority' get --tls-ca "$work/ca2/ca.crt" --tls-cert "$work/certs/node.crt" --tls-key "$work/certs/node.key" k
cp "$work/ca2/ca.crt" "$work/ca/ca.crt.other" && cp -r "$work/ca" "$work/ca3" && mv "$work/ca3/ca.crt.other" "$work/ca3/ca.crt"
expect 7 certificate_invalid 'is not the key of' cert create-node --ca-dir "$work/ca3" --out "$work/certs3" --host h
expect 2 usage '<FILE>' cert show
expect 3 file_not_found 'none.crt' cert show "$work/none.crt"
expect 7 certificate_invalid 'is a private key' cert show "$work/certs/node.key"
expect 4 unavailable '127.0.0.1:24999' cert show --addr 127.0.0.1:24999

# ---- daily work -----------------------------------------------------------------------------------------------

expect 2 usage '--to' export
expect 2 usage 'lies before' export --start b --end a --to "$work/none"
expect 2 usage 'cannot be used with' export --prefix a --start b --to "$work/none"
expect 2 usage 'hexadecimal' export --prefix x --hex --to "$work/none"
expect 2 usage '--at' export --at 0 --to "$work/none"
expect 2 usage "one of: tsv, csv, jsonl" export --format xml --to "$work/none"
expect 2 usage '--to' backup create
expect 2 usage '--file-bytes' backup create --to "$work/none" --file-bytes 0
expect 2 usage '<DIR>' backup restore
expect 2 usage '--batch' backup restore "$work/none" --batch 0
expect 2 usage 'one of: bash, elvish, fish' completions csh
expect 2 usage 'needs a unit' status --watch 5
expect 2 usage 'must be above zero' status --watch 0s
expect 2 usage 'ends with .tar' debug bundle --to "$work/bundle.zip"
expect 2 usage 'has no port' debug bundle --to "$work/bundle.tar" --metrics-addr localhost
expect 2 usage '--store-id' config show serve
expect 2 usage 'no directory' config show serve --store-id 1
expect 2 usage 'no store 9 (it has 1, 2, 3)' config show serve --store-id 9 --config "$example"
expect 2 usage 'need exactly 3 --root-peer' config show coordinator --coordinator-id c
[ ! -e "$work/none" ] || wrong 'refused exports and backups' "$work/none was created"

# ---- the simulator ---------------------------------------------------------------------------------------------

mkdir -p "$work/sim/empty"
echo '{"about": "x", "seed": 1, "sead": 2}' >"$work/sim/misspelt.json"
echo 'replica.inbox.full  so' >"$work/sim/required"
echo 'engine.flash  so' >"$work/sim/misspelt"
echo 'neither' >"$work/sim/neither"
: >"$work/sim/file"
expect 2 usage "'five' is not a range of seeds" sim sweep --seeds five
expect 2 usage '--seeds' sim sweep
expect 2 usage 'no seed' sim sweep --seeds 7..3
expect 2 usage '--repeat-percent' sim sweep --seeds 0..1 --repeat-percent 101
expect 2 usage '--jobs' sim sweep --seeds 0..1 --jobs 0
expect 2 usage 'needs a unit' sim sweep --seeds 0..1 --duration 5
expect 3 file_not_found "$work/sim/none" sim sweep --seeds 0..1 --require "$work/sim/none"
expect 2 usage "line 1: no probe, chance point or fault:KIND is called 'engine.flash'" \
    sim sweep --seeds 0..1 --require "$work/sim/misspelt"
expect 6 io 'cannot create' sim sweep --seeds 0..1 --out "$work/sim/file/below"
expect 1 not_reached 'replica.inbox.full' sim sweep --seeds 1..2 --duration 100ms --require "$work/sim/required"
expect 2 usage '--record' sim run --seeds 0..2 --record "$work/sim/events"
expect 2 usage '--seed' sim run
expect 6 io 'cannot write' sim run --seed 1 --duration 100ms --record "$work/sim/file/below"
expect 2 usage 'no saved case' sim cases "$work/sim/misspelt.json"
expect 3 file_not_found 'no *.json case' sim cases "$work/sim/empty"
expect 3 file_not_found "$work/sim/none" sim cases "$work/sim/none"
expect 2 usage '<CASE' sim shrink
expect 2 usage 'no saved case' sim shrink "$work/sim/misspelt.json"
expect 3 file_not_found "$work/sim/none" sim report "$work/sim/none"
expect 2 usage '<B>' sim diverge 1
expect 3 file_not_found 'cannot read none' sim diverge none 1
expect 2 usage 'neither a saved case nor a recording' sim diverge "$work/sim/neither" 1
expect 1 runs_differ 'part at event' sim diverge 1 2 --duration 100ms
"$nokv" sim run --seed 1 --duration 100ms --record "$work/sim/whole" >"$work/out" 2>"$work/err"
head -c 1000 "$work/sim/whole" >"$work/sim/cut"
expect 6 corrupt 'damaged recording' sim diverge "$work/sim/cut" 1
cases=$((cases + 1))
"$nokv" sim diverge "$work/sim/whole" 1 --duration 100ms >"$work/out" 2>"$work/err" ||
    wrong 'sim diverge' 'a recording differs from its own seed'

# ---- the configuration file ------------------------------------------------------------------------------------

# config SED EXIT CODE TEXT: the example, changed.
config() {
    local sed=$1
    shift
    sed "$sed" "$example" >"$work/config.json"
    expect "$@" config check --config "$work/config.json"
}
expect 3 file_not_found 'no-such-file' config check --config "$work/no-such-file"
expect 3 file_not_found 'no-such-file' serve --store-id 1 --config "$work/no-such-file"
config '1s/{/{,/' 2 config_invalid ':1:2: want a member name'
config '3s/coordinator/cordinator/' 2 config_invalid "did you mean 'coordinator'"
config 's/"max_retries": 8/"max_retries": "8"/' 2 config_invalid 'must be a number, not a string'
config 's/"end_key": "m"/"end_key": "q"/' 2 config_invalid 'region 2 overlaps region 1'
config 's/"start_key": "m"/"start_key": "p"/' 2 config_invalid 'no region holds the keys from "m" to "p"'
config 's/"peer_id": 102/"peer_id": 101/' 2 config_invalid 'peer id 101 is used twice'
config 's/"store_id": 3, "listen/"store_id": 2, "listen/' 2 config_invalid 'store id 2 is used twice'
config 's/"leader_store_id": 2/"leader_store_id": 7/' 2 config_invalid 'leader_store_id 7 is not a member'
config 's/cluster\/store-{id}/cluster\/store/' 2 config_invalid 'must contain {id}'
config 's/127.0.0.1:2379/127.0.0.1/' 2 config_invalid 'has no port'
config 's/"id": 2/"id": 2, "id": 3/' 2 config_invalid 'given twice'
config 's/"end_key": "m"/"end_key": "q"/; s/"peer_id": 102/"peer_id": 101/' 2 config_invalid 'has 2 problems'
expect 2 usage 'no store 9 (it has 1, 2, 3)' serve --store-id 9 --config "$example"
# Where settings come from: a variable loses against a flag and wins over the file.
shown() { NOKV_ADDR=h:1 NOKV_SPLIT_BYTES=7 "$nokv" config show --origin serve --store-id 2 --config "$example" "$@" | tr -s ' '; }
cases=$((cases + 1))
for line in 'addr h:1 variable NOKV_ADDR' 'split-bytes 7 variable NOKV_SPLIT_BYTES' "workdir ./artifacts/cluster/store-2 file $example" \
    'store-id 2 flag --store-id' 'election-tick 10 default'; do
    shown | grep -qF " $line" || wrong 'config show --origin' "no line: $line"
done
shown --addr h:2 | grep -qF ' addr h:2 flag --addr' || wrong 'config show --origin' 'the flag does not win'
"$nokv" config init >"$work/config.json"
"$nokv" config check --config "$work/config.json" >/dev/null || wrong 'config init' 'the example is bad'

# ---- keys, values, files; nobody has to be asked ---------------------------------------------------------------

nobody=(--coordinator-addr 127.0.0.1:24999 --timeout 1s)
expect 2 key_empty 'the key is empty' put "${nobody[@]}" '' v
expect 2 key_empty 'the key is empty' get "${nobody[@]}" ''
expect 8 too_large 'the key has 4097 bytes' put "${nobody[@]}" "$(printf 'k%.0s' $(seq 4097))" v
head -c $((4 * 1024 * 1024 + 1)) /dev/zero >"$work/large"
expect 8 too_large 'the value has 4194305 bytes' put "${nobody[@]}" k --value-file "$work/large"
expect 4 unavailable 'no answer' get "${nobody[@]}" k
expect 4 unavailable 'no answer' put "${nobody[@]}" k v
expect 2 key_empty 'the key is empty' region split "${nobody[@]}" ''
expect 4 unavailable 'no answer' region split "${nobody[@]}" m
expect 4 unavailable 'no answer' region remove-peer "${nobody[@]}" --region 1 --store 1
expect 4 unavailable 'no answer' region merge "${nobody[@]}" 1 2
expect 4 unavailable 'no answer' region check "${nobody[@]}" --region 1
expect 2 usage '--region <ID>|--all' region check "${nobody[@]}"
expect 4 unavailable '127.0.0.1:24999' region forget-event --addr 127.0.0.1:24999 --event 1 --timeout 1s
expect 4 unavailable 'no answer' transitions "${nobody[@]}"
expect 4 unavailable 'no answer' operators "${nobody[@]}"
expect 4 unavailable 'no answer' store decommission "${nobody[@]}" 1
expect 4 unavailable '127.0.0.1:24999' execution --addr 127.0.0.1:24999 --timeout 1s
expect 2 key_empty 'the key is empty' mvcc get "${nobody[@]}" ''
expect 8 too_large 'the key has 4097 bytes' mvcc get "${nobody[@]}" "$(printf 'k%.0s' $(seq 4097))"
expect 4 unavailable 'no answer' mvcc get "${nobody[@]}" k
expect 3 file_not_found 'no-such-file' import "${nobody[@]}" --format tsv "$work/no-such-file"
expect 4 unavailable 'no answer' export "${nobody[@]}" --to "$work/none"
[ ! -e "$work/none" ] && [ ! -e "$work/none.tmp" ] || wrong 'export' 'a file was left'
echo old >"$work/old.jsonl"
expect 5 file_exists 'exists already' export "${nobody[@]}" --to "$work/old.jsonl"
expect 4 unavailable 'no answer' export "${nobody[@]}" --to "$work/old.jsonl" --force
[ "$(cat "$work/old.jsonl")" = old ] || wrong 'export --force' 'the old file is gone'
expect 4 unavailable 'no answer' backup create "${nobody[@]}" --to "$work/backup"
mkdir -p "$work/other" && echo mine >"$work/other/notes"
untouched "$work/other" 5 backup_exists 'holds other things: notes' backup create "${nobody[@]}" --to "$work/other"
untouched "$work/other" 5 backup_exists 'holds other things: notes' backup create --restart "${nobody[@]}" --to "$work/other"
expect 3 not_a_backup 'no BACKUP.json' backup verify "$work/other"
expect 3 not_a_backup 'no BACKUP.json' backup show "$work/no-such-dir"
expect 3 not_a_backup 'no BACKUP.json' backup restore "${nobody[@]}" "$work/other"
mkdir -p "$work/broken" && echo '{"backup": {"format": 1' >"$work/broken/BACKUP.json"
untouched "$work/broken" 6 corrupt 'BACKUP.json: damaged at byte' backup verify "$work/broken"
untouched "$work/broken" 6 corrupt 'BACKUP.json: damaged at byte' backup create "${nobody[@]}" --to "$work/broken"
echo '{"backup": {"format": 9}, "checksum": ""}' >"$work/broken/BACKUP.json"
untouched "$work/broken" 5 backup_mismatch 'has format 9' backup show "$work/broken"
expect 6 io 'cannot create the directory' backup create "${nobody[@]}" --to "$work/old.jsonl/below"
expect 6 io 'cannot create the directory' man --to "$work/old.jsonl/below"
expect 3 file_not_found 'no-such-file' config show serve --store-id 1 --config "$work/no-such-file"
: >"$work/bundle.tar"
expect 5 file_exists 'exists already' debug bundle "${nobody[@]}" --to "$work/bundle.tar"

# script EXIT CODE TEXT LINES [FLAG...]: the lines, given to `nokv shell`.
script() {
    local exit=$1 code=$2 text=$3 got=0
    cases=$((cases + 1))
    printf '%s' "$4" | timeout -k 5 30 "$nokv" shell "${nobody[@]}" "${@:5}" >"$work/out" 2>"$work/err" || got=$?
    [ "$got" -eq "$exit" ] && grep -qF "error[$code]" "$work/err" && grep -qF -- "$text" "$work/err" ||
        wrong "nokv shell <<< $4" "exit code $got, want $exit, $code and: $text"
}
script 2 usage "line 2: unknown command 'gett'; did you mean 'get'?" $'# a note\ngett a\n'
script 2 usage 'line 1: want: put KEY VALUE' $'put a b c\nhelp\n'
script 2 usage 'line 1: a " is not closed' 'get "a'
script 2 usage 'line 1: no transaction is open' 'commit'
script 2 key_empty 'line 1: the key is empty' 'get ""'
script 4 unavailable 'line 2: ' $'help\nget a\nbogus\n' --stop-on-error
grep -q bogus "$work/err" && wrong 'shell --stop-on-error' 'it went on'
script 4 unavailable "line 2: unknown command 'bogus'" $'get a\nbogus\n'

mkdir -p "$work/empty"
for command in stats manifest vlog regions check; do
    expect 3 not_a_workdir 'no such directory' $command --workdir "$work/no-such-dir"
    untouched "$work/empty" 3 not_a_workdir 'empty' $command --workdir "$work/empty"
    expect 3 not_a_workdir 'is a file' $command --workdir "$work/sim/file"
done

# ---- a cluster with data; its directories are damaged afterwards -----------------------------------------------

offset=4000
start_demo() {
    "$nokv" demo --dir "$work/demo" --port-offset $offset >"$work/demo.out" 2>"$work/demo.err" </dev/null &
    demo=$!
    pids+=("$demo")
    for _ in $(seq 900); do
        if grep -q '^ready in' "$work/demo.out"; then return 0; fi
        kill -0 $demo 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/demo.err" "$work/demo.out" >&2
    echo 'FAILED: no demo cluster' >&2
    exit 1
}
stop_demo() {
    kill -INT $demo
    wait $demo
}
start_demo
live=(--coordinator-addr 127.0.0.1:$((2379 + offset)))
awk 'BEGIN { for (i = 0; i < 5000; i++) printf "%s%05d\tvalue %d\n", (i % 2 ? "a" : "x"), i, i }' >"$work/good.tsv"
"$nokv" import "${live[@]}" --format tsv "$work/good.tsv" >/dev/null

expect 3 key_not_found 'no value at "missing"' get "${live[@]}" missing
expect 5 wrong_service 'is not a coordinator' get --coordinator-addr 127.0.0.1:$((20170 + offset)) k
expect 5 wrong_service 'is not a coordinator' mvcc get --coordinator-addr 127.0.0.1:$((20170 + offset)) k
expect 5 refused 'has no peer on store 9' mvcc get "${live[@]}" --store 9 k
expect 5 address_in_use "pid $(cat /proc/$demo/task/$demo/children 2>/dev/null | cut -d' ' -f4)" \
    coordinator --coordinator-id other --addr 127.0.0.1:$((2379 + offset)) --root-peer 1=a:1 --root-peer 2=a:2 --root-peer 3=a:3
expect 5 workdir_in_use "pid $demo" demo --dir "$work/demo"
expect 3 region_not_found 'no region 99' region transfer-leader "${live[@]}" --region 99 --store 1
expect 5 refused 'region 1 has no peer on store 9' region transfer-leader "${live[@]}" --region 1 --store 9
expect 5 refused 'no store 9 has joined' region add-peer "${live[@]}" --region 1 --store 9
expect 3 region_not_found 'no region 99' region remove-peer "${live[@]}" --region 99 --store 1
expect 5 refused 'no coordinator knows a store 9' store decommission "${live[@]}" 9
expect 9 partly_done 'store 1 still has' store decommission "${live[@]}" 1 --wait 1s
"$nokv" store decommission "${live[@]}" 1 --cancel >/dev/null
expect 3 region_not_found 'regions there' execution --addr 127.0.0.1:$((20170 + offset)) --region 999
expect 3 transition_not_found 'nosuch' execution --addr 127.0.0.1:$((20170 + offset)) --transition nosuch
expect 5 wrong_service 'it is a coordinator' execution --addr 127.0.0.1:$((2379 + offset))
elsewhere=(serve --config "$work/demo/raft_config.json" --coordinator-addr 127.0.0.1:24999)
store=("${elsewhere[@]}" --addr 127.0.0.1:24170 --advertise-addr 127.0.0.1:24170)
expect 5 workdir_in_use 'pid ' "${store[@]}" --store-id 1
{ head -n 3 "$work/good.tsv" && echo 'no tab in this line' && tail -n 3 "$work/good.tsv"; } >"$work/bad.tsv"
expect 2 bad_line 'bad.tsv:4: no TAB' import "${live[@]}" --format tsv "$work/bad.tsv"
{ printf 'other\tvalue\n' && cat "$work/good.tsv"; } >"$work/bad.tsv"
expect 5 import_state_mismatch 'has changed since' import "${live[@]}" --format tsv "$work/bad.tsv"
rm -f "$work/bad.tsv.nokv-import"
printf 'begin\nput !txn 1\n' | "$nokv" shell "${live[@]}" >"$work/out" 2>"$work/err" && wrong 'shell' 'a script may not end in a transaction'
expect 3 key_not_found 'no value at' get "${live[@]}" '!txn'
printf 'begin\nput !txn 1\nget !txn\ncommit\nput "!two words" "a\\x00b"\nprefix ! 9\nexit\nbogus\n' |
    "$nokv" shell "${live[@]}" --stop-on-error >"$work/out" 2>"$work/err" || wrong 'shell' 'the script failed'
[ "$(grep -ac . "$work/out")" -eq 5 ] && grep -aq '^!two words' "$work/out" || wrong 'shell' 'it printed something else'
printf 'del !txn\ndel "!two words"\n' | "$nokv" shell "${live[@]}" --stop-on-error >/dev/null
expect 2 usage 'lies in the future' export "${live[@]}" --at 9223372036854775807 --to "$work/none"
"$nokv" backup create "${live[@]}" --prefix a --to "$work/saved" >/dev/null
expect 5 target_not_empty 'has a key at' backup restore "${live[@]}" "$work/saved"
expect 5 backup_exists 'holds a whole backup' backup create "${live[@]}" --prefix a --to "$work/saved"
expect 5 backup_exists 'holds a whole backup' backup create "${live[@]}" --prefix a --to "$work/saved" --restart
stop_demo

# ---- a store directory -----------------------------------------------------------------------------------------

good=$work/demo/store-1
untouched "$good" 5 store_id_mismatch 'bound to store 1, not store 2' "${store[@]}" --store-id 2 --workdir "$good"
untouched "$good" 5 store_id_mismatch "$good" config seed --config "$example" --store-id 2 --workdir "$good"
sed 's/"version": 1,/"version": 2,/' "$example" >"$work/config.json"
untouched "$good" 5 workdir_not_fresh 'other regions' config seed --config "$work/config.json" --store-id 1 --workdir "$good"
hold "${store[@]}" --store-id 1 --workdir "$(copy held "$good")"
expect 5 workdir_in_use "pid $held" "${elsewhere[@]}" --addr 127.0.0.1:24171 --store-id 1 --workdir "$work/held"
expect 5 address_in_use "pid $held" "${store[@]}" --store-id 1 --workdir "$(copy second "$good")"
stop_held

# damaged WHAT FILE OFFSET [WITHIN]: a store must not start on a copy of its directory with one byte flipped, and leave the
# directory (or the part WITHIN it) as it is.
damaged() {
    local dir file code=corrupt
    [ "$1" != mode ] || code=mode_file_corrupt
    dir=$(copy damaged "$good")
    file=$(cd "$dir" && ls $2 2>/dev/null | tail -n 1)
    [ -n "$file" ] || { echo "FAILED: no $1 like $2 in $good" >&2 && ls -R "$good" >&2 && exit 1; }
    if [ "$3" = middle ]; then flip "$dir/$file" "$(middle "$dir/$file")"; else flip "$dir/$file" "$3"; fi
    untouched "$dir" 6 corrupt "$(basename "$file")" check "$dir"
    untouched "$dir" 6 corrupt "$(basename "$file")" check --deep --json "$dir"
    case $1 in manifest | CURRENT) untouched "$dir" 6 manifest_corrupt "$(basename "$file")" stats --workdir "$dir" ;; esac
    untouched "$dir/${4:-.}" 6 "$code" "$(basename "$file")" "${store[@]}" --store-id 1 --workdir "$dir"
}
damaged 'manifest' 'MANIFEST*' middle
damaged 'CURRENT' 'CURRENT' 1
damaged 'table footer' '*.sst' -5
damaged 'mode' 'MODE.json' 12
# The engine is opened before the raft log and may have gone on to a new log of its own.
damaged 'raft log' 'raft/*.raft' middle raft
dir=$(copy damaged "$good")
rm "$dir/CURRENT"
untouched "$dir" 6 current_missing 'CURRENT is missing' "${store[@]}" --store-id 1 --workdir "$dir"
untouched "$dir" 6 current_missing 'CURRENT is missing' regions --workdir "$dir"
untouched "$dir" 6 current_missing 'CURRENT is missing' stats --workdir "$dir"
mkdir -p "$work/dirty" && echo precious >"$work/dirty/notes.txt"
untouched "$work/dirty" 5 workdir_not_fresh 'dirty' config seed --config "$example" --store-id 1 --workdir "$work/dirty"

# ---- a meta-root directory -------------------------------------------------------------------------------------

rooted=$work/demo/meta-root-1
untouched "$rooted" 3 not_a_workdir 'directory of a meta-root' stats --workdir "$rooted"
peers=(--peer 1=127.0.0.1:$((3380 + offset)) --peer 2=127.0.0.1:$((3381 + offset)) --peer 3=127.0.0.1:$((3382 + offset)))
as=(meta-root --addr 127.0.0.1:24380 "${peers[@]}") as_elsewhere=(meta-root --addr 127.0.0.1:24381 "${peers[@]}")
untouched "$rooted" 5 membership_mismatch 'node 1' "${as[@]}" --node-id 2 --workdir "$rooted"
untouched "$rooted" 5 membership_mismatch 'node 1' meta-root --addr 127.0.0.1:24380 --node-id 1 --workdir "$rooted" \
    "${peers[@]:0:4}" --peer 3=127.0.0.1:24555
# A console on a port that another process has, and one that is no address.
watched=(coordinator --coordinator-id c9 --addr 127.0.0.1:24382 --root-peer 1=127.0.0.1:24391 --root-peer 2=127.0.0.1:24392 --root-peer 3=127.0.0.1:24393)
hold "${watched[@]}" --metrics-addr 127.0.0.1:24383
expect 5 address_in_use "pid $held" "${watched[@]/24382/24384}" --metrics-addr 127.0.0.1:24383
stop_held
expect 2 usage '--metrics-addr' "${watched[@]}" --metrics-addr nowhere
hold "${as[@]}" --node-id 1 --workdir "$(copy held "$rooted")"
expect 5 workdir_in_use "pid $held" "${as_elsewhere[@]}" --node-id 1 --workdir "$work/held"
expect 5 address_in_use "pid $held" "${as[@]}" --node-id 1 --workdir "$(copy second "$rooted")"
stop_held
for file in root.checkpoint identity 'raft/*'; do
    dir=$(copy damaged "$rooted")
    target=$(cd "$dir" && ls $file | tail -n 1)
    flip "$dir/$target" "$(middle "$dir/$target")"
    untouched "$dir" 6 corrupt "$(basename "$target")" "${as[@]}" --node-id 1 --workdir "$dir"
done

# ---- damaged data on every replica: an error, never another value --------------------------------------------

for n in 1 2 3; do
    table=$(ls -S "$work/demo/store-$n"/*.sst | head -n 1)
    flip "$table" "$(middle "$table")"
done
start_demo
# The last thing that a scan hears may be the damage, or a store that asks for another leader because of it.
cases=$((cases + 1)) got=0
"$nokv" scan "${live[@]}" --limit 0 --timeout 3s >"$work/out" 2>"$work/err" || got=$?
case $got in 4 | 6) ;; *) wrong 'scan of damaged tables' "exit code $got, want 4 or 6" ;; esac
LC_ALL=C sort "$work/good.tsv" | head -n "$(wc -l <"$work/out")" | cmp - "$work/out" || wrong 'scan' 'it printed what was never written'
stop_demo

if [ $failed -gt 0 ]; then
    echo "FAILED: $failed of $cases cases"
    exit 1
fi
echo "ok $cases cases"
