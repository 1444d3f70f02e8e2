"""The loader on GPUs: the CPU's pixels, no context on another GPU, copies that overlap with computing."""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from distlth.cores import loader_threads, num_cores
from distlth.data.dataset import Dataset
from distlth.data.load.loader import TrainLoader
from distlth.train.step import train_step
from tests.data.test_gpu import contexts
from tests.gpu.lines import Options, check, expect, main, say
from tests.gpu.work import masked_state, photos


def loading(options: Options) -> None:
    """Load an epoch on every GPU; trace a few steps from the loader."""
    with tempfile.TemporaryDirectory() as folder:
        data = photos(Path(folder), options.size(1024, 64), 256)
        if not options.on_gpu:
            say("skip", "loader", "needs a GPU")
            resident(data, options)
            return
        resident(data, options)
        for number in range(torch.cuda.device_count()):
            with check(f"pixels on GPU {number}") as said:
                found = contexts(data, number)
                said.append(f"the CPU's to 1e-5, contexts on {found}")
                expect(found == f"[{number}]", "expected one on its own GPU only")
        with check("copies overlap with computing") as said:
            copied, hidden, busy = overlap(data, options)
            said.append(
                f"{hidden / max(copied, 1e-9):.0%} of {copied / 1e3:.1f} ms of copies, "
                f"{busy:.0%} of the time busy"
            )
            expect(hidden > 0.5 * copied, "expected over half")


def resident(data: Dataset, options: Options) -> None:
    """Compare batches of images that lie on the device with those that are read; count waits and images."""
    shape: dict[str, Any] = {"batch_size": options.size(256, 16), "resolution": options.size(224, 32)}
    shape |= {"crop": "pad", "rotate": 20.0, "seed": 0, "threads": 4, "device": options.device}
    with (
        check("cache: gpu") as said,
        closing(TrainLoader(data, **shape)) as read,
        closing(TrainLoader(data, cache="gpu", **shape)) as there,
    ):
        for one, other in zip(read.epoch(0), there.epoch(0), strict=True):
            same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
            expect(same, "expected the bits of the images that are read")
        batches = there.epoch(1)
        next(batches)  # what an epoch draws is sent with its first batch
        if options.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        start = time.perf_counter()
        try:
            count = sum(len(labels) for _, labels in batches)
            host = time.perf_counter() - start
        finally:
            if options.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
                torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        said.append(
            f"the bits of images that are read, no wait, {count / seconds:,.0f} images/s, "
            f"host {1e6 * host / max(1, there.steps_per_epoch - 1):.0f} us a batch"
        )


def overlap(data: Dataset, options: Options) -> tuple[float, float, float]:
    """Return the microseconds of copies, those of them beside kernels, and the share of time with kernels."""
    from torch.profiler import ProfilerActivity, profile

    torch.backends.cudnn.allow_tf32 = False  # slow steps: the loader is ahead, as it should be
    state = masked_state("resnet50", 224, options.device)
    state.model.train()
    threads = loader_threads(num_cores(), options.device.type)
    loader = TrainLoader(data, batch_size=128, resolution=224, seed=0, threads=threads, device=options.device)
    with closing(loader):
        with closing(loader.epoch(0)) as batches:
            for step, (images, labels) in enumerate(batches):
                train_step(state, images, labels, step=step, lr=0.01)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as trace, closing(loader.epoch(1)) as batches:
            for step, (images, labels) in enumerate(batches):
                train_step(state, images, labels, step=step, lr=0.01)
            torch.cuda.synchronize()
    events: list[Any] = list(trace.events() or [])
    copies = [
        span(event)
        for event in events
        if "Memcpy HtoD" in event.name and span(event)[1] - span(event)[0] > 100
    ]
    kernels = merged(
        [span(event) for event in events if event.device_type.name == "CUDA" and "Mem" not in event.name]
    )
    copied = sum(end - begin for begin, end in copies)
    hidden = sum(shared(copy, kernels) for copy in copies)
    busy = sum(end - begin for begin, end in kernels) / (kernels[-1][1] - kernels[0][0])
    return copied, hidden, busy


def span(event: Any) -> tuple[float, float]:
    """Return the beginning and the end of an event, in microseconds."""
    return event.time_range.start, event.time_range.end


def merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the spans in order, those that touch made one."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def shared(one: tuple[float, float], others: list[tuple[float, float]]) -> float:
    """Return how much of a span lies within others."""
    return sum(max(0.0, min(one[1], end) - max(one[0], begin)) for begin, end in others)


if __name__ == "__main__":
    main(loading)
