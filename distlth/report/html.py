"""A report as one HTML page: it needs no network, works by keyboard, and prints."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from distlth.facts.axes import Axis, TimeAxes, describe, not_measured
from distlth.facts.cost import total
from distlth.facts.details import RunDetails
from distlth.facts.overlaps import Overlap, Overlaps
from distlth.facts.published import Published, beside
from distlth.facts.rows import Results
from distlth.facts.summary import RunSummary
from distlth.facts.times import TicketTime
from distlth.report.cells import (
    COST_COLUMNS,
    DIGEST_COLUMNS,
    TIME_COLUMNS,
    cost_cells,
    digest_cells,
    overlap_cell,
    point_columns,
    point_rows,
    printed_cells,
    printed_columns,
    result_columns,
    result_rows,
    time_cells,
    winner_columns,
    winner_rows,
)
from distlth.report.page_look import SCRIPT, STYLE
from distlth.report.pictures import (
    accuracy_figure,
    layers_figure,
    masks_figure,
    png,
    svg,
    training_figure,
)
from distlth.report.styles import styles
from distlth.report.text import hours, percent

# Columns that hold words, not numbers.
WORDS = ("method", "job", "mask", "weights", "layer", "device", "fastest as", "")

RULE = "A ticket wins if its mean top-1 is at least the dense network's mean less its standard deviation"


def page(summary: RunSummary, axes: Sequence[Axis], measured: Sequence[TimeAxes]) -> str:
    """Return the page: verdict, curves over each of `axes`, tables, masks, training, and how it was made."""
    results = summary.results
    several = len(summary.details) > 1
    parts = [
        f"<h1>{escape(summary.name)}</h1>",
        f'<p class="verdict">{escape(_sentence(results.verdict))}</p>',
        f"<p>{escape(_sentence(results.figures))}</p>",
        f'<p class="muted">{escape(_at_a_glance(summary))}</p>',
        *_curves(summary, axes, measured),
        *_printed(summary),
        *_times(summary, measured),
        *_results(results, measured[0] if measured else None),
        *_section("Diverged", _list(summary.diverged)),
        *_section("Imported", _list(summary.imported)),
        *_masks(summary),
        *_ungrouped(summary.ungrouped),
        *_overlaps(summary.overlaps),
        *[part for details in summary.details for part in _details(details, several)],
        *_digests(results),
    ]
    return _document(summary.name, "\n".join(parts))


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
        "<noscript><style>[hidden] { display: block; }</style></noscript>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _at_a_glance(summary: RunSummary) -> str:
    """Return what the page is about in a line: dense accuracy, jobs, seeds, hours."""
    results = summary.results
    spent = [cost for details in summary.details for cost in total(details.costs)]
    units = dict.fromkeys(cost.unit for cost in spent)
    taken = [f"{hours(sum(c.hours for c in spent if c.unit == unit))} {unit}" for unit in units]
    seeds = len(results.seeds)
    parts = [f"{len(results.rows)} jobs", f"{seeds} seed{'s' if seeds != 1 else ''}", *taken]
    if results.dense is not None:
        dense = results.dense
        parts.insert(0, f"dense network: {percent(dense.mean)} ± {100 * dense.std:.2f}")
    return " · ".join(parts)


# -- curves and verdict -------------------------------------------------------------------------------


def _curves(summary: RunSummary, axes: Sequence[Axis], measured: Sequence[TimeAxes]) -> list[str]:
    """Return the controls, and for each axis the figure and the winners; the first axis is shown."""
    results = summary.results
    panels = [
        f'<div data-axis="{axis.name}"{" hidden" if index else ""}>'
        f"{_figure(summary, axis)}{_winners(results, axis, measured)}</div>"
        for index, axis in enumerate(axes)
    ]
    note = f"{_spread_note(results)}; dashed: the dense network, in its own band"
    if summary.printed is not None:
        note += "; open markers: the paper"
    controls = [_axis_choice(axes), _method_choice(results.methods)]
    return _section("Accuracy", "\n".join([*controls, *panels]), note)


def _spread_note(results: Results) -> str:
    seeds = len(results.seeds)
    return f"Mean of {seeds} seeds, ± one standard deviation" if seeds > 1 else "One seed"


def _axis_choice(axes: Sequence[Axis]) -> str:
    shares = [axis for axis in axes if axis.kind == "left"]
    saved = [axis for axis in axes if axis.kind == "saved"]
    options = "".join(_axis_option(axis, axis is axes[0], axis.label) for axis in shares)
    found = f"<fieldset><legend>accuracy over</legend>{options}</fieldset>"
    for note in dict.fromkeys(axis.note for axis in saved):
        options = "".join(
            _axis_option(axis, False, axis.label.removeprefix("time saved against the dense network "))
            for axis in saved
            if axis.note == note
        )
        legend = f"time saved ({escape(note)}) against the dense network"
        found += f'<fieldset class="setting"><legend>{legend}</legend>{options}</fieldset>'
    return found


def _axis_option(axis: Axis, is_chosen: bool, text: str) -> str:
    chosen = " checked" if is_chosen else ""
    return f'<label><input type="radio" name="axis" value="{axis.name}"{chosen}> {escape(text)}</label>'


def _method_choice(methods: Sequence[str]) -> str:
    """Return a box for each method, which is the figures' legend, too."""
    options = "".join(
        f'<label><input type="checkbox" name="method" value="{escape(method)}" checked> '
        f'<span aria-hidden="true" style="color: {look.colour}">{look.glyph}</span> {escape(method)}</label>'
        for method, look in styles(methods).items()
    )
    return f'<fieldset class="methods"><legend>methods</legend>{options}</fieldset>'


