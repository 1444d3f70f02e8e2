"""The results as CSV: every number in full, fractions as fractions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from distlth.facts.points import Point
from distlth.facts.rows import ResultRow, Results

SPREAD = {"mean": "top1_mean", "std": "top1_std", "count": "seeds"}


def results_csv(results: Results) -> str:
    """Return a line for each job, in the order of the results; the columns are those of `ResultRow`."""
    return _csv([field.name for field in fields(ResultRow)], map(asdict, results.rows))


def points_csv(results: Results) -> str:
    """Return a line for each method's ticket of each round; the columns are those of `Point`."""
    names = [field.name for field in fields(Point) if field.name != "top1"]
    return _csv([*names[:7], *SPREAD.values(), *names[7:]], map(_flat, results.points))


def _flat(point: Point) -> dict[str, Any]:
    values = asdict(point)
    spread = values.pop("top1")
    return {**values, **{column: spread[name] for name, column in SPREAD.items()}}


def _csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
