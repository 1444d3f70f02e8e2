"""`job.yaml`: opening a run, checking what is asked against what is recorded, recording changes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import yaml

from distlth.config.changes import VERSIONS, Change, changes, check_allowed, covers
from distlth.config.documents import flatten
from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.data import load
from distlth.errors import DataError, RunError
from distlth.files import exists, read_small, replacing, write_text
from distlth.plan import plan
from distlth.run.events import EventLog
from distlth.run.paths import RunPaths, SeedPaths
from distlth.run.results import load_results

# What a run that recorded no version of the loader had.
LOADER, FIRST_LOADER = "loader", "1"
LIBRARIES = ("distlth", "torch", "torchvision", "ray", "ffcv", "numba", "numpy", "mtkahypar")


@dataclass(frozen=True)
class RunRecord:
    """The content of `job.yaml`: config, library versions and data of a run, and the changes since it began.

    `data` has the data set's `digest` and number of `classes`, `created` is seconds since the epoch. An entry
    of `history` has a `time`, its `changes` (each with `key`, `old`, `new`) and `allowed`, the names given to
    --allow-change.
    """

    config: RunConfig
    versions: Mapping[str, str]
    data: Mapping[str, Any]
    created: float
    history: Sequence[Mapping[str, Any]] = ()

    def to_yaml(self) -> str:
        """Return the text of `job.yaml`."""
        config = self.config.model_dump(mode="json")
        document = {
            "config": config,
            "versions": dict(self.versions),
            "data": dict(self.data),
            "created": self.created,
            "history": [dict(entry) for entry in self.history],
        }
        return yaml.safe_dump(document, sort_keys=False)

    def flatten(self) -> dict[str, Any]:
        """Return all that can change under dotted keys: `train.lr`, `versions.torch`, `data.digest`."""
        config = self.config.model_dump(mode="json")
        prune = self.config.prune
        if prune.mode == "branch":  # each is known by its label, wherever in the list it is
            labels = [branch.label for branch in prune.branches]
            config["prune"]["branches"] = dict(zip(labels, config["prune"]["branches"], strict=True))
        return {**flatten(config), **flatten({VERSIONS: self.versions, "data": self.data})}


def library_versions(model: str = "") -> dict[str, str]:
    """Return the installed versions of the libraries that a model's results depend on, and the loader's."""
    versions = {LOADER: load.VERSION}
    for name in (*LIBRARIES, *(["timm"] if model.startswith("timm/") else [])):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def load_record(run: RunPaths) -> RunRecord:
    """Read a run's job.yaml.

    Raises:
        RunError: the folder is missing or holds no run, or the file is damaged.
        ConfigError: the config in it is not valid.
    """
    if not (exists(run.job_file) or run.root.is_dir()):
        raise RunError(f"{run.root}: no such run directory")
    try:
        document = yaml.safe_load(read_small(run.job_file))
        return RunRecord(
            parse_config(document["config"], source=str(run.job_file)),
            {LOADER: FIRST_LOADER, **document["versions"]},
            document["data"],
            document["created"],
            document.get("history", ()),
        )
    except FileNotFoundError:
        raise RunError(f"{run.root}: not a run directory (it has no {run.job_file.name})") from None
    except OSError as error:
        raise RunError(f"{run.job_file}: cannot be read ({error.strerror})") from None
    except (ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        raise RunError(f"{run.job_file}: damaged ({' '.join(str(error).split())})") from None


def open_run(
    run: RunPaths, config: RunConfig, data: Mapping[str, Any], allowed: Collection[str] = ()
) -> RunRecord:
    """Write a new run's job.yaml, or check that an existing run may resume with what is asked.

    Changes that leave every bit of the result the same pass, and so does another number of ranks; any other
    change must be named in `allowed`, by key or section. Changes are recorded in job.yaml and in the log.

    Raises:
        RunError: a change is not allowed, or the run's files do not fit it; names each such change.
        ConfigError: a name in `allowed` is neither a key nor a section.
    """
    asked = RunRecord(config, library_versions(config.model.name), data, time.time())
    if not exists(run.job_file):
        check_allowed(allowed, asked.flatten())
        write_text(run.job_file, asked.to_yaml())
        return asked
    stored = load_record(run)
    check_allowed(allowed, {**stored.flatten(), **asked.flatten()})
    found = changes(stored.flatten(), asked.flatten())
    _refuse(run, found, allowed)
    if not found:
        return stored
    _check_measured(run, config)
    return _record_changes(run, stored, asked, found, allowed)


def check_run(
    run: RunPaths, config: RunConfig, data: Mapping[str, Any], allowed: Collection[str] = ()
) -> None:
    """Raise what `open_run` would raise, and write nothing: for a machine other than the one that runs.

    Library versions are not compared, since only those on the machine that runs count.
    """
    stored = load_record(run) if exists(run.job_file) else None
    versions = stored.versions if stored else library_versions(config.model.name)
    asked = RunRecord(config, versions, data, time.time())
    check_allowed(allowed, {**(stored.flatten() if stored else {}), **asked.flatten()})
    if stored:
        _refuse(run, changes(stored.flatten(), asked.flatten()), allowed)


def _refuse(run: RunPaths, found: Sequence[Change], allowed: Collection[str]) -> None:
    """Raise RunError if a change is neither harmless nor allowed; name each such change."""
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


def _check_measured(run: RunPaths, asked: RunConfig) -> None:
    """Raise RunError for a new branch whose scores were not measured while its parent trained."""
    from distlth.run.tickets import load_measured  # torch, which a login node should not have to load

    jobs = plan(asked)
    done = load_results(run, jobs)
    for job in jobs:
        if job.structure is None or job.id in done or job.parent not in done:
            continue
        paths = run.job(job.parent)
        there = {*load_measured(paths.untrained), *load_measured(paths.activations)}
        for needed in job.structure.measurements(job.density):
            if needed.name not in there:
                raise RunError(
                    f"{run.root}: branch {job.method}: job {job.parent} is done without its {needed.name} "
                    "scores, which are measured while it trains; ask for it in a new run (name=...)"
                )


def _record_changes(
    run: RunPaths, stored: RunRecord, asked: RunRecord, found: Sequence[Change], allowed: Collection[str]
) -> RunRecord:
    """Record changes in job.yaml and the log, and restart jobs that are not done where a change needs it."""
    entry = {
        "time": asked.created,
        "changes": [asdict(change) for change in found],
        "allowed": sorted(allowed),
    }
    merged = replace(asked, created=stored.created, history=(*stored.history, entry))
    restarts = any(change.restarts_jobs for change in found)
    if restarts:
        _restart_jobs(run, stored.config, asked.config)
    write_text(run.job_file, merged.to_yaml())
    log = EventLog(run.log)
    log.note(
        "changed",
        changes="; ".join(map(str, found)),
        same_bits=all(change.kind == "free" for change in found),
        jobs_start_anew=restarts,
    )
    log.flush()
    return merged


def _restart_jobs(run: RunPaths, stored: RunConfig, asked: RunConfig) -> None:
    """Remove the files of jobs that are not done, so that no job mixes two configs; keep results.

    Masks and weights that came from outside of the run stay, too.
    """
    jobs = plan(asked)
    done = load_results(run, jobs)
    shutil.rmtree(run.all_checkpoints, ignore_errors=True)
    for job in jobs:
        if job.id not in done:
            paths = run.job(job.id)
            for file in {*paths.files} - ({paths.mask, paths.structure} if job.given else set()):
                file.unlink(missing_ok=True)
    if not done and not any(job.given for job in jobs):
        shutil.rmtree(run.all_seeds, ignore_errors=True)
    elif asked.seed != stored.seed:
        _copy_weights(run.seed(stored.seed), run.seed(asked.seed))


def _copy_weights(old: SeedPaths, new: SeedPaths) -> None:
    """Copy the weights that finished jobs started from to a new seed, for the jobs that are still to come."""
    for source, target in zip(old.files, new.files, strict=True):
        if exists(source):
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)


def check_data(run: RunPaths, data: Mapping[str, Any]) -> None:
    """Raise DataError unless the run trains on the data set that `data` identifies."""
    stored = load_record(run)
    path, digest = stored.config.data.path, data["digest"]
    if digest != (expected := stored.data.get("digest", digest)):
        raise DataError(
            f"{path}: another data set ({digest}) took the place of the one that this run "
            f"trains on ({expected}); put that one back, or start another run (name=...)"
        )
    if data.get("pages") != stored.data.get("pages", data.get("pages")):
        raise DataError(
            f"{path}: has the images that this run trains on, but in other pages, which decide the order of "
            "data.shuffle: lanes; put the files back that it began with, or start another run (name=...)"
        )
