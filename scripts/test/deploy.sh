#!/usr/bin/env bash
# Checks the files under deploy/ as far as that goes without systemd, docker and Prometheus at work: every flag and variable exists,
# every file can be read, alerts fire when they should. What needs a tool that is not installed is skipped, and said to be.
#
# usage: deploy.sh                             (the binary is NOKV_BIN or target/release/nokv)
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh
find_nokv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for command in meta-root coordinator serve; do "$nokv" "$command" --help >"$work/help-$command"; done
"$nokv" config seed --help >"$work/help-config"

# flags COMMAND TEXT: each flag of it must be in the command's help.
flags() {
    local flag
    for flag in $(grep -o -e '--[a-z][a-z-]*' <<<"$2"); do
        grep -q -e "^ *$flag\b" -e "[ ,]$flag\b" "$work/help-$1" || die "nokv $1 has no $flag"
    done
}
# variables COMMAND FILE
variables() {
    local variable
    for variable in $(grep -o -E '\bNOKV_[A-Z_]+' "$2" | sort -u); do
        grep -q "env: $variable=" "$work/help-$1" || die "$2: nokv $1 knows no $variable"
    done
}

for unit in meta-root:meta-root coordinator:coordinator store:serve; do
    name=${unit%%:*} command=${unit##*:} file=deploy/systemd/nokv-${unit%%:*}@.service
    start=$(sed -n 's/^ExecStart=//p' "$file")
    [[ $start == "/usr/bin/nokv $command "* ]] || die "$file does not start nokv $command"
    flags "$command" "$start"
    variables "$command" "deploy/systemd/$name-1.env"
done
say 'flags and variables of the units exist'

compose=deploy/docker/docker-compose.yml
commands=0
while read -r command rest; do
    flags "$command" "$rest"
    commands=$((commands + 1))
done < <(sed -n 's/^ *command: \[\([a-z-]*\),\(.*\)\]$/\1 \2/p' $compose)
[ $commands -eq 9 ] || die "$compose starts $commands servers, not 9"
flags config "$(grep -o 'config seed .*' $compose)"
sed '/^  bootstrap:/,/^$/d' $compose >"$work/servers.yml"
for command in meta-root coordinator serve; do variables "$command" "$work/servers.yml"; done
for port in $(grep -o 'coordinator-[0-9]:[0-9]*' $compose | sort -u); do
    grep -q "$port" raft_config.example.json || die "$port is not in raft_config.example.json"
done
say 'flags, variables and addresses of docker-compose.yml exist'

if python3 -c 'import yaml' 2>/dev/null; then
    for file in $compose deploy/prometheus/*.yml; do
        python3 -c 'import sys, yaml; assert yaml.safe_load(open(sys.argv[1]))' "$file" || die "$file is no YAML"
    done
    python3 -m json.tool deploy/grafana/nokv.json >/dev/null || die 'the dashboard is no JSON'
    say 'YAML and JSON can be read'
else
    say 'SKIPPED: reading YAML needs python3 with yaml'
fi

if command -v promtool >/dev/null; then
    (cd deploy/prometheus && promtool check config prometheus.yml && promtool test rules alerts_test.yml) >"$work/log" 2>&1 ||
        { cat "$work/log" >&2 && die 'promtool'; }
    for alert in $(sed -n 's/^ *- alert: //p' deploy/prometheus/alerts.yml); do
        [ "$(grep -c -E "^  - name: $alert (fires|does not fire)$" deploy/prometheus/alerts_test.yml)" -eq 2 ] ||
            die "alert $alert lacks a test"
    done
    say 'alerts fire when they should, and only then'
else
    say 'SKIPPED: testing alerts needs promtool (Debian: prometheus)'
fi

if command -v systemd-analyze >/dev/null; then
    for file in deploy/systemd/*@.service; do
        unit=$(basename "$file" @.service)@1.service
        sed "s|/usr/bin/nokv|$nokv|; /^Documentation=/d" "$file" >"$work/$unit"
        systemd-analyze verify "$work/$unit" >"$work/log" 2>&1 || { cat "$work/log" >&2 && die "systemd refuses $unit"; }
        ! grep "$unit" "$work/log" || die "systemd warns of $unit"
    done
    say 'systemd takes the units'
else
    say 'SKIPPED: systemd-analyze is not installed'
fi
say ok
