"""The layout holds: imports go one way, a library has one owner, no file names a machine's own paths."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("distlth", "cluster", "jobs")  # each may import itself and those before it

# Who may import a library. What is not named here belongs to everyone.
OWNERS = {
    "ffcv": ("distlth/data", "distlth/bench"),
    "matplotlib": ("distlth/report",),
    "mtkahypar": ("distlth/prune",),
    "pydantic": ("distlth/options.py", "distlth/methods", "distlth/config"),
    "ray": ("cluster",),
    "rich": ("distlth/report", "distlth/data", "jobs"),
    "safetensors": ("distlth/files.py",),
    "sklearn": ("jobs/digits.py",),
    "submitit": ("cluster/slurm",),
    "tensorboard": ("distlth/report", "distlth/run/curves.py"),
    "tensorboardX": (),
    "torch.utils.tensorboard": ("distlth/report",),
    "yaml": ("distlth/config", "distlth/run/store.py"),
}

# The pruning core: functions from values to values, so no other library, no I/O, no clock, no global RNG.
CORE = "distlth/prune"
CORE_MAY_IMPORT = ("torch", "numpy", "mtkahypar", "numba", "distlth.prune", "distlth.errors")
CORE_MUST_NOT_IMPORT = (
    *("io", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile"),
    *("datetime", "time", "random", "secrets", "logging"),
    *("torch.distributed", "torch.utils.data", "torch.utils.tensorboard"),
)

# Training hands its numbers to whoever draws them.
TRAINING = "distlth/train"
TRAINING_MUST_NOT_IMPORT = ("distlth.report", "distlth.run.curves", "matplotlib", "rich", "tensorboard")

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
        (
            "distlth/run/a.py",
            "import cluster.runtime.lane",
            "distlth/run/a.py:1: distlth may not import cluster.runtime.lane",
        ),
        ("cluster/a.py", "\nfrom jobs import cli", "cluster/a.py:2: cluster may not import jobs"),
        ("jobs/a.py", "from tests.b import c", "jobs may not import tests.b"),
        ("distlth/train/a.py", "import ray.train as t", "ray.train belongs to cluster"),
        ("distlth/train/a.py", "def f():\n    import yaml", "a.py:2: yaml belongs to distlth/config"),
        ("distlth/train/a.py", "from torch.utils import tensorboard", "torch.utils.tensorboard belongs to"),
        ("jobs/a.py", "import sklearn", "sklearn belongs to jobs/digits.py"),
        ("distlth/data_too/a.py", "import ffcv", "ffcv belongs to"),
        ("distlth/prune/a.py", "import time", "the pruning core may not import time"),
        (
            "distlth/prune/a.py",
            "from distlth.run.paths import x",
            "the pruning core may not import distlth.run",
        ),
        ("distlth/prune/a.py", "from ..run import paths", "the pruning core may not import distlth.run"),
        ("distlth/prune/a.py", "from torch import distributed", "may not import torch.distributed"),
        (
            "distlth/train/a.py",
            "from distlth.run.curves import JobBoard",
            "training may not import distlth.run",
        ),
        ("distlth/train/a.py", "from ..report import board", "training may not import distlth.report"),
        ("distlth/train/a.py", "import rich", "training may not import rich"),
    ],
)
def test_a_wrong_import_is_named_with_its_line(file: str, source: str, complaint: str) -> None:
    found = violations(file, source)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("distlth/data/load/loader.py", "from ffcv.loader import Loader\nimport rich"),
        ("cluster/runtime/lane.py", "import ray\nfrom distlth.run import paths"),
        ("jobs/digits.py", "from sklearn.datasets import load_digits"),
        ("distlth/prune/a.py", "import math\nfrom torch import Tensor\nfrom .mask import Mask"),
    ],
)
def test_a_right_import_is_let_through(file: str, source: str) -> None:
    assert violations(file, source) == []


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
    """What the imports in ``source``, the text of ``file`` (from the root on), break: ``file:line: why``."""
    layer = file.split("/")[0]
    above = ("tests", *LAYERS[LAYERS.index(layer) + 1 :])
    return [
        f"{file}:{line}: {why}"
        for line, module in _imports(file, source)
        if (
            why := _layer_broken(layer, above, module)
            or _core_broken(file, module)
            or _training_broken(file, module)
            or _owner(file, module)
        )
    ]


def _layer_broken(layer: str, above: tuple[str, ...], module: str) -> str | None:
    return f"{layer} may not import {module}" if module.split(".")[0] in above else None


def _core_broken(file: str, module: str) -> str | None:
    if not _is_in(file, CORE):
        return None
    known = module.split(".")[0] in sys.stdlib_module_names or _under(module, CORE_MAY_IMPORT)
    allowed = known and not _under(module, CORE_MUST_NOT_IMPORT)
    return None if allowed else f"the pruning core may not import {module}"


def _training_broken(file: str, module: str) -> str | None:
    broken = _is_in(file, TRAINING) and _under(module, TRAINING_MUST_NOT_IMPORT)
    return f"training may not import {module}" if broken else None


def _owner(file: str, module: str) -> str | None:
    for library, owners in OWNERS.items():
        if _under(module, (library,)) and not any(_is_in(file, owner) for owner in owners):
            return f"{module} belongs to {' and '.join(owners) or 'nobody'}"
    return None


def _under(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _is_in(file: str, place: str) -> bool:
    return PurePosixPath(file).is_relative_to(place)


def _imports(file: str, source: str) -> Iterator[tuple[int, str]]:
    """(line, module) of each import, wherever it is; ``from a import b`` is a.b where a rule says a.b."""
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(file, node)
            names = [f"{module}.{alias.name}" for alias in node.names]
            rules = (*OWNERS, *CORE_MUST_NOT_IMPORT, *TRAINING_MUST_NOT_IMPORT)
            yield from ((node.lineno, name) for name in names if name in rules)
            if not any(name in rules for name in names):
                yield node.lineno, module


def _absolute(file: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = file.split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _first_party_files() -> list[Path]:
    folders = [ROOT / folder for folder in (*LAYERS, "tests", ".ci", "docs")]
    files = [path for folder in folders for path in folder.rglob("*")]
    files += list(ROOT.iterdir())
    return [
        path
        for path in files
        if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts
    ]
