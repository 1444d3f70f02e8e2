"""The layout holds: rooms import those below, a library has one owner, no file names a machine's paths."""

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from tests.architecture import PICTURE, ROOMS, ROOT, dotted, draw, imports, modules, room_of

LAYERS = ("distlth", "cluster", "jobs")

# Who may import a library. What is not named here belongs to everyone.
OWNERS = {
    "ffcv": ("distlth/bench",),
    "matplotlib": ("distlth/report",),
    "mtkahypar": ("distlth/prune",),
    "onnx": ("distlth/export",),
    "onnxruntime": ("distlth/export", "distlth/bench"),
    "onnxscript": ("distlth/export",),
    "pydantic": ("distlth/options.py", "distlth/methods", "distlth/config"),
    "ray": ("cluster",),
    "rich": ("distlth/report", "distlth/data", "jobs"),
    "safetensors": ("distlth/files.py",),
    "sklearn": ("jobs/digits.py",),
    "submitit": ("cluster/slurm",),
    "tensorboard": ("distlth/report", "distlth/run/curves.py"),
    "tensorboardX": (),
    "triton": ("distlth/execute/triton",),
    "torch.utils.tensorboard": ("distlth/report",),
    "yaml": ("distlth/config", "distlth/run/store.py"),
}

# What rooms may import besides the standard library and the rooms below them, where that is little.
ONLY: dict[str, tuple[str, ...]] = {
    "distlth.errors": (),
    "distlth.options": ("pydantic",),
    "distlth.process": ("psutil",),
    "distlth.memory": ("psutil",),
    "distlth.files": ("safetensors", "torch"),
    "distlth.kernels": ("numba", "llvmlite"),
    "distlth.prune": ("torch", "numpy", "mtkahypar", "numba"),
    "distlth.config": ("pydantic", "pydantic_core", "yaml"),
    "distlth.plan": (),
    "distlth.imp": ("torch",),
    "distlth.slim": ("torch",),
    "distlth.run": ("numpy", "tensorboard", "torch", "yaml"),
}

# What pure rooms may not import: no I/O, no clock, no global random state.
IMPURE = (
    *("io", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile"),
    *("datetime", "time", "random", "secrets", "logging", "asyncio", "threading"),
    *("torch.distributed", "torch.utils.data", "torch.utils.tensorboard", "ray"),
)
# What a room may not import although it is below it: training hands its numbers to whoever draws them.
NOT: dict[str, tuple[str, ...]] = {"distlth.train": ("distlth.run.curves",)}

PURE = ("distlth.prune", "distlth.slim", "distlth.plan", "distlth.imp", "cluster.runtime.schedule")

MACHINE_PATH = re.compile(r"(?<![\w.~*{}$-])/(?:home|root|Users|work|mnt|scratch|private|workspace)/")
TEXT_SUFFIXES = {"", ".cfg", ".hpp", ".md", ".pc", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}


def test_imports_keep_to_the_layout() -> None:
    broken = [
        line
        for layer in LAYERS
        for path in sorted((ROOT / layer).rglob("*.py"))
        for line in violations(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("distlth/run/a.py", "import cluster.runtime.lane", "a.py:1: distlth.run may not import cluster.run"),
        ("cluster/slurm/a.py", "\nfrom jobs import cli", "a.py:2: cluster.slurm may not import jobs.cli"),
        ("cluster/runtime/a.py", "from cluster.slurm.order import Order", "may not import cluster.slurm"),
        ("cluster/runtime/a.py", "from ..slurm import order", "may not import cluster.slurm.order"),
        ("jobs/a.py", "from tests.b import c", "jobs may not import tests.b"),
        (
            "distlth/config/a.py",
            "from distlth.run.paths import x",
            "config may not import distlth.run",
        ),
        ("distlth/config/a.py", "def f():\n    import torch", "a.py:2: distlth.config may not import torch"),
        ("distlth/train/a.py", "from distlth.report import b", "distlth.train may not import distlth.report"),
        ("distlth/facts/a.py", "from distlth.report import b", "distlth.facts may not import distlth.report"),
        ("distlth/files.py", "from distlth.run import x", "distlth.files may not import distlth.run"),
        ("distlth/train/a.py", "import ray.train as t", "ray.train belongs to cluster"),
        ("distlth/train/a.py", "def f():\n    import yaml", "a.py:2: yaml belongs to distlth/config"),
        ("distlth/train/a.py", "from torch.utils import tensorboard", "torch.utils.tensorboard belongs to"),
        (
            "distlth/train/a.py",
            "from distlth.run.curves import JobBoard",
            "train may not import distlth.run",
        ),
        ("distlth/train/a.py", "import tensorboard", "tensorboard belongs to distlth/report"),
        ("distlth/facts/a.py", "from rich.table import Table", "rich.table.Table belongs to distlth/report"),
        ("distlth/facts/a.py", "def f():\n    import matplotlib", "matplotlib belongs to distlth/report"),
        ("jobs/a.py", "import sklearn", "sklearn belongs to jobs/digits.py"),
        ("distlth/bench_too/a.py", "import ffcv", "ffcv belongs to"),
        ("distlth/data/load/a.py", "from ffcv.loader import Loader", "belongs to distlth/bench"),
        ("distlth/prune/a.py", "import time", "distlth.prune is pure: it may not import time"),
        ("distlth/prune/a.py", "from torch import distributed", "pure: it may not import torch.distributed"),
        ("distlth/prune/a.py", "from ..run import paths", "distlth.prune may not import distlth.run.paths"),
        ("cluster/runtime/schedule.py", "import asyncio", "cluster.runtime.schedule is pure"),
    ],
)
def test_a_wrong_import_is_named_with_its_line(file: str, source: str, complaint: str) -> None:
    found = violations(file, source)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("distlth/bench/loader.py", "from ffcv.loader import Loader"),
        ("distlth/data/load/loader.py", "import rich"),
        ("cluster/runtime/lane.py", "import ray\nfrom distlth.run import paths"),
        ("cluster/slurm/order.py", "from cluster.runtime.allocation import Allocation"),
        ("jobs/digits.py", "from sklearn.datasets import load_digits"),
        ("distlth/config/a.py", "import os\nfrom distlth.methods import METHODS"),
        ("distlth/prune/a.py", "import math\nfrom torch import Tensor\nfrom .mask import Mask"),
    ],
)
def test_a_right_import_is_let_through(file: str, source: str) -> None:
    assert violations(file, source) == []


