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
exec pytest "$@"
