"""Frozen, checked option values: the base of job file sections and of methods."""

from __future__ import annotations

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
