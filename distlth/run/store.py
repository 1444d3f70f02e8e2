"""The run directory as the one truth: opened once, checked against what is asked, read by everyone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from distlth.config.changes import VERSIONS, Change, changes, check_allowed, covers, flat
from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.errors import DataError, RunError
from distlth.files import write_text
from distlth.plan import Job, plan
from distlth.run.events import EventLog
from distlth.run.paths import RunPaths, newest_checkpoint
from distlth.run.results import JobResult

LIBRARIES = ("distlth", "torch", "torchvision", "ray", "ffcv", "numba", "numpy", "mtkahypar")


@dataclass(frozen=True)
class RunRecord:
    """`job.yaml`: what a run was asked to do, with what, and each change of that since it began.

    An entry of `history` has a `time`, its `changes` (each with `key`, `old`, `new`) and `allowed`, the
    names that were given to --allow-change.
    """

    config: RunConfig
    versions: Mapping[str, str]
    data: Mapping[str, Any]
    created: float
    history: Sequence[Mapping[str, Any]] = ()

    def to_yaml(self) -> str:
        """The file's text."""
        config = self.config.model_dump(mode="json")
        document = {
            "config": config,
            "versions": dict(self.versions),
            "data": dict(self.data),
            "created": self.created,
            "history": [dict(entry) for entry in self.history],
        }
        return yaml.safe_dump(document, sort_keys=False)

    def flat(self) -> dict[str, Any]:
        """Everything that can change, under dotted keys: `train.lr`, `versions.torch`, `data.digest`."""
        content = flat(self.config.model_dump(mode="json"))
        return {**dict(content), **dict(flat({VERSIONS: self.versions, "data": self.data}))}


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that a result depends on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def load_record(run: RunPaths) -> RunRecord:
    """Read a run's job.yaml; RunError when the folder holds no run or the file is damaged."""
    if not run.root.is_dir():
        raise RunError(f"{run.root}: no such run directory")
    try:
        document = yaml.safe_load(run.job_file.read_text(encoding="utf8"))
        return RunRecord(
            parse_config(document["config"], source=str(run.job_file)),
            document["versions"],
            document["data"],
            document["created"],
            document.get("history", ()),
        )
    except FileNotFoundError:
        raise RunError(f"{run.root}: not a run directory (it has no {run.job_file.name})") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise RunError(f"{run.job_file}: damaged ({' '.join(str(error).split())})") from None


def open_run(
    run: RunPaths, config: RunConfig, data: Mapping[str, Any], allowed: Collection[str] = ()
) -> RunRecord:
    """Make a new run's job.yaml, or check that an existing run may go on with what is asked.

    What changes no bit of the result may change, and so may the number of ranks; any other change must be
    named in `allowed`, by its key or its section. Changes are recorded in job.yaml and in the log.

    Raises:
        RunError: a change that is not allowed, or that this run's files cannot follow; names each.
        ConfigError: a name in `allowed` that is no key.
    """
    asked = RunRecord(config, library_versions(), data, time.time())
    if not run.job_file.exists():
        check_allowed(allowed, asked.flat())
        write_text(run.job_file, asked.to_yaml())
        return asked
    stored = load_record(run)
    check_allowed(allowed, {**stored.flat(), **asked.flat()})
    found = changes(stored.flat(), asked.flat())
    _refuse(run, found, allowed)
    if not found:
        return stored
    return _go_on(run, stored, asked, found, allowed)


def check_run(
    run: RunPaths, config: RunConfig, data: Mapping[str, Any], allowed: Collection[str] = ()
) -> None:
    """Raise what `open_run` would raise, and write nothing: to be asked where the run does not run.

    Versions are not compared, since those of the place where the run does run are what counts.
    """
    stored = load_record(run) if run.job_file.exists() else None
    versions = stored.versions if stored else library_versions()
    asked = RunRecord(config, versions, data, time.time())
    check_allowed(allowed, {**(stored.flat() if stored else {}), **asked.flat()})
    if stored:
        _refuse(run, changes(stored.flat(), asked.flat()), allowed)


def _refuse(run: RunPaths, found: Sequence[Change], allowed: Collection[str]) -> None:
    """Raise RunError, with each change that does not go on by itself and is not meant, if there is one."""
    fixed = [change for change in found if change.kind == "fixed"]
    if fixed:
        raise RunError(
            f"{run.root}: the files of this run do not fit another {'; '.join(map(str, fixed))}. "
            "Undo the change, or give the run another name (name=...)"
        )
    refused = [change for change in found if change.kind == "guarded" and not covers(allowed, change.key)]
    if refused:
        raise RunError(
            f"{run.root}: this run was started with another job; changed: {'; '.join(map(str, refused))}. "
            "Undo the change, give the run another name (name=...), or say that it is meant: "
            + " ".join(f"--allow-change {change.key}" for change in refused)
        )


def _go_on(
    run: RunPaths, stored: RunRecord, asked: RunRecord, found: Sequence[Change], allowed: Collection[str]
) -> RunRecord:
    """Record the changes; where they ask for it, jobs that are not done start anew."""
    entry = {
        "time": asked.created,
        "changes": [asdict(change) for change in found],
        "allowed": sorted(allowed),
    }
    merged = replace(asked, created=stored.created, history=(*stored.history, entry))
    anew = any(change.redoes_jobs for change in found)
    if anew:
        _start_anew(run, asked.config)
    write_text(run.job_file, merged.to_yaml())
    log = EventLog(run.log)
    log.note(
        "changed",
        changes="; ".join(map(str, found)),
        same_bits=all(change.kind == "free" for change in found),
        jobs_start_anew=anew,
    )
    log.flush()
    return merged


def _start_anew(run: RunPaths, config: RunConfig) -> None:
    """Remove what jobs that are not done have left, so that each job is of one config. Results stay."""
    jobs = plan(config)
    done = load_results(run, jobs)
    shutil.rmtree(run.all_checkpoints, ignore_errors=True)
    for job in jobs:
        if job.id not in done:
            for file in run.job(job.id).files:
                file.unlink(missing_ok=True)
    if not done:
        for file in (run.init, run.rewind):
            file.unlink(missing_ok=True)


def check_data(run: RunPaths, digest: str) -> None:
    """Raise DataError unless a data set of this digest is what the run trains on."""
    stored = load_record(run)
    meant = stored.data.get("digest", digest)
    if digest != meant:
        raise DataError(
            f"{stored.config.data.path}: another data set ({digest}) took the place of the one that this run "
            f"trains on ({meant}); put that one back, or start another run (name=...)"
        )


def load_results(run: RunPaths, jobs: tuple[Job, ...]) -> dict[str, JobResult]:
    """The results of the jobs that are done, in plan order."""
    found = {job.id: JobResult.load(run.job(job.id)) for job in jobs}
    return {job_id: result for job_id, result in found.items() if result is not None}


def progress(run: RunPaths, jobs: tuple[Job, ...]) -> str:
    """How far a run has come, in words; changes with every result and every checkpoint."""
    done = load_results(run, jobs)
    newest = {job.id: newest_checkpoint(run.checkpoints(job.id)) for job in jobs if job.id not in done}
    steps = [f", job {job_id} from step {int(path.stem)}" for job_id, path in newest.items() if path]
    return f"{len(done)} of {len(jobs)} jobs are done{''.join(steps)}"
