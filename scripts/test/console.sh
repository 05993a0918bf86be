#!/usr/bin/env bash
# Looks at the web console with a real browser: made-up clusters with a thousand and ten thousand regions, keys that try to be
# markup, everything by keyboard, light and dark, narrow and wide, a real cluster that loses a store, a coordinator that dies
# and comes back. Needs chromium and python3; without them it says so and does nothing.
#
# usage: console.sh [--shots DIR] [--workdir DIR]     (the binary is NOKV_BIN or target/release/nokv; --shots keeps pictures)
set -eu
cd "$(dirname "$(readlink -f "$0")")/../.."
. scripts/test/lib.sh
workdir='' shots=''
options workdir shots -- "$@"
skip() { echo "ok skipped: $*" && exit 0; }
command -v python3 >/dev/null || skip 'there is no python3'
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
    skip 'there is no chromium (Debian: apt-get install chromium)'
prepare "$workdir"
unset NOKV_COORDINATOR_ADDR
[ -n "$workdir" ] || trap 'rm -rf "$work"' EXIT
[ -z "$shots" ] || mkdir -p "$shots"
python3 scripts/test/console_browser.py "$nokv" "$work" ${shots:+--shots "$shots"}
