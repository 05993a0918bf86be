#!/usr/bin/env bash
# Measures the simulator: plants each bug of sim/mutants/*.patch in a scratch copy, one at a time, and reports how
# many seeds it takes to find it. A planted bug that survives all seeds is a defect of the simulator.
#
# usage: mutants.sh [--seeds A..B] [NAME ...]      (default 0..200, all mutants)
set -eu
cd "$(dirname "$0")/../.."
root=$PWD seeds=0..200 names=()
while [ $# -gt 0 ]; do
    case $1 in
    --seeds) seeds=$2 && shift 2 ;;
    -h | --help) sed -n '2,6p' "$0" && exit 0 ;;
    *) names+=("$1") && shift ;;
    esac
done
[ ${#names[@]} -gt 0 ] || for patch in sim/mutants/*.patch; do names+=("$(basename "$patch" .patch)"); done

scratch=$root/target/mutants
rm -rf "$scratch/tree" && mkdir -p "$scratch"
git worktree prune
trap 'git -C "$root" worktree remove --force "$scratch/tree" 2>/dev/null || true' EXIT
git worktree add --quiet --force --detach "$scratch/tree" HEAD

missed=0
for name in "${names[@]}"; do
    git -C "$scratch/tree" checkout --quiet --force HEAD
    git -C "$scratch/tree" apply "$root/sim/mutants/$name.patch"
    (cd "$scratch/tree" && CARGO_TARGET_DIR=$scratch/target cargo build --release --quiet)
    if "$scratch/target/release/nokv" sim run --seeds "$seeds" --fail-fast >"$scratch/$name.log" 2>&1; then
        echo "$name: NOT FOUND in seeds $seeds"
        missed=$((missed + 1))
    else
        ran=$(grep -c '^seed=' "$scratch/$name.log" || true)
        echo "$name: found after $ran seeds: $(grep -m1 'verdict=fail' "$scratch/$name.log")"
        grep -m1 -A4 'checker' "$scratch/$name.log" | sed 's/^/    /' || true
    fi
done
[ $missed -eq 0 ]
