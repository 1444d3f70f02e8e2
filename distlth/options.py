"""Options as closed, checked values: what the sections of a job file and the methods are made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A part of the job file: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def _text(value: Any) -> Any:
    """A number that stands where text belongs, such as an account's, as text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text)]

# A value that stays on its line: a line break in a batch script would begin a command of its own.
Line = Annotated[Text, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]
