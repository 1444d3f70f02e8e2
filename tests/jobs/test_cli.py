"""The command itself: errors on one line, exit codes, dry run; without starting Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distlth.data.dataset import Dataset
from jobs.cli import main
from jobs.commands.bench import BENCHES

ROOT = Path(__file__).parent.parent.parent


def test_an_error_is_one_line_as_it_was_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / ("x" * 200 + "[1].yaml")
    assert main(["run", str(job)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {job}: no such job file\n"


def test_the_dry_run_lists_jobs_and_layers_and_writes_nothing(
    quickstart: Path, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(quickstart), "--dry-run", f"data.path={digits.path}", f"runs={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    for word in ("layer3.2.conv2", "03/regroup", "18 layers", "10 jobs", "267,264", "memory"):
        assert word in printed
    assert "conv1 " not in printed.replace(".conv1", "")  # the stem, which the quick start leaves alone
    assert not list(tmp_path.iterdir())


def test_status_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path / "none")]) == 2
    assert "no such run directory" in capsys.readouterr().err
    assert main(["status", str(tmp_path)]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_a_wrong_key_is_told_without_loading_torch(quickstart: Path) -> None:
    """A typing error should be reported at once."""
    code = (
        "import sys; from jobs.cli import main\n"
        "assert main(['run', sys.argv[1], 'trian.epochs=3']) == 2\n"
        "print(sorted({'torch', 'ray', 'ffcv', 'matplotlib'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(quickstart)], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


def test_a_reader_that_has_gone_is_no_success_and_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "status", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("name", sorted(BENCHES))
def test_each_benchmark_prints_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name, "--quick", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bench"] == name
    assert len(printed["rows"]) >= 2
    assert printed["machine"]["torch"]
