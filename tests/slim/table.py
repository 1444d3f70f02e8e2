"""Make networks slim and write the table in docs/slim.md: python -m tests.slim.table [NAME ...]."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from distlth.export.export import TOLERANCE, largest_difference, macs, parameters, rounding
from distlth.models import names
from distlth.slim import Whole, slim
from distlth.slim.program import SlimError
from tests.models.test_removal import RESOLUTION
from tests.slim.tickets import ticket_of

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "slim.md"
HEAD = (
    "| network | pixels | parameters left | MACs left | largest difference | channels of zeros that stay |",
    "| --- | --- | --- | --- | --- | --- |",
)


def row(name: str) -> str:
    """Return the table's row of a network: a random ticket with 60% of all channels, made slim."""
    size = next((size for start, size in RESOLUTION.items() if name.startswith(start)), 64)
    masked = ticket_of(name, size)
    try:
        slimmed = slim(masked, size)
    except SlimError as error:
        return f"| {name} | {size} | refused: {error} | | | |"
    difference = largest_difference(masked, slimmed.network, size)
    left = parameters(slimmed.network) / parameters(masked)
    work = macs(slimmed.network, size) / macs(masked, size)
    equal = "" if difference <= TOLERANCE else f" (of {rounding(masked, size):.0e})"
    stay = _stay(slimmed.whole)
    return f"| {name} | {size} | {left:.0%} | {work:.0%} | {difference:.0e}{equal} | {stay} |"


def _stay(whole: Sequence[Whole]) -> str:
    counts: Counter[str] = Counter()
    for layer in whole:
        counts[layer.reason] += layer.channels
    return "; ".join(f"{count:,}: {reason}" for reason, count in counts.most_common()) or "none"


def rows(text: str) -> dict[str, str]:
    """Return the rows of the table in a document, by network."""
    lines = text.partition("\n".join(HEAD))[2].splitlines()
    return {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}


def main(chosen: Sequence[str]) -> None:
    """Write the rows of these networks, each as soon as it is known."""
    torch.set_num_threads(1)
    for name in chosen:
        made = row(name)
        text = DOCUMENT.read_text()
        table = {**rows(text), name: made}
        lines = [*HEAD, *(table[known] for known in names() if known in table)]
        DOCUMENT.write_text(text.partition(HEAD[0])[0] + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or names())
