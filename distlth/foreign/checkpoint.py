"""A network that another code has trained: its weights, masks and early weights, by that code's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distlth.errors import UserError

State = Mapping[str, Tensor]

# Where a dictionary with more than weights has them; first that of the paper's code.
STATES = ("state_dict", "model_state_dict", "model", "net")
# Where the paper's code has the weights that tickets start from: main_imp.py, and its form for ImageNet.
EARLY = ("init_weight", "init")
# The best accuracy on validation images, in percent, as the paper's code has called it.
BEST = ("best_sa", "best_prec1", "best_acc1")

# What wrappers put before all names: DistributedDataParallel, torch.compile, OpenLTH.
PREFIXES = ("module.", "_orig_mod.", "model.")
# torch.nn.utils.prune's, and those of OpenLTH's pruned model.
ORIGINAL, MASK, BUFFER = "_orig", "_mask", "mask_"
# Layers that normalise images, as the paper's networks have one; the data set does that here.
INPUT = ("normalize.mean", "normalize.std")


@dataclass(frozen=True)
class Stated:
    """What a file says of its network: nothing of it was measured here. `top1` is a fraction."""

    top1: float | None = None
    top1_is: str = ""
    epochs: int | None = None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One network of another code.

    `weights` is its state dict, `masks` has a bool tensor (True: kept) for each parameter that was pruned,
    `early` the state dict that its tickets start from. `round` counts prunings. `normalize` has the mean and
    the deviation of its images, where it normalises them itself. `rewind_epoch` is the one of `early`.
    """

    path: Path
    weights: State
    masks: Mapping[str, Tensor]
    early: State | None = None
    round: int | None = None
    stated: Stated = Stated()
    rewind_epoch: int | None = None
    normalize: Mapping[str, Tensor] = field(default_factory=dict)


def of_document(path: Path, document: Any) -> Checkpoint:
    """Return the network in what a file holds: a state dict, or a dictionary that has one.

    Raises:
        UserError: it is neither, or a mask is not of zeros and ones.
    """
    state = state_of(path, document)
    weights, masks = split(path, state)
    return Checkpoint(
        path=path,
        weights={name: tensor for name, tensor in weights.items() if name not in INPUT},
        masks=masks,
        early=_early(path, document),
        round=_whole(document, "state"),
        stated=_stated(document),
        normalize={name: weights[name] for name in INPUT if name in weights},
    )


def state_of(path: Path, document: Any) -> State:
    """Return the state dict in what a file holds; UserError where there is none."""
    if isinstance(document, Mapping):
        for key in STATES:
            if _is_state(document.get(key)):
                found: State = document[key]
                return found
        if _is_state(document):
            return document
    raise UserError(
        f"{path}: expected a state dict, or a dictionary with one under {', '.join(STATES)}; it holds "
        f"{_description(document)}"
    )


def split(path: Path, state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of a state dict and its masks (bool), by the parameters' names without prefixes.

    Raises:
        UserError: a mask has no weights, another shape than they, or values other than 0 and 1.
    """
    masks, rest = dict[str, Tensor](), dict[str, Tensor]()
    for name, tensor in state.items():
        if name.startswith(BUFFER):
            masks[name.removeprefix(BUFFER).replace("___", ".")] = tensor
        else:
            rest[name] = tensor
    rest = without_prefixes(rest)
    for name in [name for name in rest if name.endswith(MASK)]:
        masks[name.removesuffix(MASK)] = rest.pop(name)
    weights = {name.removesuffix(ORIGINAL): tensor for name, tensor in rest.items()}
    return weights, dict(_checked(path, masks, weights))


def without_prefixes(state: State) -> dict[str, Tensor]:
    """Return a state dict without what wrappers put before all of its names."""
    names = list(state)
    found = True
    while found:
        found = False
        for prefix in PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names, found = [name.removeprefix(prefix) for name in names], True
    return dict(zip(names, state.values(), strict=True))


def _checked(path: Path, masks: State, weights: State) -> Iterator[tuple[str, Tensor]]:
    for name, mask in masks.items():
        if name not in weights:
            raise UserError(f"{path}: the mask of {name} has no weights beside it ({name}{ORIGINAL})")
        yield name, checked_mask(path, name, mask, weights[name])


def checked_mask(path: Path, name: str, mask: Tensor, weight: Tensor) -> Tensor:
    """Return a stored mask as bool; UserError where it does not fit its weight, or is not of 0 and 1."""
    if mask.shape != weight.shape:
        raise UserError(
            f"{path}: the mask of {name} has shape {tuple(mask.shape)}, its weights {tuple(weight.shape)}"
        )
    other = mask[(mask != 0) & (mask != 1)]
    if other.numel():
        raise UserError(
            f"{path}: the mask of {name} is not of zeros and ones: {other.numel():,} of {mask.numel():,} "
            f"entries are others, such as {other[0].item():.4g}"
        )
    return mask != 0


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(torch.is_tensor, value.values()))


def _description(document: Any) -> str:
    if not isinstance(document, Mapping):
        return f"a {type(document).__name__}"
    keys = ", ".join(str(key) for key in list(document)[:5])
    return f"a dictionary with {keys or 'nothing'}"


def _early(path: Path, document: Any) -> State | None:
    for key in EARLY:
        if isinstance(document, Mapping) and _is_state(document.get(key)):
            weights, _ = split(path, document[key])
            return {name: tensor for name, tensor in weights.items() if name not in INPUT}
    return None


def _stated(document: Any) -> Stated:
    if not isinstance(document, Mapping):
        return Stated()
    for key in BEST:
        if (best := _number(document.get(key))) is not None:
            return Stated(best / 100, f"{key}: its best epoch's", _whole(document, "epoch"))
    return Stated(epochs=_whole(document, "epoch"))


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(document: Any, key: str) -> int | None:
    value = document.get(key) if isinstance(document, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
