#!/usr/bin/env bash
# Measures the engine's own tests: plants each storage bug of sim/mutants/S*.patch in a scratch copy, runs the tests of
# nokv-engine until one fails, and says which. A planted bug that no test finds is a defect of the tests; so is a copy
# without a bug (`clean`) in which one fails.
#
# usage: engine_mutants.sh [--markdown FILE] [NAME ...]
#
#   --markdown FILE  also writes the table there
#   NAME             beginning of a patch's name (`S02`), or `clean`; default: `clean` and all of S*
#
# Leaves its build in target/mutants, so that the next measurement only compiles what the patches touch.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD markdown='' wanted=()
while [ $# -gt 0 ]; do
    case $1 in
    --markdown) markdown=$2 && shift 2 ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit 0 ;;
    -*) echo "unknown option $1; see --help" >&2 && exit 2 ;;
    *) wanted+=("$1") && shift ;;
    esac
done
[ ${#wanted[@]} -gt 0 ] || wanted=(clean S)

names=()
for prefix in "${wanted[@]}"; do
    [ "$prefix" != clean ] || { names+=(clean) && continue; }
    for patch in sim/mutants/"$prefix"*.patch; do
        [ -e "$patch" ] || { echo "no patch is called $prefix" >&2 && exit 2; }
        names+=("$(basename "$patch" .patch)")
    done
done

work=$root/target/mutants
tree=$work/engine-tree
mkdir -p "$work/logs"
git worktree prune
git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
trap 'git -C "$root" worktree remove --force "$tree" 2>/dev/null || true' EXIT
git worktree add --quiet --force --detach "$tree" HEAD

row() { printf '%-44s %7s  %s\n' "$@"; }
mark() { [ -z "$markdown" ] || printf '| %s | %s | %s |\n' "$@" >>"$markdown"; }
[ -z "$markdown" ] || printf '| planted bug | seconds | found by |\n|---|---|---|\n' >"$markdown"
row 'planted bug' seconds 'found by'

tests() { (cd "$tree" && CARGO_TARGET_DIR=$work/target cargo nextest run --cargo-profile quick -p nokv-engine "$@"); }
defects=0 planted=0 found=0
for name in "${names[@]}"; do
    git -C "$tree" checkout --quiet --force HEAD
    [ "$name" = clean ] || git -C "$tree" apply "$root/sim/mutants/$name.patch"
    log=$work/logs/$name.engine
    tests --no-run >"$log" 2>&1 || {
        row "$name" - "DOES NOT BUILD: see $log" && mark "$name" - 'does not build' && defects=$((defects + 1))
        continue
    }
    began=$SECONDS status=pass
    tests --fail-fast --color never >"$log" 2>&1 || status=fail
    took=$((SECONDS - began))
    by=$(sed -n 's/^ *\(FAIL\|SIGABRT\|TIMEOUT\) \[[^]]*\] *\(([^)]*) *\)\{0,1\}nokv-engine[^ ]* //p' "$log" | sort -u | head -n 3 | paste -sd ' ')
    if [ "$name" = clean ]; then
        [ $status = pass ] && by=- || defects=$((defects + 1))
    else
        planted=$((planted + 1))
        if [ $status = fail ]; then found=$((found + 1)); else by='NOT FOUND' defects=$((defects + 1)); fi
    fi
    row "$name" "$took" "$by" && mark "$name" "$took" "$by"
done
echo "$found of $planted planted bugs found by the engine's tests at $(git rev-parse --short HEAD)"
[ $defects -eq 0 ]
