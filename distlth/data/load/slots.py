"""When pages of a packed file are read for one pass over batches, and where in memory each of them stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# A page is asked for so many batches before the first that needs it.
READ_AHEAD = 3


@dataclass(frozen=True)
class Slots:
    """`count` slots of memory, and the one of each page.

    `asked[b]` are the pages to start reading before batch b is loaded, `needed[b]` those that batch b is the
    first to need.
    """

    count: int
    of_page: Mapping[int, int]
    asked: Sequence[Sequence[int]]
    needed: Sequence[Sequence[int]]


def plan_slots(batches: Sequence[Iterable[int]]) -> Slots:
    """Return the fewest slots in which each page stays from when it is asked for to the last batch it is in.

    `batches` are the pages of each batch.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, pages in enumerate(batches):
        for page in pages:
            first.setdefault(page, number)
            last[page] = number
    asked = _by_batch({page: max(0, number - READ_AHEAD) for page, number in first.items()}, len(batches))
    leaving = _by_batch(last, len(batches))
    of_page: dict[int, int] = {}
    free: list[int] = []
    count = 0
    for number, pages in enumerate(asked):
        free += [of_page[page] for page in leaving[number - 1]] if number else []
        for page in pages:
            if not free:
                free.append(count)
                count += 1
            of_page[page] = free.pop()
    return Slots(count, of_page, asked, _by_batch(first, len(batches)))


def _by_batch(numbers: Mapping[int, int], count: int) -> list[list[int]]:
    """Return the pages of each of `count` batches."""
    found: list[list[int]] = [[] for _ in range(count)]
    for page, number in numbers.items():
        found[number].append(page)
    return found
