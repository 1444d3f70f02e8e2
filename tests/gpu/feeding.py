"""Whether the loader feeds the card: steps on packed photographs against steps on images that are there."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import closing
from itertools import chain
from pathlib import Path

import torch

from distlth.cores import loader_threads, num_cores
from distlth.data.dataset import Dataset
from distlth.data.load.loader import TrainLoader
from distlth.train.step import StepState, train_step
from distlth.train.warm import set_determinism
from tests.gpu.lines import Options, check, expect, main
from tests.gpu.work import masked_state, photos

ROUNDS = 3


def feeding(options: Options) -> None:
    """Measure the loader alone, steps alone, and both together."""
    set_determinism(False)
    batch, resolution = options.size(256, 16), options.size(224, 32)
    name = "resnet18" if options.quick else "resnet50"
    with tempfile.TemporaryDirectory() as folder:
        data = photos(Path(folder), options.size(4096, 32))
        with check(f"{name}, {resolution} px, batch {batch}, bf16") as said:
            state = masked_state(name, resolution, options.device, amp="bf16")
            state.model.train()
            alone, steps, fed = measured(data, state, batch, resolution, options)
            share = fed / min(alone, steps)
            said.append(
                f"images/s: loader {alone:,.0f} ({threads(options)} threads), steps {steps:,.0f}, "
                f"both {fed:,.0f}: {share:.2f} of the slower one"
            )
            if options.on_gpu:
                expect(share >= 0.95, "expected at least 0.95")


def threads(options: Options) -> int:
    """Return the loader's threads, as a rank of its own chooses."""
    return loader_threads(num_cores(), options.device.type)


def measured(
    data: Dataset, state: StepState, batch: int, resolution: int, options: Options
) -> tuple[float, float, float]:
    """Return the images/s of the loader, of steps, and of steps on the loader's images: medians of rounds."""
    loader = TrainLoader(
        data, batch_size=batch, resolution=resolution, seed=0, threads=threads(options), device=options.device
    )
    rates: dict[str, list[float]] = {"loader": [], "steps": [], "both": []}
    with closing(loader):
        for number in range(ROUNDS + 1):
            with closing(loader.epoch(number)) as batches:
                same = [next(batches)] * loader.steps_per_epoch
            for kind, found in rates.items():
                with closing(loader.epoch(number)) as batches:
                    first = next(batches)  # the clock starts with a batch there, as within a long epoch
                    start = time.perf_counter()
                    for images, labels in same if kind == "steps" else chain([first], batches):
                        if kind != "loader":
                            train_step(state, images, labels, step=number, lr=0.01)
                    wait(options)
                if number:
                    found.append(loader.steps_per_epoch * batch / (time.perf_counter() - start))
    return (
        statistics.median(rates["loader"]),
        statistics.median(rates["steps"]),
        statistics.median(rates["both"]),
    )


def wait(options: Options) -> None:
    """Wait for the device."""
    if options.on_gpu:
        torch.cuda.synchronize(options.device)


if __name__ == "__main__":
    main(feeding)
