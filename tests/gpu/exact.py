"""`deterministic: true`: the same bits twice, and after a resume."""

from __future__ import annotations

import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.plan import plan
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.train.pulse import Pulse, StoppedEarly
from distlth.train.trainer import train_job
from distlth.train.warm import WarmRank
from distlth.train.world import World
from tests.gpu.lines import Options, check, expect, main
from tests.gpu.work import job_config, photos
from tests.small_job import dense_ticket, ignore

KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("vgg16", {"amp": "bf16"}),
    ("mobilenet_v2", {"channels_last": False}),
    ("resnet18", {"amp": "bf16", "compile": True}),
    ("wide_resnet50_2", {"amp": "bf16"}),
    ("resnet18", {"amp": "fp16", "label_smoothing": 0.1}),
    ("resnet50", {"amp": "bf16"}),
    ("resnet50", {}),
)


class StopAfter(Pulse):
    """Asks the job to stop once some steps are done."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.last = steps

    def step(self) -> None:
        """Count a step."""
        super().step()
        self.stop = self.steps >= self.last


def exact(options: Options) -> None:
    """Train jobs whole, again, and stopped after some seven steps and resumed; compare the bits."""
    with tempfile.TemporaryDirectory() as folder:
        data = photos(Path(folder), options.size(320, 160), 96)
        for name, settings in KINDS[:1] if options.quick else KINDS:
            with check(f"{name} {' '.join(f'{k}={v}' for k, v in settings.items())}".strip()) as said:
                home = Path(tempfile.mkdtemp(dir=folder))
                config = job_config(data, home, "resnet18" if options.quick else name, 64, **settings)
                said.append(f"{same_bits(config, data, options, home)}, again and resumed")


def same_bits(config: RunConfig, data: Dataset, options: Options, home: Path) -> str:
    """Train whole, again, and stopped and resumed; return the digest that all have."""
    first = train(config, data, options, home / "first")
    again = train(config, data, options, home / "again")
    expect(first == again, f"{first} and then {again}")
    with suppress(StoppedEarly):
        train(config, data, options, home / "resumed", StopAfter(7))
        expect(False, "it did not stop")
    resumed = train(config, data, options, home / "resumed")
    expect(first == resumed, f"{first}, but {resumed} when resumed")
    return first


def train(
    config: RunConfig, data: Dataset, options: Options, folder: Path, pulse: Pulse | None = None
) -> str:
    """Train a dense ticket in a run directory; return the digest of its weights."""
    job, run = plan(config)[0], RunPaths(folder)
    with closing(WarmRank(config, data, World(0, 1, options.device))) as rank:
        ticket = dense_ticket(rank, job)

        def curves(*, first_step: int) -> JobBoard:
            return JobBoard(run, job.id, first_step=first_step)

        return train_job(rank, job, ticket, run, ignore, curves, pulse=pulse).weights_digest


if __name__ == "__main__":
    main(exact)
