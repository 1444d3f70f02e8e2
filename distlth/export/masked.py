"""A ticket as a state dict with masks, as torch.nn.utils.prune has it, and as the paper's code saves it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distlth.errors import UserError
from distlth.export.formats import ABOUT
from distlth.export.source import Source, load_source
from distlth.files import await_file, exists, load_tensors, replacing
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths, path_component

SUFFIX = ".pth.tar"


@dataclass(frozen=True)
class Masked:
    """A file that was written: the masked layers, and the share of their weights that is kept."""

    path: Path
    ticket: str
    layers: int
    density: float
    file_bytes: int


def export_masked(run: RunPaths, ticket: str, *, out: Path | None = None, overwrite: bool = False) -> Masked:
    """Write a finished job's ticket with its masks.

    The file is a dictionary: `state_dict` with `weight_orig` (float32, zero where the mask is) and
    `weight_mask` (float32, 0 or 1) of each masked layer; `init_weight`, and as `init` again, the weights that
    the ticket trained from; `state` (the round), `epoch`, `best_sa` (percent, absent where it was not
    measured here); and a JSON document under `distlth`. Plain types alone: it loads with weights_only=True.

    Raises:
        RunError: there is no such ticket, it is not done, or a file of the run is damaged.
        UserError: the file exists.
    """
    source = load_source(run, ticket)
    path = out or Path(f"{source.record.config.name}-{path_component(ticket)}{SUFFIX}")
    check_free(path, overwrite)
    content = io.BytesIO()
    torch.save(document(source), content)
    check_free(path, overwrite)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
    mask = source.mask
    return Masked(path, ticket, len(mask), mask.density, len(content.getvalue()))


def document(source: Source) -> dict[str, Any]:
    """Return what the file has."""
    early = _early(source)
    accuracy = {} if source.result.imported else {"best_sa": 100 * source.result.top1}
    return {
        "state": source.job.round,
        "epoch": source.result.epochs,
        **accuracy,
        "state_dict": with_masks(source.model.state_dict(), source.mask),
        "init_weight": early,
        "init": early,
        ABOUT: source.about(),
    }


def with_masks(state: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
    """Return a state dict as torch.nn.utils.prune makes it of a network with these masks."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or layer not in mask:
            found[name] = tensor
            continue
        found[f"{name}_orig"] = tensor.clone()
        found[f"{name}_mask"] = mask[layer].to(tensor.dtype)
    return found


def check_free(path: Path, overwrite: bool) -> None:
    """Raise UserError where a file cannot be written, or is there and stays."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file with --out")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists; give another --out, or --overwrite")


def _early(source: Source) -> dict[str, Tensor]:
    """Return the early weights of the ticket; the initial ones where the run has no others."""
    seed = source.run.seed(source.job.seed)
    own = {"init": seed.init, "reinit": seed.reinit}.get(source.job.start, seed.rewind)
    return load_tensors(await_file(own if exists(own) else seed.init))[0]