def _figure(summary: RunSummary, axis: Axis) -> str:
    printed = summary.printed if axis.name == "density" else None
    figure = accuracy_figure(summary.results, axis, printed, legend=False)
    title = f"top-1 on {summary.results.split} over {axis.label}"
    return f'<figure id="axis-{axis.name}">{_inline(figure, title)}</figure>'


def _winners(results: Results, axis: Axis, measured: Sequence[TimeAxes]) -> str:
    """Return the sparsest or fastest winning ticket of each method, where there is a verdict."""
    if not any(point.wins is not None for point in results.points):
        return ""
    times = next((each for each in measured if axis in each.axes), measured[0] if measured else None)
    what = "Sparsest" if axis.kind == "left" else "Fastest"
    table = _table(
        winner_columns(results, times), winner_rows(results, axis, times), f"winners over {axis.label}"
    )
    note = f"{RULE}. Time saved: {times.axes[0].note}" if times else RULE
    return f"<h3>{what} winning ticket of each method, by {escape(axis.label)}</h3>{_note(note)}{table}"


def _printed(summary: RunSummary) -> list[str]:
    """Return the run beside what the paper printed of the same experiment."""
    if summary.printed is None:
        return []
    rows = map(printed_cells, beside(summary.results, summary.printed))
    note = f"{summary.printed.name}: {summary.printed.source}; difference in percentage points"
    unlike = f"Trained otherwise there: {'; '.join(summary.unlike)}." if summary.unlike else ""
    table = _table(printed_columns(summary.results), rows)
    content = f"{_note(unlike)}{table}{_note(_printed_notes(summary.printed))}"
    return _section("Beside the paper", content, note)


def _printed_notes(printed: Published) -> str:
    dense = "" if printed.dense is None else f"Its dense network: {percent(printed.dense)}. "
    tilde = any(not point.density_is_printed for point in printed.points)
    return f"{dense}{'~: no density is printed; that of IMP in the same round.' if tilde else ''}".strip()


# -- tables -------------------------------------------------------------------------------------------


