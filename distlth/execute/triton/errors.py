"""What a user can get wrong about grouped execution on a GPU."""

from __future__ import annotations

from distlth.errors import UserError


class ExecuteError(UserError):
    """A network cannot be executed as asked."""
