"""What a benchmark measured: which columns its rows have, and each value as people read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from distlth.report.text import memory, percent

# What says how it was measured, and needs no column where it is the same in all rows.
SETTINGS = ("ticket", "batch", "threads", "cores", "warm_ups", "rounds", "resolution", "link_mbit_s")
WORDS = str | None

# Heads that are shorter than the names of the fields.
HEADS = {
    "milliseconds": "ms",
    "calls_per_second": "calls/s",
    "images_per_s": "images/s",
    "images_per_second": "images/s",
    "cpu_us": "CPU us/image",
    "cpu_to_ffcv": "less CPU than ffcv",
    "read_mb_s": "MB/s read",
    "peak_memory": "peak",
    "parameters": "weights",
    "file_bytes": "file",
    "macs": "MACs",
    "macs_saved": "MACs saved",
    "saved_of_own": "saved",
    "saved_of_eager": "of eager",
    "saved_of_fastest": "of fastest",
    "link_mbit_s": "link Mbit/s",
    "sent_mb": "MB sent",
}


@dataclass(frozen=True)
class Measured:
    """The rows of a benchmark, by its name: the same columns in all of them."""

    name: str
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, name: str, rows: Sequence[Any]) -> Measured:
        """Return dataclasses of one type as rows."""
        return cls(name, [asdict(row) for row in rows])

    @property
    def title(self) -> str:
        """The benchmark, and how all rows were measured."""
        known = {name: self.rows[0][name] for name in self._shared if self.rows[0][name] is not None}
        return ", ".join([self.name, *(f"{head(name)} {cell(name, value)}" for name, value in known.items())])

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The columns that say what a row is of."""
        return tuple(name for name in self._shown if self._is_words(name))

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """The columns that were measured."""
        return tuple(name for name in self._shown if not self._is_words(name))

    @property
    def _shared(self) -> list[str]:
        return [n for n in self.rows[0] if n in SETTINGS and len({str(row[n]) for row in self.rows}) == 1]

    @property
    def _shown(self) -> list[str]:
        shared = self._shared
        return [name for name in self.rows[0] if name not in shared]

    def _is_words(self, name: str) -> bool:
        return all(isinstance(row[name], WORDS) for row in self.rows)


def head(name: str) -> str:
    """Return the head of a field's column."""
    return HEADS.get(name, name.replace("_", " "))


def cell(name: str, value: Any) -> str:
    """Return the value of a field as people read it: its name says what it is."""
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return ("–" if name == "quartiles" else " ").join(cell("", each) for each in value)
    if name.startswith("saved") or name.endswith("saved"):
        return percent(value, 1)
    if name.endswith(("bytes", "memory")):
        return memory(value)
    if name in ("macs", "parameters"):
        return f"{value / 1e6:,.2f} M"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)
