"""Runs whose first jobs are done, made up: nothing of them was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distlth.config.read import parse_config
from distlth.files import append_json, write_text
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import RunRecord
from distlth.run.tickets import save_structured
from distlth.run.timings import NetworkTime, Setting, Timing
from distlth.ticket import Structured
from tests.tiny_run import MINIMAL, NOW, make_result

NODE = Setting("node1", "Xeon", "cpu", 2, 8, ("eager", "onnx"))


def finished(root: Path, seed: int, top1: float, **changes: Any) -> RunPaths:
    """A run of a seed whose dense network, first ticket and its refill are done."""
    return finished_seeds(root, {seed: top1}, **changes)


def finished_seeds(root: Path, dense: Mapping[int, float], **changes: Any) -> RunPaths:
    """A run of several seeds; `dense` is the top-1 of each dense network, 0.01 less than its ticket's."""
    paths = RunPaths(root)
    own, *others = dense
    seeds = {"seeds": [own, *others]} if others else {}
    config = parse_config({**MINIMAL, "name": root.name, "seed": own, **seeds, **changes}, "test")
    write_text(paths.job_file, RunRecord(config, {}, {}, NOW).to_yaml())
    for seed, top1 in dense.items():
        prefix = "" if seed == own else f"seed{seed}/"
        for job, density, accuracy in (
            ("00", 1.0, top1),
            ("01", 0.8, top1 + 0.01),
            ("01/refill", 0.75, top1),
        ):
            _finish(paths, f"{prefix}{job}", density, accuracy, seed)
    return paths


def _finish(run: RunPaths, job: str, density: float, top1: float, seed: int) -> None:
    kept = torch.rand(8, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) < density
    if job.endswith("refill"):
        kept = (torch.arange(8) < 6)[:, None, None, None].expand(8, 2, 3, 3)
    save_structured(run.job(job), Structured(Mask({"conv1": kept, "conv2": kept})))
    for epoch in range(2):
        line = {"epoch": epoch, "step": 20 * epoch + 20, "loss": 1.0 / (epoch + 1), "lr": 0.1, "seconds": 5.0}
        rates = {"images_per_second": 100.0 + epoch, "data_wait": 0.0, "val_top1": top1 - 0.1 + epoch / 10}
        append_json(run.job(job).metrics, {**line, **rates})
    result = make_result(job, density=density, top1=top1, seconds=3600.0)
    replace(result, alive=result.kept, macs=100, alive_macs=round(90 * density), device="cpu").save(
        run.job(job)
    )


def measure(run: RunPaths, job: str, saved: float, setting: Setting = NODE) -> None:
    """Keep made-up times of a ticket, which saves a share of the dense network's at its fastest.

    In eager PyTorch the dense network takes twice as long.
    """
    result = JobResult.load(run.job(job))
    assert result is not None
    common = {
        **{"ticket": job, "mask_digest": result.mask_digest, "setting": setting, "dtype": "float32"},
        **{"resolution": 32, "rounds": 5, "warm_ups": 3, "cores": (0, 1), "fastest": "onnx"},
        **{"versions": {"torch": "2"}, "command": "distlth bench infer run --all", "measured": NOW},
    }
    for runtime, dense, share in (("eager", 20.0, 1.1), ("onnx", 10.0, 1.0)):
        own = 10.0 * (1 - saved) * share
        networks = (_time("dense", dense), _time("slim", own))
        Timing(runtime=runtime, networks=networks, **common).save(run)  # type: ignore[arg-type]


def _time(network: str, milliseconds: float) -> NetworkTime:
    return NetworkTime(
        network=network,
        milliseconds=milliseconds,
        quartiles=(milliseconds, milliseconds),
        images_per_second=8e3 / milliseconds,
        peak_memory=None,
        parameters=100,
        macs=100,
        file_bytes=400,
        saved_of_own=None,
        saved_of_eager=1 - milliseconds / 20,
        saved_of_fastest=1 - milliseconds / 10,
        macs_saved=0.5,
    )
