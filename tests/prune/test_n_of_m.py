"""N:M by hand: whole rows, short last groups, ties, and the columns of blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distlth.prune.n_of_m import n_of_m, n_of_m_within


def test_the_best_of_each_group_by_hand() -> None:
    scores = np.array([[4, 1, 3, 2, 0, 0, 5, 0, 7, 8, 9], [1, 1, 1, 1, 0, 2, 2, 2, 1, 0, 0]], dtype=float)
    assert n_of_m(scores, 2, 4).astype(int).tolist() == [
        [1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1],  # a group of three keeps two
        [1, 1, 0, 0, 0, 1, 1, 0, 1, 1, 0],  # the first ones of equals
    ]
    assert n_of_m(scores, 1, 4).sum(axis=1).tolist() == [3, 3]
    assert n_of_m(scores[:, :1], 2, 4).tolist() == [[True], [True]]


@pytest.mark.parametrize("pattern", [(0, 4), (4, 4), (5, 4)])
def test_what_is_no_pattern_is_refused(pattern: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="N:M keeps 1 to M - 1"):
        n_of_m(np.ones((1, 4)), *pattern)


def test_inside_a_block_its_own_columns_stand_side_by_side() -> None:
    region = torch.zeros(3, 8, dtype=torch.bool)
    region[0, [0, 2, 5, 7]] = True  # a block of two rows
    region[2, [0, 2, 5, 7]] = True
    region[1, [1, 3]] = True
    weight = torch.tensor(
        [[1.0, 9, -4, 9, 9, 2, 9, 3], [9.0, 1, 9, 2, 9, 9, 9, 9], [5.0, 0, 1, 0, 0, -9, 0, 2]]
    )
    kept = n_of_m_within(region.view(3, 2, 2, 2), weight.view(3, 2, 2, 2), 2, 4)
    assert kept.shape == (3, 2, 2, 2)
    assert [row.nonzero().flatten().tolist() for row in kept.view(3, 8)] == [[2, 7], [1, 3], [0, 5]]
