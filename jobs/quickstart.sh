#!/usr/bin/env bash
# The quick start: from a bare machine to structurally sparse tickets of real handwritten digits.
# Arguments are overrides for the run, as in: bash jobs/quickstart.sh train.epochs=3
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash cluster/setup.sh
PATH=$(cd "${VENV:-.venv}/bin" && pwd):$PATH
python -m jobs.digits data/digits-images
distlth data check data/digits >/dev/null 2>&1 || distlth data build data/digits-images --out data/digits --overwrite
exec distlth run jobs/recipes/quickstart.yaml "$@"