def _times(summary: RunSummary, measured: Sequence[TimeAxes]) -> list[str]:
    """Return a table for each setting, and which tickets it lacks."""
    if not measured:
        command = "<code>distlth bench infer RUN --all</code>"
        return _section("Measured time", f"<p>Nothing is measured yet: {command} measures each ticket.</p>")
    parts = []
    for each in measured:
        times = [time for time in summary.times if time.setting == each.setting]
        missing = not_measured(summary.results, each.times)
        parts.append(f"<h3>{escape(_sentence(describe(each.setting)))}</h3>")
        parts.append(_folded(_table(TIME_COLUMNS, map(time_cells, times)), len(times), "tickets"))
        parts.append(_missing(missing))
        versions = {name: version for time in times for name, version in time.versions.items()}
        made = ", ".join(f"{name} {version}" for name, version in versions.items())
        parts += [_note(f"With {made}"), *_commands(times)]
    note = (
        "Milliseconds of a batch in float32, medians; each ticket in the form and runtime in which it is "
        "fastest, in turn with the dense network in one process; MACs saved: the limit"
    )
    return _section("Measured time", "\n".join(parts), note)


def _missing(jobs: Sequence[str]) -> str:
    if not jobs:
        return ""
    count = "1 ticket is" if len(jobs) == 1 else f"{len(jobs)} tickets are"
    names = f'<p class="muted">{escape(", ".join(jobs))}</p>'
    return f"<details><summary>{count} not measured</summary>{names}</details>"


def _commands(times: Sequence[TicketTime]) -> list[str]:
    commands = dict.fromkeys(time.command for time in times)
    return [f'<p class="muted"><code>{escape(command)}</code></p>' for command in commands]


def _results(results: Results, measured: TimeAxes | None) -> list[str]:
    parts: list[str] = []
    note = "The difference from dense is in percentage points of top-1"
    if measured is not None:
        note += f". Time saved: {measured.axes[0].note}"
    if len(results.seeds) > 1:
        table = _table(point_columns(results, measured), point_rows(results, measured))
        parts += _section("Tickets over the seeds", table, f"{RULE}. {note}")
    table = _table(result_columns(results, measured), result_rows(results, measured))
    return [*parts, *_section("Jobs", _folded(table, len(results.rows), "jobs"), note)]


def _digests(results: Results) -> list[str]:
    table = _table(DIGEST_COLUMNS, map(digest_cells, results.rows))
    return _section("Digests", _folded(table, len(results.rows), "jobs"), "Equal ones are equal bits")


# -- masks --------------------------------------------------------------------------------------------


def _masks(summary: RunSummary) -> list[str]:
    if not summary.layers:
        return []
    encoded = base64.b64encode(png(masks_figure(summary.layers))).decode()
    picture = f'<img alt="a layer before and after each structure" src="data:image/png;base64,{encoded}">'
    note = "A layer before each method and after it; rows of a block stand together"
    return _section("Masks", f"<figure>{picture}</figure>", note)


def _ungrouped(ungrouped: Mapping[str, Mapping[str, str]]) -> list[str]:
    lines = [
        f"{job}: {layer}: {reason}" for job, layers in ungrouped.items() for layer, reason in layers.items()
    ]
    return _section("Layers that could not be grouped", _list(lines))


def _overlaps(overlaps: Overlaps | None) -> list[str]:
    if overlaps is None:
        return []
    tables = [
        ("between methods", _between_methods(overlaps)),
        ("between a method's rounds", _between_rounds(overlaps)),
        ("between seeds", _between_seeds(overlaps)),
    ]
    content = "\n".join(f"<h3>{title.capitalize()}</h3>{table}" for title, table in tables if table)
    note = (
        "Intersection over union of the kept weights; in parentheses that of masks drawn at random with as "
        f"many in each layer; methods and seeds in round {overlaps.latest}"
    )
    return _section("Overlap of masks", content, note)


def _between_methods(overlaps: Overlaps) -> str:
    methods = list(dict.fromkeys(method for pair in overlaps.methods for method in pair))
    if not methods:
        return ""
    found = overlaps.methods
    rows = [
        (first, *(overlap_cell(found.get((second, first))) for second in methods[: len(methods) - 1]))
        for first in methods[1:]
    ]
    return _table(("", *methods[:-1]), rows)


