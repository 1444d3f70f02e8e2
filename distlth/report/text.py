"""Numbers as people read them: fractions as percent, seconds as hours and minutes, counts with commas."""

from __future__ import annotations

import math


def percent(fraction: float | None, digits: int = 2) -> str:
    """Return `0.512` as `51.20%`, None and NaN as a dash."""
    return "–" if fraction is None or math.isnan(fraction) else f"{fraction:.{digits}%}"


def density_percent(fraction: float) -> str:
    """Return a density with at most three significant figures: `100%`, `51.2%`, `1.15%`."""
    return f"{100 * fraction:.3g}%"


def points(difference: float) -> str:
    """Return a difference of two fractions in percentage points, with its sign: `-0.28`."""
    return f"{100 * difference:+.2f}"


def duration(seconds: float | None) -> str:
    """Return seconds as `8.3 s`, `42 s`, `4:05` (minutes), `2:04:05` (hours), `3 d 04:05`; None as a dash."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.5:
        return f"{max(seconds, 0):.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def milliseconds(number: float | None) -> str:
    """Return milliseconds with three significant figures: `0.521`, `12.3`, `1,234`; None as a dash."""
    if number is None:
        return "–"
    return f"{number:,.0f}" if number >= 100 else f"{number:#.3g}"


def hours(number: float | None) -> str:
    """Return hours as `1,234`, `12.3` or `0.0123`; None as a dash."""
    if number is None:
        return "–"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def count(number: int) -> str:
    """Return `1234567` as `1,234,567`."""
    return f"{number:,}"


def memory(num_bytes: float) -> str:
    """Return bytes as MiB or GiB."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
