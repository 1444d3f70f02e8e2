#!/usr/bin/env bash
# Sets up everything that distlth needs, from a bare Debian 12 on: system packages (as root), a virtual
# environment in the checkout, pinned Python packages, FFCV from source. A second call takes no time.
#
#   bash cluster/setup.sh
#
# VENV            where the environment goes (default: .venv in the checkout)
# DISTLTH_PYTHON  the Python to make it from (default: the first of python3, python3.11 .. 3.13 that fits)
# pip's own settings (PIP_INDEX_URL, pip.conf ...) hold as ever: an index with CPU builds of torch, say.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$ROOT/.venv}
LOG=$VENV/setup.log
STAMP=$VENV/setup.stamp
CONSTRAINTS=$ROOT/cluster/constraints.txt
OPENCV_SHIM=$ROOT/cluster/opencv
SPEAKER=setup

# shellcheck source=cluster/apt.sh
. "$ROOT/cluster/apt.sh"

main() {
    is_set_up && has_libraries && { say "already set up in $VENV"; return; }
    ensure_packages missing_packages stop_without
    mkdir -p "$VENV"
    exec 9>"$VENV/setup.lock" && flock 9 # several at once, on a shared file system: one works, the rest wait
    : >"$LOG"
    is_set_up || make_environment
    has_libraries || step "JPEG decoder and CPU engine, compiled here" compile_libraries
    say "done; log: $LOG"
}

make_environment() {
    step "virtual environment in $VENV" make_venv
    step "pip and setuptools" pip_install pip setuptools
    step "Python packages (minutes: torch alone is 3 GB with its CUDA libraries)" install_distlth
    step "FFCV, compiled here" install_ffcv
    step "byte code of the packages, on all cores" compile_packages
    step "trial import" trial_import
    fingerprint >"$STAMP"
}

# step NAME COMMAND...: runs it into the log, says how long it took, shows the log's tail if it fails.
step() {
    local name=$1 start=$SECONDS
    shift
    say "$name ..."
    if "$@" </dev/null >>"$LOG" 2>&1; then
        say "$name: $((SECONDS - start)) s"
    else
        tail -n 30 "$LOG" >&2
        say "$name: FAILED; the whole log is $LOG" >&2
        exit 1
    fi
}

# --- what has been done already ---

fingerprint() (
    cd "$ROOT"
    { pwd && cat pyproject.toml cluster/constraints.txt cluster/setup.sh cluster/apt.sh cluster/opencv/*.pc; } | sha256sum
)

is_set_up() {
    [[ -f $STAMP && $(<"$STAMP") == "$(fingerprint)" ]] && "$VENV/bin/python" -c '' 2>/dev/null
}

# The libraries in C++ are a part of the checkout: they are compiled again when their sources change. An environment
# that is made before the code is there needs none.
has_libraries() {
    [[ -e $ROOT/setup.py ]] || return 0
    has_library distlth/data/jpeg _jpeg && has_library distlth/execute/cpu _engine
}

has_library() {
    local folder=$ROOT/$1 library
    library=$(find "$folder" -name "$2*.so" -print -quit)
    [[ -n $library && -z $(find "$ROOT/setup.py" "$folder"/*.{cpp,h} -newer "$library" -print -quit) ]]
}

compile_libraries() (
    cd "$ROOT"
    "$VENV/bin/python" setup.py --quiet build_ext --inplace --force
)

# --- system packages: found by what they give, since not every machine is a Debian ---

find_python() {
    local candidate
    for candidate in ${DISTLTH_PYTHON:-python3 python3.11 python3.12 python3.13}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

missing_packages() {
    local python
    if python=$(find_python); then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "$(debian_python "$python")-venv"
        "$python" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null ||
            echo "$(debian_python "$python")-dev"
    else
        echo python3 python3-venv python3-dev
    fi
    [[ -e /etc/ssl/certs/ca-certificates.crt || ! -e /etc/debian_version ]] || echo ca-certificates
    { command -v g++ && command -v gcc; } >/dev/null || echo g++
    if command -v pkg-config >/dev/null; then
        pkg-config --exists libturbojpeg || echo libturbojpeg0-dev
    else
        echo pkg-config
        [[ -e /usr/include/turbojpeg.h ]] || echo libturbojpeg0-dev
    fi
    pkg-config --exists opencv4 2>/dev/null || {
        [[ -e /usr/include/opencv4/opencv2/core.hpp ]] || echo libopencv-core-dev
        [[ -e /usr/include/opencv4/opencv2/imgproc.hpp ]] || echo libopencv-imgproc-dev
    }
}

# The Debian package of a Python: python3 for the system's own, python3.12 for a further one.
debian_python() {
    if [[ $(readlink -f "$1") == "$(readlink -f /usr/bin/python3)" ]]; then echo python3; else basename "$1"; fi
}

stop_without() {
    cat >&2 <<END
setup: this machine lacks: $*

Root can install them (Debian 12, Ubuntu 24.04 or later); as root, this script does it by itself:

    apt-get update && apt-get install -y --no-install-recommends $*

Without root, on a cluster, there are three ways; after the last two, run this script again:
  - run in a container, made from this repository's Dockerfile
  - ask the administrators for the packages above
  - activate a conda environment (conda-forge) with python=3.11 cxx-compiler pkg-config libjpeg-turbo opencv
END
    exit 1
}

# --- the virtual environment ---

make_venv() {
    "$VENV/bin/python" -c '' 2>/dev/null && return
    # What is left of an environment whose Python is gone would be in the way.
    [[ ! -e $VENV/pyvenv.cfg ]] || rm -rf "$VENV"/{bin,lib,lib64,include,pyvenv.cfg}
    "$(find_python)" -m venv "$VENV"
}

pip_install() {
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -c "$CONSTRAINTS" "$@"
}

install_distlth() { pip_install --no-build-isolation -e "$ROOT[dev]"; }

# FFCV's metadata asks for opencv-python, whose import needs a desktop's libraries (libGL, X11); the
# headless build of the same module is among our own requirements, so FFCV goes in without its own.
install_ffcv() {
    local shim=
    [[ -e /usr/include/opencv4/opencv2/imgproc.hpp ]] && shim=$OPENCV_SHIM:
    PKG_CONFIG_PATH=$shim${PKG_CONFIG_PATH:-} pip_install --no-deps --no-build-isolation ffcv
}

# pip would compile one file after the other, and tests that nobody runs. Some packages bring files that are no
# Python 3: they stay as they are.
compile_packages() {
    local packages
    packages=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$VENV/bin/python" -m compileall -qq -j 0 -x 'site-packages/.*/tests?/' "$packages" || true
}

trial_import() {
    "$VENV/bin/python" -c 'import cv2, ffcv, matplotlib, mtkahypar, ray, sklearn, submitit, torch, torchvision'
}

main
