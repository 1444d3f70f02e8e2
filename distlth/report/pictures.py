"""Figures: accuracy against what is left or saved, training, layers, and masks before and after."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

from distlth.facts.axes import DENSITY, Axis
from distlth.facts.masks import ADDED, DROPPED, KEPT, Cells, LayerMasks, kept_share
from distlth.facts.points import Point, Spread
from distlth.facts.published import Published, PublishedPoint
from distlth.facts.rows import Results
from distlth.prune.blocks import Block
from distlth.report.styles import GRID, INK, MUTED, Style, styles
from distlth.report.text import density_percent
from distlth.run.results import EpochMetrics

CELL_COLOURS = ("#f3f4f6", "#1d4e89", "#7fb2e5", "#f2a65a")
CELL_LABELS = {KEPT: "kept", ADDED: "brought back", DROPPED: "dropped"}

DOTS_PER_INCH = 150
# Of zlib: masks are hardly smaller at its usual 6, which takes a quarter of the time to draw one.
COMPRESS_LEVEL = 1
MOST_TICKS = 12
# Of more methods, bands would hide each other.
MOST_BANDS = 4


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, pil_kwargs={"compress_level": COMPRESS_LEVEL})
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """Return the figure as an SVG document, the same bytes each time; letters stay letters."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "distlth", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return buffer.getvalue()


def accuracy_figure(
    results: Results, axis: Axis = DENSITY, printed: Published | None = None, *, legend: bool = True
) -> Figure:
    """Draw top-1 against a measure of the tickets, dense at the left, one curve a method.

    Of several seeds the mean is drawn, with one standard deviation to either side. What the paper has
    `printed` is drawn with open markers.
    """
    figure, axes = _figure(7.2, 4.3)
    curves, looks = results.curves, styles(results.methods)
    for method, look in looks.items():
        _draw_curve(axes, curves[method], axis, method, look, band=len(looks) <= MOST_BANDS)
        if printed is not None:
            _draw_printed(axes, printed.curve(method), method, look)
    if results.dense is not None:
        _draw_dense(axes, results.dense)
    if printed is not None and printed.dense is not None:
        _draw_printed_dense(axes, printed.dense)
    if axis.kind == "left":
        _density_axis(axes, results.points, axis)
    else:
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter())
    axes.set_xlabel(f"{axis.label}\n{axis.note}".strip())
    axes.set_ylabel(f"top-1 on {results.split}")
    if legend:
        figure.legend(loc="outside upper left", frameon=False, fontsize=9, handlelength=2.4, ncols=4)
    return figure


