"""A report as one HTML page: it needs no network, works by keyboard, and prints."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

from matplotlib.figure import Figure

from distlth.facts.axes import Axis
from distlth.facts.details import RunDetails
from distlth.facts.rows import Results
from distlth.facts.summary import RunSummary
from distlth.report.cells import (
    DIGEST_COLUMNS,
    digest_cells,
    point_cells,
    point_columns,
    result_columns,
    result_rows,
)
from distlth.report.pictures import accuracy_figure, masks_figure, png, svg, training_figure
from distlth.report.text import percent

# Columns that hold words, not numbers.
WORDS = ("method", "job", "mask", "weights", "layer", "")

STYLE = """
:root { --ink: #1f2933; --muted: #52606d; --line: #d9dee4; --accent: #1d4e89; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } .muted { color: var(--muted); }
fieldset { border: 0; padding: 0; margin: .4rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
legend { float: left; margin-right: 1rem; color: var(--muted); }
label { cursor: pointer; } input { accent-color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
figure { margin: .6rem 0; } figure svg, figure img { width: 100%; max-width: 52rem; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .22rem .8rem .22rem 0; text-align: right; white-space: nowrap; }
th { color: var(--muted); font-weight: 600; border-bottom: 1px solid var(--line); }
.word { text-align: left; }
pre { background: #f5f7f9; padding: .8rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; color: var(--accent); }
@media print { fieldset, .screen { display: none; } body { max-width: none; padding: 0; } }
"""

SCRIPT = """
const axes = [...document.querySelectorAll('[name=axis]')];
const methods = [...document.querySelectorAll('[name=method]')];
function show() {
  for (const axis of axes) document.getElementById('axis-' + axis.value).hidden = !axis.checked;
  for (const method of methods)
    for (const part of document.querySelectorAll('[data-method]'))
      if (part.dataset.method === method.value) part.style.display = method.checked ? '' : 'none';
}
for (const input of [...axes, ...methods]) input.addEventListener('change', show);
show();
"""


def page(summary: RunSummary, axes: Sequence[Axis]) -> str:
    """Return the page: verdict, curves over each of `axes`, tables, masks, training, and how it was made."""
    results = summary.results
    parts = [
        f"<h1>{escape(summary.name)}</h1>",
        f"<p>{escape(_sentence(results.verdict))}</p>",
        f"<p>{escape(_sentence(results.figures))}</p>",
        *_winners(results),
        *_curves(results, axes),
        *_results(results),
        *_section("Diverged", _list(summary.diverged)),
        *_masks(summary),
        *[part for details in summary.details for part in _details(details, len(summary.details) > 1)],
        *_section(
            "Digests", _table(DIGEST_COLUMNS, map(digest_cells, results.rows)), "equal ones are equal bits"
        ),
    ]
    return _document(summary.name, "\n".join(parts))


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _winners(results: Results) -> list[str]:
    """Return the sparsest winning ticket of each method, where there is a verdict."""
    if not any(point.wins is not None for point in results.points):
        return []
    rows = [
        (method, "none")
        if best is None
        else (
            method,
            str(best.round),
            percent(best.density),
            percent(best.alive_density),
            percent(best.macs_share),
        )
        for method, best in results.winners.items()
    ]
    note = "mean top-1 at least the dense network's less its standard deviation"
    columns = ("method", "round", "density", "alive", "MACs")
    return _section("Sparsest winning ticket of each method", _table(columns, rows), note)


def _curves(results: Results, axes: Sequence[Axis]) -> list[str]:
    choices = "".join(
        f'<label><input type="radio" name="axis" value="{axis.name}"{" checked" if not index else ""}> '
        f"{escape(axis.label)}</label>"
        for index, axis in enumerate(axes)
    )
    methods = "".join(
        f'<label><input type="checkbox" name="method" value="{escape(method)}" checked> '
        f"{escape(method)}</label>"
        for method in results.methods
    )
    figures = [
        f'<figure id="axis-{axis.name}"{" hidden" if index else ""}>'
        f"{_inline(accuracy_figure(results, axis), f'top-1 over {axis.label}')}</figure>"
        for index, axis in enumerate(axes)
    ]
    note = "the mean over seeds, in a band of one standard deviation; dashed: the dense network"
    controls = [
        f"<fieldset><legend>over</legend>{choices}</fieldset>",
        f"<fieldset><legend>methods</legend>{methods}</fieldset>",
    ]
    return _section("Accuracy against sparsity", "\n".join([*controls, *figures]), note)


def _results(results: Results) -> list[str]:
    parts: list[str] = []
    if len(results.seeds) > 1:
        points = sorted(results.points, key=lambda point: point.round)
        parts += _section("Tickets over the seeds", _table(point_columns(results), map(point_cells, points)))
    table = _table(result_columns(results), result_rows(results))
    return [*parts, *_section("Jobs", table, "vs dense: percentage points of top-1")]


def _masks(summary: RunSummary) -> list[str]:
    if not summary.layers:
        return []
    encoded = base64.b64encode(png(masks_figure(summary.layers))).decode()
    picture = f'<img alt="a layer before and after each structure" src="data:image/png;base64,{encoded}">'
    return _section(
        "Masks", f"<figure>{picture}</figure>", "a layer before and after; rows of a block together"
    )


def _details(details: RunDetails, several: bool) -> list[str]:
    of_run = f" of {details.name}" if several else ""
    parts = _section(
        f"Training{of_run}", f"<figure>{_inline(training_figure(details.training), 'training')}</figure>"
    )
    if details.layers:
        methods = tuple(details.layers)
        rows = [
            (layer, *[percent(details.layers[method][layer], 1) for method in methods])
            for layer in details.layers[methods[0]]
        ]
        parts += _section(
            f"Kept share of each layer{of_run}", _table(("layer", *methods), rows), "latest round"
        )
        overlaps = [(a, *[percent(details.overlaps[a, b], 1) for b in methods]) for a in methods]
        note = "latest round; intersection over union of the kept weights"
        parts += _section(f"Overlap of masks{of_run}", _table(("", *methods), overlaps), note)
    versions = ", ".join(f"{name} {version}" for name, version in details.versions.items())
    made = [
        f"<p>{details.rank_hours:,.2f} rank-hours of training. {escape(versions)}. "
        f"Data {escape(details.data)}.</p>",
        f"<details><summary>the job file</summary><pre>{escape(details.config)}</pre></details>",
    ]
    return [*parts, *_section(f"How it was made{of_run}", "\n".join(made))]


def _section(title: str, content: str, note: str = "") -> list[str]:
    """Return a heading, a note and the content; nothing without content."""
    if not content:
        return []
    return [f"<h2>{escape(title)}</h2>", f'<p class="muted">{escape(note)}</p>' if note else "", content]


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    kinds = [' class="word"' if column in WORDS else "" for column in columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column)}</th>' for kind, column in zip(kinds, columns, strict=True)
    )
    body = "\n".join(_row(kinds, row) for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>'
        "</table></div>"
    )


def _row(kinds: Sequence[str], cells: Sequence[str]) -> str:
    drawn = (f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=False))
    return f"<tr>{''.join(drawn)}</tr>"


def _inline(figure: Figure, title: str) -> str:
    """Return a figure as an SVG element whose parts know their method."""
    drawn = svg(figure)
    start = drawn.index("<svg")
    named = re.sub(r'id="(?:curve|band) ([^"]*)"', r'data-method="\1"', drawn[start:])
    return named.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
