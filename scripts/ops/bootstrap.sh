#!/usr/bin/env bash
# Gives every store of a configuration file its first regions, in fresh directories. Not a restart tool: a directory that
# was used is refused. Seeding again what was seeded alike is fine.
set -eu
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
set_usage '--config FILE [--path-template DIR/store-{id}] [--scope local|docker] [--state running]
       (the binary is NOKV_BIN, nokv in PATH, or target/release/nokv)'

config='' template='' scope=host
while [ $# -gt 0 ]; do
    case $1 in
    --*=*) # --flag=value
        flag=${1%%=*} rest=${1#*=}
        shift
        set -- "$flag" "$rest" "$@"
        continue
        ;;
    -h | --help) printf 'usage: %s %s\n' "$(basename "$0")" "$usage" && exit 0 ;;
    --config | --path-template | --scope | --state)
        [ $# -ge 2 ] || fail "$1 needs a value"
        case $1 in
        --config) config=$2 ;;
        --path-template) template=$2 ;;
        --scope) scope=$(scope "$2") ;;
        --state) [ "$2" = running ] || fail "regions begin running, not $2" ;;
        esac
        shift
        ;;
    *) fail "unknown argument '$1'" ;;
    esac
    shift
done
[ -n "$config" ] || fail '--config must be given'
case $template in '' | *'{id}'*) ;; *) fail "--path-template needs {id}: $template" ;; esac

nokv=$(find_nokv)
"$nokv" config check --config "$config" >/dev/null
ids=$("$nokv" config stores --config "$config" | cut -d' ' -f1)
for id in $ids; do
    dir=()
    [ -z "$template" ] || dir=(--workdir "${template//\{id\}/$id}")
    "$nokv" config seed --config "$config" --scope "$scope" --store-id "$id" ${dir[@]+"${dir[@]}"}
done
