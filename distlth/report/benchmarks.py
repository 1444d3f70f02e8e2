"""The files of a benchmark: its figures as Markdown and CSV, and one of their columns as bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distlth.report.markdown import table_lines
from distlth.report.measured import Measured, cell, head
from distlth.report.pictures import bars_figure, png
from distlth.report.tables import csv_text


def write_benchmark(
    folder: Path, measured: Measured, command: str, drawn: str, conclusion: str | None = None
) -> str:
    """Write `NAME.csv`, and `NAME.png` of the column `drawn`; return the section about it, in Markdown."""
    name, first = measured.name, measured.rows[0]
    (folder / f"{name}.csv").write_text(csv_text(list(first), measured.rows))
    known = [row for row in measured.rows if row[drawn] is not None]
    labels = [" ".join(str(row[word]) for word in measured.words if row[word] is not None) for row in known]
    values = [float(row[drawn]) for row in known]
    (folder / f"{name}.png").write_bytes(png(bars_figure(labels, values, head(drawn))))
    names = (*measured.words, *measured.numbers)
    rows = [[cell(column, row[column]) for column in names] for row in measured.rows]
    table = table_lines([head(column) for column in names], rows, [head(word) for word in measured.words])
    lines = [f"## {measured.title}", "", f"`{command}`", "", *table]
    lines += ["", conclusion] if conclusion else []
    return "\n".join([*lines, "", f"![{head(drawn)}]({name}.png)", ""])


def benchmarks_markdown(machine: Mapping[str, Any], sections: list[str]) -> str:
    """Return the page of several benchmarks."""
    about = ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)
    return "\n".join(["# Benchmarks", "", f"Measured on: {about}.", "", *sections])
