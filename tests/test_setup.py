"""The set-up: pins that agree with the ranges, and a clear stop where nothing can be installed."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
COREUTILS = ("basename", "cat", "dirname", "readlink", "sha256sum", "tr")


def test_every_requirement_is_pinned_within_its_range() -> None:
    pins = _pins()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    requirements = [Requirement(line) for line in (*project["dependencies"], *extras)]
    named = {canonicalize_name(r.name): r.specifier for r in requirements if r.name != project["name"]}
    assert not named.keys() - pins.keys()
    assert [name for name, allowed in named.items() if pins[name] not in allowed] == []


def test_only_one_opencv_is_pinned_and_it_needs_no_desktop() -> None:
    assert [name for name in _pins() if name.startswith("opencv")] == ["opencv-python-headless"]


def test_without_tools_and_apt_the_missing_packages_are_named_and_nothing_is_made(tmp_path: Path) -> None:
    tools, venv = tmp_path / "bin", tmp_path / "venv"
    tools.mkdir()
    for tool in COREUTILS:
        (tools / tool).symlink_to(shutil.which(tool) or "")
    bash = shutil.which("bash") or ""
    environment = {"PATH": str(tools), "VENV": str(venv), "DISTLTH_PYTHON": "no-such-python"}
    done = subprocess.run(
        [bash, ROOT / "cluster" / "setup.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lacks = done.stderr.splitlines()[0]
    assert lacks.startswith("setup: this machine lacks: python3 python3-venv python3-dev")
    assert {"g++", "pkg-config"} <= set(lacks.split())
    assert "apt-get install -y --no-install-recommends python3 python3-venv python3-dev" in done.stderr
    assert not venv.exists()


def test_scripts_can_be_executed() -> None:
    by_hand = [f"cluster/devslurm/{name}.sh" for name in ("up", "down", "install")]
    gpu = ("tests/gpu-bundle.sh", "tests/gpu-unpack.sh")
    scripts = ("cluster/setup.sh", *by_hand, *gpu, "tests/run.sh", "jobs/quickstart.sh", ".ci/run")
    assert [script for script in scripts if not os.access(ROOT / script, os.X_OK)] == []


def _pins() -> dict[str, str]:
    text = (ROOT / "cluster" / "constraints.txt").read_text()
    return {canonicalize_name(name): pin for name, pin in re.findall(r"^([^#\s=]+)==(\S+)$", text, re.M)}
