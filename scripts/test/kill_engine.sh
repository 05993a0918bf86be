#!/usr/bin/env bash
# Kills a process that writes to an engine on real files with SIGKILL, hundreds of times, and checks after each that nothing that was
# acknowledged is lost and nothing is half there. See engine/examples/kill_engine.rs. Prints the seed from which the moments follow.
#
# usage: kill_engine.sh [--workdir DIR] [--cycles N] [--seed N]
set -eu
cd "$(dirname "$0")/../.."
. scripts/test/lib.sh
workdir='' cycles=300 seed=$((RANDOM * 32768 + RANDOM))
options workdir cycles seed -- "$@"
work=${workdir:-$(mktemp -d)}
mkdir -p "$work"
[ -z "$(ls -A "$work")" ] || die "$work is not empty"
killer=${KILL_ENGINE_BIN:-$PWD/target/release/examples/kill_engine}
[ -n "${KILL_ENGINE_BIN:-}" ] || cargo build --release -p nokv-engine --example kill_engine
"$killer" "$work/db" "$cycles" "$seed" || die "replay with --cycles $cycles --seed $seed; the database is in $work/db"
[ -n "$workdir" ] || rm -rf "$work"
