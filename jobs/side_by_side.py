"""Train several seeds of a job file side by side on this machine's device, each job in a process of one rank.

A small network leaves a GPU idle most of the time, and `distlth run` gives each rank a GPU of its own. Each
seed has a run, NAME-seed0 and so on, of which `distlth report` makes one table. What is done is passed over.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from distlth.config.documents import parse_yaml
from distlth.config.read import parse_config, read_job
from distlth.config.schema import RunConfig
from distlth.errors import ConfigError, DivergedError, RunInterrupted
from distlth.plan import Job, descendants, plan, ready
from distlth.report.ending import exit_code
from distlth.run.paths import RunPaths
from distlth.run.results import Divergence, load_divergences, load_results, run_progress
from jobs.arguments import add_job_file

if TYPE_CHECKING:
    from distlth.maker import TicketMaker
    from distlth.train.warm import WarmRank


@dataclass(frozen=True)
class SeedRun:
    """The run of one seed."""

    config: RunConfig
    jobs: tuple[Job, ...]

    @property
    def paths(self) -> RunPaths:
        """Its files."""
        return RunPaths(self.config.runs.absolute() / self.config.name)

    def startable(self) -> list[Job]:
        """Return the jobs that can be trained now."""
        diverged = load_divergences(self.paths, self.jobs)
        left_out = {*diverged, *descendants(self.jobs, diverged)}
        return [
            job for job in ready(self.jobs, load_results(self.paths, self.jobs)) if job.id not in left_out
        ]


Task = tuple[int, str]  # seed, job id


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.side_by_side", description=__doc__)
    add_job_file(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="jobs that train at a time")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="stop then; the same command trains what is missing"
    )
    options = parser.parse_intermixed_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    if options.processes < 1:
        raise ConfigError(f"--processes: expected at least 1, got {options.processes}")
    start = time.time()
    deadline = start + options.seconds if options.seconds else None
    document = read_job(options.job, options.overrides)
    runs = {seed: _seed_run(document, seed, str(options.job)) for seed in dict.fromkeys(options.seeds)}
    try:
        _train_all(runs, options.processes, deadline)
    except BrokenProcessPool:
        if deadline is None or time.time() < deadline:
            raise
        lines = [f"{run.config.name}: {run_progress(run.paths, run.jobs)}" for run in runs.values()]
        message = f"stopped after {options.seconds:g} s; the same command resumes; {'; '.join(lines)}"
        raise RunInterrupted(message) from None
    print(f"all done, {time.time() - start:.0f} s")
    return 0


def _seed_run(document: Mapping[str, object], seed: int, source: str) -> SeedRun:
    config = parse_config({**document, "seed": seed, "name": f"{document.get('name')}-seed{seed}"}, source)
    if config.cluster.workers > 1:
        raise ConfigError(
            f"cluster.workers: side by side each job has one rank, not {config.cluster.workers}"
        )
    return SeedRun(config, plan(config))


def _train_all(runs: Mapping[int, SeedRun], processes: int, deadline: float | None) -> None:
    """Train what can be trained, up to `processes` jobs at a time: rounds before their branches."""
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    with ProcessPoolExecutor(processes, context, _end_at, (deadline,)) as pool:
        pool.submit(_open, [run.config.to_yaml() for run in runs.values()]).result()
        running: dict[Future[str], Task] = {}
        start, done = time.time(), 0
        while True:
            for seed, job in _waiting(runs, running)[: processes - len(running)]:
                running[pool.submit(_train, runs[seed].config.to_yaml(), job.id)] = seed, job.id
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                seed, job_id = running.pop(future)
                done += 1
                print(f"{time.time() - start:6.1f} s  {done:3d}  seed {seed}  {job_id:<24} {future.result()}")
                sys.stdout.flush()


def _waiting(runs: Mapping[int, SeedRun], running: Mapping[Future[str], Task]) -> list[tuple[int, Job]]:
    """Return the jobs that could start: first rounds, then branches in the order of the job file."""
    taken = set(running.values())
    found = [
        (seed, job) for seed, run in runs.items() for job in run.startable() if (seed, job.id) not in taken
    ]
    return sorted(
        found, key=lambda each: (not each[1].is_trunk, _rank(runs[each[0]], each[1]), each[1].round)
    )


def _rank(run: SeedRun, job: Job) -> int:
    branches = run.config.prune.branches
    return branches.index(job.structure) if job.structure in branches else 0


# -- in the processes -------------------------------------------------------------------------------------


def _end_at(deadline: float | None) -> None:
    """End this process at the deadline, whatever it does: files appear whole or not at all."""
    if deadline is not None:
        timer = threading.Timer(max(0.0, deadline - time.time()), os._exit, [os.EX_TEMPFAIL])
        timer.daemon = True
        timer.start()


def _open(job_files: Sequence[str]) -> None:
    """Check the job files, and begin the runs that are new."""
    from distlth.run.store import open_run

    for job_file in job_files:
        config, maker, run, data = _found(job_file)
        open_run(run, config, data)
        maker.write_init()


def _train(job_file: str, job_id: str) -> str:
    """Train a job; return in words what came of it."""
    from distlth.experiment import run_job
    from distlth.train.checkpoint import remove_states

    config, maker, run, _ = _found(job_file)
    jobs = plan(config)
    job = next(job for job in jobs if job.id == job_id)
    try:
        result = run_job(_warm_rank(job_file), maker, run, jobs, job)
    except DivergedError as error:
        Divergence(job.id, str(error), time.time()).save(run.job(job.id))
        return str(error)
    remove_states(run.checkpoints(job.id))
    return f"density {result.density:.3f}, {result.split} top-1 {result.top1:.2%}, {result.seconds:.1f} s"


@cache
def _found(job_file: str) -> tuple[RunConfig, TicketMaker, RunPaths, Mapping[str, Any]]:
    """Return what a job file says, what makes its run's tickets, its files, and what identifies its data."""
    from distlth.experiment import waiting
    from distlth.maker import TicketMaker
    from distlth.preflight import preflight

    config = parse_config(parse_yaml(job_file), "job file")
    found, run = preflight(config), RunPaths(config.runs.absolute() / config.name)
    return config, TicketMaker(config, found, run, waiting), run, found.identity


@cache
def _warm_rank(job_file: str) -> WarmRank:
    """Return the rank of a seed's jobs in this process."""
    import torch

    from distlth.data.dataset import Dataset
    from distlth.train.warm import WarmRank
    from distlth.train.world import World

    config, *_ = _found(job_file)
    torch.set_num_threads(config.cluster.cpus_per_worker)
    wanted = config.cluster.device
    device = "cuda:0" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and device == "cpu":
        raise ConfigError("cluster.device: cuda, but this machine has no GPU")
    return WarmRank(config, Dataset.load(config.data.path), World(0, 1, torch.device(device)))


if __name__ == "__main__":
    sys.exit(main())
