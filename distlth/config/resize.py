"""Progressive resizing: the side of the training images as a pure function of the epoch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from distlth.options import Section


class ResizeSection(Section):
    """Training images that start small and grow to `data.resolution` over a job's epochs.

    Epochs count from the start of the schedule, as a job that is rewound enters it: the same size in the
    same epoch, wherever a job starts or resumes.
    """

    start: int = Field(ge=4, description="side of the images up to `from_epoch`, in pixels")
    from_epoch: int = Field(ge=0, description="last epoch (the first is 0) with images of `start` pixels")
    to_epoch: int = Field(ge=1, description="first epoch with images of `data.resolution` pixels")
    multiple: int = Field(
        32, ge=1, description="in between the side grows evenly, rounded to a multiple of this"
    )

    @model_validator(mode="after")
    def _epochs_rise(self) -> Self:
        if self.from_epoch >= self.to_epoch:
            raise ValueError(f"from_epoch ({self.from_epoch}) must be below to_epoch ({self.to_epoch})")
        return self

    def check_end(self, end: int) -> None:
        """Raise ValueError where images cannot grow from `start` to `end` pixels."""
        if not self.start < end:
            raise ValueError(f"resize.start ({self.start}) must be below resolution ({end})")
        for name, side in (("resize.start", self.start), ("resolution", end)):
            if side % self.multiple:
                raise ValueError(f"{name} ({side}) is no multiple of resize.multiple ({self.multiple})")

    def side(self, epoch: int, end: int) -> int:
        """Return the side of an epoch's images, in pixels; half a multiple is rounded up."""
        if epoch <= self.from_epoch:
            return self.start
        if epoch >= self.to_epoch:
            return end
        span, done = self.to_epoch - self.from_epoch, epoch - self.from_epoch
        grown = self.start * span + (end - self.start) * done  # `span` times the side
        unit = self.multiple * span
        return self.multiple * ((2 * grown + unit) // (2 * unit))
