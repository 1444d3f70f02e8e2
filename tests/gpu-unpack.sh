#!/usr/bin/env bash
# Installs a bundle of tests/gpu-bundle.sh into a folder, without network; a second call takes no time.
#
#   bash tests/gpu-unpack.sh .gpu-bundle/1 /tmp/site && export PYTHONPATH=/tmp/site:$PWD
#
# PYTHON  the Python that runs distlth (default: python3)
set -euo pipefail

PART=${1:?the folder of the bundle} SITE=${2:?the folder to install into}
PYTHON=${PYTHON:-python3}
STAMP=$SITE/.bundle

# Our compiled libraries go into the checkout, whose code runs, where it has none.
place_libraries() {
    local compiled=$SITE/distlth-compiled checkout library
    checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    (cd "$compiled" && find . -name '*.so') | while read -r library; do
        compgen -G "$checkout/${library%.so}*.so" >/dev/null || cp "$compiled/$library" "$checkout/$library"
    done
}

contents() (cd "$PART" && sha256sum -- *.whl *.whl.xz)

if [[ -f $STAMP && $(<"$STAMP") == "$(contents)" ]]; then
    place_libraries
    echo "gpu-unpack: $SITE is up to date"
    exit
fi
WHEELS=$(mktemp -d)
trap 'rm -rf "$WHEELS"' EXIT
cp "$PART"/*.whl "$WHEELS"
"$PYTHON" - "$WHEELS" "$PART"/*.whl.xz <<'END'
import lzma, pathlib, shutil, sys

for file in map(pathlib.Path, sys.argv[2:]):
    with lzma.open(file) as source, open(pathlib.Path(sys.argv[1], file.stem), "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
END
"$PYTHON" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-index --no-deps --no-compile \
    --upgrade --target "$SITE" "$WHEELS"/*.whl
packages=$(ls "$WHEELS" | cut -d- -f1 | sed 's/_/[-_]/g' | paste -sd'|')
PYTHONPATH=$SITE "$PYTHON" -m pip check --disable-pip-version-check | grep -iE "^($packages) " |
    sed 's/^/gpu-unpack: /' >&2 || true
contents >"$STAMP"
place_libraries
echo "gpu-unpack: $(ls "$WHEELS" | wc -l) packages in $SITE, $SECONDS s"
