"""Do something as a user who is not the superuser, to whom every file is open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65_534


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Give up the superuser's rights, where this process has them."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
