"""Hypergraph partition of a layer's rows: the one place that calls Mt-KaHyPar."""

from __future__ import annotations

from functools import cache

import mtkahypar
import numpy as np
import numpy.typing as npt

IMBALANCE = 0.03
SEED = 0


def partition_rows(
    kept: npt.NDArray[np.bool_],
    num_groups: int,
    *,
    max_hyperedges: int | None = None,
    imbalance: float = IMBALANCE,
    threads: int = 1,
) -> npt.NDArray[np.int64]:
    """A group number from 0 to `num_groups` - 1 for each row, such that few columns join several groups.

    `kept` is a layer's mask as a matrix of rows x columns. Rows are vertices; a column is a hyperedge over
    the rows that it keeps; the number of groups that a hyperedge touches is minimised (connectivity - 1),
    and the groups are balanced to `imbalance`, a fraction (arXiv 2202.04736, section 3.3; Mt-KaHyPar for
    hMETIS). Equal columns become one weighted hyperedge. Of more than `max_hyperedges` distinct columns a
    fixed sample is used.

    The result is the same on every call and for any number of threads. The library's threads do not survive
    a fork: call this in processes that are spawned. Raises ValueError for more groups than rows.
    """
    num_rows = kept.shape[0]
    if not 1 <= num_groups <= num_rows:
        raise ValueError(f"num_groups must be from 1 to the number of rows, {num_rows}, not {num_groups}")
    pins, weights = _hyperedges(kept, max_hyperedges)
    if num_groups == 1 or not pins:
        even: npt.NDArray[np.int64] = np.arange(num_rows, dtype=np.int64) * num_groups // num_rows
        return even
    library = _library(threads)
    mtkahypar.set_seed(SEED)
    context = library.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(num_groups, imbalance, mtkahypar.Objective.KM1)
    context.logging = False
    hypergraph = library.create_hypergraph(
        context, num_rows, len(pins), pins, [1] * num_rows, [int(weight) for weight in weights]
    )
    labels: list[int] = hypergraph.partition(context).get_partition()
    return np.array(labels, dtype=np.int64)


def _hyperedges(
    kept: npt.NDArray[np.bool_], max_hyperedges: int | None
) -> tuple[list[list[int]], npt.NDArray[np.intp]]:
    """The distinct columns that keep two rows or more, as lists of rows, and how often each occurs."""
    joining = kept[:, kept.sum(axis=0) > 1]
    packed, weights = np.unique(np.packbits(joining, axis=0), axis=1, return_counts=True)
    if max_hyperedges is not None and packed.shape[1] > max_hyperedges:
        sample = np.random.default_rng(SEED).permutation(packed.shape[1])[:max_hyperedges]
        packed, weights = packed[:, sample], weights[sample]
    columns = np.unpackbits(packed, axis=0, count=kept.shape[0]).T
    return [np.flatnonzero(column).tolist() for column in columns], weights


@cache
def _library(threads: int) -> mtkahypar.Initializer:
    return mtkahypar.initialize(threads, False)
