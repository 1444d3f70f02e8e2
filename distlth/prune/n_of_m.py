"""N:M sparsity: of every M weights that stand side by side in a row, the best N."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distlth.prune.blocks import dense_blocks


def n_of_m(scores: npt.NDArray[np.floating], n: int, m: int) -> npt.NDArray[np.bool_]:
    """Return which entries of a matrix are among the `n` best of their row's group of `m` columns.

    Groups are columns 0 .. m - 1, m .. 2m - 1, and so on. A last group of fewer columns keeps `n` of these
    (all, where there are no more), as if zeros stood behind them. Among equal scores the lower column comes
    first (Mishra et al., arXiv 2104.08378, section 3, by magnitude).

    Raises ValueError unless 1 <= n < m.
    """
    if not 1 <= n < m:
        raise ValueError(f"N:M keeps 1 to M - 1 of M weights, not {n} of {m}")
    rows, columns = scores.shape
    padded = np.full((rows, -(-columns // m) * m), -np.inf)
    padded[:, :columns] = scores
    order = np.argsort(-padded.reshape(rows, -1, m), axis=2, kind="stable")
    kept = np.zeros(order.shape, dtype=np.bool_)
    np.put_along_axis(kept, order[:, :, :n], True, axis=2)
    return kept.reshape(rows, -1)[:, :columns]


def n_of_m_within(region: Tensor, weight: Tensor, n: int, m: int) -> Tensor:
    """Return the mask of a layer that keeps, of the cells of `region`, the `n` largest |weight| of every `m`.

    `region` (bool) and `weight` (float32) have the layer's shape. Rows of `region` with the same columns are
    a dense block; groups are taken from its columns in order: from what stands side by side once the block
    is gathered into a smaller matrix. A dense `region` is one block of all columns.
    """
    magnitudes = weight.detach().abs().numpy().reshape(len(weight), -1)
    kept = np.zeros(magnitudes.shape, dtype=np.bool_)
    for block in dense_blocks(region):
        cells = np.ix_(block.rows, block.columns)
        kept[cells] = n_of_m(magnitudes[cells], n, m)
    return torch.from_numpy(kept).view(region.shape)
