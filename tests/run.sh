#!/usr/bin/env bash
# Sets everything up, then checks style, types and behaviour. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

logs=$(mktemp -d)
groups=()
trap 'kill -- "${groups[@]/#/-}" 2>/dev/null || true; rm -rf "$logs"' EXIT

# SLURM's programs come while Python's packages do; what is said about them is shown after that.
bash cluster/devslurm/install.sh >"$logs/slurm" 2>&1 &
slurm=$!
bash cluster/setup.sh || { code=$?; wait; exit "$code"; }
wait "$slurm" || echo "without SLURM's programs the tests that need them are skipped" >>"$logs/slurm"
cat "$logs/slurm" >&2 && rm "$logs/slurm"
PATH=$(cd "${VENV:-.venv}/bin" && pwd):$PATH
# Threads of one computation that wait for each other sleep: by default they spin, which on cores that others use
# takes half of all time.
export OMP_WAIT_POLICY=passive
ruff check .
ruff format --check .
if (($#)); then mypy && exec pytest "$@"; fi

# Runs under Ray and SLURM wait for processes more than they compute. All other tests, and mypy before some of
# them, take what they leave of the processor, so that no run misses a time limit. What they print is shown at the
# end.
runs=(tests/slurm tests/chaos tests/runtime tests/test_experiment.py) # the first waits most
numeric=(tests/data tests/execute tests/methods tests/prune tests/slim tests/train)
elsewhere=("${runs[@]}" "${numeric[@]}")

# behind NAME COMMAND: starts a shell command, which prints into the file NAME, in a session of its own: Linux
# shares the processor between sessions first (autogroup), then within them. SIGINT is not ignored there.
behind() {
    python -c '
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.setsid()
os.nice(19)
try:
    with open("/proc/self/autogroup", "w") as file:
        file.write("5")
except OSError:
    pass
os.execvp("bash", ["bash", "-c", sys.argv[1]])
' "$2" >"$logs/$1" 2>&1 &
    groups+=($!)
}

behind numeric "pytest ${numeric[*]}"
behind others "mypy && pytest ${elsewhere[*]/#/--ignore=}"
code=0
pytest "${runs[@]}" || code=$?
for group in "${groups[@]}"; do wait "$group" || code=$?; done
cat "$logs"/*
exit "$code"
