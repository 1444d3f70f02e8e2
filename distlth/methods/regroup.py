"""Regroup: dense blocks in place of scattered weights (arXiv 2202.04736, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from distlth.methods.base import Source
from distlth.methods.blocks import Blocks, regroup_layers, structured

if TYPE_CHECKING:
    from distlth.ticket import Structured


class Regroup(Blocks):
    """Dense blocks: rows grouped by the columns they share."""

    method: Literal["regroup"] = Field(description="dense blocks")
    columns: Literal["budget", "algorithm3", "reference"] = Field(
        "budget",
        description="`budget`: the most magnitude in the layer's number of weights; `algorithm3`: the rule "
        "of the paper's text; `reference`: its authors' code, which leaves many layers as they are",
    )
    groups: int = Field(8, ge=1, description="`algorithm3` alone: groups of rows in each partition (t1)")
    min_kept: int = Field(
        8, ge=1, description="`algorithm3` alone: kept weights in a column that a group takes (t2)"
    )
    min_columns: int = Field(8, ge=1, description="`algorithm3` alone: columns that a block should have (b2)")

    @field_validator("columns", mode="before")
    @classmethod
    def _rules_that_were_ours(cls, value: object) -> object:
        if value in ("paper", "prefix"):
            raise ValueError(
                f"{value!r} is gone: it was a rule of ours; the paper's is algorithm3, its code's reference"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _stored_runs_say_t1(cls, values: Any) -> Any:
        """Drop a key of a rule that is gone, which the job.yaml of older runs has at its default."""
        if isinstance(values, Mapping) and values.get("t1") == 1.5:
            return {key: value for key, value in values.items() if key != "t1"}
        return values

    @property
    def default_label(self) -> str:
        """`regroup`, with its source and the authors' code where these are not the defaults."""
        label = super().default_label
        return f"{label}-reference" if self.columns == "reference" else label

    def make(self, source: Source) -> Structured:
        """Return the mask as dense blocks; a layer that cannot be grouped keeps its mask and says why."""
        from distlth.prune.algorithm3 import Thresholds

        mask = self.source_mask(source)
        options: dict[str, Any] = {
            "columns": self.columns,
            "min_rows": self.min_rows,
            "thresholds": Thresholds(self.groups, self.min_kept, self.min_rows, self.min_columns),
        }
        return structured(mask, regroup_layers(source, mask, options))
