"""docs/extending.md is true: its method, in one file and one line, is configured, trained and reported."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distlth.data.dataset import Dataset

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "extending.md"

RUN = """
import sys
from pathlib import Path

import torch

from distlth.config import load_config
from distlth.config.reference import reference
from distlth.experiment import run_experiment
from distlth.run.results import JobResult
from distlth.run.tickets import load_structured
from distlth.train.world import World

recipe, *overrides = sys.argv[1:]
torch.set_num_threads(1)
run = run_experiment(load_config(Path(recipe), overrides), World.current(torch.device("cpu")))
structured = load_structured(run.job("01/peak"))
channels = {name: kept.flatten(1).float().mean(dim=1) for name, kept in structured.mask.items()}
assert all(set(kept.tolist()) <= {0.0, 1.0} and kept.sum() >= 2 for kept in channels.values())
assert 0.5 < JobResult.load(run.job("01/peak")).density < 1
assert "## prune.branches: peak" in reference()
"""


@pytest.fixture
def extended(tmp_path: Path) -> dict[str, str]:
    """The environment in which the package has the guide's method."""
    shutil.copytree(ROOT / "distlth", tmp_path / "distlth")
    methods = tmp_path / "distlth" / "methods"
    file, line = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    (methods / "peak.py").write_text(file)
    registry = (methods / "__init__.py").read_text()
    imports, known = "from distlth.methods.refill import Refill\n", '    "regroup": Regroup,\n'
    assert imports in registry
    assert known in registry
    registry = registry.replace(imports, f"from distlth.methods.peak import Peak\n{imports}")
    (methods / "__init__.py").write_text(registry.replace(known, known + line))
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_the_guides_method_runs(
    extended: dict[str, str], digits: Dataset, quickstart: Path, tmp_path: Path
) -> None:
    overrides = ["cluster.workers=1", "train.epochs=2", "train.batch_size=240", "data.resolution=8"]
    overrides += ["prune.rounds=1", "prune.rewind_epoch=1", f"data.path={digits.path}", f"runs={tmp_path}"]
    overrides += ["prune.branches=[{method: peak, at_least: 2}]"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(quickstart), *overrides],
        env=extended,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_mistake_in_it_is_explained_like_any_other(extended: dict[str, str], quickstart: Path) -> None:
    load = "import sys; from pathlib import Path; from distlth.config import load_config\n"
    load += "try: load_config(Path(sys.argv[1]), sys.argv[2:])\nexcept Exception as error: print(error)"
    for branch, message in {
        "[{method: peek}]": "unknown method 'peek' (did you mean peak?)",
        "[{method: peak, at_last: 2}]": "at_last: unknown key; did you mean prune.branches.0.at_least?",
        "[{method: peak, at_least: 0}]": "at_least: input should be greater than or equal to 1, got 0",
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", load, str(quickstart), f"prune.branches={branch}"],
            env=extended,
            cwd=extended["PYTHONPATH"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert message in done.stdout
