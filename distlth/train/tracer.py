"""A trace of some steps of a job: what the CPU's threads and the GPU did, for Perfetto or TensorBoard."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from distlth.config.schema import ProfileSection
from distlth.files import replacing


class Tracer:
    """Traces the steps that `section` asks for, and writes them to `path`.

    A job that resumes behind these steps has no trace of them. `failed` hears of a trace that could not be
    written; training goes on. Nothing is changed about the steps but their speed.
    """

    def __init__(self, section: ProfileSection, path: Path, failed: Callable[[str], None]) -> None:
        self._first, self._last = section.first, section.first + section.steps
        self._path, self._failed = path, failed
        self._profile: profile | None = None
        self._step: record_function | None = None

    def before_step(self, step: int) -> None:
        """Begin, go on or end, before the job's step number `step` (from 0)."""
        self._end_step()
        if step == self._first:
            self._profile = profile(activities=_activities())
            self._profile.start()
        if self._profile is not None and step >= self._last:
            self.close()
        if self._profile is not None:
            self._step = record_function(f"step {step}")
            self._step.__enter__()

    def close(self) -> None:
        """End, and write what was traced; nothing where nothing was."""
        self._end_step()
        if self._profile is None:
            return
        ended, self._profile = self._profile, None
        ended.stop()
        try:
            with tempfile.TemporaryDirectory() as folder, replacing(self._path) as temporary:
                written = Path(folder) / "trace.json.gz"  # torch compresses by the name
                ended.export_chrome_trace(str(written))
                temporary.write_bytes(written.read_bytes())
        except OSError as error:
            self._failed(f"the trace {self._path} cannot be written: {error.strerror or error}")

    def _end_step(self) -> None:
        """Close the span of the step before, which holds its wait for images."""
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None


def _activities() -> list[ProfilerActivity]:
    found = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        found.append(ProfilerActivity.CUDA)
    return found
