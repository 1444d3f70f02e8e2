#!/usr/bin/env bash
# Sets everything up, then checks style, types and behaviour. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash cluster/setup.sh
bash cluster/devslurm/install.sh || echo "without SLURM's programs the tests that need them are skipped" >&2
PATH=$(cd "${VENV:-.venv}/bin" && pwd):$PATH
ruff check .
ruff format --check .
mypy
if (($#)); then exec pytest "$@"; fi

# Runs under Ray and SLURM wait for processes more than they compute. All other tests take what they leave of
# the processor, at the lowest priority, so that no run misses a time limit; what they print is shown at the end.
# Threads of one computation that wait for each other sleep: by default they spin, which on cores that others use
# takes half of all time.
export OMP_WAIT_POLICY=passive
runs=(tests/chaos tests/runtime tests/slurm tests/test_experiment.py)
log=$(mktemp)
set -m # a process group of its own, in which SIGINT is not ignored
nice -n 19 pytest "${runs[@]/#/--ignore=}" >"$log" 2>&1 &
trap 'kill %1 2>/dev/null || true; rm -f "$log"' EXIT
code=0
pytest "${runs[@]}" || code=$?
wait %1 || code=$?
cat "$log"
exit "$code"
