"""A run is checked in another process, which says what a user has to know as if it were the command's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runtime import session
from cluster.runtime.checks import run_checks
from cluster.runtime.session import known_device
from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError, RunInterrupted
from tests.architecture import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

# Errors of the process that checks, which no test can cause from outside.
FAILURES = """
import pickle, sys
from cluster.runtime import checks

class Odd(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")

def fail(config):
    if sys.argv[1] == "odd":
        raise Odd(1, "two arguments")
    if sys.argv[1] == "file":
        raise PermissionError(13, "Permission denied", "data/index.npy")
    raise ZeroDivisionError("a mistake of ours")

checks.check = fail
checks.main()
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
    ("failure", "kind", "said"),
    [
        ("file", "PermissionError", "data/index.npy"),
        ("ours", "ZeroDivisionError", "line"),
        ("odd", "RuntimeError", "1: two arguments"),
    ],
)
def test_other_errors_arrive_with_their_traceback(
    config: RunConfig, failure: str, kind: str, said: str
) -> None:
    reply = subprocess.run(
        [sys.executable, "-c", FAILURES, failure],
        input=config.model_dump_json().encode(),
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
    ).stdout
    raised = f"import pickle\nraise pickle.loads({reply!r})"
    shown = subprocess.run([sys.executable, "-c", raised], capture_output=True, text=True, check=False).stderr
    assert kind in shown
    assert said in shown
    assert "in fail" in shown


@pytest.mark.parametrize("there", [True, False])
def test_the_device_is_known_without_torch_where_there_is_no_gpu(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "GPU_FILES", ("/no GPU", "/dev/null" if there else "/none either"))
    assert known_device("auto") == (None if there else "cpu")
    assert (known_device("cpu"), known_device("cuda")) == ("cpu", "cuda")
