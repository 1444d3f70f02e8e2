#!/usr/bin/env bash
# Trains what the tables of this folder show, and writes them: three seeds of jobs/recipes/fashion-mnist.yaml.
#
#   bash docs/results/fashion-mnist/run.sh SOURCE gpu|cpu [key=value ...]
#
# SOURCE   the four IDX files of Fashion-MNIST, as they are downloaded
# gpu      all 60,000 images, minutes on one GPU; cpu: 1,000 of each class, in float32, hours on a few cores
# OUT      where data, runs and tables go (default: data/fashion-mnist-results in the checkout)
# SEEDS, PROCESSES, STOP_AFTER     which seeds ("0 1 2"), how many jobs at a time, seconds (no limit)
# REPORT=no                        leave the tables out
#
# The same command trains what is missing. It uses the checkout's .venv (VENV), or else the machine's python3.
set -euo pipefail

SOURCE=$(realpath "${1:?the folder of the IDX files}") FORM=${2:?gpu or cpu}
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
OUT=$(realpath -m "${OUT:-data/fashion-mnist-results}")
PYTHON=${VENV:-.venv}/bin/python
[[ -x $PYTHON ]] || PYTHON=python3
export PYTHONPATH=$PWD${SITE:+:$SITE}${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

case $FORM in
    gpu) PROCESSES=${PROCESSES:-2} DATA=$OUT/data ;;
    cpu) PROCESSES=${PROCESSES:-$(nproc)} DATA=$OUT/data-subset
        "$PYTHON" -m jobs.idx_subset "$SOURCE" "$OUT/subset"
        SOURCE=$OUT/subset
        set -- cluster.device=cpu train.amp=off train.batch_size=128 train.lr=0.1 "$@" ;;
    *) echo "fashion-mnist: expected gpu or cpu, not $FORM" >&2; exit 2 ;;
esac
[[ -f $DATA/dataset.json ]] || "$PYTHON" -m jobs.cli data build "$SOURCE" --out "$DATA" --overwrite
read -ra SEEDS <<<"${SEEDS:-0 1 2}"
status=0
"$PYTHON" -m jobs.side_by_side jobs/recipes/fashion-mnist.yaml data.path="$DATA" runs="$OUT/runs-$FORM" "$@" \
    --seeds "${SEEDS[@]}" --processes "$PROCESSES" ${STOP_AFTER:+--seconds "$STOP_AFTER"} || status=$?
[[ $status == 0 || $status == 75 ]] || exit "$status"
[[ ${REPORT:-yes} == no ]] || "$PYTHON" -m jobs.cli report "$OUT/runs-$FORM"/fashion-mnist-seed* --out "$OUT/report-$FORM"
exit "$status"
