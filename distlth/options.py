"""Frozen, checked option values: the base of job file sections and of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A part of the job file: unknown keys are errors, values are immutable, numbers are finite.

    A number that is given as text, such as that of an account, is the text that was written.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, coerce_numbers_to_str=True, allow_inf_nan=False
    )


def _text(value: Any) -> Any:
    """Return a number as text before a union with true or false could take 1 for true."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]

# Text on one line: a line break in a batch script would begin another command.
Line = Annotated[Text, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]


def user_path(given: str | Path | int | float) -> Path:
    """Return a path as a user means it: `~` and `~user` are home directories.

    Raises:
        ValueError: there is no such user, or the text can name no file.
    """
    text = str(given)
    if not text or "\0" in text:
        raise ValueError(f"expected a path, got {text!r}")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        name = Path(text).parts[0]
        raise ValueError(
            f"{text}: {name} is no user's home directory here; write ./{text} for a folder of that name"
        ) from None


def _path(value: Any) -> Any:
    is_text = isinstance(value, str | Path | int | float) and not isinstance(value, bool)
    return user_path(value) if is_text else value


# A file or folder that a user names.
UserPath = Annotated[Path, BeforeValidator(_path)]
