"""OpenLTH's folders: `level_N/main` with `mask.pth` beside `model_epE_itI.pth`, and a `logger` of results."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from distlth.errors import UserError
from distlth.files import read_small
from distlth.foreign.checkpoint import (
    Checkpoint,
    State,
    Stated,
    checked_mask,
    of_document,
    state_of,
    without_prefixes,
)
from distlth.foreign.files import read_document

MASK, LOGGER = "mask.pth", "logger"
MODEL = re.compile(r"model_ep([0-9]+)_it([0-9]+)\.pth", re.ASCII)
LEVEL = re.compile(r"level_([0-9]+)", re.ASCII)
ACCURACY = "test_accuracy"


def levels(folder: Path) -> list[Path]:
    """Return the folders with a mask of a replicate's folder in the order of their levels, or it itself."""
    if (folder / MASK).is_file():
        return [folder]
    found = {
        int(match[1]): path / "main"
        for path in folder.iterdir()
        if (match := LEVEL.fullmatch(path.name)) and (path / "main" / MASK).is_file()
    }
    if not found:
        raise UserError(
            f"{folder}: neither {MASK} nor level_0/main/{MASK} is in it; expected a folder of OpenLTH, a "
            "level's or a replicate's, or name a file"
        )
    return [found[number] for number in sorted(found)]


def read_level(folder: Path) -> Checkpoint:
    """Return the network at the end of a level, its mask, and the weights that its ticket started from.

    Raises:
        UserError: the folder has no model, or a file of it is damaged.
    """
    models = _models(folder)
    if not models:
        raise UserError(f"{folder}: has {MASK}, and no model_epE_itI.pth beside it")
    return read_model(models[max(models)])


def read_model(path: Path) -> Checkpoint:
    """Return the network of a model file, with the mask that lies beside it."""
    found = of_document(path, read_document(path))
    level = LEVEL.fullmatch(path.parent.parent.name)
    steps = MODEL.fullmatch(path.name)
    early, epoch = _early(path)
    return replace(
        found,
        masks=_masks(path.parent / MASK, found.weights),
        early=early,
        rewind_epoch=epoch,
        round=int(level[1]) if level else None,
        stated=_stated(path.parent / LOGGER, int(steps[1]) if steps else None),
    )


def is_model(path: Path) -> bool:
    """Return whether a file is a model of OpenLTH's, with a mask beside it."""
    return MODEL.fullmatch(path.name) is not None and (path.parent / MASK).is_file()


def _models(folder: Path) -> dict[tuple[int, int], Path]:
    """Return the model files of a folder by epoch and iteration."""
    return {
        (int(match[1]), int(match[2])): path
        for path in folder.iterdir()
        if (match := MODEL.fullmatch(path.name))
    }


def _masks(path: Path, weights: State) -> dict[str, Tensor]:
    stored = without_prefixes(state_of(path, read_document(path)))
    for name in stored:
        if name not in weights:
            raise UserError(f"{path}: the mask of {name} has no weights in the model beside it")
    return {name: checked_mask(path, name, mask, weights[name]) for name, mask in stored.items()}


def _early(path: Path) -> tuple[State | None, int | None]:
    """Return level 0's first weights, which no mask has touched, and their epoch."""
    first = path.parent.parent.parent / "level_0" / path.parent.name
    models = _models(first) if first.is_dir() else {}
    if not models:
        return None, None
    epoch, iteration = min(models)
    weights = without_prefixes(state_of(models[min(models)], read_document(models[min(models)])))
    return weights, epoch if iteration == 0 else None


def _stated(path: Path, epochs: int | None) -> Stated:
    """Return what the last line of OpenLTH's logger about the test accuracy says."""
    if not path.is_file():
        return Stated(epochs=epochs)
    try:
        rows = [line.split(",") for line in read_small(path).splitlines()]
        found = {int(row[1]): float(row[2]) for row in rows if row[0] == ACCURACY}
    except (ValueError, IndexError, OSError):
        raise UserError(f"{path}: damaged; expected lines such as {ACCURACY},0,0.1") from None
    last = max(found, default=None)
    return Stated(None if last is None else found[last], f"its {ACCURACY}", epochs)
