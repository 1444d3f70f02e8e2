#!/usr/bin/env bash
# Checks what only a GPU can show, in some eight or nine minutes on one card; prints a line for each check.
#
#   bash tests/gpu.sh [--section NAME]... [--quick] [--device cpu]
#
# It uses the checkout's .venv, or else the machine's own Python 3 with what tests/gpu-bundle.sh put together,
# unpacked by tests/gpu-unpack.sh into $SITE (default: .gpu-site).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${VENV:-.venv}/bin/python
[[ -x $PYTHON ]] || PYTHON=python3
export PYTHONPATH=$PWD:${SITE:-$PWD/.gpu-site}${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
"$PYTHON" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
exec "$PYTHON" -m tests.gpu "$@"
