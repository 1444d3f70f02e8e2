"""A run from start to end, as the `distlth run` process sees it: lock, a process that holds Ray, signals."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.session import environment, resolve_device, session_folder
from cluster.signals import StopSignals
from distlth.errors import RunError, RunInterrupted
from distlth.preflight import preflight
from distlth.report.console import describe
from distlth.run.config import JobConfig
from distlth.run.files import append_json, read_json_lines
from distlth.run.lock import RunLock, hold
from distlth.run.paths import RunPaths
from distlth.run.plan import plan
from distlth.run.store import load_results, open_run
from distlth.train.checkpoint import newest_path

POLL_SECONDS = 0.5

# A stop waits for the step, the evaluation or the mask that is under way.
STOP_SECONDS = 600.0

AGAIN = "the same command goes on from there"


def run(
    config: JobConfig, show: Callable[[RunPaths], None], allowed_changes: Collection[str] = ()
) -> RunPaths:
    """Run or go on with a job until all its tickets are trained; calls `show` now and then.

    `allowed_changes` names what may differ from the run on disk, as `open_run` takes it.

    Raises:
        UserError: the job cannot run as it is, a job of it cannot go on, or the run is alive elsewhere.
        RunInterrupted: a signal stopped the run, or Ray died; says where it goes on.
    """
    with StopSignals() as stop:
        found = preflight(config)
        device = resolve_device(config.cluster)
        paths = RunPaths(config.runs.absolute() / config.name)
        data = {"digest": found.dataset.digest, "classes": found.dataset.num_classes}
        if _is_done(config, paths) and _is_shown(paths):
            open_run(paths, config, data, allowed_changes)
        else:
            with hold(paths.lock, config.cluster.stale_seconds) as lock:
                open_run(paths, config, data, allowed_changes)
                _go_on(config, paths, device, show, _Watch(stop, lock))
    show(paths)
    return paths


def _is_done(config: JobConfig, paths: RunPaths) -> bool:
    return paths.job_file.exists() and len(load_results(paths, plan(config))) == len(plan(config))


def _is_shown(paths: RunPaths) -> bool:
    """Whether the last coordinator drew all its results; one that was killed at the end did not."""
    ends = [e["event"] for e in read_json_lines(paths.log) if e["event"] in ("run-start", "run-done")]
    return ends[-1:] != ["run-start"]


class _Watch:
    """What can end a run from outside."""

    def __init__(self, stop: StopSignals, lock: RunLock) -> None:
        self.stop, self.lock = stop, lock
        self.stopped_at = float("inf")

    @property
    def order(self) -> str | None:
        """The name of the signal that asks the run to stop."""
        return self.stop.received.name if self.stop.received else None

    def check(self) -> None:
        """Raise RunInterrupted where the run cannot wait for its ranks."""
        if self.lock.is_lost:
            raise RunInterrupted(
                "another process has taken this run over, because this one gave no sign of life for long"
            )
        if self.order and self.stopped_at == float("inf"):
            self.stopped_at = time.monotonic()
        if time.monotonic() - self.stopped_at > STOP_SECONDS:
            raise RunInterrupted(f"{self.order}: the ranks did not stop in {STOP_SECONDS:.0f} s")


def _go_on(
    config: JobConfig, paths: RunPaths, device: str, show: Callable[[RunPaths], None], watch: _Watch
) -> None:
    def note(event: str, **details: Any) -> None:
        with suppress(OSError):  # a full disk: the command's last line says the same
            append_json(paths.log, {"time": time.time(), "event": event, **details})

    if watch.lock.taken_from:
        note("taken-over", message=f"from {watch.lock.taken_from}")
    with session_folder() as folder, _HeadProcess(config, paths, device, folder) as head:
        while not watch.order and head.is_alive:
            show(paths)
            head.wait(POLL_SECONDS)
            watch.check()
        if watch.order:
            head.send(watch.order)
        while head.is_alive:
            show(paths)
            head.wait(POLL_SECONDS)
            watch.check()
        ending = head.ending()
    if ending["error"]:
        raise RunError(ending["error"])
    done = _is_done(config, paths)
    where = _where(config, paths)
    if ending["lost"] and not (done and _is_shown(paths)):
        note("lost", message=ending["lost"])
        show(paths)
        raise RunInterrupted(f"{ending['lost']}; {where}")
    if not done:
        note("stopped", message=f"by {watch.order}; {where}")
        show(paths)
        raise RunInterrupted(f"stopped by {watch.order}; {where}", watch.stop.exit_code)


def _where(config: JobConfig, paths: RunPaths) -> str:
    """Where a run goes on, for people."""
    done = load_results(paths, plan(config))
    newest = {job.id: newest_path(paths.checkpoints(job.id)) for job in plan(config) if job.id not in done}
    jobs = [f"job {job_id} from step {int(path.stem)}" for job_id, path in newest.items() if path]
    return f"{len(done)} of {len(plan(config))} jobs are done{''.join(f', {job}' for job in jobs)}; {AGAIN}"


class _HeadProcess:
    """The process that holds Ray. It has a session of its own: no signal of a terminal or a batch system
    that is meant for the run reaches Ray's processes, which would end at once."""

    def __init__(self, config: JobConfig, paths: RunPaths, device: str, folder: Path) -> None:
        self._errors = folder / "head.err"
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cluster.head", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env=environment(folder),
            )
        self.is_alive = True
        order = {"config": config.model_dump(mode="json"), "run": str(paths.root), "device": device}
        self.send(json.dumps(order))
        self._ending: dict[str, str | None] | None = None

    def __enter__(self) -> _HeadProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill -9 it and what it started: Ray's processes stay in its session, whatever became of it."""
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self._process.pid:
                    process.kill()
        self._process.communicate()

    def send(self, line: str) -> None:
        """Send a line; one that is dead is found by `wait`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def wait(self, seconds: float) -> None:
        """Return when it has ended, or after `seconds`."""
        assert self._process.stdout is not None
        if select.select([self._process.stdout], [], [], seconds)[0]:
            line = self._process.stdout.readline()
            reply: dict[str, Any] = json.loads(line) if line.endswith("\n") else {"ending": None}
            if "unlogged" in reply:
                print(f"the run's log cannot be written: {describe(reply['unlogged'])}", file=sys.stderr)
            else:
                self._ending = reply["ending"]
                self.is_alive = False

    def ending(self) -> dict[str, str | None]:
        """How it ended: what it said, or that it died without a word."""
        if self._ending is not None:
            return self._ending
        code = self._process.wait()
        last = "".join(self._errors.read_text(errors="replace").strip().splitlines()[-1:])
        return {
            "error": None,
            "lost": f"the process that holds Ray died (exit code {code}) {last}".strip(),
        }
