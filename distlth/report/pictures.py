"""Figures: accuracy against density, and masks before and after structuring."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from distlth.facts.axes import DENSITY, Axis
from distlth.facts.masks import ADDED, DROPPED, KEPT, Cells, LayerMasks, kept_share
from distlth.facts.points import Point, Spread
from distlth.facts.rows import Results
from distlth.prune.blocks import Block
from distlth.report.text import density_percent
from distlth.run.results import EpochMetrics

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
CELL_COLOURS = ("#f3f4f6", "#1d4e89", "#7fb2e5", "#f2a65a")
CELL_LABELS = {KEPT: "kept", ADDED: "brought back", DROPPED: "dropped"}
METHOD_COLOURS = {
    "imp": "#52606d",
    "refill": "#e07a1f",
    "refill+": "#b23a48",
    "regroup": "#2672c8",
}
OTHER_COLOURS = ("#2a9d8f", "#8e5bbf", "#d1488c", "#7a8b2a", "#9c6644", "#0f7fa8", "#c9a227", "#5c4d7d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

DOTS_PER_INCH = 150
MOST_TICKS = 12


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """Return the figure as an SVG document, the same bytes each time; letters stay letters."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "distlth", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()


def accuracy_figure(results: Results, axis: Axis = DENSITY) -> Figure:
    """Draw top-1 against sparsity on a logarithmic axis, dense at the left, one curve a method.

    Of several seeds the mean is drawn, in a band of one standard deviation to either side.
    """
    figure, axes = _figure(6.4, 3.9)
    if results.dense is not None:
        _draw_dense(axes, results.dense)
    curves = results.curves
    for method, colour, marker in _styles(results.methods):
        _draw_curve(axes, curves[method], axis, method, colour, marker)
    _density_axis(axes, [axis.value(point) or 0.0 for point in results.points if point.is_trunk])
    axes.yaxis.set_major_formatter(PercentFormatter())
    axes.set_xlabel(axis.label)
    axes.set_ylabel(f"top-1 on {results.split}")
    axes.legend(frameon=False, loc="lower left", handlelength=1.6, ncols=1 + len(results.methods) // 7)
    return figure


def _draw_dense(axes: Axes, dense: Spread) -> None:
    mean, std = 100 * dense.mean, 100 * dense.std
    axes.axhline(mean, color=MUTED, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    if std > 0:
        axes.axhspan(mean - std, mean + std, color=MUTED, alpha=0.12, linewidth=0, zorder=0)
    axes.annotate(
        f"dense {dense.mean:.2%}",
        (0.005, mean),
        xycoords=("axes fraction", "data"),
        xytext=(2, 4),
        textcoords="offset points",
        color=MUTED,
        fontsize=9,
    )


def _draw_curve(
    axes: Axes, curve: Sequence[Point], axis: Axis, method: str, colour: str, marker: str
) -> None:
    """Draw the points of a method whose value on the axis is known; its parts have the method as their id."""
    known = [(value, point.top1) for point in curve if (value := axis.value(point)) is not None]
    at = [100 * value for value, _ in known]
    mean = np.array([100 * top1.mean for _, top1 in known])
    std = np.array([100 * top1.std for _, top1 in known])
    (line,) = axes.plot(
        at,
        mean,
        label=method,
        color=colour,
        marker=marker,
        markersize=5.5,
        linewidth=2,
        markeredgecolor="white",
        zorder=3,
    )
    line.set_gid(f"curve {method}")
    if std.any():
        band = axes.fill_between(at, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0, zorder=2)
        band.set_gid(f"band {method}")


def training_figure(training: Sequence[tuple[str, Sequence[EpochMetrics]]]) -> Figure:
    """Draw the training loss and the top-1 of each job (its method and epochs) over its epochs."""
    figure = Figure(figsize=(9.2, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    styles = {method: colour for method, colour, _ in _styles(list(dict.fromkeys(m for m, _ in training)))}
    seen: set[str] = set()
    for method, epochs in training:
        label = None if method in seen else method
        seen.add(method)
        shared = {"color": styles[method], "linewidth": 1.1, "alpha": 0.8, "gid": f"curve {method}"}
        losses.plot([e.epoch + 1 for e in epochs], [e.loss for e in epochs], label=label, **shared)
        scored = [(e.epoch + 1, 100 * e.val_top1) for e in epochs if e.val_top1 is not None]
        scores.plot([epoch for epoch, _ in scored], [top1 for _, top1 in scored], **shared)
    for axes, what in ((losses, "training loss"), (scores, "top-1 on val")):
        _plain(axes)
        axes.set_xlabel("epoch")
        axes.set_ylabel(what)
    scores.yaxis.set_major_formatter(PercentFormatter())
    losses.legend(frameon=False, fontsize=8, ncols=1 + len(styles) // 7)
    return figure


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
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(color=GRID, labelcolor=INK, labelsize=9)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


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
