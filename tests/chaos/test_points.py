"""Faults strike at functions that are there."""

from __future__ import annotations

import importlib
from functools import reduce

import pytest

from tests.chaos.points import POINTS, Point


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_point_names_a_function(point: Point) -> None:
    found = importlib.import_module(point.module)
    assert callable(reduce(getattr, point.qualname.split("."), found))
