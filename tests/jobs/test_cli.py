"""The command itself: errors on one line, exit codes, dry run; without starting Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from distlth.data.dataset import Dataset
from distlth.memory import Memory
from distlth.run.paths import RunPaths
from jobs.cli import main, parse
from jobs.commands.bench import BENCHES
from tests.tiny_run import make_result

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


def test_all_benchmarks_leave_a_page_though_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"disk": BENCHES["disk"], "unknown": BENCHES["disk"]}  # a process of its own knows no such name
    monkeypatch.setattr("jobs.commands.bench.BENCHES", known)
    assert main(["bench", "all", "--quick", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.endswith(
        "error: unknown failed; what it said stands above, the others are written\n"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "disk.csv", "disk.png"}
    page = (tmp_path / "out" / "README.md").read_text()
    assert "`distlth bench disk --quick`" in page
    assert "| branch: refill |" in page
    assert main(["bench", "all"]) == 2


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"distlth {version('distlth')}\n"


def test_a_shell_is_told_how_a_word_goes_on(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": "distlth re", "COMP_POINT": "10", "_ARGCOMPLETE_IFS": "\n"}
    subprocess.run(
        [sys.executable, "-m", "jobs.cli"],
        env={**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)},
        check=True,
        timeout=60,
    )
    assert {word.strip() for word in answer.read_text().split("\n")} == {"recipes", "report", "resume"}


def test_recipes_are_listed_and_run_by_their_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["recipes"]) == 0
    assert "cifar100-vgg16-plus" in capsys.readouterr().out
    assert main(["recipes", "quickstart"]) == 0
    assert "\nname: quickstart\n" in capsys.readouterr().out
    assert main(["recipes", "quickstrat"]) == 2
    assert "quickstrat: no such recipe; there are " in capsys.readouterr().err
    assert parse(["run", "quickstart"]).job.name == "quickstart.yaml"
    monkeypatch.chdir(tmp_path)
    Path("quickstart").touch()
    assert parse(["run", "quickstart"]).job == Path("quickstart")


def test_a_plan_says_what_is_done_and_what_is_left(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["plan", "quickstart", f"data.path={digits.path}", f"runs={tmp_path}", "prune.rounds=1"]
    assert main(asked) == 0
    assert "no job is done yet, so no step is timed" in capsys.readouterr().out
    run = RunPaths(tmp_path / "quickstart")
    replace(make_result("00", seconds=360.0), steps=100, world_size=2).save(run.job("00"))
    assert main([*asked, "seeds=[0, 1]"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["00"][-2:] == ["done", "0.2"]
    assert lines["seed1/00"][-1] != "–"
    assert "8 jobs" in out
    assert "1 done" in out
    assert "3,600.0 ms a step by the jobs that are done" in out
    assert "data.shuffle" not in out
    monkeypatch.setattr("distlth.data.advice.memory", lambda: Memory(1 << 20, 1 << 20))
    assert main(asked) == 0
    assert "more than this machine's memory (0.0 GiB); data.shuffle=lanes" in " ".join(
        capsys.readouterr().out.split()
    )
