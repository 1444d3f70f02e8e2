"""What a ticket takes images for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from distlth.report.console.layout import new_table
from distlth.report.text import percent

if TYPE_CHECKING:  # torch, which a login node should not have to load
    from distlth.export.predict import Prediction


def predictions_table(predictions: Sequence[Prediction]) -> Table:
    """Draw a row for each image: its likeliest classes with their probabilities, best first."""
    places = range(1, 1 + max(len(each.top) for each in predictions))
    table = new_table(("image",), [f"top {place}" for place in places])
    for each in predictions:
        table.add_row(each.image, *(f"{name} {percent(chance, 1)}" for name, chance in each.top))
    return table
