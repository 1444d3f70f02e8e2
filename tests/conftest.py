"""What many tests need: a small packed data set of real digits, a SLURM."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from distlth.data.dataset import Dataset
from distlth.data.pack.build import BuildOptions, build
from distlth.run.paths import RunPaths
from jobs.digits import write_digits
from tests.disk import disk  # noqa: F401
from tests.slurm.fixture import slurm, slurm_session  # noqa: F401
from tests.small_run import run

# How long an example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The 1,797 digits, 16 x 16 pixels, packed."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "images")
    return build(folder / "images", folder / "packed", BuildOptions(workers=1))


@pytest.fixture(scope="session")
def undisturbed(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, str]:
    """A small run that nothing disturbed, and what it printed."""
    runs = tmp_path_factory.mktemp("undisturbed")
    ended = run(digits, runs)
    assert ended.returncode == 0, ended.stderr
    return RunPaths(runs / "run"), ended.stdout


@pytest.fixture
def quickstart() -> Path:
    """The quick start's job file."""
    return Path(__file__).parent.parent / "jobs" / "recipes" / "quickstart.yaml"
