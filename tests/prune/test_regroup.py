"""Regroup: disjoint dense blocks, within the budget, the same on every call."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distlth.methods import Source
from distlth.methods.regroup import Regroup
from distlth.prune.algorithm3 import Thresholds, algorithm3_blocks
from distlth.prune.blocks import Block, block_mask, row_order
from distlth.prune.columns import budget_pairs, group_sums
from distlth.prune.exchange import exchange_rows
from distlth.prune.mask import Mask
from distlth.prune.partition import partition_rows
from distlth.prune.reference import reference_blocks
from distlth.prune.regroup import (
    COLUMN_CHOICES,
    group_sizes,
    regroup_layer,
)
from distlth.ticket import Trained

Layer = tuple[torch.Tensor, torch.Tensor]


def layer_of(shape: tuple[int, ...], density: float, seed: int, values: int = 0) -> Layer:
    """A weight and its mask: normal draws, or integers up to `values` for many ties and zeros."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    if values:
        weight = torch.randint(-values, values + 1, shape, generator=generator).float()
    return weight, torch.rand(shape, generator=generator) < density


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    shape = (draw(st.integers(1, 80)), draw(st.integers(2, 12)), *draw(st.sampled_from([(1, 1), (3, 3)])))
    density = draw(st.sampled_from([0.01, 0.1, 0.4, 1.0]))
    return layer_of(shape, density, draw(st.integers(0, 2**32)), draw(st.sampled_from([0, 1])))


