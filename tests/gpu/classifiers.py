"""Which of torchvision's classifiers train with deterministic kernels, and to the same bits twice."""

from __future__ import annotations

import gc

import torch
from torch.nn import functional

from distlth.models import build, names
from distlth.train.warm import (
    WarmRank,  # noqa: F401  # the settings below are those of a rank
    set_determinism,
)
from tests.gpu.lines import Options, check, expect, main

RESOLUTION = 224


def classifiers(options: Options) -> None:
    """Take a step of every classifier that fits, twice, with deterministic kernels."""
    set_determinism(True)
    chosen = ("resnet20", "alexnet") if options.quick else names()
    unable, vary, failed = [], [], []
    for name in chosen:
        try:
            digests = [gradients(name, options.device) for _ in range(2)]
            if digests[0] != digests[1]:
                vary.append(name)
        except RuntimeError as error:
            text = str(error).splitlines()[0]
            if "deterministic" in text:
                unable.append(f"{name} ({text.split(' does not')[0]})")
            else:
                failed.append(f"{name}: {text[:120]}")
        gc.collect()
        if options.on_gpu:
            torch.cuda.empty_cache()
    with check("every classifier trains") as said:
        said.append(f"{len(chosen)} tried")
        expect(not failed, "; ".join(failed))
    with check("deterministic kernels for each"):
        expect(not unable, f"{len(unable)} have none: {', '.join(unable)}")
    with check("the same gradients twice"):
        expect(not vary, f"{len(vary)} differ: {', '.join(vary)}")


def gradients(name: str, device: torch.device) -> tuple[float, ...]:
    """Return a few sums of the gradients of one step: equal only for equal bits, as far as sums can tell."""
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