def _draw_dense(axes: Axes, dense: Spread) -> None:
    mean, std = 100 * dense.mean, 100 * dense.std
    axes.axhline(mean, color=MUTED, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
    if std > 0:
        axes.axhspan(mean - std, mean + std, color=MUTED, alpha=0.12, linewidth=0, zorder=0)
    _label_line(axes, f"dense\n{dense.mean:.2%}", mean)


def _draw_printed_dense(axes: Axes, dense: float) -> None:
    axes.axhline(100 * dense, color=MUTED, linewidth=1, linestyle=":", zorder=1)
    axes.annotate(
        f"paper: dense {dense:.2%}",
        (0, 100 * dense),
        xycoords=("axes fraction", "data"),
        xytext=(3, 3),
        textcoords="offset points",
        color=MUTED,
        fontsize=8,
    )


def _label_line(axes: Axes, text: str, height: float) -> None:
    """Label a horizontal line to the right of the axes, where no curve is."""
    axes.annotate(
        text,
        (1, height),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
        fontsize=9,
        annotation_clip=False,
    )


def _draw_curve(
    axes: Axes, curve: Sequence[Point], axis: Axis, method: str, look: Style, *, band: bool
) -> None:
    """Draw the points of a method whose value on the axis is known; its parts have the method as their id.

    The spread is a band, or bars.
    """
    known = [(value, point.top1) for point in curve if (value := axis.value(point)) is not None]
    at = [100 * value for value, _ in known]
    mean = np.array([100 * top1.mean for _, top1 in known])
    std = np.array([100 * top1.std for _, top1 in known])
    (line,) = axes.plot(
        at,
        mean,
        label=method,
        color=look.colour,
        marker=look.marker,
        markersize=look.size,
        linewidth=1.8,
        markeredgecolor="white",
        zorder=3,
    )
    if look.dashes:
        line.set_dashes(look.dashes)
    line.set_gid(f"curve {method}")
    if std.any() and band and len(at) > 1:
        area = axes.fill_between(at, mean - std, mean + std, color=look.colour, alpha=0.13, linewidth=0)
        area.set_gid(f"band {method}")
    elif std.any():
        bars = axes.vlines(at, mean - std, mean + std, color=look.colour, alpha=0.55, linewidth=1.2)
        bars.set_gid(f"band {method}")


def _draw_printed(axes: Axes, curve: Sequence[PublishedPoint], method: str, look: Style) -> None:
    if not curve:
        return
    (line,) = axes.plot(
        [100 * point.density for point in curve],
        [100 * point.top1 for point in curve],
        label=f"{method}, paper",
        color=look.colour,
        marker=look.marker,
        markersize=look.size,
        markerfacecolor="white",
        linewidth=1.2,
        linestyle=":",
        zorder=2,
    )
    line.set_gid(f"paper {method}")


def training_figure(training: Sequence[tuple[str, Sequence[EpochMetrics]]], *, legend: bool = True) -> Figure:
    """Draw the training loss of each job (its method and epochs), and its top-1 where it has a curve."""
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    looks = styles(list(dict.fromkeys(method for method, _ in training)))
    panels = [("training loss", [(method, _losses(epochs)) for method, epochs in training])]
    scores = [(method, _scores(epochs)) for method, epochs in training]
    if any(len(points) > 1 for _, points in scores):
        panels.append(("top-1 on val", scores))
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (what, curves) in zip(grid, panels, strict=True):
        _draw_epochs(axes, what, curves, looks)
    if _is_wide([loss for _, points in panels[0][1] for _, loss in points]):
        grid[0].set_yscale("log")
        grid[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        grid[0].yaxis.set_minor_formatter(NullFormatter())
    if len(panels) > 1:
        grid[1].yaxis.set_major_formatter(PercentFormatter())
    if legend:
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", frameon=False, fontsize=9, ncols=6)
    return figure


def _is_wide(values: Sequence[float]) -> bool:
    """Whether positive values differ by more than a factor of ten."""
    return bool(values) and 0 < 10 * min(values) < max(values)


def _losses(epochs: Sequence[EpochMetrics]) -> list[tuple[int, float]]:
    return [(each.epoch + 1, each.loss) for each in epochs]


def _scores(epochs: Sequence[EpochMetrics]) -> list[tuple[int, float]]:
    return [(each.epoch + 1, 100 * each.val_top1) for each in epochs if each.val_top1 is not None]


def _draw_epochs(
    axes: Axes,
    what: str,
    curves: Sequence[tuple[str, Sequence[tuple[int, float]]]],
    looks: Mapping[str, Style],
) -> None:
    _plain(axes)
    unnamed = dict.fromkeys(looks, True)
    for method, points in curves:
        label = method if unnamed[method] else None
        unnamed[method] = False
        at, values = [epoch for epoch, _ in points], [value for _, value in points]
        (line,) = axes.plot(at, values, label=label, color=looks[method].colour, linewidth=1.1, alpha=0.7)
        line.set_gid(f"curve {method}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(what)


def layers_figure(layers: Mapping[str, Mapping[str, float]], *, legend: bool = True) -> Figure:
    """Draw the kept share of each layer, in the network's order, one curve a method."""
    figure, axes = _figure(9.2, 3.4)
    looks = styles(list(layers))
    names = list(next(iter(layers.values())))
    for method, look in looks.items():
        (line,) = axes.plot(
            range(1, len(names) + 1),
            [100 * layers[method][name] for name in names],
            label=method,
            color=look.colour,
            marker=look.marker,
            markersize=5,
            markeredgecolor="white",
            linewidth=1.2,
        )
        line.set_gid(f"curve {method}")
    axes.yaxis.set_major_formatter(PercentFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer, in the network's order")
    axes.set_ylabel("kept weights")
    if legend:
        figure.legend(loc="outside upper left", frameon=False, fontsize=9, ncols=6)
    return figure


def masks_figure(layers: Sequence[LayerMasks]) -> Figure:
    """Draw each layer before, where that is known, and after; of many layers two a row."""
    each = 2 if any(layer.before is not None for layer in layers) else 1
    side_by_side = 1 if len(layers) < 3 else 2
    rows, columns = math.ceil(len(layers) / side_by_side), each * side_by_side
    width = 3.5 * each if side_by_side == 1 else 2.75 * columns
    figure = Figure(figsize=(width, 2.1 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).reshape(-1, each)
    patches = [Patch(color=CELL_COLOURS[cell], label=label) for cell, label in CELL_LABELS.items()]
    figure.legend(
        handles=patches, loc="outside upper left", ncols=3, frameon=False, fontsize=9, labelcolor=INK
    )
    for layer, axes in zip(layers, grid, strict=False):
        before, after = layer.cells
        if layer.before is not None:
            _draw_cells(axes[0], before, f"{layer.layer}, before", layer.blocks)
        _draw_cells(axes[-1], after, layer.method, layer.blocks)
    for axes in grid[len(layers) :].flat:
        axes.set_axis_off()
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


def _density_axis(axes: Axes, points: Sequence[Point], axis: Axis) -> None:
    """Label the trunk's values on a logarithmic axis, and others' where there is room."""
    trunk = [axis.value(point) or 0.0 for point in points if point.is_trunk]
    others = [axis.value(point) or 0.0 for point in points if not point.is_trunk]
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator([100 * value for value in _spread([trunk, others])]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: density_percent(value / 100)))


def _spread(groups: Sequence[Sequence[float]]) -> list[float]:
    """Return the values that are far enough apart to be labelled on a logarithmic axis.

    Those of the first group are chosen first, the largest of a group before the others.
    """
    known = [value for group in groups for value in group if value > 0]
    least = np.log(max(known, default=1.0) / min(known, default=1.0)) / MOST_TICKS
    chosen: list[float] = []
    for group in groups:
        for value in sorted((each for each in group if each > 0), reverse=True):
            if all(abs(np.log(value / other)) > least for other in chosen):
                chosen.append(value)
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
    for name, look in styles(networks).items():
        places, rates = zip(*(rest for other, *rest in layers if other == name), strict=True)
        axes.scatter(places, rates, label=name, color=look.colour, marker=look.marker, s=18, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("GFLOP/s")
    axes.legend(frameon=False, loc="lower right")
    return figure


def bars_figure(labels: Sequence[str], values: Sequence[float], title: str) -> Figure:
    """Draw a bar for each value, from the top down, with its number at its end."""
    figure, axes = _figure(6.4, 0.8 + 0.32 * len(labels))
    places = range(len(labels))
    bars = axes.barh(places, values, color=MUTED, height=0.6)
    axes.bar_label(bars, [f"{value:,.4g}" for value in values], padding=4, color=INK, fontsize=8)
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(title)
    return figure