def planted(
    num_groups: int, height: int, columns: int, seed: int
) -> tuple[npt.NDArray[np.int64], torch.Tensor]:
    """Labels of shuffled rows, and the mask in which each group keeps its own random columns."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(num_groups), height))
    group_columns = np.stack([rng.permutation(columns) < columns // 4 for _ in range(num_groups)])
    return labels, torch.from_numpy(group_columns[labels])


def times_covered(blocks: tuple[Block, ...], mask: torch.Tensor) -> npt.NDArray[np.int64]:
    covered = np.zeros((len(mask), mask[0].numel()), dtype=np.int64)
    for block in blocks:
        covered[np.ix_(block.rows, block.columns)] += 1
    return covered


@settings(deadline=None, max_examples=60)
@given(layers(), st.sampled_from(COLUMN_CHOICES))
def test_every_kept_cell_is_in_exactly_one_block(layer: Layer, columns: str) -> None:
    weight, mask = layer
    result = regroup_layer(weight, mask, columns=columns, thresholds=Thresholds(3, 2, 4, 3))
    if result.reason is not None:
        assert torch.equal(result.mask, mask)
        assert result.blocks == ()
    else:
        covered = times_covered(result.blocks, mask)
        assert np.array_equal(covered, result.mask.numpy().reshape(covered.shape))
        empty = ~mask.flatten(1).any(dim=1)
        assert not result.mask[empty].any()
    if columns == "budget":
        assert int(result.mask.sum()) <= int(mask.sum())


@settings(deadline=None, max_examples=30)
@given(layers())
def test_budget_is_used_as_far_as_pairs_allow(layer: Layer) -> None:
    weight, mask = layer
    result = regroup_layer(weight, mask)
    left = int(mask.sum()) - int(result.mask.sum())
    if result.reason is None:
        kept = mask.numpy().reshape(len(mask), -1)
        for block in result.blocks:
            joining = np.flatnonzero(kept[block.rows].any(axis=0))
            if len(np.setdiff1d(joining, block.columns)):
                assert left < len(block.rows)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 60), st.data())
def test_budget_pairs_against_one_pair_at_a_time(
    groups: int, columns: int, budget: int, data: st.DataObject
) -> None:
    def matrix(high: int) -> npt.NDArray[np.int64]:
        cells = data.draw(
            st.lists(st.integers(0, high), min_size=groups * columns, max_size=groups * columns)
        )
        return np.array(cells).reshape(groups, columns)

    magnitudes, counts = matrix(4), matrix(2)
    sizes = np.array(data.draw(st.lists(st.integers(1, 5), min_size=groups, max_size=groups)))
    pairs = sorted(
        ((g, c) for g in range(groups) for c in range(columns) if counts[g, c]),
        key=lambda pair: (-magnitudes[pair] / sizes[pair[0]], -counts[pair] / sizes[pair[0]], pair),
    )
    expected = np.zeros((groups, columns), dtype=bool)
    left = budget
    for group, column in pairs:
        if sizes[group] <= left:
            expected[group, column] = True
            left -= int(sizes[group])
    assert np.array_equal(budget_pairs(magnitudes, counts, sizes, budget), expected)


def as_the_authors_wrote_it(kept: npt.NDArray[np.bool_]) -> list[int]:
    """The columns of a group by the rule in their code, in its loops; none where it ends without any."""
    num_rows, num_columns = kept.shape
    by_count = sorted(range(num_columns), key=lambda column: int(kept[:, column].sum()), reverse=True)
    left = [int(row.sum()) for row in kept]
    for length in range(1, num_columns):
        for row in range(num_rows):
            left[row] -= int(kept[row, length])  # not kept[row, by_count[length]]
            if length <= 1.5 * left[row]:
                break
        else:
            return sorted(by_count[:length])
    return []


@settings(deadline=None, max_examples=12)
@given(st.sampled_from([0.1, 0.3, 0.6, 1.0]), st.integers(1, 3), st.integers(2, 40), st.integers(0, 2**32))
def test_reference_blocks_are_those_of_the_authors_rule(
    density: float, times: int, columns: int, seed: int
) -> None:
    kept = np.random.default_rng(seed).random((100 * times, columns)) < density
    expected, heights = np.zeros_like(kept), set()
    labels = partition_rows(kept, 8, imbalance=0.1)
    for rows in (np.flatnonzero(labels == group) for group in range(8)):
        if len(rows) > 16 and (chosen := as_the_authors_wrote_it(kept[rows])):
            expected[np.ix_(rows, np.array(chosen))] = True
            heights |= {len(rows) // 32 * 32, len(rows) % 32}
    blocks = reference_blocks(kept)
    found = block_mask(blocks, torch.Size(kept.shape)).numpy()
    assert np.array_equal(found, expected)
    assert {len(block.rows) for block in blocks} <= heights


def test_the_reference_leaves_what_it_cannot_group() -> None:
    dense = layer_of((256, 32, 1, 1), 0.9, seed=0)  # 1.5 x what a row keeps is more than its columns
    small = layer_of((64, 32, 3, 3), 0.2, seed=0)  # groups of 8 rows
    for weight, mask in (dense, small):
        result = regroup_layer(weight, mask, columns="reference")
        assert torch.equal(result.mask, mask)
        assert result.reason == "the authors' code finds no block in it"
    weight, mask = layer_of((256, 32, 3, 3), 0.2, seed=0)
    result = regroup_layer(weight, mask, columns="reference")
    assert result.reason is None
    assert {len(block.rows) for block in result.blocks} <= {32, *range(1, 32)}


# Rows 0 and 1 share four columns, and so do 2 and 3; across, rows 1 and 2 share three, and so do 0 and 3.
CROSSED = np.array(
    [
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0],
    ],
    dtype=np.bool_,
)


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        # One partition gives the first two blocks, the next those across; a column kept once is dropped.
        (
            (2, 2, 2, 3),
            [([0, 1], 0, 4), ([2, 3], 4, 8), ([0, 3], 11, 14), ([1, 2], 8, 11)],
        ),
        ((2, 2, 2, 4), [([0, 1], 0, 4), ([2, 3], 4, 8)]),  # three columns are too few (b2)
        ((2, 2, 2, 5), []),
        ((2, 3, 2, 1), []),  # no column of a group has three weights (t2)
        ((2, 2, 3, 1), []),  # no group has three rows (b1)
        ((4, 1, 1, 1), [([0], -1, 0), ([1], -1, 0), ([2], -1, 0), ([3], -1, 0)]),  # each row by itself
        ((1, 2, 4, 14), [([0, 1, 2, 3], 0, 14)]),  # one group
    ],
)
def test_algorithm_3_by_hand(
    thresholds: tuple[int, int, int, int], expected: list[tuple[list[int], int, int]]
) -> None:
    found = [
        (block.rows.tolist(), block.columns.tolist())
        for block in algorithm3_blocks(CROSSED, Thresholds(*thresholds))
    ]
    by_hand = [
        (rows, np.flatnonzero(CROSSED[rows[0]]).tolist() if first < 0 else list(range(first, end)))
        for rows, first, end in expected
    ]
    assert sorted(found) == sorted(by_hand)


def test_algorithm_3_keeps_nothing_outside_its_blocks() -> None:
    weight, mask = layer_of((64, 8, 3, 3), 0.5, seed=2)
    result = regroup_layer(weight, mask, columns="algorithm3", thresholds=Thresholds(2, 16, 16, 8))
    assert result.blocks
    assert int(result.mask.sum()) == sum(block.num_cells for block in result.blocks)
    nothing = regroup_layer(weight, mask, columns="algorithm3", thresholds=Thresholds(8, 8, 16, 8))
    assert nothing.reason == "the partition gave no block of 16 rows or more"


def test_thresholds_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="min_kept must be at least 1, not 0"):
        Thresholds(min_kept=0)


@pytest.mark.parametrize(("num_groups", "height"), [(2, 8), (4, 16), (4, 32), (12, 32)])
def test_planted_blocks_are_found_exactly(num_groups: int, height: int) -> None:
    labels, mask = planted(num_groups, height, columns=96, seed=num_groups)
    weight = torch.ones(mask.shape) + torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))
    result = regroup_layer(weight, mask)
    assert torch.equal(result.mask, mask)
    found = {tuple(block.rows.tolist()) for block in result.blocks}
    assert found == {tuple(np.flatnonzero(labels == group).tolist()) for group in range(num_groups)}


def random_retained(weight: torch.Tensor, mask: torch.Tensor, seed: int) -> float:
    """The share of magnitude that budget blocks keep on random groups of rows."""
    kept = mask.numpy().reshape(len(mask), -1)
    magnitudes = np.abs(weight.numpy().reshape(kept.shape)) * kept
    sizes = group_sizes(len(kept), 16)
    rows = np.random.default_rng(seed).permutation(len(kept))
    groups = np.split(rows, np.cumsum(sizes)[:-1])
    sums = group_sums(magnitudes, groups)
    taken = budget_pairs(sums, group_sums(kept, groups), np.array(sizes), int(kept.sum()))
    return float(sums[taken].sum() / magnitudes.sum())


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_keeps_more_magnitude_than_random_groups(noise: float) -> None:
    _, mask = planted(4, 32, columns=128, seed=3)
    flips = torch.rand(mask.shape, generator=torch.Generator().manual_seed(5)) < noise / 2
    mask = mask ^ flips
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(4))
    magnitudes = weight.abs().double() * mask
    retained = float((magnitudes * regroup_layer(weight, mask).mask).sum() / magnitudes.sum())
    assert retained > max(random_retained(weight, mask, seed) for seed in range(5))


@settings(deadline=None, max_examples=30)
@given(layers(), st.integers(1, 5))
def test_exchange_keeps_sizes_and_never_loses_magnitude(layer: Layer, num_groups: int) -> None:
    weight, mask = layer
    kept = mask.numpy().reshape(len(mask), -1)
    magnitudes = np.abs(weight.double().numpy().reshape(kept.shape)).round(1) * kept
    groups = np.array_split(np.arange(len(kept)), min(num_groups, len(kept)))
    exchanged = exchange_rows(magnitudes, groups, int(kept.sum()))
    assert [len(rows) for rows in exchanged] == [len(rows) for rows in groups]
    assert sorted(np.concatenate(exchanged).tolist()) == list(range(len(kept)))

    def value(groups: list[npt.NDArray[np.int64]]) -> float:
        sums, sizes = group_sums(magnitudes, groups), np.array([len(rows) for rows in groups])
        return float(sums[budget_pairs(sums, group_sums(kept, groups), sizes, int(kept.sum()))].sum())

    # The search counts in 16 bits, so a loss within that rounding is no loss.
    assert value(exchanged) >= value(groups) - magnitudes.max() * kept.sum() / 2**16


@settings(deadline=None)
@given(st.integers(8, 3000), st.sampled_from([2, 8, 16]))
def test_group_heights_suit_the_hardware(num_rows: int, min_rows: int) -> None:
    sizes = group_sizes(num_rows, min_rows)
    assert sum(sizes) == num_rows
    assert len(set(sizes[:-1])) <= 1
    assert min(sizes) >= min_rows // 2
    assert max(sizes) < 3 * min_rows


def test_small_layers_are_grouped_too() -> None:
    heights = {}
    for num_rows in (16, 32, 64, 128):
        weight, mask = layer_of((num_rows, 16, 3, 3), 0.3, seed=0)
        assert regroup_layer(weight, mask).reason is None
        heights[num_rows] = {len(block.rows) for block in regroup_layer(weight, mask).blocks}
    assert heights == {16: {8}, 32: {16}, 64: {16}, 128: {32}}


@pytest.mark.parametrize(
    ("shape", "density", "columns", "reason"),
    [
        ((64, 1, 3, 3), 0.5, "budget", "depthwise"),
        ((64, 8, 3, 3), 0.0, "budget", "keeps no weights"),
        ((7, 8, 3, 3), 0.5, "budget", "only 7 rows keep any weights, a group needs 8"),
        ((15, 8, 3, 3), 0.9, "algorithm3", "only 15 rows keep any weights, a group needs 16"),
    ],
)
def test_layers_that_cannot_be_grouped_say_why(
    shape: tuple[int, ...], density: float, columns: str, reason: str
) -> None:
    weight, mask = layer_of(shape, density, seed=0)
    result = regroup_layer(weight, mask, columns=columns)
    assert reason in str(result.reason)
    assert torch.equal(result.mask, mask)
    assert result.blocks == ()


def test_network_is_regrouped_layer_by_layer_and_reports_the_rest() -> None:
    parts = {"conv": layer_of((32, 4, 3, 3), 0.4, seed=0), "depthwise": layer_of((32, 1, 3, 3), 0.4, seed=1)}
    mask = Mask({name: kept for name, (_, kept) in parts.items()})
    weights = {name: weight for name, (weight, _) in parts.items()}
    result = Regroup(method="regroup").make(Source(mask, Trained(mask, weights), mask.kept, seed=0))
    assert list(result.ungrouped) == ["depthwise"]
    assert torch.equal(result.mask["depthwise"], mask["depthwise"])
    assert torch.equal(result.mask["conv"], regroup_layer(weights["conv"], mask["conv"]).mask)
    assert sum(block.num_cells for block in result.blocks["conv"]) == result.mask.kept_in("conv")


def digests(threads: int) -> list[str]:
    """The regrouped digests of a small network, for each column choice and again for the first."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (16, 3, 3, 3), "b": (128, 20, 3, 3), "c": (256, 100, 1, 1)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return [
        Mask(
            {
                name: regroup_layer(
                    weights[name], weights[name].abs() > 0.9, columns=columns, threads=threads
                ).mask
                for name in layers
            }
        ).digest()
        for columns, layers in (
            ("budget", "abc"),
            ("reference", "abc"),
            ("algorithm3", "ab"),
            ("budget", "abc"),
        )
    ]


