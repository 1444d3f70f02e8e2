"""The results as CSV: every number in full, fractions as fractions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from distlth.facts.axes import Axis
from distlth.facts.points import Point
from distlth.facts.rows import ResultRow, Results
from distlth.facts.times import TicketTime

SPREAD = {"mean": "top1_mean", "std": "top1_std", "count": "seeds"}


def results_csv(results: Results) -> str:
    """Return a line for each job, in the order of the results; the columns are those of `ResultRow`."""
    return csv_text([field.name for field in fields(ResultRow)], map(asdict, results.rows))


def points_csv(results: Results, axes: Sequence[Axis] = ()) -> str:
    """Return a line for each method's ticket of each round: the fields of `Point`, then the axes."""
    names = [field.name for field in fields(Point) if field.name != "top1"]
    columns = [*names[:7], *SPREAD.values(), *names[7:], *(axis.name for axis in axes)]
    return csv_text(columns, (_flat(point, axes) for point in results.points))


def times_csv(times: Sequence[TicketTime]) -> str:
    """Return a line for each ticket and setting; the columns are those of `Setting` and `TicketTime`."""
    rows = [_flat_time(time) for time in times]
    return csv_text(rows[0], rows)


def _flat(point: Point, axes: Sequence[Axis]) -> dict[str, Any]:
    values = asdict(point)
    spread = values.pop("top1")
    known = {axis.name: axis.value(point) for axis in axes}
    return {**values, **{column: spread[name] for name, column in SPREAD.items()}, **known}


def _flat_time(time: TicketTime) -> dict[str, Any]:
    values = asdict(time)
    setting, (low, high) = values.pop("setting"), values.pop("quartiles")
    setting["dense_runtimes"] = " ".join(setting["dense_runtimes"])
    values["versions"] = " ".join(f"{name}={version}" for name, version in values["versions"].items())
    return {"job": values.pop("job"), **setting, **values, "first_quartile": low, "third_quartile": high}


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a line of heads, and one for each row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
