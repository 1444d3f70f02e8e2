#!/usr/bin/env bash
# Puts together what a bare GPU machine without network lacks to run distlth (tests/gpu/target.py says which
# machine), and checks it: wheels in OUT/1, at most 60 MiB. tests/gpu-unpack.sh installs them over there.
#
#   bash tests/gpu-bundle.sh [OUT]
#
# OUT   where it goes (default: .gpu-bundle in the checkout)
# VENV  the environment of cluster/setup.sh, whose versions and whose FFCV it takes (default: .venv)
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=$(realpath -m "${1:-$ROOT/.gpu-bundle}")
PYTHON=${VENV:-$ROOT/.venv}/bin/python

[[ -x $PYTHON ]] || { echo "gpu-bundle: no $PYTHON; run cluster/setup.sh first, or set VENV" >&2; exit 1; }
export PYTHONPATH=$ROOT
"$PYTHON" -m tests.gpu.bundle "$OUT"
"$PYTHON" -m tests.gpu.check_bundle "$OUT/1"
echo "gpu-bundle: $OUT/1, $(du -sm --apparent-size "$OUT/1" | cut -f1) MiB"
