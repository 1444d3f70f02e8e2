"""What a section prints: one line a check, with its verdict."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Options:
    """What a section is run on; `quick` is a small form that shows, on a CPU too, that it works."""

    device: torch.device
    quick: bool

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to check."""
        return self.device.type == "cuda"

    def size(self, full: int, quick: int) -> int:
        """Return a size of this form."""
        return quick if self.quick else full


class FailedError(Exception):
    """A check did not hold; its text says what was found."""


def say(verdict: str, check: str, text: str = "") -> None:
    """Print a line: pass, FAIL, skip or a figure."""
    print(f"{verdict:<6} {check:<34} {text}".rstrip(), flush=True)


def expect(holds: bool, text: str) -> None:
    """Raise FailedError unless something holds."""
    if not holds:
        raise FailedError(text)


@contextmanager
def check(name: str) -> Iterator[list[str]]:
    """Print a line for the check in the block, whatever becomes of it; what it appends is said there."""
    said: list[str] = []
    try:
        yield said
    except FailedError as error:
        say("FAIL", name, "; ".join([*said, str(error)]))
    except Exception as error:  # the next check must still run
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
        text = (str(error).strip() or "no text").splitlines()[-1]
        say("FAIL", name, "; ".join([*said, f"{type(error).__name__} at {where}: {text[:300]}"]))
    else:
        say("pass", name, "; ".join(said))


def main(section: Callable[[Options], None]) -> None:
    """Run a section on the device that the command line names."""
    parser = argparse.ArgumentParser(description=section.__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    section(Options(torch.device(given.device), given.quick))
