"""What a round takes on disk: the files of one round and its branches, written as a run writes them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from distlth.config.schema import CheckpointSection
from distlth.files import save_tensors
from distlth.methods import Source
from distlth.methods.refill import Refill
from distlth.methods.regroup import Regroup
from distlth.models import anatomy, build, prunable
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask, weight_name
from distlth.run.paths import RunPaths
from distlth.run.tickets import save_structured
from distlth.ticket import Structured, Trained
from distlth.train.checkpoint import CheckpointWriter, JobState, snapshot


@dataclass(frozen=True)
class DiskRow:
    """Files of a run: `bytes` in all of them together, `lasting` whether they stay when the job is done."""

    name: str
    files: int
    bytes: int
    lasting: bool


def bench(*, model: str = "resnet50", resolution: int = 224, density: float = 0.2) -> list[DiskRow]:
    """Write a round of `density` with a refilled and a regrouped branch, from random weights."""
    network = build(model, 1000, seed=0)
    convs = prunable(anatomy(network, resolution), "all")
    dense = Mask.dense({conv.name: conv.weight_shape for conv in convs})
    weights = {name: network.get_parameter(weight_name(name)).detach().contiguous() for name in dense}
    trained = Trained(prune_magnitude(weights, dense, 1 - density), weights)
    source = Source(trained.mask, trained, trained.mask.kept, seed=0)
    tickets = {
        "round": Structured(trained.mask),
        "branch: refill": Refill(method="refill").make(source),
        "branch: regroup": Regroup(method="regroup").make(source),
    }
    with tempfile.TemporaryDirectory() as name:
        run = RunPaths(Path(name))
        rows = [_ticket(run, name, ticket, network) for name, ticket in tickets.items()]
        seed = run.seed(0)
        for file in seed.files:
            save_tensors(file, network.state_dict())
        return [*rows, _row("init and rewind point, once a run", seed.root, True), _checkpoints(run, network)]


def _ticket(run: RunPaths, name: str, ticket: Structured, network: nn.Module) -> DiskRow:
    paths = run.job("01" if name == "round" else f"01/{name.split()[-1]}")
    save_structured(paths, ticket)
    save_tensors(paths.weights, snapshot(network.state_dict()))
    return _row(name, paths.root, True)


def _checkpoints(run: RunPaths, network: nn.Module) -> DiskRow:
    """As many as are kept by default, of a job that trains."""
    keep = CheckpointSection().keep
    folder = run.checkpoints("01")
    writer = CheckpointWriter(folder, keep)
    for step in range(keep + 1):
        writer.write(_state(step, network))
    writer.wait()
    return _row(f"the newest {keep} checkpoints of a job that trains", folder, False)


def _state(step: int, network: nn.Module) -> JobState:
    model = snapshot(network.state_dict())
    momentum = {f"momentum_buffer/{name}": p for name, p in network.named_parameters()}
    return JobState("01", step, "", model, snapshot(momentum), {}, torch.zeros(1, 4, dtype=torch.float64))


def _row(name: str, folder: Path, lasting: bool) -> DiskRow:
    files = [path for path in folder.iterdir() if path.is_file()]
    return DiskRow(name, len(files), sum(path.stat().st_size for path in files), lasting)
