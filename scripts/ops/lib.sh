# shellcheck shell=bash
# Shared by the serve-*.sh scripts: finds the binary, checks what must be given, and becomes the server.
#
# The scripts end in `exec`, so the server takes over the process: it is what the supervisor signals, and its exit
# status is the script's. Options may be written `--flag value` or `--flag=value`; what comes after `--` or
# `--extra` is passed on unseen.

args=()  # what nokv gets
seen=()  # the names of the options in it, one entry each time
usage='' # what --help and mistakes print after the script's name

set_usage() { usage=$1; }

fail() {
    printf 'error: %s\n' "$*" >&2
    printf 'usage: %s %s\n' "$(basename "$0")" "$usage" >&2
    exit 2
}

# read_args ARG...: fills `args` and `seen`.
read_args() {
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help) printf 'usage: %s %s\n' "$(basename "$0")" "$usage" && exit 0 ;;
        -- | --extra)
            shift
            args+=("$@")
            return
            ;;
        --scope)
            [ $# -ge 2 ] || fail '--scope needs a value: local or docker'
            args+=(--scope "$(scope "$2")")
            shift
            ;;
        --scope=*) args+=(--scope "$(scope "${1#*=}")") ;;
        --*)
            seen+=("${1%%=*}")
            args+=("$1")
            ;;
        *) args+=("$1") ;;
        esac
        shift
    done
}

# The scripts say `local` where the binary says `host`.
scope() {
    case $1 in
    local) echo host ;;
    *) echo "$1" ;;
    esac
}

# given FLAG: how often it was given.
given() {
    local name count=0
    for name in ${seen[@]+"${seen[@]}"}; do
        [ "$name" != "$1" ] || count=$((count + 1))
    done
    echo "$count"
}

# need FLAG: exactly one must be given.
need() {
    [ "$(given "$1")" -eq 1 ] || fail "$1 must be given once, not $(given "$1") times"
}

# need_three FLAG WHAT
need_three() {
    [ "$(given "$1")" -eq 3 ] || fail "$1 must be given 3 times ($2), not $(given "$1") times"
}

# The binary: $NOKV_BIN, else the one in PATH, else the one built in this repository.
find_nokv() {
    local built
    built=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../target/release/nokv
    if [ -n "${NOKV_BIN:-}" ]; then
        command -v "$NOKV_BIN" || fail "NOKV_BIN=$NOKV_BIN is not a program"
    elif ! command -v nokv; then
        [ -x "$built" ] || fail 'no nokv in NOKV_BIN, PATH or target/release; build one: cargo build --release'
        echo "$built"
    fi
}

# Containers listen on 0.0.0.0; without certificates that has to be asked for, and what is around the containers is
# what keeps strangers out.
allow_containers() {
    case " ${args[*]-} " in
    *' --scope docker '* | *' --scope=docker '*) ;;
    *) return 0 ;;
    esac
    if [ -z "${NOKV_TLS_CA:-}" ] && [ "$(given --tls-ca)" -eq 0 ] && [ "$(given --insecure)" -eq 0 ]; then
        args+=(--insecure)
    fi
}

# become COMMAND: runs `nokv COMMAND` with `args` in place of this process.
become() {
    local nokv
    nokv=$(find_nokv)
    allow_containers
    exec "$nokv" "$1" ${args[@]+"${args[@]}"}
}
