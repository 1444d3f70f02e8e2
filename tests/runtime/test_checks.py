"""A run is checked in another process, which says what a user has to know as if it were the command's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runtime import session
from cluster.runtime.checks import run_checks
from cluster.runtime.session import known_device, resolve_device
from distlth.config.read import load_config
from distlth.config.schema import ClusterSection, RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError, RunInterrupted
from tests.architecture import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

# What the process that checks replies to an error, and what the command makes of that.
FAILURES = """
import sys
from cluster.runtime import checks
from cluster.runtime.checks import _read, _reply
from distlth.errors import DataError

def fail(config):
    raise {
        "mistake": DataError("data/mine: no such data set"),
        "file": PermissionError(13, "Permission denied", "data/index.npy"),
        "no file": OSError("a pipe broke"),
        "ours": ZeroDivisionError("a mistake of ours"),
    }[sys.argv[1]]

checks.check = fail
_read(_reply(None))
"""


@pytest.fixture
def config(digits: Dataset, quickstart: Path) -> RunConfig:
    """The quick start's job on digits."""
    return load_config(quickstart, [f"data.path={digits.path}", "cluster.device=cpu"])


def test_what_is_found_comes_back(config: RunConfig, digits: Dataset) -> None:
    found = run_checks(config, ENVIRONMENT)
    assert (found.device, found.data["digest"]) == ("cpu", digits.digest)


def test_an_error_of_the_users_is_the_same_error(config: RunConfig) -> None:
    model = config.model.model_copy(update={"name": "resnet21"})
    with pytest.raises(ConfigError, match="resnet20"):
        run_checks(config.model_copy(update={"model": model}), ENVIRONMENT)


def test_a_killed_process_is_an_interruption(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(RunInterrupted, match="was killed"):
        run_checks(config, {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"})


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ("mistake", "distlth.errors.DataError: data/mine: no such data set"),
        ("file", "PermissionError: [Errno 13] Permission denied: 'data/index.npy'"),
        ("no file", "OSError: a pipe broke"),
        ("ours", "ZeroDivisionError: a mistake of ours"),
    ],
)
def test_errors_arrive_as_they_were(failure: str, said: str) -> None:
    command = [sys.executable, "-c", FAILURES, failure]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ("in fail" in ended.stderr) == (failure in ("no file", "ours"))  # of those, where it was raised


@pytest.mark.parametrize("there", [True, False])
def test_the_device_is_known_without_torch_where_there_is_no_gpu(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GPU_FILES", ("/no GPU", "/dev/null" if there else "/none either"))
    assert known_device("auto") == (None if there else "cpu")
    assert (known_device("cpu"), known_device("cuda")) == ("cpu", "cuda")
    monkeypatch.setitem(sys.modules, "torch", None)  # not needed where the device is known
    assert resolve_device(ClusterSection(device="auto" if not there else "cpu")) == "cpu"
