"""Every job file that validates reaches a mask for every job of its plan."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distlth.config.schema import PruneSection, RunConfig
from distlth.errors import ConfigError, RunError
from distlth.imp import next_mask
from distlth.maker import remarks
from distlth.plan import Job, measurements, plan
from distlth.preflight import check_rounds
from distlth.prune.magnitude import planned_kept
from distlth.prune.mask import Mask, empty_layers
from distlth.ticket import Structured, Trained
from tests.tiny_run import MINIMAL

Shape = tuple[int, ...]

ONCE = ["admm", "one-shot", "snip", "grasp", "synflow", "slimming", "magnitude-channels"]
SOURCES = st.sampled_from(["imp", "one-shot", "random", "snip", "grasp", "synflow", "admm"])
REFILLS = st.fixed_dictionaries(
    {"method": st.just("refill")},
    optional={
        "criterion": st.sampled_from(["remain", "magnitude", "l1", "l2", "saliency"]),
        "count": st.sampled_from(["ceil", "exact"]),
        "extra": st.floats(0, 1),
        "multiple": st.integers(1, 20),
        "coupling": st.sampled_from(["none", "stream"]),
        "bn": st.sampled_from(["mask", "keep"]),
        "source": SOURCES,
    },
).filter(
    lambda branch: (
        branch.get("source") not in ("snip", "grasp", "synflow")
        or branch.get("criterion") not in ("l1", "l2", "saliency")
    )
)
REGROUPS = st.fixed_dictionaries(
    {"method": st.just("regroup")},
    optional={
        "columns": st.sampled_from(["budget", "algorithm3", "reference"]),
        "min_rows": st.integers(2, 40),
        "groups": st.integers(1, 70),
        "min_kept": st.integers(1, 6),
        "min_columns": st.integers(1, 6),
        "source": SOURCES,
    },
)
OTHERS = st.one_of(
    st.fixed_dictionaries({"method": st.sampled_from(ONCE)}),
    st.fixed_dictionaries({"method": st.just("random"), "layers": st.sampled_from(["uniform", "erk"])}),
    st.fixed_dictionaries({"method": st.just("random-channels"), "multiple": st.integers(1, 20)}),
    st.fixed_dictionaries({"method": st.just("random-blocks"), "min_rows": st.integers(2, 40)}),
    st.fixed_dictionaries(
        {
            "method": st.just("nm"),
            "pattern": st.sampled_from(["2:4", "1:4", "1:2", "3:8"]),
            "within": st.sampled_from(["none", "refill", "regroup"]),
        }
    ),
)

# Convolutions: 1x1 and 3x3, depthwise (C_in 1), a single channel.
CHANNELS = st.sampled_from([1, 2, 3, 7, 8, 17, 40, 64])
KERNELS = st.sampled_from([(1, 1), (3, 3), (1, 7)])
LAYERS = st.tuples(CHANNELS, st.sampled_from([1, 3, 9]), KERNELS).map(lambda layer: (*layer[:2], *layer[2]))


@st.composite
def prunes(draw: st.DrawFn) -> dict[str, Any]:
    """A section `prune` that validates."""
    branches = draw(st.lists(st.one_of(REFILLS, REGROUPS, OTHERS), min_size=1, max_size=3))
    named = [{**branch, "name": f"b{index}"} for index, branch in enumerate(branches)]
    inline = branches[0]["method"] not in (*ONCE, "random") and "source" not in branches[0]
    mode = draw(st.sampled_from(["branch", "inline"])) if inline else "branch"
    return {
        "rounds": draw(st.integers(1, 4)),
        "rate": draw(st.floats(0.001, 0.999)),
        "after_rewind": draw(st.sampled_from(["restart", "lr-rewind"])),
        "mode": mode,
        "branches": named[:1] if mode == "inline" else named,
    }


def trained(job: Job, jobs: tuple[Job, ...], mask: Mask, generator: torch.Generator) -> Trained:
    """What training leaves: few distinct weights, many of them zero, so that ties are common."""
    weights = {
        name: torch.randint(-2, 3, kept.shape, generator=generator).float() * kept
        for name, kept in mask.items()
    }
    measured = {
        each.name: {
            name: torch.randint(0, 3, kept.shape if each.untrained else kept.shape[:1], generator=generator)
            for name, kept in mask.items()
        }
        for each in measurements(jobs, job)
    }
    return Trained(mask, weights, measured)


@settings(deadline=None, max_examples=40)
@given(prunes(), st.lists(LAYERS, min_size=1, max_size=3), st.integers(0, 2**32))
def test_every_config_that_validates_reaches_a_mask_for_every_job(
    prune: dict[str, Any], shapes: list[Shape], seed: int
) -> None:
    config = RunConfig.model_validate({**MINIMAL, "prune": prune})
    sizes = [prod(shape) for shape in shapes]
    planned = planned_kept(sum(sizes), config.prune.rate, config.prune.rounds)
    if min(planned) < len(sizes):
        with pytest.raises(ConfigError, match=r"prune\.rounds: .*; use"):
            check_rounds(config.prune, sizes)
        return
    check_rounds(config.prune, sizes)
    jobs, generator = plan(config), torch.Generator().manual_seed(seed)
    dense = Mask.dense({f"layer{index}": shape for index, shape in enumerate(shapes)})
    done = {jobs[0].id: trained(jobs[0], jobs, dense, generator)}
    for job in jobs[1:]:
        assert job.parent is not None
        try:
            made = next_mask(job, done[job.parent], config.prune.rate)
        except RunError:  # blocks hold less than was planned, and a handful of weights rounds to none
            assert config.prune.mode == "inline"
            assert done[job.parent].mask.kept < 1 / (1 - config.prune.rate)
            return
        assert made.mask.shapes == dense.shapes
        assert set(made.ungrouped) | set(made.blocks) <= set(dense)
        done[job.id] = trained(job, jobs, made.mask, generator)
    if config.prune.mode == "branch":
        assert [done[job.id].mask.kept for job in jobs if job.is_trunk] == planned


def test_rounds_that_leave_next_to_nothing_are_refused_by_name() -> None:
    prune = PruneSection(rounds=22, rate=0.5)
    with pytest.raises(ConfigError) as caught:
        check_rounds(prune, [1000, 3000])
    assert str(caught.value) == (
        "prune.rounds: at prune.rate = 0.5 round 11 of 22 keeps 1 of 4,000 weights, fewer than there are "
        "prunable layers (2); use at most 10 rounds or a lower prune.rate"
    )
    check_rounds(PruneSection(rounds=10, rate=0.5), [1000, 3000])
    with pytest.raises(ConfigError, match=r"round 1 of 1 keeps 1 of 9 weights, .*; use a lower prune\.rate$"):
        check_rounds(PruneSection(rounds=1, rate=0.9), [4, 5])


def test_a_mask_of_nothing_is_one_line() -> None:
    config = RunConfig.model_validate({**MINIMAL, "prune": {"rounds": 1, "rate": 0.9}})
    mask = Mask({"a": torch.tensor([[True, False], [False, False]])})
    with pytest.raises(RunError, match=r"job 01: pruning leaves none of 4 weights; use fewer prune\.rounds"):
        next_mask(plan(config)[1], Trained(mask, {"a": torch.ones(2, 2)}), 0.9)


def test_layers_that_a_mask_empties_are_named_once() -> None:
    kept, nothing = torch.ones(2, 2) > 0, torch.zeros(2, 2) > 0
    before = Mask({"a": kept, "b": kept, "c": nothing})
    made = Structured(Mask({"a": kept, "b": nothing, "c": nothing}), {}, {"a": "depthwise"})
    assert empty_layers(made.mask) == ("b", "c")
    assert empty_layers(made.mask, before) == ("b",)
    assert [(remark["event"], remark["layer"]) for remark in remarks(made, before)] == [
        ("ungrouped", "a"),
        ("emptied", "b"),
    ]
    assert not list(remarks(Structured(before), before))
