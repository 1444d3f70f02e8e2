"""Figures: accuracy against density, and masks in which the structure can be seen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from torch import Tensor

from distlth.facts.rows import Results
from distlth.prune.mask import Mask
from distlth.prune.regroup import Block, row_order
from distlth.report.text import density_percent

Cells = npt.NDArray[np.uint8]
Order = npt.NDArray[np.intp]

EMPTY, KEPT, ADDED, DROPPED = range(4)

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
CELL_COLOURS = ("#f3f4f6", "#1d4e89", "#7fb2e5", "#f2a65a")
CELL_LABELS = {KEPT: "kept", ADDED: "brought back", DROPPED: "dropped"}
METHOD_COLOURS = {
    "imp": "#52606d",
    "refill": "#e07a1f",
    "refill+": "#b23a48",
    "regroup": "#2672c8",
}
OTHER_COLOURS = ("#2a9d8f", "#8e5bbf", "#d1488c", "#7a8b2a", "#9c6644")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

DOTS_PER_INCH = 150
NUM_REPRESENTATIVE_LAYERS = 3
MOST_TICKS = 12


@dataclass(frozen=True)
class LayerPicture:
    """What a picture of one layer of a structured mask is made of.

    `before` is the layer in the mask that the structured one was made from, `after` in the structured
    one (bool, C_out x ...), `blocks` its dense blocks where it was regrouped.
    """

    method: str
    layer: str
    before: Tensor | None
    after: Tensor
    blocks: Sequence[Block]


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def accuracy_figure(results: Results) -> Figure:
    """Draw top-1 against density on a logarithmic axis, dense at the left, one curve a method."""
    figure, axes = _figure(6.4, 3.9)
    if results.dense is not None:
        _draw_dense(axes, results.dense.top1)
    for method, colour, marker in _styles(results.methods):
        curve = results.curves[method]
        axes.plot(
            [100 * row.density for row in curve],
            [100 * row.top1 for row in curve],
            label=method,
            color=colour,
            marker=marker,
            markersize=5.5,
            linewidth=2,
            markeredgecolor="white",
            zorder=3,
        )
    _density_axis(axes, [row.density for row in results.rows if row.is_trunk])
    axes.yaxis.set_major_formatter(PercentFormatter())
    axes.set_xlabel("density (kept weights)")
    axes.set_ylabel("validation top-1")
    axes.legend(frameon=False, loc="lower left", handlelength=1.6)
    return figure


def _draw_dense(axes: Axes, top1: float) -> None:
    axes.axhline(100 * top1, color=MUTED, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    axes.annotate(
        f"dense {top1:.2%}",
        (0.005, 100 * top1),
        xycoords=("axes fraction", "data"),
        xytext=(2, 4),
        textcoords="offset points",
        color=MUTED,
        fontsize=9,
    )


def masks_figure(pictures: Sequence[LayerPicture]) -> Figure:
    """One row a picture: the layer before on the left, where it is known, and after on the right."""
    columns = 2 if any(picture.before is not None for picture in pictures) else 1
    figure = Figure(figsize=(3.5 * columns, 2.3 * len(pictures) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(pictures), columns, squeeze=False)
    patches = [Patch(color=CELL_COLOURS[cell], label=label) for cell, label in CELL_LABELS.items()]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK
    )
    for picture, axes in zip(pictures, grid, strict=True):
        blocks = sorted(picture.blocks, key=lambda block: -block.num_cells)
        before, after = ordered_cells(picture.before, picture.after, blocks)
        if picture.before is not None:
            _draw_cells(axes[0], before, f"{picture.layer}, before", blocks)
        _draw_cells(axes[-1], after, picture.method, blocks)
    return figure


def representative_layers(mask: Mask) -> tuple[str, ...]:
    """The largest layer of each third of the network: the same ones for all masks of a run."""
    names = list(mask)
    thirds = np.array_split(np.arange(len(names)), NUM_REPRESENTATIVE_LAYERS)
    return tuple(
        max((names[index] for index in third), key=lambda name: mask[name].numel())
        for third in thirds
        if len(third)
    )


def ordered_cells(before: Tensor | None, after: Tensor, blocks: Sequence[Block]) -> tuple[Cells, Cells]:
    """A layer before and after as C_out x (C_in kh kw) matrices, ordered so that the structure is seen.

    Cells are KEPT (in both), ADDED (only after), DROPPED (only before) or EMPTY. Rows of a block stand
    together, then its columns; without blocks, the fullest rows stand first.
    """
    new = after.flatten(1).numpy()
    old = new if before is None else before.flatten(1).numpy()
    cells = np.ix_(*_orders(new, blocks))
    first = np.where(old, np.where(new, KEPT, DROPPED), EMPTY).astype(np.uint8)
    second = np.where(new, np.where(old, KEPT, ADDED), EMPTY).astype(np.uint8)
    return first[cells], second[cells]


def _orders(new: npt.NDArray[np.bool_], blocks: Sequence[Block]) -> tuple[Order, Order]:
    num_rows, num_columns = new.shape
    if not blocks:
        return np.argsort(-new.sum(axis=1), kind="stable"), np.arange(num_columns)
    member = np.zeros((len(blocks), num_columns), dtype=bool)
    for index, block in enumerate(blocks):
        member[index, block.columns] = True
    return np.asarray(row_order(blocks, num_rows)), np.lexsort(~member[::-1])


def _draw_cells(axes: Axes, cells: Cells, title: str, blocks: Sequence[Block]) -> None:
    axes.imshow(
        cells,
        cmap=ListedColormap(CELL_COLOURS),
        vmin=0,
        vmax=len(CELL_COLOURS) - 1,
        aspect="auto",
        interpolation_stage="rgba",
    )
    axes.set_title(f"{title}  {density_percent(_density(cells))}", loc="left", fontsize=10, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    for edge in np.cumsum([len(block.rows) for block in blocks])[:-1]:
        axes.axhline(edge - 0.5, color="white", linewidth=1)
    rows, columns = cells.shape
    axes.set_xlabel(f"{columns} inputs", fontsize=8, color=MUTED)
    axes.set_ylabel(f"{rows} channels", fontsize=8, color=MUTED)


def _density(cells: Cells) -> float:
    return float(np.count_nonzero(cells)) / cells.size


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(color=GRID, labelcolor=INK, labelsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _styles(methods: Sequence[str]) -> list[tuple[str, str, str]]:
    """(method, colour, marker) of each curve; the known methods have colours of their own."""
    others = [method for method in methods if method not in METHOD_COLOURS]
    fallbacks = {method: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, method in enumerate(others)}
    colours = {**fallbacks, **METHOD_COLOURS}
    return [(method, colours[method], MARKERS[i % len(MARKERS)]) for i, method in enumerate(methods)]


def _density_axis(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator([100 * density for density in _spread(ticks)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: density_percent(value / 100)))


def _spread(densities: Sequence[float]) -> list[float]:
    """Those of the densities that keep a readable distance on a logarithmic axis, from the densest down."""
    chosen: list[float] = []
    for density in sorted(densities, reverse=True):
        if not chosen or np.log(chosen[-1] / density) > np.log(max(densities) / min(densities)) / MOST_TICKS:
            chosen.append(density)
    return chosen
