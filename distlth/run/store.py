"""The run directory as the one truth: opened once, checked against what is asked, read by everyone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from distlth.errors import RunError
from distlth.run.config import JobConfig, parse_config
from distlth.run.files import write_text
from distlth.run.paths import RunPaths
from distlth.run.plan import Job
from distlth.run.result import JobResult

LIBRARIES = ("distlth", "torch", "torchvision", "ray", "ffcv", "numpy", "mtkahypar")

# What may differ when a run goes on: it says how the work is spread, not what is computed.
FREE_TO_CHANGE = (
    *("cluster.lanes", "cluster.retries", "cluster.hang_seconds", "cluster.stale_seconds"),
    *("checkpoint", "data.threads", "data.cache", "runs"),
)


@dataclass(frozen=True)
class JobFile:
    """`job.yaml`: what a run was asked to do, and with what."""

    config: JobConfig
    versions: Mapping[str, str]
    data: Mapping[str, Any]
    created: float

    def to_yaml(self) -> str:
        """The file's text."""
        config = self.config.model_dump(mode="json")
        document = {
            "config": config,
            "versions": dict(self.versions),
            "data": dict(self.data),
            "created": self.created,
        }
        return yaml.safe_dump(document, sort_keys=False)


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that a result depends on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def load_job_file(run: RunPaths) -> JobFile:
    """Read a run's job.yaml; RunError when the folder holds no run or the file is damaged."""
    if not run.root.is_dir():
        raise RunError(f"{run.root}: no such run directory")
    try:
        document = yaml.safe_load(run.job_file.read_text(encoding="utf8"))
        return JobFile(
            parse_config(document["config"], source=str(run.job_file)),
            document["versions"],
            document["data"],
            document["created"],
        )
    except FileNotFoundError:
        raise RunError(f"{run.root}: not a run directory (it has no {run.job_file.name})") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise RunError(f"{run.job_file}: damaged ({' '.join(str(error).split())})") from None


def open_run(run: RunPaths, config: JobConfig, data: Mapping[str, Any]) -> JobFile:
    """Make a new run's job.yaml, or check that an existing run asks for the same.

    Raises:
        RunError: the run exists with another config or other data; names each change.
    """
    asked = JobFile(config, library_versions(), data, time.time())
    if not run.job_file.exists():
        write_text(run.job_file, asked.to_yaml())
        return asked
    stored = load_job_file(run)
    changes = list(_changes(stored, asked))
    if changes:
        raise RunError(
            f"{run.root}: this run was started with another job; changed: {'; '.join(changes)}. "
            "Give the run another name (name=...), or undo the change"
        )
    return stored


def _changes(stored: JobFile, asked: JobFile) -> Iterator[str]:
    pairs = (("", stored.config.model_dump(mode="json"), asked.config.model_dump(mode="json")),)
    for prefix, old, new in (*pairs, ("data set ", dict(stored.data), dict(asked.data))):
        before, after = dict(_flat(old)), dict(_flat(new))
        for key in {**before, **after}:
            if key.startswith(FREE_TO_CHANGE) or before.get(key) == after.get(key):
                continue
            yield f"{prefix}{key}: {before.get(key)!r} -> {after.get(key)!r}"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}{key}.")
    elif isinstance(value, list | tuple) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}{index}.")
    else:
        yield prefix.removesuffix("."), value


def load_results(run: RunPaths, jobs: tuple[Job, ...]) -> dict[str, JobResult]:
    """The results of the jobs that are done, in plan order."""
    found = {job.id: JobResult.load(run.job(job.id)) for job in jobs}
    return {job_id: result for job_id, result in found.items() if result is not None}
