"""Runs under faults: start them, strike, restart what ended, and measure the recovery."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from distlth.facts.compare import compare_runs
from distlth.files import read_json_lines, write_json
from distlth.run.paths import RunPaths
from distlth.run.store import load_record
from tests.chaos.hook import ARMED, STEPS, Fault, strike
from tests.chaos.victims import TOKEN_PATH, session_of

ROOT = Path(__file__).parent.parent.parent
RECIPE = ROOT / "jobs" / "recipes" / "quickstart.yaml"

# Exit codes that the command may have under a fault: done, run it again, Ctrl-C, killed itself.
GOES_ON = (0, os.EX_TEMPFAIL, 128 + signal.SIGINT, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
MOST_LAUNCHES = 5
DEADLINE_SECONDS = 300.0
POLL_SECONDS = 0.1


class LostError(AssertionError):
    """A run did not recover from a fault, or the fault did not fire."""


@dataclass(frozen=True)
class Step:
    """A step that rank 0 has done: its time (seconds since the epoch), process, job and number."""

    time: float
    pid: int
    job: str
    number: int

    @property
    def key(self) -> tuple[str, int]:
        """The job and the number of the step in it."""
        return self.job, self.number


@dataclass(frozen=True)
class Recovery:
    """The cost of a fault.

    `seconds` is the time from the signal to the first step that no process had done before (to the end of
    the run, where no step was left); `repeated` steps were done again until then. `launches` is how often
    the command was run again, 0 where the run recovered by itself. `codes` are the exit codes of the
    command, `said` is what it wrote to standard error.
    """

    fault: Fault
    victims: list[dict[str, Any]]
    seconds: float
    repeated: int
    launches: int
    codes: list[int]
    said: list[str]


class Chaos:
    """The folder in which faults are armed, and in which processes record faults and steps."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    @property
    def environment(self) -> dict[str, str]:
        """The environment that loads the hook into every process, and makes each a client of its own."""
        path = os.pathsep.join([str(Path(__file__).parent / "inject"), str(ROOT)])
        view = {"DISTLTH_STALE_VIEW": str(self.folder.parent)}
        return {**os.environ, **view, "PYTHONPATH": path, "DISTLTH_CHAOS": str(self.folder)}

    def arm(self, fault: Fault) -> None:
        """Arm a fault, in place of an earlier one."""
        write_json(self.folder / ARMED, fault.__dict__)

    def fired(self, fault: Fault) -> dict[str, Any] | None:
        """Return the record of a fault that has fired, else None. Raises LostError when a hook is broken."""
        if broken := list(self.folder.glob("broken-*.json")):
            raise LostError("; ".join(json.loads(path.read_text()) for path in broken))
        path = self.folder / f"fired-{fault.id}.json"
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            record: dict[str, Any] = json.loads(path.read_text())
            return record
        return None

    def steps(self) -> list[Step]:
        """Return all steps that were done, in order."""
        path = self.folder / STEPS
        if not path.exists():
            return []
        *lines, _ = path.read_text().split("\n")
        found = (line.split() for line in lines)
        return [Step(float(when), int(pid), job, int(step)) for when, pid, job, step in found]


