#!/usr/bin/env bash
# Executes the book: every block of commands in README.md and docs/*.md, page by page, each page in a fresh copy of this repository,
# with the built `nokv` in PATH and as target/release/nokv, against real processes at the default ports. A page that lies fails.
#
# usage: book.sh [PAGE...]                     (the binary is NOKV_BIN or target/release/nokv)
#
# What a page may hold:
#
#   ```sh, ```bash           commands; the page is one shell, and each command must succeed
#   ```console               `$ COMMAND`, and below it what it prints; it must succeed, unless a line of that begins with `error`.
#                            Lines behind `nokv> ` are what the command is given to read
#   ```json file="NAME"      is saved there
#   ```text, json, rust, yaml    no commands
#   <!-- setup: COMMANDS -->     what the reader has already, from the page before
#
# Marks behind the language:
#
#   background="TEXT"   is a terminal of its own: goes on when that has said TEXT, and gets a Ctrl-C at the end of the page, or where
#                       the page's shell says `interrupt`. Then it must end with exit code 0 or 130. $terminal is what it has said
#   skip="WHY"          is not executed here
#
# Output is compared line by line. Blanks count as one. A time of day, a number with a unit, with a decimal point or of three digits
# and more, and eight hexadecimal digits and more, are as good as any other. `...` is the rest of a line, or alone any lines.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh

# ---- one page, in a shell of its own -----------------------------------------------------------------------------

# mark NAME: whether the block is marked with it; REPLY is how.
mark() { [[ $info =~ (^| )$1=\"([^\"]*)\" ]] && REPLY=${BASH_REMATCH[2]}; }

# block WHERE INFO <TEXT
block() {
    local where=$1 info=$2 text
    text=$(cat && echo .) && text=${text%.}
    at=$where
    if mark skip; then
        printf '%s: %s\n' "$where" "$REPLY" >>"$record.skipped"
        return
    fi
    case $info in
    text | json | rust | yaml) return ;;
    'json file='*) mark file && mkdir -p "$(dirname "$REPLY")" && printf %s "$text" >"$REPLY" ;;
    sh | bash | setup | console | 'sh background='* | 'bash background='* | 'setup background='* | 'console background='*)
        printf '+ %s\n' "$where"
        if mark background; then
            aside "$REPLY"
        elif [ "$info" = console ]; then
            console
        else
            # Traced, so that a failure shows its command.
            set -x
            eval "$text"
            { set +x; } 2>/dev/null
        fi
        ;;
    *) die "a block says '$info': see the head of book.sh" ;;
    esac
    case $info in setup*) ;; *) printf '%s\n' "$where" >>"$record.executed" ;; esac
}

# aside TEXT: a terminal of its own. Job control gives it a process group, which Ctrl-C is for.
terminals=()
aside() {
    local deadline=$((SECONDS + 90)) code=$text
    case $info in console*) code=$(sed -n 's/^\$ //p' <<<"$text") ;; esac
    terminal=$record.terminal-${#terminals[@]}
    set -m
    (eval "$code") >"$terminal" 2>&1 </dev/null &
    set +m
    terminals+=($!)
    until grep -qsF -- "$1" "$terminal"; do
        kill -0 $! 2>/dev/null && [ $SECONDS -lt $deadline ] || { cat "$terminal" && die "the terminal does not say '$1'"; }
        sleep 0.1
    done
    case $info in console*) ;; *) return 0 ;; esac
    sed '/^\$ /d' <<<"${text%$'\n'}" >"$record.want"
    for _ in $(seq 20); do ! same "$terminal" >/dev/null || return 0; sleep 0.1; done
    same "$terminal" || die 'the terminal says something else'
}
# interrupt: Ctrl-C in every such terminal.
interrupt() {
    local pid got
    for pid in ${terminals[@]+"${terminals[@]}"}; do kill -INT -- "-$pid" || true; done
    for pid in ${terminals[@]+"${terminals[@]}"}; do
        got=0 && wait "$pid" || got=$?
        case $got in 0 | 130) ;; *) cat "$record".terminal-* && die "a terminal ended with exit code $got after Ctrl-C" ;; esac
    done
    terminals=()
}

