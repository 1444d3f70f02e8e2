"""The one line of an error's text that says what went wrong."""

from __future__ import annotations


def first_line(text: str) -> str:
    """Return the first line that is not blank, stripped: Ray's errors begin with what happened."""
    return next(iter(_lines(text)), "")


def last_line(text: str) -> str:
    """Return the last line that is not blank, stripped: tracebacks end with the exception."""
    return next(reversed(_lines(text)), "")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
