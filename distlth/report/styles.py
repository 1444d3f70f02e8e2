"""The colour, marker and dashes of each method: told apart with any colour vision, and without colours.

The colours are those of Okabe and Ito, continued by Tol's muted ones; markers are all different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INK, MUTED, GRID = "#1f2933", "#5f6c7b", "#e4e7eb"

METHOD_COLOURS = {"imp": "#39444f", "refill": "#d55e00", "refill+": "#e69f00", "regroup": "#0072b2"}
OTHER_COLOURS = ("#009e73", "#cc79a7", "#56b4e9", "#882255", "#999933", "#332288", "#44aa99", "#aa4499")

# As matplotlib names a marker, and as text shows it.
MARKERS = (
    *(("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚")),
    *(("X", "✖"), ("<", "◀"), (">", "▶"), ("h", "⬢"), ("*", "★")),
)

# From here on lines are dashed as well.
SOLID_CURVES = 6


@dataclass(frozen=True)
class Style:
    """How a method is drawn; `glyph` is its marker as a letter."""

    colour: str
    marker: str
    glyph: str
    dashes: tuple[float, ...]

    @property
    def size(self) -> float:
        """The marker's size in points, such that all look alike."""
        return {"*": 11.0, "P": 8.0, "X": 8.0, "D": 5.8}.get(self.marker, 6.8)


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """Return the style of each method; the known ones have colours of their own."""
    others = [method for method in methods if method not in METHOD_COLOURS]
    fallbacks = {method: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, method in enumerate(others)}
    colours = {**fallbacks, **METHOD_COLOURS}
    return {
        method: Style(colours[method], *MARKERS[i % len(MARKERS)], () if i < SOLID_CURVES else (4, 1.5))
        for i, method in enumerate(methods)
    }
