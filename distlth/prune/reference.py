"""Regroup as in the code of arXiv 2202.04736, with its faults: a baseline to compare its figures with.

Their function `regroup` (github.com/VITA-Group/Structure-LTH, pruning_utils.py), step by step: see
`reference_blocks`. Where it finds no block it returns a layer as it was.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distlth.prune.blocks import Block
from distlth.prune.columns import Rows
from distlth.prune.partition import partition_rows

GROUPS = 8
LEFTOVER_FACTOR = 1.5
ROW_MULTIPLE = 32
LEAST_ROWS = 17  # their test is "more than 16"
IMBALANCE = 0.1  # of theirs, hMETIS allows 10% in each bisection


def reference_blocks(kept: npt.NDArray[np.bool_], *, threads: int = 1) -> list[Block]:
    """Return the blocks that the authors' code makes of a layer's mask (rows x columns); often none.

    The rows are partitioned into 8 groups (here by Mt-KaHyPar). A group of more than 16 rows becomes a block
    of the columns of `_prefix_length`; of one of more than 32, the largest multiple of 32 rows is a block and
    the rows left are another.
    """
    labels = partition_rows(kept, GROUPS, imbalance=IMBALANCE, threads=threads)
    groups = [np.flatnonzero(labels == label) for label in range(GROUPS)]
    return [
        block for group in groups if len(group) >= LEAST_ROWS for block in _group_blocks(group, kept[group])
    ]


def _group_blocks(group: Rows, kept: npt.NDArray[np.bool_]) -> list[Block]:
    length = _prefix_length(kept)
    columns = np.sort(np.argsort(-kept.sum(axis=0), kind="stable")[:length])
    full = len(group) // ROW_MULTIPLE * ROW_MULTIPLE if length else len(group)
    return [Block(rows, columns) for rows in (group[:full], group[full:]) if len(rows) and length]


def _prefix_length(kept: npt.NDArray[np.bool_]) -> int:
    """Return how many of a group's columns, those that most rows keep first, its blocks have; 0 for no block.

    It is the smallest i from 1 to F - 1 such that i > 1.5 x leftover holds for every row. The leftover of a
    row starts as its number of kept weights, and should fall with each column that the block takes. But in
    step i it falls where the row keeps column number i, in the order of the layer, not of the block; and only
    up to the first row that fails, at which the step ends.
    """
    leftover = kept.sum(axis=1)
    for length in range(1, kept.shape[1]):
        fewer = leftover - kept[:, length]
        fails = np.flatnonzero(length <= LEFTOVER_FACTOR * fewer)
        if not len(fails):
            return length
        leftover[: fails[0] + 1] = fewer[: fails[0] + 1]
    return 0
