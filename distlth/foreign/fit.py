"""Another code's network as one of ours: a mask, and whole state dicts under our names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distlth.errors import UserError
from distlth.foreign.checkpoint import INPUT, Checkpoint, State
from distlth.foreign.names import COUNTER, Names, names
from distlth.prune.mask import Mask, weight_name

# More zeros than this in a network without masks, as a fraction of its prunable weights, are no chance.
MANY_ZEROS = 0.01


@dataclass(frozen=True)
class Target:
    """The network to fit: its name, a state dict of it, and the names of its prunable layers in order."""

    model: str
    state: State
    layers: Sequence[str]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A checkpoint under our names. `weights` has zeros where `mask` drops; `early` was not masked."""

    checkpoint: Checkpoint
    names: Names
    mask: Mask
    weights: dict[str, Tensor]


def fit(checkpoint: Checkpoint, target: Target, *, zeros: bool, dense_classifier: bool) -> Fitted:
    """Return a checkpoint as the target network.

    Where it has no masks, exact zeros of prunable layers are the mask with `zeros`. A mask of a layer that
    is not pruned here is an error, or left out with `dense_classifier`.

    Raises:
        UserError: a layer does not fit, weights are not finite, or a mask is of something else.
    """
    found = names(checkpoint.weights, target.state)
    state = fit_state(checkpoint.path, checkpoint.weights, target, found)
    mask = _mask(checkpoint, found, target, state, zeros)
    _check_other_masks(checkpoint, found, target, dense_classifier)
    for layer, kept in mask.items():
        state[weight_name(layer)] = torch.where(kept, state[weight_name(layer)], 0.0)
    return Fitted(checkpoint, found, mask, state)


def fit_state(
    path: Path, state: Mapping[str, Tensor], target: Target, found: Names | None = None
) -> dict[str, Tensor]:
    """Return another code's state dict under our names: float32, contiguous.

    Raises:
        UserError: an entry is missing, has another shape or no place, or is not finite.
    """
    state = {name: tensor for name, tensor in state.items() if name not in INPUT}
    found = found or names(state, target.state)
    spare = _without_place(state, found)
    for name, ours in target.state.items():
        if name not in found.theirs:
            if not name.endswith(COUNTER):
                raise UserError(f"{path}: {_missing(name, ours, target.model, spare)}")
        elif (theirs := state[found.theirs[name]]).shape != ours.shape:
            raise UserError(
                f"{path}: {found.theirs[name]} has shape {tuple(theirs.shape)}, expected {tuple(ours.shape)} "
                f"({name} of {target.model})"
            )
    if spare:
        name, tensor = next(iter(spare.items()))
        raise UserError(f"{path}: {name} {tuple(tensor.shape)} has no place in {target.model}")
    return dict(_converted(path, state, target, found))


def _converted(path: Path, state: State, target: Target, found: Names) -> Iterator[tuple[str, Tensor]]:
    for name, ours in target.state.items():
        if name not in found.theirs:
            yield name, torch.zeros_like(ours)
            continue
        tensor = (
            state[found.theirs[name]].detach().to(ours.dtype).clone(memory_format=torch.contiguous_format)
        )
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {found.theirs[name]} has NaN or infinite entries")
        yield name, tensor


def _without_place(state: State, found: Names) -> dict[str, Tensor]:
    placed = {*found.theirs.values()}
    return {
        name: tensor for name, tensor in state.items() if name not in placed and not name.endswith(COUNTER)
    }


def _missing(name: str, ours: Tensor, model: str, spare: State) -> str:
    other = next(iter(spare.items()), None)
    instead = f"; it has {other[0]} {tuple(other[1].shape)} instead" if other else ""
    return f"has no {name}, expected shape {tuple(ours.shape)} for {model}{instead}"


def _mask(checkpoint: Checkpoint, found: Names, target: Target, state: State, zeros: bool) -> Mask:
    """Return the mask of the prunable layers; a layer without one was not pruned."""
    weights = {layer: state[weight_name(layer)] for layer in target.layers}
    if zeros:
        return Mask({layer: weight != 0 for layer, weight in weights.items()})
    if not checkpoint.masks:
        _check_no_zeros(checkpoint.path, weights)
    stored = {layer: checkpoint.masks.get(found.theirs[weight_name(layer)]) for layer in target.layers}
    return Mask(
        {
            layer: torch.ones_like(weights[layer], dtype=torch.bool) if kept is None else kept
            for layer, kept in stored.items()
        }
    )


def _check_no_zeros(path: Path, weights: State) -> None:
    total = sum(weight.numel() for weight in weights.values())
    share = sum(int((weight == 0).sum()) for weight in weights.values()) / total
    if share > MANY_ZEROS:
        raise UserError(
            f"{path}: has no masks, and {share:.2%} of the weights of its prunable layers are exactly zero; "
            "say --zeros if these are what was pruned"
        )


def _check_other_masks(checkpoint: Checkpoint, found: Names, target: Target, dense_classifier: bool) -> None:
    own = {found.theirs[weight_name(layer)] for layer in target.layers}
    for name, kept in checkpoint.masks.items():
        if name in own or bool(kept.all()) or dense_classifier:
            continue
        dropped = int((~kept).sum())
        raise UserError(
            f"{checkpoint.path}: {name} is masked, too ({dropped:,} of {kept.numel():,} entries), and is "
            "never pruned here; say --dense-classifier to leave that mask out, whose zeros may then train"
        )
