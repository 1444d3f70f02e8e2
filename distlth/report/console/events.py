"""Events of a run's log, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from distlth.report.text import duration, percent


def describe(event: Mapping[str, Any]) -> str:
    """Return an event of a run's log in words, whether its kind is known or not."""
    words = [str(event["job"])] if "job" in event else []
    words.append(str(event["event"]).replace("-", " "))
    for key, value in event.items():
        if key not in ("time", "event", "job"):
            words.append(_detail(key, value))
    return "  ".join(words)


def describe_line(event: Mapping[str, Any]) -> str:
    """Return an event of a run's log in words, with its time in front."""
    return f"{clock(event['time'])}  {describe(event)}"


def clock(seconds: float) -> str:
    """Return the local time of day of a time in seconds since the epoch."""
    return datetime.fromtimestamp(seconds).strftime("%H:%M:%S")


def _detail(key: str, value: Any) -> str:
    if key in ("density", "top1", "top5") and isinstance(value, float):
        return f"{key} {percent(value)}"
    if key == "seconds" and isinstance(value, int | float):
        return duration(value)
    if key in ("error", "message"):
        return str(value)
    return f"{key} {value}"