console() {
    local line command='' typed=''
    : >"$record.want"
    while IFS= read -r line; do
        case $line in
        '$ '*)
            finish_command
            command=${line#'$ '} typed=''
            : >"$record.want"
            ;;
        'nokv> '* | 'nokv (txn)> '*) typed+=${line#*> }$'\n' ;;
        *) case $command in
            *\\) command+=$'\n'$line ;;
            *) printf '%s\n' "$line" >>"$record.want" ;;
            esac ;;
        esac
    done <<<"${text%$'\n'}"
    finish_command
}
last=0
finish_command() {
    local got=0
    [ -n "$command" ] || return 0
    printf '$ %s\n' "$command"
    printf %s "$typed" >"$record.typed"
    { (exit "$last") && true; eval "$command"; } >"$record.got" 2>&1 <"$record.typed" || got=$?
    last=$got
    # What the shell says of a job that was killed a while ago.
    sed -i '/^[^ ]*book.sh: line [0-9]*: *[0-9]* Killed /d' "$record.got"
    if grep -q '^error' "$record.want"; then
        [ $got -ne 0 ] || { cat "$record.got" && die 'it should have failed'; }
    else
        [ $got -eq 0 ] || { cat "$record.got" && die "it ended with exit code $got"; }
    fi
    same "$record.got" || die 'it prints something else'
}