def test_every_module_has_a_room() -> None:
    homeless = [name for name, path in modules() if room_of(name) is None and path.name != "__init__.py"]
    assert homeless == []


def test_the_picture_of_the_rooms_is_the_codes() -> None:
    assert PICTURE.read_text() == draw(), "make it again: python -m tests.architecture"


def test_no_file_names_a_path_of_some_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in _first_party_files()
        if path.name != Path(__file__).name
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "names_one"),
    [
        ('DATA = "/home/ann/imagenet"', True),
        ("cd /root/distlth", True),
        ("COPY . /srv/distlth", False),
        ("path = root/home/x", False),
        ("-I/usr/include/opencv4", False),
    ],
)
def test_machine_paths_are_recognised(line: str, names_one: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) == names_one


def test_scripts_parse() -> None:
    scripts = [path for path in _first_party_files() if path.read_text().startswith("#!/usr/bin/env bash")]
    assert {path.name for path in scripts} >= {"setup.sh", "run.sh", "quickstart.sh", "run"}
    for script in scripts:
        checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


def violations(file: str, source: str) -> list[str]:
    """Return what the imports in `source`, the text of `file` (from the root on), break: `file:line: why`."""
    return [
        f"{file}:{line}: {why}"
        for line, name in imports(file, source)
        if (why := _order_broken(file, name) or _purity_broken(file, name) or _owner(file, name))
    ]


def _order_broken(file: str, name: str) -> str | None:
    room, other = room_of(dotted(file)), room_of(name)
    is_above = name.split(".")[0] == "tests" or (
        room is not None and other is not None and ROOMS.index(other) > ROOMS.index(room)
    )
    return f"{room} may not import {name}" if is_above else None


def _purity_broken(file: str, name: str) -> str | None:
    module = dotted(file)
    pure = next((place for place in PURE if _under(module, (place,))), None)
    if pure and _under(name, IMPURE):
        return f"{pure} is pure: it may not import {name}"
    for room, behind in NOT.items():
        if _under(module, (room,)) and _under(name, behind):
            return f"{room} may not import {name}"
    is_ours = name.split(".")[0] in (*LAYERS, *sys.stdlib_module_names)
    for room, allowed in ONLY.items():
        if _under(module, (room,)) and not is_ours and not _under(name, allowed):
            return f"{room} may not import {name}"
    return None


def _owner(file: str, name: str) -> str | None:
    for library, owners in OWNERS.items():
        if _under(name, (library,)) and not any(
            PurePosixPath(file).is_relative_to(owner) for owner in owners
        ):
            return f"{name} belongs to {' and '.join(owners) or 'nobody'}"
    return None


def _under(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _first_party_files() -> list[Path]:
    folders = [ROOT / folder for folder in (*LAYERS, "tests", ".ci", "docs")]
    files = [path for folder in folders for path in folder.rglob("*")]
    files += list(ROOT.iterdir())
    return [
        path
        for path in files
        if path.is_file() and path.suffix in TEXT_SUFFIXES and not {"__pycache__", ".git"} & set(path.parts)
    ]
