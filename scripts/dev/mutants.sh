#!/usr/bin/env bash
# Measures the simulator: plants each bug of sim/mutants/*.patch in a scratch copy, runs stock seeds from 0 until one
# fails, shrinks that one, and says how many seeds it took, which checker saw it, and what is left of the case. A
# planted bug that survives all seeds is a defect of the simulator; so is a control (C1, C2, `clean`) that fails.
#
# usage: mutants.sh [--seeds N] [--jobs J] [--tries T] [--markdown FILE] [--cases DIR] [NAME ...]
#        mutants.sh --check     every patch applies to this commit; builds nothing
#
#   --seeds N        runs seeds 0..N of each, until one fails      (default 1000)
#   --jobs J         threads                                       (default 1)
#   --tries T        runs that shrinking may take; 0: none         (default 200)
#   --markdown FILE  also writes the table there
#   --cases DIR      keeps the shrunk cases there
#   NAME             beginning of a patch's name (`R02`, `P`), or `clean`: the build without a patch; default: all
#
# Leaves its build in target/mutants, so that the next measurement only compiles what the patches touch.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD seeds=1000 jobs=1 tries=200 markdown='' cases='' check='' wanted=()
while [ $# -gt 0 ]; do
    case $1 in
    --seeds) seeds=$2 && shift 2 ;;
    --jobs) jobs=$2 && shift 2 ;;
    --tries) tries=$2 && shift 2 ;;
    --markdown) markdown=$2 && shift 2 ;;
    --cases) cases=$2 && shift 2 ;;
    --check) check=yes && shift ;;
    -h | --help) sed -n '2,17s/^# \{0,1\}//p' "$0" && exit 0 ;;
    -*) echo "unknown option $1; see --help" >&2 && exit 2 ;;
    *) wanted+=("$1") && shift ;;
    esac
done

if [ -n "$check" ]; then
    stale=0
    for patch in sim/mutants/*.patch; do
        head -n 1 "$patch" | grep -q '^Breaks: ' || { echo "$patch: the first line must say what it breaks" && stale=1; }
        git apply --check "$patch" || { echo "$patch: does not apply" && stale=1; }
    done
    [ $stale -eq 0 ] && echo "all $(ls sim/mutants/*.patch | wc -l) patches apply"
    exit $stale
fi

names=()
for name in clean $(cd sim/mutants && ls -- *.patch); do
    name=${name%.patch}
    [ ${#wanted[@]} -gt 0 ] || { names+=("$name") && continue; }
    for prefix in "${wanted[@]}"; do
        case $name in "$prefix"*) names+=("$name") && break ;; esac
    done
done
[ ${#names[@]} -gt 0 ] || { echo "no patch is called ${wanted[*]}" >&2 && exit 2; }

work=$root/target/mutants
tree=$work/tree nokv=$work/target/quick/nokv
mkdir -p "$work/logs"
[ -z "$cases" ] || mkdir -p "$cases"
git worktree prune
git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
trap 'git -C "$root" worktree remove --force "$tree" 2>/dev/null || true' EXIT
git worktree add --quiet --force --detach "$tree" HEAD

row() { printf '%-42s %6s  %-18s %7s  %s\n' "$@"; }
mark() { [ -z "$markdown" ] || printf '| %s | %s | %s | %s | %s |\n' "$@" >>"$markdown"; }
[ -z "$markdown" ] || printf '| planted bug | seeds needed | checker | CPU seconds | shrunk case |\n|---|---|---|---|---|\n' >"$markdown"
row 'planted bug' seeds checker 'CPU s' 'shrunk case'

# Sets `used` to the seconds of CPU that children of this shell have used. `times` counts for the shell that runs it,
# so this must not run in a subshell.
used=0
cpu() {
    times >"$work/times"
    used=$(awk 'END { split($1, u, /[ms]/); split($2, s, /[ms]/); print u[1] * 60 + u[2] + s[1] * 60 + s[2] }' "$work/times")
}

# size CASE: what is left of a shrunk case.
size() {
    python3 - "$1" <<'PYTHON' 2>/dev/null || echo '?'
import json, sys
case = json.load(open(sys.argv[1]))
atoms = len(case["plan"]["faults"]) + len(case.get("decisions") or [])
steps = sum(len(session["steps"]) for session in case["workload"]["sessions"])
print(f"{atoms} atoms, {steps} operations")
PYTHON
}

defects=0 planted=0 found=0
for name in "${names[@]}"; do
    git -C "$tree" checkout --quiet --force HEAD
    [ "$name" = clean ] || git -C "$tree" apply "$root/sim/mutants/$name.patch"
    (cd "$tree" && CARGO_TARGET_DIR=$work/target cargo build --profile quick -p nokv-cli --quiet) 2>"$work/logs/$name.build" || {
        row "$name" - 'DOES NOT BUILD' - "see $work/logs/$name.build" && mark "$name" - 'does not build' - - && defects=$((defects + 1))
        continue
    }
    cpu
    log=$work/logs/$name.log began=$used
    status=pass
    "$nokv" sim run --seeds "0..$seeds" --jobs "$jobs" --fail-fast >"$log" 2>&1 || status=fail
    cpu
    took=$(awk -v a="$began" -v b="$used" 'BEGIN { printf "%.0f", b - a }')
    line=$(grep -m1 'verdict=fail' "$log" || true)
    if [ $status = fail ] && [ -z "$line" ]; then
        row "$name" - 'DOES NOT RUN' "$took" "see $log" && mark "$name" - 'does not run' "$took" - && defects=$((defects + 1))
        continue
    fi
    case $name in clean | C[12]-*) control=yes ;; *) control='' && planted=$((planted + 1)) ;; esac
    if [ -z "$line" ]; then
        [ -n "$control" ] && verdict='-' || verdict='NOT FOUND'
        [ -n "$control" ] || defects=$((defects + 1))
        row "$name" "$seeds" "$verdict" "$took" '' && mark "$name" "none of $seeds" "$verdict" "$took" ''
        continue
    fi
    [ -n "$control" ] && defects=$((defects + 1)) || found=$((found + 1))
    seed=$(sed 's/.*seed=\([0-9]*\).*/\1/' <<<"$line")
    checker=$(sed -n 's/^checker: *//p' "$log" | head -n 1)
    shrunk=$work/logs/$name.json left=''
    if [ "$tries" -gt 0 ] && "$nokv" sim shrink --seed "$seed" --tries "$tries" --out "$shrunk" >"$work/logs/$name.shrink" 2>&1; then
        left=$(size "$shrunk")
        [ -z "$cases" ] || cp "$shrunk" "$cases/$name.json"
    fi
    row "$name" $((seed + 1)) "$checker" "$took" "$left" && mark "$name" $((seed + 1)) "$checker" "$took" "$left"
done
echo "$found of $planted planted bugs found within $seeds seeds at $(git rev-parse --short HEAD)"
[ $defects -eq 0 ]
