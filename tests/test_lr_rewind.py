"""Where jobs start with `after_rewind: lr-rewind`: on trained weights, of which refilled ones are rewound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distlth import experiment
from distlth.config import RunConfig, load_config
from distlth.data.dataset import Dataset
from distlth.files import load_tensors
from distlth.imp import rewind_refilled
from distlth.maker import TicketMaker
from distlth.plan import Job, plan
from distlth.preflight import preflight
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.run.paths import RunPaths
from distlth.run.tickets import load_structured, load_trained, save_structured
from distlth.ticket import Structured, Ticket
from distlth.train.world import World

Weights = dict[str, torch.Tensor]

BRANCHES = {
    "branch": "[{method: refill, extra: 0.2}, {method: regroup}]",
    "inline": "[{method: refill}]",
}


# A mode -> the run, the ticket that each of its jobs was trained from, and the weights of its rewind point.
Starts = Callable[[str], tuple[RunConfig, RunPaths, dict[str, Ticket], Weights]]


@pytest.fixture
def starts(digits: Dataset, quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Trains a small run of a mode."""
    tickets: dict[str, Ticket] = {}
    train_job = vars(experiment)["train_job"]

    def keep_ticket(trainer: Any, job: Job, ticket: Ticket, *arguments: Any, **options: Any) -> Any:
        tickets[job.id] = Ticket(ticket.mask, {name: t.clone() for name, t in ticket.weights.items()})
        return train_job(trainer, job, ticket, *arguments, **options)

    monkeypatch.setattr(experiment, "train_job", keep_ticket)
    overrides = ["cluster.workers=1", "train.epochs=2", "train.batch_size=240", "data.resolution=8"]
    overrides += ["prune.rounds=2", "prune.rewind_epoch=1", "prune.rate=0.5", "prune.after_rewind=lr-rewind"]
    overrides += [f"data.path={digits.path}", f"runs={tmp_path}"]

    def train(mode: str) -> tuple[RunConfig, RunPaths, dict[str, Ticket], Weights]:
        structured = [f"prune.mode={mode}", f"prune.branches={BRANCHES[mode]}"]
        config = load_config(quickstart, [*overrides, *structured])
        run = experiment.run_experiment(config, World.current(torch.device("cpu")))
        return config, run, tickets, load_tensors(run.seed(0).rewind)[0]

    return train


def trained(run: RunPaths, job: str) -> Weights:
    return load_tensors(run.job(job).weights)[0]


def mask_of(run: RunPaths, job: str) -> Mask:
    structured = load_structured(run.job(job))
    assert structured is not None
    return structured.mask


def by_hand(weights: Weights, rewound: Weights, before: Mask, after: Mask) -> Weights:
    """The weights of a start, cell by cell; the norm of `X.convN` in a ResNet-20 is `X.bnN`."""
    start = {name: tensor.clone() for name, tensor in weights.items()}
    for layer, kept in after.items():
        back = kept & ~before[layer]
        start[f"{layer}.weight"][back] = rewound[f"{layer}.weight"][back]
        whole = ~before[layer].flatten(1).any(1) & kept.flatten(1).any(1)
        for part in ("weight", "bias"):
            norm = f"{layer.replace('conv', 'bn')}.{part}"
            start[norm][whole] = rewound[norm][whole]
    return start


def assert_equal(first: Any, second: Weights) -> None:
    assert {name: tensor.tolist() for name, tensor in first.items()} == {
        name: tensor.tolist() for name, tensor in second.items()
    }


def test_a_branch_starts_where_its_rounds_trunk_job_does(starts: Starts) -> None:
    _, run, tickets, rewound = starts("branch")
    for number in (1, 2):
        trunk, before = f"{number:02d}", trained(run, f"{number - 1:02d}")
        assert_equal(tickets[trunk].weights, before)
        for method in ("refill+", "regroup"):
            branch = f"{trunk}/{method}"
            expected = by_hand(before, rewound, mask_of(run, trunk), mask_of(run, branch))
            assert_equal(tickets[branch].weights, expected)
            # What refilling brought back is not zero: nearly all of it trains from somewhere.
            kept = torch.cat(
                [expected[f"{layer}.weight"][kept] for layer, kept in mask_of(run, branch).items()]
            )
            assert (kept == 0).float().mean() < 0.001


def test_an_inline_ticket_starts_whole(starts: Starts) -> None:
    config, run, tickets, rewound = starts("inline")
    for number in (1, 2):
        parent = load_trained(run.job(f"{number - 1:02d}"))
        pruned = prune_magnitude(parent.weights, parent.mask, 0.5)
        weights, mask = trained(run, f"{number - 1:02d}"), mask_of(run, f"{number:02d}")
        assert_equal(tickets[f"{number:02d}"].weights, by_hand(weights, rewound, pruned, mask))

    # A mask that brings back channels whose BatchNorm was removed with them: both come back alive.
    everything = Mask.dense(mask.shapes)
    save_structured(run.job("02"), Structured(everything))
    maker = TicketMaker(config, preflight(config), run, waiting=lambda *_: None)
    start = maker.weights(plan(config)[-1])
    assert_equal(start, by_hand(weights, rewound, pruned, everything))
    gone = parent.mask.empty_channels("layer1.0.conv1")
    assert gone.any()
    assert not weights["layer1.0.bn1.weight"][gone].any()
    assert start["layer1.0.bn1.weight"][gone].all()


def test_what_is_rewound_by_hand() -> None:
    back = {"norm.weight": torch.tensor([False, True, False])}
    before = Mask({"a": torch.tensor([[True, False], [False, False], [False, False]])})
    after = Mask({"a": torch.tensor([[True, True], [True, True], [False, False]])})
    ones = {"a.weight": torch.ones(3, 2), "norm.weight": torch.ones(3), "norm.running_mean": torch.ones(3)}
    twos = {name: 2 * tensor for name, tensor in ones.items()}
    weights = rewind_refilled(ones, twos, before=before, after=after, returning=back)
    assert {name: tensor.tolist() for name, tensor in weights.items()} == {
        "a.weight": [[1, 2], [2, 2], [1, 1]],
        "norm.weight": [1, 2, 1],
        "norm.running_mean": [1, 1, 1],
    }
