"""What the sections train: masked networks on noise, and packed photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distlth.bench.photos import photo
from distlth.config.schema import RunConfig, TrainSection
from distlth.data.dataset import Dataset
from distlth.data.pack.build import BuildOptions
from distlth.data.pack.build import build as pack
from distlth.models import anatomy, build
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.ticket import Ticket
from distlth.train.masking import parameter_masks
from distlth.train.step import StepState, train_step
from distlth.train.world import World

CLASSES = 10


def masked_state(name: str, resolution: int, device: torch.device, **train: Any) -> StepState:
    """Return what steps of a network at 30% density work on."""
    section = TrainSection(epochs=1, batch_size=32, lr=0.01, **train)
    model = build(name, CLASSES, seed=0)
    body = anatomy(model, resolution)
    mask = _each_layer_at(0.3, {conv.name: model.get_parameter(f"{conv.name}.weight") for conv in body.convs})
    layout = torch.channels_last if section.channels_last else torch.contiguous_format
    model.to(device, memory_format=layout)  # type: ignore[call-overload]
    masks = parameter_masks(Ticket(mask, {}), body, dict(model.named_parameters()))
    state = StepState.fresh(model, model, masks, section, World(0, 1, device), seed=0)
    if section.amp == "fp16":  # a scale at which no step overflows, as after the first steps of a training
        return replace(state, scaler=torch.amp.GradScaler(device.type, init_scale=2.0**10))
    return state


def _each_layer_at(density: float, weights: Mapping[str, Tensor]) -> Mask:
    """Return a mask of the largest weights of each layer.

    Pruned over all layers at once, an untrained network loses some whole, and has nothing to compare.
    """
    layers: dict[str, Tensor] = {}
    for name, weight in weights.items():
        dense = Mask.dense({name: tuple(weight.shape)})
        layers |= prune_magnitude({name: weight.detach().contiguous()}, dense, 1 - density).layers
    return Mask(layers)


def noise(resolution: int, batch: int, *, channels_last: bool = True) -> list[tuple[Tensor, Tensor]]:
    """Return four batches on the CPU, the same each time."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 3, resolution, resolution)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [
        (
            torch.randn(shape, generator=generator).contiguous(memory_format=layout),
            torch.randint(0, CLASSES, (batch,), generator=generator),
        )
        for _ in range(4)
    ]


def take_steps(state: StepState, batches: Sequence[tuple[Tensor, Tensor]], steps: int) -> list[float]:
    """Train on the batches in turn; return the losses."""
    device = next(state.model.parameters()).device
    state.model.train()
    losses = []
    for step in range(steps):
        images, labels = batches[step % len(batches)]
        losses.append(train_step(state, images.to(device), labels.to(device), step=step, lr=0.002))
    state.masking.check_zeros()
    return [float(loss) for loss in losses]


def flat_weights(model: nn.Module) -> Tensor:
    """Return all parameters as one float64 vector on the CPU."""
    return torch.cat([parameter.detach().cpu().double().flatten() for parameter in model.parameters()])


def photos(folder: Path, train: int, side: int | None = None) -> Dataset:
    """Pack made-up photographs of 500 x 400 pixels, or `side` x `side`, of two classes."""
    jobs = [("train", number, side, folder) for number in range(train)]
    jobs += [("val", number, side, folder) for number in range(32)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_photo, jobs, chunksize=8))
    return pack(folder / "images", folder / "packed", BuildOptions(write_mode="jpg"))


def _write_photo(job: tuple[str, int, int | None, Path]) -> None:
    split, number, side, folder = job
    target = folder / "images" / split / f"class{number % 2}"
    target.mkdir(parents=True, exist_ok=True)
    image = photo(number + (100_000 if split == "val" else 0))
    image = image.resize((side, side)) if side else image
    image.save(target / f"{number:05}.jpg", quality=90)


def job_config(
    data: Dataset,
    runs: Path,
    model: str,
    resolution: int,
    more: Mapping[str, Any] | None = None,
    **train: Any,
) -> RunConfig:
    """Return the config of a run that trains a network on packed photographs; `more` are other sections."""
    sections: dict[str, dict[str, Any]] = {name: dict(keys) for name, keys in (more or {}).items()}
    return RunConfig.model_validate(
        {
            "name": "gpu",
            "runs": str(runs),
            "data": {
                "path": str(data.path),
                "resolution": resolution,
                "threads": 2,
                **sections.get("data", {}),
            },
            "model": {"name": model, **sections.get("model", {})},
            "train": {"epochs": 2, "batch_size": 32, "lr": 0.02, **train},
            "prune": {"rounds": 0, **sections.get("prune", {})},
            "checkpoint": {"every_steps": 50},
        }
    )
