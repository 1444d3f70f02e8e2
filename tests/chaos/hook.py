"""The fault hook, loaded into every process of a run: strikes once at the armed point, and records each step.

The functions listed in `points` are replaced as soon as their modules are imported, by functions that check
whether a fault is armed for their point. The code of the product knows nothing about it.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.chaos.points import POINTS, STEP_DONE, Point

ARMED, STEPS = "armed.json", "steps"


@dataclass(frozen=True)
class Fault:
    """A signal (`KILL`), sent to a target (see `victims`) when a process reaches a point the `nth` time.

    `rank` limits it to one rank. Without a point, the harness sends the signal after `delay` seconds.
    """

    id: int
    signal: str
    target: str
    point: str | None = None
    nth: int = 1
    rank: int | None = None
    delay: float = 0.0

    def __post_init__(self) -> None:
        if self.point is not None and POINTS[self.point].torn:
            # A writer that survived would rename the cut file to its final name.
            assert (self.signal, self.target) == ("KILL", "itself")


def write_once(path: Path, value: Any) -> bool:
    """Write a JSON document durably; return False, and write nothing, when the file exists already."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(descriptor)
    return True


def strike(fault: Fault, folder: Path, session: Path | None) -> None:
    """Record that the fault fires, then send its signal; only the first process that calls this does it."""
    from tests.chaos.victims import victims

    found = victims(fault.target, session)
    if not found:
        raise LookupError(f"no process is the target of {fault}")
    killed = [{"pid": process.pid, "name": process.name()} for process in found]
    ranks = [process.pid for process in victims("all ranks", session)] if session else []
    record = {**asdict(fault), "time": time.time(), "victims": killed, "ranks": ranks}
    if not write_once(folder / f"fired-{fault.id}.json", record):
        return
    number = getattr(signal, f"SIG{fault.signal}")
    for process in sorted(found, key=lambda process: process.pid == os.getpid()):
        os.kill(process.pid, number)


class Hook:
    """The hook of one process, for the faults that are armed in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits: dict[int, int] = {}

    def reached(self, point: Point, arguments: Sequence[Any]) -> None:
        """Strike if the armed fault is for this point and this is its `nth` time."""
        if point.path and not (arguments and point.path in str(arguments[0])):
            return
        fault = self.armed()
        if fault is None or fault.point != point.name or fault.rank not in (None, _rank()):
            return
        self.hits[fault.id] = self.hits.get(fault.id, 0) + 1
        if self.hits[fault.id] != fault.nth or (self.folder / f"fired-{fault.id}.json").exists():
            return
        if point.torn:
            os.truncate(arguments[0], os.stat(arguments[0]).st_size // 2)
        try:
            strike(fault, self.folder, _session())
        except Exception as error:
            self.broken(f"{fault}: {error!r}")

    def armed(self) -> Fault | None:
        """Return the fault that is armed now, None where there is none."""
        with suppress(FileNotFoundError):
            return Fault(**json.loads((self.folder / ARMED).read_text()))
        return None

    def broken(self, message: str) -> None:
        """Report to the harness that this hook does not work."""
        write_once(self.folder / f"broken-{os.getpid()}-{time.time_ns()}.json", message)

    def step_done(self, arguments: Sequence[Any]) -> None:
        """Record a step that rank 0 has done."""
        training = arguments[0]
        if training.world.is_main:
            line = f"{time.time()} {os.getpid()} {training.job.id} {training.step}\n"
            with open(self.folder / STEPS, "ab", buffering=0) as file:
                file.write(line.encode())

    def wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return `function` with the points before and after its calls."""
        here = [point for point in POINTS.values() if point.function == name]
        before = [point for point in here if point.when == "before"]
        after = [point for point in here if point.when == "after"]

        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            for point in before:
                self.reached(point, arguments)
            result = function(*arguments, **named)
            if name == STEP_DONE:
                self.step_done(arguments)
            for point in after:
                self.reached(point, arguments)
            return result

        return wrapped

    def wrap_all(self, module: ModuleType) -> None:
        """Wrap all functions of a module, just imported, that have points."""
        for name in sorted(functions()):
            if name.partition(":")[0] == module.__name__:
                try:
                    owner, attribute = find(module, name)
                    setattr(owner, attribute, self.wrap(getattr(owner, attribute), name))
                except AttributeError as error:
                    self.broken(f"{name}: {error}")


def functions() -> set[str]:
    """Return the names of all functions to wrap."""
    return {STEP_DONE, *(point.function for point in POINTS.values())}


def find(module: ModuleType, name: str) -> tuple[Any, str]:
    """Return the object that holds the function and the attribute's name; AttributeError if there is none."""
    *path, attribute = name.partition(":")[2].split(".")
    owner = functools.reduce(getattr, path, module)
    getattr(owner, attribute)
    return owner, attribute


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and wraps the functions that have points before an importer sees them."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.modules = {name.partition(":")[0] for name in functions()}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the usual spec, with a loader that also wraps."""
        if fullname not in self.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self.hook.wrap_all(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install(folder: str) -> None:
    """Install the hook in this process, for the faults that are armed in `folder`."""
    sys.meta_path.insert(0, _Finder(Hook(Path(folder))))


def _rank() -> int | None:
    rank = os.environ.get("RANK")
    return None if rank is None else int(rank)


def _session() -> Path | None:
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(token).parent if token else None
