"""The bundle for a bare GPU machine: it is small enough, fits there and, unpacked, works without help."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import typing_extensions
from PIL import Image

from distlth.data.load.native import decode_jpeg
from tests.gpu.check_bundle import Wheel, problems, unmet, unresolved, wheels

ROOT = Path(__file__).parent.parent
DECODE = """
import ctypes, glob, hashlib, sys
site, data, height, width = sys.argv[1], open(sys.argv[2], "rb").read(), int(sys.argv[3]), int(sys.argv[4])
library = ctypes.CDLL(*glob.glob(site + "/ffcv/_libffcv*.so"))
pixels = ctypes.create_string_buffer(height * width * 3)
library.imdecode.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32,
    ctypes.c_void_p] + [ctypes.c_uint32] * 6 + [ctypes.c_bool] * 2
assert not library.imdecode(data, len(data), height, width, pixels, height, width, 0, 0, 1, 1, False, False)
print(hashlib.sha256(pixels.raw).hexdigest())
"""


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle")
    done = _run("bash", ROOT / "tests" / "gpu-bundle.sh", out, VENV=sys.prefix)
    assert done.returncode == 0, done.stderr
    return out / "1"


@pytest.fixture(scope="module")
def found(part: Path) -> list[Wheel]:
    return wheels(part)


@pytest.fixture(scope="module")
def python312() -> str:
    """A Python 3.12 with pip, if there is one; pyenv's commands on PATH start only its chosen versions."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for python in ("python3.12", *map(str, pyenv.glob("versions/3.12*/bin/python3.12"))):
        if shutil.which(python) and not _run(python, "-m", "pip", "--version").returncode:
            return python
    pytest.skip("there is no Python 3.12 with pip here")


@pytest.fixture(scope="module")
def site(part: Path, python312: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked") / "site"
    assert _unpack(part, folder, python312).startswith(
        f"gpu-unpack: {len(wheels(part))} packages in {folder}"
    )
    return folder


def test_one_transfer_takes_all_of_it(part: Path) -> None:
    assert [folder.name for folder in part.parent.iterdir()] == ["1"]
    assert sum(file.stat().st_size for file in part.iterdir()) <= 60 * 2**20


def test_what_does_not_fit_the_target_is_named(part: Path, tmp_path: Path) -> None:
    (wheel,) = part.glob("rpds_py-*.whl")
    (tmp_path / wheel.name.replace("cp312", "cp311")).symlink_to(wheel)
    (tmp_path / "numpy-2.5.2-py3-none-any.whl").symlink_to(next(part.glob("annotated_types-*")))
    lines = list(problems(tmp_path))
    assert f"{wheel.name.replace('cp312', 'cp311')}: no tag of it fits the target" in lines
    assert "numpy-2.5.2-py3-none-any.whl: the target has its own" in lines


@pytest.mark.parametrize("missing", ["typing-inspection", "tensorboardx", "mtkahypar"])
def test_a_missing_package_is_named(found: list[Wheel], missing: str) -> None:
    rest = [wheel for wheel in found if wheel.name != missing]
    (line,) = {line.split(":")[1] for line in unmet(rest) if line.lower().startswith(missing)}
    assert line == " in neither the bundle nor tests/gpu/provided.txt"


def test_a_missing_library_and_its_symbols_are_named(found: list[Wheel], tmp_path: Path) -> None:
    (ffcv,) = (wheel for wheel in found if wheel.name == "ffcv")
    ffcv.extract(tmp_path)
    assert list(unresolved(tmp_path)) == []
    (library,) = tmp_path.glob("ffcv/libs/libturbojpeg-ffcv.so*")
    library.unlink()
    lines = list(unresolved(tmp_path))
    assert f"ffcv/_libffcv.so: {library.name}: not found" in lines
    assert any(line.startswith("ffcv/_libffcv.so: undefined symbol: tj") for line in lines)


def test_it_decodes_the_same_pixels_over_there(site: Path, python312: str, tmp_path: Path) -> None:
    jpeg = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(jpeg, "JPEG")
    (tmp_path / "image.jpg").write_bytes(jpeg.getvalue())
    done = _run(python312, "-c", DECODE, site, tmp_path / "image.jpg", "48", "64")
    pixels = decode_jpeg(np.frombuffer(jpeg.getvalue(), np.uint8), 48, 64)
    assert pixels is not None
    assert done.stdout.strip() == hashlib.sha256(pixels.tobytes()).hexdigest(), done.stderr


def test_our_libraries_load_over_there_and_find_the_decoder_that_came_along(
    site: Path, python312: str
) -> None:
    assert {file.name for file in site.glob("distlth-compiled/**/*.so")} == {"_engine.so", "_jpeg.so"}
    load = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).distlth_jpeg_load_turbo(sys.argv[2].encode()))"
    library = site / "distlth-compiled" / "distlth" / "data" / "jpeg" / "_jpeg.so"
    done = _run(python312, "-c", load, library, site / "ffcv" / "_libffcv.so")
    assert done.stdout == "0\n", done.stderr


def test_compiled_packages_import_over_there(site: Path, python312: str, tmp_path: Path) -> None:
    shutil.copy(typing_extensions.__file__, tmp_path)  # the target's own
    code = "import mtkahypar, pydantic, rpds; print(pydantic.__file__)"
    done = _run(python312, "-c", code, PYTHONPATH=f"{site}:{tmp_path}")
    assert done.stdout.startswith(str(site)), done.stderr


def test_unpacking_again_changes_nothing(part: Path, site: Path, python312: str) -> None:
    before = site.stat().st_mtime_ns
    assert _unpack(part, site, python312) == f"gpu-unpack: {site} is up to date\n"
    assert site.stat().st_mtime_ns == before


def _unpack(part: Path, site: Path, python: str) -> str:
    done = _run("bash", ROOT / "tests" / "gpu-unpack.sh", part, site, PYTHON=python)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
