"""Which of torchvision's classifiers train with deterministic kernels, and to the same bits twice."""

from __future__ import annotations

import gc
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch
from torch.nn import functional

from distlth.models import build, names
from distlth.train.warm import set_determinism
from tests.gpu.lines import Options, check, expect, main, say

RESOLUTION = 224
PROCESSES = 4
SECONDS = 140
SAME = "same"


def classifiers(options: Options) -> None:
    """Take a step of every classifier that fits, twice, with deterministic kernels."""
    chosen = ("resnet20", "alexnet") if options.quick else names()
    found: dict[str, str] = {}
    pool = ProcessPoolExecutor(PROCESSES, get_context("spawn"))
    tries = {pool.submit(tried, name, options.device.type): name for name in chosen}
    try:
        for each in as_completed(tries, timeout=SECONDS):
            found[tries[each]] = each.result()
    except TimeoutError:
        found |= {name: "not reached" for name in tries.values() if name not in found}
    for process in list(pool._processes.values()):
        process.kill()
    for said in sorted({verdict for verdict in found.values() if verdict != SAME}):
        say("figure", said, ", ".join(name for name in found if found[name] == said))
    with check("the same gradients twice") as line:
        line.append(f"{list(found.values()).count(SAME)} of {len(chosen)}")
        expect(set(found.values()) <= {SAME, "not reached"}, "expected all")


def tried(name: str, device: str) -> str:
    """Return what became of two steps of one classifier."""
    set_determinism(True)
    try:
        one, other = (gradients(name, torch.device(device)) for _ in range(2))
        return SAME if one == other else "the gradients differ"
    except RuntimeError as error:
        return str(error).splitlines()[0][:120]
    finally:
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()


def gradients(name: str, device: torch.device) -> tuple[float, ...]:
    """Return a few sums of the gradients of one step: equal only for equal bits, as far as sums can tell."""
    torch.manual_seed(0)  # the device has a generator of its own
    with torch.device(device):
        model = build(name, 10, seed=0).to(memory_format=torch.channels_last)
    model.train()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, RESOLUTION, RESOLUTION, generator=generator).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = functional.cross_entropy(model(images), torch.arange(4, device=device))
    loss.backward()
    return tuple(
        float(parameter.grad.double().sum()) for parameter in model.parameters() if parameter.grad is not None
    )


if __name__ == "__main__":
    main(classifiers)
