#!/usr/bin/env bash
# Runs pytest with its temporary files in memory, where there is room for them: databases are made there eight times faster.
# Without arguments all tests run, those of whole runs beside the others, in two processes.
set -uo pipefail

readonly LEAST_FREE_KB=6000000 WHOLE_RUNS=(tests/end_to_end tests/scheduler)
pytest=(.venv/bin/python -m pytest -o cache_dir=.state/cache/pytest)
runs=

free_kb=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)
mkdir -p .state/tmp .state/logs
if ((${free_kb:-0} > LEAST_FREE_KB)); then parent=/dev/shm; else parent=$PWD/.state/tmp; fi
PYTEST_DEBUG_TEMPROOT=$(mktemp -d -p "$parent" mdw-tests.XXXXXX)
# Servers of other accounts pass through; what lies in it is closed to them.
chmod 711 "$PYTEST_DEBUG_TEMPROOT"
TMPDIR=$PYTEST_DEBUG_TEMPROOT
export PYTEST_DEBUG_TEMPROOT TMPDIR
trap '[[ -z $runs ]] || kill "$runs" 2>/dev/null; wait; rm -rf "$PYTEST_DEBUG_TEMPROOT"' EXIT
trap 'exit 130' INT TERM

if (($#)); then
  "${pytest[@]}" "$@"
  exit
fi
echo "tests of whole runs go beside the others; their output follows behind the others'"
"${pytest[@]}" "${WHOLE_RUNS[@]}" >.state/logs/test-end-to-end.log 2>&1 &
runs=$!
"${pytest[@]}" "${WHOLE_RUNS[@]/#/--ignore=}"
rest=$?
wait "$runs"
whole=$?
runs=
cat .state/logs/test-end-to-end.log
exit $((rest > whole ? rest : whole))
