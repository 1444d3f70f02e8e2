"""Baselines and controls by hand: what each keeps, what it is made from and trains from."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from distlth.config.schema import RunConfig
from distlth.methods import Method, Source
from distlth.models import anatomy, build
from distlth.models.alive import count_alive
from distlth.plan import Job, plan
from distlth.prune.mask import Mask
from distlth.prune.scores import keep_best
from distlth.ticket import Structured, Trained
from tests.tiny_run import MINIMAL


def config(**prune: Any) -> RunConfig:
    return RunConfig.model_validate({**MINIMAL, "prune": {"rounds": 2, **prune}})


def method(name: str, **options: Any) -> Method:
    return config(branches=[{"method": name, **options}]).prune.branches[0]


def source(mask: Mask, kept: int, seed: int = 0, **measured: dict[str, torch.Tensor]) -> Source:
    """The weights of a layer count up from 1, over all layers."""
    weights, first = {}, 1
    for name, cells in mask.items():
        weights[name] = torch.arange(first, first + cells.numel()).float().view(cells.shape)
        first += cells.numel()
    return Source(mask, Trained(mask, weights, measured), kept, seed)


def kept(made: Structured) -> dict[str, int]:
    return {name: made.mask.kept_in(name) for name in made.mask}


def test_one_shot_keeps_the_largest_of_all_layers() -> None:
    made = method("one-shot").make(source(Mask.dense({"a": (2, 3), "b": (2, 2)}), 5))
    assert kept(made) == {"a": 1, "b": 4}
    assert made.mask["a"].tolist() == [[False, False, False], [False, False, True]]


def test_random_keeps_the_plan_by_layer() -> None:
    dense = Mask.dense({"a": (4, 2, 1, 1), "b": (4, 4, 3, 3), "c": (8, 4, 3, 3)})
    assert kept(method("random", layers="uniform").make(source(dense, 110))) == {"a": 2, "b": 36, "c": 72}
    assert kept(method("random").make(source(dense, 110))) == {"a": 8, "b": 45, "c": 57}


def pruned(seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (16, 4, 3, 3), "b": (64, 16, 3, 3), "depthwise": (16, 1, 3, 3)}
    return Mask({name: torch.rand(shape, generator=generator) < 0.3 for name, shape in shapes.items()})


@pytest.mark.parametrize("options", [{}, {"multiple": 4}, {"extra": 0.2}, {"count": "exact"}])
def test_random_channels_are_as_many_as_refill_keeps(options: dict[str, Any]) -> None:
    given = source(pruned(), pruned().kept)
    drawn, refilled = (
        method("random-channels", **options).make(given),
        method("refill", **options).make(given),
    )
    assert kept(drawn) == kept(refilled)
    assert drawn.mask != refilled.mask
    assert all(set(rows.flatten(1).float().mean(1).tolist()) <= {0.0, 1.0} for _, rows in drawn.mask.items())


def test_random_blocks_have_the_shapes_of_regroups() -> None:
    given = source(pruned(), pruned().kept)
    drawn, regrouped = method("random-blocks").make(given), method("regroup").make(given)
    shapes = [
        {name: [(len(b.rows), len(b.columns)) for b in blocks] for name, blocks in made.blocks.items()}
        for made in (drawn, regrouped)
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0]["b"]
    assert kept(drawn) == kept(regrouped)
    assert drawn.ungrouped.keys() == regrouped.ungrouped.keys() == {"depthwise"}
    assert not torch.equal(drawn.mask["depthwise"], regrouped.mask["depthwise"])


def test_n_of_m_is_the_same_in_every_round_or_meets_the_plan_inside_channels_and_blocks() -> None:
    mask = Mask({name: cells for name, cells in pruned().items() if name != "depthwise"})
    given = source(mask, mask.kept)
    whole = method("nm").make(given)
    assert whole.mask.density == 0.5
    assert whole.mask["a"].flatten(1)[0].tolist() == [False, False, True, True] * 9
    for within in ("refill", "regroup"):
        made = method("nm", within=within).make(given)
        assert made.mask.kept == pytest.approx(mask.kept, rel=0.05)
        rows = {int(row.sum()) for row in made.mask["b"].flatten(1)}
        assert max(rows) <= 72
    # A round that is denser than N:M: all that N:M leaves.
    assert method("nm", within="refill").make(source(mask, 9000)).mask == whole.mask
    assert method("nm", within="refill", pattern="1:4").make(given).mask.density < 0.26


def test_a_pattern_that_is_none_is_one_line() -> None:
    for pattern in ("4:2", "2:2", "24", "0:4"):
        with pytest.raises(ValueError, match="expected N:M with N below M, such as 2:4, got"):
            method("nm", pattern=pattern)


def test_a_source_gives_the_mask_that_is_made_structured() -> None:
    dense, scores = Mask.dense({"a": (4, 2)}), {"a": torch.tensor([[9.0, 8], [0, 0], [1, 2], [0, 7]])}
    given = source(dense, 3, snip=scores)
    assert method("refill", source="snip").make(given).mask["a"].any(1).tolist() == [True, False, False, True]
    assert method("refill", source="one-shot").make(given).mask["a"].any(1).tolist() == [
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(ValueError, match="criterion: l1 is measured on a trained network"):
        method("refill", source="snip", criterion="l1")


@pytest.mark.parametrize("name", ["refill", "random-channels"])
@pytest.mark.parametrize("budget", ["alive", "macs"])
def test_channels_meet_the_unstructured_mask_in_what_is_alive(name: str, budget: str) -> None:
    graph = anatomy(build("resnet20", 10, seed=0), 8).graph
    count = partial(count_alive, graph)
    generator = torch.Generator().manual_seed(0)
    shapes = {layer.name: layer.shape for layer in graph.layers if layer.name not in graph.logits}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    dense = Mask.dense(shapes)
    mask = keep_best({name: weight.abs() for name, weight in weights.items()}, dense, dense.total // 4)
    given = Source(mask, Trained(mask, weights), mask.kept, 0, count_alive=count)
    made = method(name, budget=budget, count="exact").make(given).mask
    before, after = count(mask.layers, removed=False), count(made.layers, removed=True)
    goal, found = (before.weights, after.weights) if budget == "alive" else (before.macs, after.macs)
    assert 0.97 * goal < found <= goal
    assert made.kept > 1.3 * mask.kept


def test_branches_are_called_by_what_they_are() -> None:
    labels = {
        "regroup-reference": method("regroup", columns="reference"),
        "regroup-snip": method("regroup", source="snip", t1=1.5),  # as runs of before have stored it
        "refill+-one-shot": method("refill", source="one-shot", extra=0.2),
        "nm-regroup": method("nm", within="regroup"),
    }
    assert [each.label for each in labels.values()] == list(labels)


def jobs(**prune: Any) -> dict[str, Job]:
    return {job.id: job for job in plan(config(rewind_epoch=2, **prune)) if not job.is_trunk}


@pytest.mark.parametrize("after", ["restart", "continue", "lr-rewind"])
def test_what_branches_are_made_from_and_train_from(after: str) -> None:
    branches = [
        {"method": "refill"},
        {"method": "one-shot"},
        {"method": "refill", "source": "snip"},
        {"method": "regroup", "name": "new", "weights": "reinit"},
    ]
    found = jobs(after_rewind=after, branches=branches)
    start = "trained" if after == "lr-rewind" else "rewind"
    first = 0 if after == "restart" else 2
    trained = {"01": "00", "02": "01", "dense": "00"} if after == "lr-rewind" else {}
    assert [(j.id, j.parent, j.start, j.first_epoch, j.start_job) for j in found.values()] == [
        row
        for number in ("01", "02")
        for row in (
            (f"{number}/refill", number, start, first, trained.get(number)),
            (f"{number}/one-shot", "00", start, first, trained.get("dense")),
            (f"{number}/refill-snip", "00", "init", 0, None),
            (f"{number}/new", number, "reinit", 0, None),
        )
    ]


def test_inline_takes_no_other_network_and_no_other_weights() -> None:
    for branch, message in (
        ({"method": "one-shot"}, "prunes each round's network"),
        ({"method": "refill", "source": "snip"}, "prunes each round's network"),
        ({"method": "refill", "weights": "reinit"}, "weights: reinit needs mode: branch"),
    ):
        with pytest.raises(ValueError, match=message):
            config(mode="inline", branches=[branch])
