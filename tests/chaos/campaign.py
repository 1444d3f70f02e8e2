"""Many random faults in a few runs; each run is compared with an undisturbed one."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from distlth.data.dataset import Dataset
from distlth.data.pack.build import BuildOptions, build
from distlth.files import append_json
from distlth.run.paths import RunPaths
from jobs.digits import write_digits
from tests.chaos.harness import (
    GOES_ON,
    Chaos,
    LostError,
    Recovery,
    command,
    differences,
    left_behind,
    run_arguments,
)
from tests.chaos.hook import Fault
from tests.chaos.points import POINTS, Stage

EVERY_STEPS = 25
ROUNDS = 5
STEPS_PER_JOB = 110
OVERRIDES = (
    *("train.epochs=10", "train.batch_size=120", "train.eval_every=2", "data.resolution=8"),
    *(f"prune.rounds={ROUNDS}", "prune.rewind_epoch=2", "prune.calibration_images=100"),
    "prune.branches=[{method: refill, criterion: l1}, {method: regroup}]",
    *(f"checkpoint.every_steps={EVERY_STEPS}", "log_every=10"),
    *("cluster.retries=5", "cluster.hang_seconds=15", "cluster.answer_seconds=30"),
)

# Target -> signals; one that is listed twice is drawn twice as often. Ranks and Ray's processes block the
# signals that ask a run to stop, so only the run gets those.
SIGNALS = {
    "one rank": ("KILL", "KILL", "STOP"),
    "all ranks": ("KILL",),
    "coordinator": ("KILL", "KILL", "STOP"),
    "lane controller": ("KILL",),
    "lane holder": ("KILL",),
    "raylet": ("KILL",),
    "gcs_server": ("KILL",),
    "head": ("KILL",),
    "run": ("KILL", "TERM", "USR2", "INT"),
}

# Process titles that Ray sets -> which process it is, for the report.
ROLES = {
    "ray::RayTrainWorker": "one rank",
    "ray::Coordinator": "coordinator",
    "ray::_at_low_priority": "regroup's process",
}
ITSELF = ("KILL",) * 5 + ("STOP",)

# Weights for drawing a stage that the run can still reach. None: at no point, after a random time.
WEIGHTS: dict[Stage | None, int] = {"step": 9, "job": 6, "mask": 6, None: 5}

# A run with no more jobs left than this ends undisturbed: every fault that is armed must fire.
LAST_JOBS = 3
BUILD_SHARE = 0.1


def draw(rng: random.Random, number: int, stages: Sequence[Stage | None]) -> Fault:
    """Return a random fault of one of the stages."""
    stage = rng.choices(stages, [WEIGHTS.get(stage, 1) for stage in stages])[0]
    if stage is None:
        target = rng.choice(list(SIGNALS))
        return Fault(number, rng.choice(SIGNALS[target]), target, delay=round(rng.uniform(0.0, 4.0), 2))
    point = rng.choice([point for point in POINTS.values() if point.stage == stage])
    if point.torn:
        return Fault(number, "KILL", "itself", point.name, nth=_nth(rng, point.name))
    if stage == "build":
        return _of_a_build(rng, number, point.name)
    fault = Fault(number, rng.choice(ITSELF), "itself", point.name, _nth(rng, point.name))
    if point.name == "run made, no order yet":
        return replace(fault, signal="KILL")  # a stopped one is not hung: it waits for SIGCONT
    if stage != "start" and rng.random() < 0.5:
        target = rng.choice(list(SIGNALS))
        return replace(fault, target=target, signal=rng.choice(SIGNALS[target]))
    if point.name in ("mid-step", "evaluation", "mid-broadcast", "ticket fetched", "lane start"):
        return replace(fault, rank=rng.randrange(2))
    return replace(fault, signal="KILL") if point.name == "mid-regroup" else fault


def _nth(rng: random.Random, point: str) -> int:
    most = {"mid-step": 60, "mid-checkpoint-write": 3, "checkpoint begun": 3, "metrics written": 8}
    return rng.randint(1, most.get(point, 1))


def _of_a_build(rng: random.Random, number: int, point: str) -> Fault:
    if point == "mid-build, in a worker":
        target = rng.choice(["itself", "its parent"])
        return Fault(number, "KILL", target, point, nth=rng.randint(1, 200))
    return Fault(number, rng.choice(["KILL", "TERM", "INT"]), "itself", point)


@dataclass
class Campaign:
    """A series of faults: `recovered` lists the recoveries, `lost` the failures and their causes."""

    folder: Path
    rng: random.Random
    kills: int
    say: Callable[[str], None]
    recovered: list[Recovery] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    runs: int = 0
    drawn: int = 0
    undisturbed_seconds: float = 0.0

    def run(self) -> None:
        """Build data and train an undisturbed run, then strike runs until all faults are drawn."""
        write_digits(self.folder / "images")
        built = build(self.folder / "images", self.folder / "data", BuildOptions(workers=2))
        for number in range(max(1, round(self.kills * BUILD_SHARE)) if self.kills > 1 else 0):
            self.builds(number, built)
        start = time.time()
        undisturbed = self.undisturbed()
        self.undisturbed_seconds = time.time() - start
        while self.drawn < self.kills:
            self.one_run(undisturbed)

    def undisturbed(self) -> RunPaths:
        """Train a run without faults, but with the hook, so that nothing else differs."""
        chaos = Chaos(self.folder / "chaos-undisturbed")
        with command(self.arguments("undisturbed"), chaos) as process:
            process.finish()
        return RunPaths(self.folder / "runs" / "undisturbed")

    def arguments(self, name: str) -> list[str]:
        """Return the command line of a run."""
        return run_arguments(self.folder / "runs", name, self.folder / "data", *OVERRIDES)

    def one_run(self, undisturbed: RunPaths) -> None:
        """Train one run under as many faults as fit into it."""
        self.runs += 1
        name = f"run-{self.runs}"
        run, chaos = RunPaths(self.folder / "runs" / name), Chaos(self.folder / f"chaos-{self.runs}")
        before = self.drawn
        try:
            with command(self.arguments(name), chaos) as process:
                stages: list[Stage | None] = ["start", "rewind"]
                while stages and self.drawn < self.kills:
                    self.drawn += 1
                    self.note(process.survive(draw(self.rng, self.drawn, stages)), run)
                    stages = _reachable(run, chaos)
                process.finish()
                process.wait_for(lambda: not left_behind(run, process.sessions), 20)
            found = differences(undisturbed, run)
        except LostError as error:
            found = [str(error)]
        self.say(f"{name}: {self.drawn - before} faults, {found or 'the same bits'}")
        self.lost += [f"{name}: {line}" for line in found]

    def builds(self, number: int, expected: Dataset) -> None:
        """Strike a build of the data set, and build it again."""
        self.drawn += 1
        folder = self.folder / f"build-{number}"
        fault = draw(self.rng, self.drawn, ["build"])
        arguments = [sys.executable, "-m", "jobs.cli", "data", "build", str(self.folder / "images")]
        chaos = Chaos(self.folder / f"chaos-build-{number}")
        try:
            with command([*arguments, "--out", str(folder / "data")], chaos, (*GOES_ON, 2)) as process:
                self.note(process.survive(fault))
            if Dataset.load(folder / "data").digest != expected.digest or len(list(folder.iterdir())) > 1:
                raise LostError(f"{fault}: another data set, or more than that: {list(folder.iterdir())}")
        except LostError as error:
            self.lost.append(f"build {number}: {error}")
            self.say(self.lost[-1])
        shutil.rmtree(folder, ignore_errors=True)

    def note(self, recovery: Recovery, run: RunPaths | None = None) -> None:
        """Record a recovery, in memory and on disk."""
        self.recovered.append(recovery)
        append_json(self.folder / "recovered.jsonl", {"run": run and str(run.root), **asdict(recovery)})
        fault = recovery.fault
        self.say(
            f"{fault.id:3d} {fault.signal} of {fault.target} at {fault.point or 'any time'}: "
            f"{recovery.seconds:.1f} s, {recovery.repeated} steps again, exit codes {recovery.codes}"
        )


def _reachable(run: RunPaths, chaos: Chaos) -> list[Stage | None]:
    """Return the stages that a run is sure to reach from now on."""
    jobs = 1 + 3 * ROUNDS
    done = len(list(run.root.glob("rounds/**/result.json")))
    if jobs - done <= LAST_JOBS:
        return []
    begun = {step.job for step in chaos.steps()}
    to_prune = f"{ROUNDS - 1:02d}" not in begun
    return ["step", "job", None, *(["mask"] if to_prune else [])]  # type: ignore[list-item]


def report(campaign: Campaign) -> dict[str, Any]:
    """Return the results of a campaign: overall, by signal and target, by point, and row by row."""
    recovered = campaign.recovered
    return {
        "drawn": campaign.drawn,
        "runs": campaign.runs,
        "lost": campaign.lost,
        "checkpoint_every_steps": EVERY_STEPS,
        "undisturbed_seconds": campaign.undisturbed_seconds,
        "all": _figures(recovered) if recovered else {},
        "by_target": _grouped(recovered, lambda r: f"{r.fault.signal}, {_who(r)}"),
        "by_point": _grouped(recovered, lambda r: r.fault.point or "any time"),
        "rows": _rows(recovered),
    }


def _rows(recovered: Sequence[Recovery]) -> list[dict[str, Any]]:
    grouped = _grouped(recovered, lambda r: (r.fault.signal, _who(r), r.fault.point or "any time"))
    return [{**dict(zip(("kind", "target", "point"), key, strict=True)), **f} for key, f in grouped.items()]


def _grouped(recovered: Sequence[Recovery], key: Callable[[Recovery], Any]) -> dict[Any, dict[str, Any]]:
    groups: dict[Any, list[Recovery]] = {}
    for recovery in recovered:
        groups.setdefault(key(recovery), []).append(recovery)
    return {name: _figures(found) for name, found in sorted(groups.items())}


def _who(recovery: Recovery) -> str:
    """Return which process was struck, with `itself` resolved to the process that reached the point."""
    fault = recovery.fault
    if fault.point and POINTS[fault.point].stage == "build":
        in_worker = fault.point == "mid-build, in a worker" and fault.target == "itself"
        return "build's worker" if in_worker else "build"
    name = recovery.victims[0]["name"]
    role = next((role for title, role in ROLES.items() if name.startswith(title)), "run")
    return role if fault.target == "itself" else fault.target


def _figures(found: Sequence[Recovery]) -> dict[str, Any]:
    seconds = [recovery.seconds for recovery in found]
    repeated = [recovery.repeated for recovery in found]
    return {
        "count": len(found),
        "by_itself": sum(recovery.launches == 0 for recovery in found),
        "seconds_mean": sum(seconds) / len(seconds),
        "seconds_worst": max(seconds),
        "repeated_mean": sum(repeated) / len(repeated),
        "repeated_worst": max(repeated),
    }
