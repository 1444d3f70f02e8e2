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

# Tests that start Ray or SLURM wait for processes more than they compute: they run beside all others, and what
# they say is shown at the end.
clusters=(tests/chaos tests/runtime tests/slurm tests/test_experiment.py)
log=$(mktemp)
set -m # a process group of its own, in which SIGINT is not ignored
pytest "${clusters[@]}" >"$log" 2>&1 &
trap 'kill %1 2>/dev/null || true; rm -f "$log"' EXIT
code=0
pytest "${clusters[@]/#/--ignore=}" || code=$?
wait %1 || code=$?
cat "$log"
exit "$code"
