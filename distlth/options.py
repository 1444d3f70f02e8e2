"""Frozen, checked option values: the base of job file sections and of methods."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A part of the job file: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def _text(value: Any) -> Any:
    """Return a number that is given as text, such as that of an account, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]

# Text on one line: a line break in a batch script would begin another command.
Line = Annotated[Text, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