def _between_rounds(overlaps: Overlaps) -> str:
    pairs = sorted({(first, second) for _, first, second in overlaps.rounds})
    methods = dict.fromkeys(method for method, _, _ in overlaps.rounds)
    if not pairs:
        return ""
    rows = [
        (method, *(overlap_cell(overlaps.rounds.get((method, *pair))) for pair in pairs))
        for method in methods
    ]
    return _table(("method", *(f"{first} and {second}" for first, second in pairs)), rows)


def _between_seeds(overlaps: Overlaps) -> str:
    found: Mapping[str, Overlap] = overlaps.seeds
    if not found:
        return ""
    return _table(("method", "mean over pairs"), [(name, overlap_cell(each)) for name, each in found.items()])


# -- how it was made ----------------------------------------------------------------------------------


def _details(details: RunDetails, several: bool) -> list[str]:
    of_run = f" of {details.name}" if several else ""
    curves = _inline(training_figure(details.training, legend=False), "training")
    note = "Colours as above"
    parts = _section(f"Training{of_run}", f"<figure>{curves}</figure>", note)
    rows = map(cost_cells, [*details.costs, *total(details.costs)])
    parts += _section(
        f"Cost{of_run}",
        _table(COST_COLUMNS, rows),
        "Images/s: training images of all ranks, median over epochs",
    )
    parts += _layers(details, of_run)
    return [*parts, *_section(f"How it was made{of_run}", _made(details))]


def _layers(details: RunDetails, of_run: str) -> list[str]:
    if not details.layers:
        return []
    methods = tuple(details.layers)
    layers = details.layers[methods[0]]
    rows = [(layer, *[percent(details.layers[method][layer], 1) for method in methods]) for layer in layers]
    figure = _inline(layers_figure(details.layers, legend=False), "kept share of each layer")
    table = _folded(_table(("layer", *methods), rows), len(rows), "layers")
    content = f"<figure>{figure}</figure>{table}"
    return _section(f"Kept share of each layer{of_run}", content, "Latest round, first seed")


def _made(details: RunDetails) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in details.versions.items())
    lines = [
        f"<p>Command: <code>distlth run {escape(details.name)}.yaml</code>, with the job file below.</p>",
        f"<p>{escape(versions)}.</p>" if versions else "",
        f"<p>Data: <code>{escape(details.data)}</code></p>" if details.data else "",
        f"<p>Changed since it began: {escape('; '.join(details.changes))}.</p>" if details.changes else "",
        f'<details><summary>the job file</summary><pre tabindex="0">{escape(details.config)}</pre></details>',
    ]
    return "\n".join(filter(None, lines))


# -- parts --------------------------------------------------------------------------------------------

# Longer tables are folded, and unfolded where they are printed.
LONG = 30


def _section(title: str, content: str, note: str = "") -> list[str]:
    """Return a heading, a note and the content; nothing without content."""
    if not content:
        return []
    return [f"<section>\n<h2>{escape(title)}</h2>", _note(note), content, "</section>"]


def _note(text: str) -> str:
    return f'<p class="muted">{escape(text.removesuffix("."))}.</p>' if text else ""


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _folded(table: str, count: int, what: str) -> str:
    if count <= LONG:
        return table
    return f"<details><summary>all {count} {what}</summary>{table}</details>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> str:
    kinds = [' class="word"' if column in WORDS else "" for column in columns]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column)}</th>' for kind, column in zip(kinds, columns, strict=True)
    )
    body = "\n".join(_row(kinds, row) for row in rows)
    named = f' role="region" aria-label="{escape(title or "table")}"'
    return (
        f'<div class="scroll" tabindex="0"{named}><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(kinds: Sequence[str], cells: Sequence[str]) -> str:
    drawn = (f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=False))
    return f"<tr>{''.join(drawn)}</tr>"


def _inline(figure: Figure, title: str) -> str:
    """Return a figure as an SVG element whose parts know their method."""
    drawn = svg(figure)
    start = drawn.index("<svg")
    named = re.sub(r'id="(?:curve|band|paper) ([^"]*)"', r'data-method="\1"', drawn[start:])
    return named.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