# plain FILE: what does not count is made equal.
plain() {
    LC_ALL=C sed -E -e 's/[[:space:]]+/ /g; s/ $//' -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/#/g' \
        -e 's/\b[0-9]+(\.[0-9]+)? ?(ns|us|\xc2\xb5s|ms|s|min|h|d|B|KiB|MiB|GiB|bytes)\b/#/g' \
        -e 's/\b(0x)?[0-9a-f]{8,}\b/#/g' -e 's/\b[0-9]+\.[0-9]+\b/#/g' -e 's/[0-9]{3,}/#/g' "$1"
}
# same FILE: it is what the page shows.
same() {
    local want got
    # As patterns: all stands for itself but the dots, and what is made equal; that may be a small number here.
    mapfile -t want < <(plain "$record.want" | sed -e 's/[][\\*?()|]/\\&/g; s/#/*([0-9#.])/g' -e 's/\(.\)\.\.\./\1*/g; s/^\.\.\.\(.\)/*\1/; s/^ \*$/.../')
    mapfile -t got < <(plain "$1")
    same_from 0 0 && return
    diff <(plain "$record.want") <(plain "$1") | sed 's/^</shown  </; s/^>/printed>/'
    return 1
}
same_from() {
    local i=$1 j=$2 k
    while [ "$i" -lt ${#want[@]} ]; do
        if [ "${want[i]}" = ... ]; then
            for ((k = j; k <= ${#got[@]}; k++)); do ! same_from $((i + 1)) $k || return 0; done
            return 1
        fi
        # shellcheck disable=SC2053 # a pattern
        [ "$j" -lt ${#got[@]} ] && [[ ${got[j]} == ${want[i]} ]] || return 1
        i=$((i + 1)) j=$((j + 1))
    done
    [ "$j" -eq ${#got[@]} ]
}

# fetch FLAGS http://HOST:PORT/PATH: as much of curl as the book needs, where there is none.
fetch() {
    local host=${2#http://} path=/${2#http://*/} status
    host=${host%%/*}
    { exec 9<>"/dev/tcp/${host%:*}/${host##*:}"; } 2>/dev/null || return 7
    printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' "$path" >&9
    read -r _ status _ <&9
    case $1$status in *f200 | *[!f][0-9][0-9][0-9]) sed '1,/^\r$/d' <&9 ;; *) return 22 ;; esac
}

if [ "${1:-}" = --run ]; then
    page=$2 record=$3 at=$2
    trap '[ $? -eq 0 ] || printf "FAILED at %s\n" "$at" >&2' EXIT
    cd "$record.home"
    command -v curl >/dev/null || curl() { fetch "$@"; }
    shopt -s expand_aliases
    PS4='$ '
    . "$record.blocks"
    interrupt
    touch "$record.done"
    exit 0
fi

# ---- all pages ---------------------------------------------------------------------------------------------------

work=$(mktemp -d)
find_nokv
nokv=$(readlink -f "$nokv")
unset NOKV_BIN XDG_STATE_HOME XDG_CONFIG_HOME
[ $# -gt 0 ] || set -- README.md docs/*.md

# running: processes that a page has left, by the directory they are in.
running() {
    local process
    for process in /proc/[0-9]*; do
        case $(readlink "$process/cwd" 2>/dev/null) in "$work"/*) echo "${process#/proc/}" ;; esac
    done
}
# clear: ends them.
clear() {
    local signal
    for signal in TERM KILL; do
        # A second signal would end a server at once.
        # shellcheck disable=SC2046
        kill -$signal $(running) 2>/dev/null || true
        for _ in $(seq 75); do
            [ -n "$(running)" ] || return 0
            sleep 0.2
        done
    done
    return 1
}
trap 'clear; rm -rf "$work"' EXIT

free() {
    local port
    for port in 2377 2378 2379 2380 2381 2382 3380 3381 3382 20160 20170 20171 20172; do
        ! (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null || die "somebody is at 127.0.0.1:$port, where $1 starts a cluster"
    done
}

# run PAGE: leaves $record.log, and what was executed and skipped.
run() {
    record=$work/${1//\//-}
    mkdir -p "$record.home" "$record.bin"
    ln -s "$nokv" "$record.bin/nokv"
    touch "$record.executed" "$record.skipped"
    awk -v page="$1" -f scripts/test/book.awk "$1" >"$record.blocks" 2>"$record.log" || return
    HOME=$record.home PATH=$record.bin:$PATH timeout -k 30 300 bash "$0" --run "$1" "$record" >"$record.log" 2>&1 </dev/null &&
        [ -e "$record.done" ]
}

lies=0
# lie WHY <PAGE: it must be found out.
lie() {
    lies=$((lies + 1))
    cat >"$work/lie-$lies.md"
    if run "$work/lie-$lies.md"; then die "not found out: $1"; fi
}
lie 'a command fails' <<<$'```sh\nfalse\ntrue\n```'
lie 'a command fails, not the last of a pipe' <<<$'```sh\nfalse | true\n```'
lie 'it prints something else' <<<$'```console\n$ echo one\ntwo\n```'
lie 'it prints more' <<<$'```console\n$ seq 2\n1\n```'
lie 'it prints less' <<<$'```console\n$ seq 1\n1\n2\n```'
lie 'another small number' <<<$'```console\n$ echo exit code 5\nexit code 7\n```'
lie 'the first of two' <<<$'```console\n$ echo one\ntwo\n$ true\n```'
lie 'no error' <<<$'```console\n$ echo error\nerror\n```'
lie 'an error that is not shown' <<<$'```console\n$ false\n```'
lie 'the terminal does not say it' <<<$'```sh background="ready"\necho steady\n```'
lie 'commands that are not marked' <<<$'```\ntrue\n```'
lie 'an unknown mark' <<<$'```sh skipped="no"\ntrue\n```'
lie 'it ends the shell' <<<$'```sh\nexit 0\n```'
lie 'a block without an end' <<<$'```sh\ntrue'
printf '%-24s %3d found out\n' 'lies' $lies

failed=''
for page in "$@"; do
    # Made from the program's help, which has tests of its own.
    [ "$page" != docs/commands.md ] || continue
    began=$SECONDS home=$work/${page//\//-}.home
    mkdir -p "$home/target/release"
    git ls-files -z | xargs -0 cp --parents -t "$home" 2>/dev/null || true
    ln -s "$nokv" "$home/target/release/nokv"
    free "$page"
    run "$page" || { tail -n 60 "$record.log" && failed="$failed $page"; }
    clear || die "$page has left what cannot be killed"
    printf '%-24s %3d executed, %2d skipped, %3d s\n' "$page" "$(wc -l <"$record.executed")" "$(wc -l <"$record.skipped")" $((SECONDS - began))
    cat "$record.executed" >>"$work/executed"
    cat "$record.skipped" >>"$work/skipped"
done
sed 's/^/skipped: /' "$work/skipped"
[ -z "$failed" ] || die "$failed"
printf 'ok %d blocks executed, %d skipped\n' "$(wc -l <"$work/executed")" "$(wc -l <"$work/skipped")"
