"""Masks and trained tickets on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from distlth.errors import RunError
from distlth.files import await_file, exists, load_tensors, read_json, save_tensors, write_json
from distlth.prune.blocks import Block
from distlth.prune.mask import Mask, weight_name
from distlth.run.paths import JobPaths
from distlth.ticket import Measured, Structured, Trained


def save_structured(paths: JobPaths, structured: Structured) -> None:
    """Write how a mask is built and, last, the mask."""
    if structured.blocks or structured.ungrouped:
        blocks = {
            layer: [{"rows": block.rows.tolist(), "columns": block.columns.tolist()} for block in blocks]
            for layer, blocks in structured.blocks.items()
        }
        write_json(paths.structure, {"blocks": blocks, "ungrouped": dict(structured.ungrouped)})
    save_tensors(paths.mask, structured.mask.to_tensors())


def load_structured(paths: JobPaths) -> Structured | None:
    """What `save_structured` wrote, None where it has not. RunError when a file is damaged."""
    if not exists(paths.mask):
        return None
    mask = _load_mask(paths.mask)
    if not exists(paths.structure):
        return Structured(mask)
    stored = read_json(paths.structure)
    try:
        blocks = {
            layer: tuple(Block(np.array(block["rows"]), np.array(block["columns"])) for block in blocks)
            for layer, blocks in stored["blocks"].items()
        }
        return Structured(mask, blocks, stored["ungrouped"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{paths.structure}: damaged ({error!r})") from None


def load_trained(paths: JobPaths) -> Trained:
    """Return a finished job's mask, the trained weights of its masked layers, and what was measured on it."""
    await_file(paths.result)  # written last of all: what was measured is there, if anything was
    mask = _load_mask(await_file(paths.mask))
    state, _ = load_tensors(await_file(paths.weights))
    measured = {**load_measured(paths.untrained), **load_measured(paths.activations)}
    return Trained(mask, {layer: state[weight_name(layer)] for layer in mask}, measured)


def save_measured(path: Path, measured: Measured) -> None:
    """Write what was measured on a network."""
    tensors = {f"{name}/{layer}": tensor for name in measured for layer, tensor in measured[name].items()}
    save_tensors(path, tensors)


def load_measured(path: Path) -> Measured:
    """Return what `save_measured` wrote, nothing where it has not."""
    if not exists(path):
        return {}
    measured: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_tensors(path)[0].items():
        name, _, layer = key.partition("/")
        measured.setdefault(name, {})[layer] = tensor
    return measured


def _load_mask(path: Path) -> Mask:
    tensors, _ = load_tensors(path)
    try:
        return Mask.from_tensors(tensors)
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error})") from None
