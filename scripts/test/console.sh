#!/usr/bin/env bash
# Looks at the web console with a real browser: made-up clusters with a thousand and ten thousand regions, keys that try to be
# markup, everything by keyboard, light and dark, narrow and wide, a real cluster that loses a store, a coordinator that dies
# and comes back. Needs chromium and python3; without them it says so and does nothing.
#
# usage: console.sh [--shots DIR] [--workdir DIR]     (the binary is NOKV_BIN or target/release/nokv; --shots keeps pictures)
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
work= shots=
while [ $# -gt 0 ]; do
    case $1 in
    --shots) shots=$2 && shift 2 ;;
    --workdir) work=$2 && shift 2 ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) echo "unknown argument $1" >&2 && exit 2 ;;
    esac
done
skip() { echo "ok skipped: $*" && exit 0; }
command -v python3 >/dev/null || skip 'there is no python3'
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
    skip 'there is no chromium (Debian: apt-get install chromium)'
nokv=${NOKV_BIN:-$PWD/target/release/nokv}
[ -x "$nokv" ] || cargo build --release
for variable in $(env | sed -n 's/^\(NOKV_[A-Z_]*\)=.*/\1/p'); do unset "$variable"; done
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work" ${shots:+"$shots"}
python3 scripts/test/console_browser.py "$nokv" "$work" ${shots:+--shots "$shots"}
