"""The job file of an imported run: what is asked for, what the files say, and the paper's training else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from distlth.config.documents import merge
from distlth.errors import ConfigError
from distlth.foreign.checkpoint import Checkpoint
from distlth.foreign.names import names
from distlth.models import Stem, anatomy, build
from distlth.models.zoo import CIFAR_TYPE

# Stands in the job file until somebody names a data set.
NO_DATA = Path("no-data-set-yet")
SMALL, LARGE = 32, 224

# How the paper trains on CIFAR (arXiv 2202.04736, table 1), where nothing says all that is needed.
NEEDED = {"epochs": 160, "batch_size": 128, "lr": 0.1}
DROPS = (0.5, 0.75)  # of all epochs


@dataclass(frozen=True)
class Known:
    """What a file says of its network: stem, number of classes, and whether the first layer was pruned."""

    model: str
    stem: Stem
    num_classes: int
    scope: str

    @property
    def is_small(self) -> bool:
        """Whether the network is one for small images."""
        return self.stem == "cifar" or self.model in CIFAR_TYPE


def known(checkpoint: Checkpoint, document: Mapping[str, Any]) -> Known:
    """Return what a checkpoint says of its network; the document has its name, and its stem if that is asked.

    Raises:
        ConfigError: the document names no model, or one that is not known.
    """
    asked = _section(document, "model")
    if "name" not in asked:
        raise ConfigError("model.name: not given; say --model NAME, such as resnet18")
    name = str(asked["name"])
    trial = build(name, 10, seed=0)
    body = anatomy(trial, LARGE)
    theirs = names(checkpoint.weights, trial.state_dict()).theirs

    def weight(layer: str | None) -> Tensor | None:
        return checkpoint.weights.get(theirs.get(f"{layer}.weight", ""))

    first, own = weight(body.stem), trial.state_dict()[f"{body.stem}.weight"]
    small = first is not None and first.shape[2:] == (3, 3) != own.shape[2:]
    stem: Stem = asked.get("stem") or ("cifar" if small else "imagenet")
    counts = [len(found) for layer in body.graph.logits if (found := weight(layer)) is not None]
    spared = bool(checkpoint.masks) and theirs.get(f"{body.stem}.weight") not in checkpoint.masks
    return Known(name, stem, counts[0] if counts else 10, "no-stem" if spared else "all")


def resolved(
    document: Mapping[str, Any], found: Known, rounds: Sequence[int], rewind_epoch: int | None
) -> dict[str, Any]:
    """Return the whole document: what is asked for over what was found over the paper's training.

    Rounds after the last of the imported `rounds` are trained where the document asks for more.
    """
    data: dict[str, Any] = {"path": str(NO_DATA), "resolution": SMALL if found.is_small else LARGE}
    if found.is_small:
        data["crop"] = "pad"
    prune: dict[str, Any] = {"scope": found.scope}
    if rewind_epoch:
        prune |= {"rewind_epoch": rewind_epoch, "after_rewind": "continue"}
    model = {"name": found.model, "stem": found.stem}
    below = {"data": data, "model": model, "train": _training(_section(document, "train")), "prune": prune}
    asked = _section(document, "prune").get("rounds")
    last = max(*rounds, asked) if isinstance(asked, int) else max(rounds)
    given = {"prune": {"rounds": last, "imported": sorted(rounds)}}
    return merge(merge(below, document), given)


def _training(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paper's training below what is asked for; nothing where that says all that is needed."""
    if asked.keys() >= NEEDED.keys():
        return {}
    train: dict[str, Any] = {**NEEDED, "decay_norm_and_bias": True}
    epochs = asked.get("epochs", train["epochs"])
    if "schedule" not in asked and isinstance(epochs, int):
        train["schedule"] = {"name": "step", "milestones": [share * epochs for share in DROPS]}
    return train


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = document.get(name)
    return section if isinstance(section, Mapping) else {}
