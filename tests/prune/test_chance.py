"""Budgets by hand, and masks by chance: as many as asked for, the same for the same seed."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distlth.prune.blocks import Block
from distlth.prune.budgets import erk_counts, proportional, uniform_counts
from distlth.prune.draw import generator, random_blocks, random_channels, random_weights


def test_proportional_budgets_by_hand() -> None:
    # 12 in the proportion 1:2:3 are 2, 4, 6; the last layer has 4 weights, and the others share 8 as 1:2.
    sizes = {"a": 10, "b": 10, "c": 4}
    assert proportional({"a": 1, "b": 2, "c": 3}, {**sizes, "c": 9}, 12) == {"a": 2, "b": 4, "c": 6}
    assert proportional({"a": 1, "b": 2, "c": 3}, sizes, 12) == {"a": 3, "b": 5, "c": 4}  # 2.67 and 5.33
    assert proportional({"a": 1, "b": 2, "c": 3}, sizes, 1000) == sizes
    assert proportional({"a": 0, "b": 8}, {"a": 10, "b": 10}, 8) == {"a": 1, "b": 7}


def test_uniform_and_erk_counts_by_hand() -> None:
    shapes = {"a": (4, 2, 1, 1), "b": (4, 4, 3, 3), "c": (8, 4, 3, 3)}
    # 8 + 144 + 288 = 440 weights; a quarter is 2, 36, 72.
    assert uniform_counts(shapes, 110) == {"a": 2, "b": 36, "c": 72}
    # Sums of sides 8, 14, 18. Of 110 layer a would get 22 > 8: it keeps all, b and c share 102 as 14:18.
    assert erk_counts(shapes, 110) == {"a": 8, "b": 45, "c": 57}  # 44.63 and 57.38
    assert erk_counts(shapes, 20) == {"a": 4, "b": 7, "c": 9}


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(1, 5), st.just(3), st.just(3)), min_size=1, max_size=4
    ),
    st.floats(0.01, 1),
    st.integers(0, 2**32 - 1),
)
def test_budgets_add_up_and_drawn_masks_keep_them(
    sides: list[tuple[int, ...]], density: float, seed: int
) -> None:
    shapes = {f"layer{index}": shape for index, shape in enumerate(sides)}
    everything = sum(map(prod, sides))
    total = max(len(sides), round(density * everything))
    for counted in (uniform_counts, erk_counts):
        counts = counted(shapes, total)
        assert sum(counts.values()) == total
        mask = random_weights(counts, shapes, generator(seed, total))
        assert {name: mask.kept_in(name) for name in mask} == counts
        assert mask == random_weights(counts, shapes, generator(seed, total))


def test_other_seeds_and_rounds_draw_others() -> None:
    shapes = {"a": (8, 8, 3, 3), "b": (8, 8, 3, 3)}
    counts = {"a": 4, "b": 4}
    first = random_channels(counts, shapes, generator(1, 100))
    assert {name: (~first.empty_channels(name)).sum().item() for name in first} == counts
    assert first.kept == 8 * 72  # whole channels
    assert not torch.equal(first["a"], first["b"])
    drawn = [random_channels(counts, shapes, generator(*source)) for source in ((1, 100), (2, 100), (1, 99))]
    assert [mask == first for mask in drawn] == [True, False, False]


def test_drawn_blocks_have_the_shapes_and_share_no_cell() -> None:
    blocks = [Block(np.arange(3), np.arange(5)), Block(np.arange(3, 7), np.arange(2))]
    drawn = random_blocks(blocks, (16, 2, 3, 3), generator(0, 1))
    assert [(len(block.rows), len(block.columns)) for block in drawn] == [(3, 5), (4, 2)]
    assert len({*drawn[0].rows, *drawn[1].rows}) == 7
    places = [random_blocks(blocks, (16, 2, 3, 3), generator(seed, 1)) for seed in range(60)]
    assert {row for each in places for block in each for row in block.rows} == set(range(16))
    assert {column for each in places for block in each for column in block.columns} == set(range(18))


@pytest.mark.parametrize("counted", [uniform_counts, erk_counts])
def test_every_layer_keeps_something(counted: object) -> None:
    assert callable(counted)
    assert counted({"a": (1, 1, 1, 1), "b": (64, 64, 3, 3)}, 10) == {"a": 1, "b": 9}
