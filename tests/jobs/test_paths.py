"""Paths that a user names: `~` is a home directory, in job files and on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distlth.config.documents import flatten
from distlth.config.read import load_config
from distlth.config.reference import reference
from distlth.errors import ConfigError
from jobs.cli import main, parse
from tests.config.test_config import job  # noqa: F401

NOBODY = "~nobody-of-this-name/x"

COMMANDS = (
    *(["run", "PATH"], ["submit", "PATH"], ["resume", "PATH"], ["cancel", "PATH"], ["status", "PATH"]),
    *(["status", "--runs", "PATH"], ["logs", "PATH"], ["logs", "a", "--runs", "PATH"]),
    *(["tensorboard", "PATH"], ["tensorboard", "--runs", "PATH"], ["report", "PATH"]),
    *(["compare", "PATH", "a"], ["compare", "a", "PATH"], ["data", "check", "PATH"]),
    *(["data", "build", "PATH", "--out", "a"], ["data", "build", "a", "--out", "PATH"]),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("key", re.findall(r"^\| `([a-z_.]+)` \| path ", reference(), re.M))
def test_a_home_directory_in_a_job_file(job: Path, home: Path, key: str) -> None:  # noqa: F811
    config = load_config(job, [f"{key}=~/x"])
    assert flatten(config.model_dump())[key] == home / "x"
    assert load_config(job, [f"{key}=2024"]).model_dump(mode="json")
    for wrong, words in (
        (NOBODY, "is no user's home"),
        ('""', "expected a path"),
        ('"a\\0"', "expected a path"),
    ):
        with pytest.raises(ConfigError, match=rf"{key}: .*{words}"):
            load_config(job, [f"{key}={wrong}"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_home_directory_on_the_command_line(
    command: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = vars(parse([word.replace("PATH", "~/x") for word in command]))
    given = [each for value in options.values() for each in (value if isinstance(value, list) else [value])]
    assert home / "x" in given
    assert main([word.replace("PATH", NOBODY) for word in command]) == 2
    assert capsys.readouterr().err.startswith(f"error: {NOBODY}: ~nobody-of-this-name is no user's home")
