"""What accuracy is drawn and tabulated over: how sparse a ticket is, measured in several ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from distlth.facts.points import Point


@dataclass(frozen=True)
class Axis:
    """One way to measure sparsity; `value` returns a fraction of the dense network, None where unknown."""

    name: str
    label: str
    value: Callable[[Point], float | None]


DENSITY = Axis("density", "density (kept weights)", lambda point: point.density)
ALIVE = Axis(
    "alive", "alive density (weights that read and feed something)", lambda point: point.alive_density
)
MACS = Axis("macs", "multiply-accumulates of alive weights", lambda point: point.macs_share)

AXES = (DENSITY, ALIVE, MACS)
