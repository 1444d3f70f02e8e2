"""Figures: accuracy against density, and masks before and after structuring."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from distlth.facts.masks import ADDED, DROPPED, KEPT, Cells, LayerMasks, kept_share
from distlth.facts.rows import ResultRow, Results
from distlth.prune.blocks import Block
from distlth.report.text import density_percent

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
MOST_TICKS = 12


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def accuracy_figure(results: Results) -> Figure:
    """Draw top-1 against density on a logarithmic axis, dense at the left, one curve a method."""
    figure, axes = _figure(6.4, 3.9)
    if results.dense is not None:
        _draw_dense(axes, results.dense.top1)
    curves = results.curves
    for method, colour, marker in _styles(results.methods):
        _draw_curve(axes, curves[method], method, colour, marker)
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


def _draw_curve(axes: Axes, curve: Sequence[ResultRow], method: str, colour: str, marker: str) -> None:
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


def masks_figure(layers: Sequence[LayerMasks]) -> Figure:
    """Draw one row for each layer: before on the left, where that is known, and after on the right."""
    columns = 2 if any(layer.before is not None for layer in layers) else 1
    figure = Figure(figsize=(3.5 * columns, 2.3 * len(layers) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(layers), columns, squeeze=False)
    patches = [Patch(color=CELL_COLOURS[cell], label=label) for cell, label in CELL_LABELS.items()]
    figure.legend(
        handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK
    )
    for layer, axes in zip(layers, grid, strict=True):
        before, after = layer.cells
        if layer.before is not None:
            _draw_cells(axes[0], before, f"{layer.layer}, before", layer.blocks)
        _draw_cells(axes[-1], after, layer.method, layer.blocks)
    return figure


def _draw_cells(axes: Axes, cells: Cells, title: str, blocks: Sequence[Block]) -> None:
    axes.imshow(
        cells,
        cmap=ListedColormap(CELL_COLOURS),
        vmin=0,
        vmax=len(CELL_COLOURS) - 1,
        aspect="auto",
        interpolation_stage="rgba",
    )
    axes.set_title(f"{title}  {density_percent(kept_share(cells))}", loc="left", fontsize=10, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    for edge in np.cumsum([len(block.rows) for block in blocks])[:-1]:
        axes.axhline(edge - 0.5, color="white", linewidth=1)
    rows, columns = cells.shape
    axes.set_xlabel(f"{columns} inputs", fontsize=8, color=MUTED)
    axes.set_ylabel(f"{rows} channels", fontsize=8, color=MUTED)


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
    """Return the densities that are far enough apart to be labelled on a logarithmic axis, densest first."""
    chosen: list[float] = []
    for density in sorted((each for each in densities if each > 0), reverse=True):
        if (
            not chosen
            or np.log(chosen[-1] / density)
            > np.log(max(densities) / min(filter(None, densities))) / MOST_TICKS
        ):
            chosen.append(density)
    return chosen


def roofline_figure(layers: Sequence[tuple[str, float, float]], peak: float, bandwidth: float) -> Figure:
    """Draw layers below the roof that a machine has for them, on logarithmic axes.

    Each layer has the name of its network, operations a byte, and 10^9 operations a second; `peak` is in the
    latter's unit, `bandwidth` in 10^9 bytes a second.
    """
    figure, axes = _figure(6.4, 3.9)
    ends = [
        min(place for _, place, _ in layers) / 2,
        peak / bandwidth,
        max(place for _, place, _ in layers) * 2,
    ]
    axes.plot(
        sorted(ends),
        [min(peak, bandwidth * end) for end in sorted(ends)],
        color=MUTED,
        linewidth=1.5,
        label="roof",
    )
    networks = list(dict.fromkeys(name for name, _, _ in layers))
    for name, colour, marker in _styles(networks):
        places, rates = zip(*(rest for other, *rest in layers if other == name), strict=True)
        axes.scatter(places, rates, label=name, color=colour, marker=marker, s=18, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("GFLOP/s")
    axes.legend(frameon=False, loc="lower right")
    return figure