class Command:
    """A command that is run again until it has succeeded; `ends` are the exit codes that it may have."""

    def __init__(self, arguments: Sequence[str], chaos: Chaos, ends: Sequence[int] = GOES_ON) -> None:
        self.arguments, self.chaos, self.ends = list(arguments), chaos, ends
        self.process: psutil.Popen | None = None
        self.codes: list[int] = []
        self.said: list[str] = []
        self.sessions: set[Path] = set()

    def launch(self) -> None:
        """Start it in its own process group, as a terminal or a batch system does."""
        self.process = psutil.Popen(
            self.arguments,
            cwd=ROOT,
            env=self.chaos.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it runs; records the exit of a process that has ended."""
        if self.process is None:
            return False
        if self.session and self.session not in self.sessions:
            self.sessions.add(self.session)
        if self.process.poll() is None:
            return True
        _, said = self.process.communicate()
        self.codes.append(self.process.returncode)
        self.said.append(said)
        self.process = None
        if self.codes[-1] not in self.ends:
            raise LostError(f"exit code {self.codes[-1]}: {said}")
        return False

    @property
    def session(self) -> Path | None:
        """The folder of its session, None where it has none."""
        return session_of(self.process.pid) if self.process else None

    @property
    def is_done(self) -> bool:
        """Whether its last launch succeeded."""
        return self.process is None and self.codes[-1:] == [0]

    def finish(self) -> None:
        """Run it, again where needed, until it has succeeded."""
        for _ in range(MOST_LAUNCHES):
            if self.process is None and not self.is_done:
                self.launch()
            self.wait_for(lambda: not self.is_alive)
            if self.is_done:
                return
        raise LostError(f"not done after {MOST_LAUNCHES} launches: {self.codes}, {self.said}")

    def wait_for(self, what: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until `what` returns True; raise LostError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                raise LostError(f"waited {seconds:g} s in vain; exit codes {self.codes}, {self.said}")
            time.sleep(POLL_SECONDS)

    def strike(self, fault: Fault) -> dict[str, Any]:
        """Arm a fault, launch the command unless it runs, and return the fault's record when it has fired."""
        self.chaos.arm(fault)
        if self.process is None:
            self.launch()
        return self._fire(fault)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and standard error."""
        self.wait_for(lambda: not self.is_alive)
        return self.codes[-1], self.said[-1]

    def survive(self, fault: Fault) -> Recovery:
        """Strike, wait until the run has recovered, and return the cost."""
        num_codes = len(self.codes)
        record = self.strike(fault)
        # Processes from before the fault: steps that they still do are no recovery.
        old = {step.pid for step in self.chaos.steps() if step.time <= record["time"]} | set(record["ranks"])
        if _spares_ranks(fault):
            old = set()
        at, launches = self._recover(fault, record["time"], old)
        done = [step for step in self.chaos.steps() if step.time <= at]
        known = {step.key for step in done if step.pid in old}
        return Recovery(
            fault=fault,
            victims=record["victims"],
            seconds=at - record["time"],
            repeated=sum(step.pid not in old and step.key in known for step in done),
            launches=launches,
            codes=self.codes[num_codes:],
            said=self.said[num_codes:],
        )

    def _recover(self, fault: Fault, struck: float, old: set[int]) -> tuple[float, int]:
        """Return the time of the first new step (or the end), and the number of launches until then."""
        launches = 0
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (at := self._new_step(struck, old)) is None:
            if not self.is_alive:
                if self.is_done:
                    return time.time(), launches
                launches += 1
                self.launch()
            if time.monotonic() > deadline or launches > MOST_LAUNCHES:
                raise LostError(f"{fault}: no new step; exit codes {self.codes}, {self.said}")
            time.sleep(POLL_SECONDS)
        return at, launches

    def _fire(self, fault: Fault) -> dict[str, Any]:
        strikes_at = time.monotonic() + fault.delay
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (record := self.chaos.fired(fault)) is None:
            if not self.is_alive:
                if (record := self.chaos.fired(fault)) is not None:
                    break
                raise LostError(f"{fault} did not fire; the command ended with {self.codes[-1]}")
            if time.monotonic() > deadline:
                raise LostError(f"{fault} did not fire in {DEADLINE_SECONDS:g} s")
            if fault.point is None and time.monotonic() > strikes_at and (session := self.session):
                with contextlib.suppress(LookupError, psutil.Error):  # a target that does not exist yet
                    strike(fault, self.chaos.folder, session)
            time.sleep(POLL_SECONDS)
        return record

    def _new_step(self, struck: float, old: set[int]) -> float | None:
        """Return the time of the first step that no process of `old` had done; None before it."""
        steps = self.chaos.steps()
        known = {step.key for step in steps if step.pid in old}
        new = (s.time for s in steps if s.pid not in old and s.key not in known and s.time > struck)
        return next(new, None)


def _spares_ranks(fault: Fault) -> bool:
    """Return whether the ranks survive: only the death of a task that regroups a layer costs no step."""
    return (fault.point, fault.target) == ("mid-regroup", "itself")


@contextlib.contextmanager
def command(arguments: Sequence[str], chaos: Chaos, ends: Sequence[int] = GOES_ON) -> Iterator[Command]:
    """Yield a command that does not outlive the block; `ends` are the exit codes that it may have."""
    made = Command(arguments, chaos, ends)
    try:
        yield made
    finally:
        if made.process is not None:
            made.process.kill()
            made.process.communicate()


def run_arguments(runs: Path, name: str, data: Path, *overrides: str) -> list[str]:
    """Return the `distlth run` command line of the quick start, with the given overrides."""
    places = [f"data.path={data}", f"runs={runs}", f"name={name}"]
    return [sys.executable, "-m", "jobs.cli", "run", str(RECIPE), *places, *overrides]


def left_behind(run: RunPaths, sessions: set[Path]) -> list[str]:
    """Return what a finished run must not leave behind: processes, locks, checkpoints, temporary files."""
    left = [str(path) for path in run.root.rglob(".*")]
    left += [str(run.lock)] if run.lock.exists() else []
    left += [str(path) for path in run.all_checkpoints.glob("*")]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            token = process.environ().get(TOKEN_PATH, "")
            if Path(token).parent in sessions and process.status() != psutil.STATUS_ZOMBIE:
                left.append(str(process))
    return left


def differences(undisturbed: RunPaths, run: RunPaths) -> list[str]:
    """Return the differences from an undisturbed run: in masks, weights, metrics, and points of curves."""
    from tests.chaos.curves import curves

    compared = compare_runs(undisturbed, run)
    found = [f"{f.place} {f.what}: {'; '.join(f.details)}" for f in compared.findings if f.state != "same"]
    found = [line for line in found if not line.startswith("run settings")]
    rewinds = {paths.seed(load_record(paths).config.seed).rewind.read_bytes() for paths in (undisturbed, run)}
    if len(rewinds) > 1:
        found.append("the rewind point")
    first, second = curves(undisturbed), curves(run)
    for key in sorted(first.keys() | second.keys()):
        if first.get(key) != second.get(key):
            found.append(f"curve {key}: {first.get(key)} | {second.get(key)}")
    return found


def events(run: RunPaths, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind in a run's log."""
    return [event for event in read_json_lines(run.log) if event["event"] == kind]