def test_result_is_the_same_on_every_call_and_for_any_number_of_threads() -> None:
    fresh = subprocess.run(
        [sys.executable, "-c", "from tests.prune.test_regroup import digests; print(*digests(3))"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    here = digests(1)
    assert here == digests(2) == fresh.stdout.split()
    assert here[0] == here[3]
    assert len(set(here)) == 3


def test_partition_puts_equal_rows_together_whatever_the_sample() -> None:
    labels, mask = planted(4, 16, columns=200, seed=0)
    for max_hyperedges in (None, 6):
        found = partition_rows(mask.numpy(), 4, max_hyperedges=max_hyperedges)
        assert len({(int(a), int(b)) for a, b in zip(labels, found, strict=True)}) == 4
    with pytest.raises(ValueError, match="num_groups must be from 1 to the number of rows, 64, not 65"):
        partition_rows(mask.numpy(), 65)


def test_row_order_puts_the_rows_of_a_block_together() -> None:
    columns = np.array([0])
    blocks = (Block(np.array([1, 4]), columns), Block(np.array([0, 3]), columns))
    assert row_order(blocks, 6).tolist() == [1, 4, 0, 3, 2, 5]
    assert row_order((), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("indices", [[], [1, 1], [2, 1], [-1, 0], [[0, 1]], [0.0, 1.0]])
def test_blocks_of_unclean_indices_are_refused(indices: list[float]) -> None:
    with pytest.raises(ValueError, match="block columns must be"):
        Block(np.array([0]), np.array(indices))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "rows"}, "unknown column choice 'rows'; known: budget, algorithm3, reference"),
        ({"min_rows": 1}, "min_rows must be at least 2"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regroup_layer(torch.ones(16, 2), torch.ones(16, 2) > 0, **options)  # type: ignore[arg-type]
