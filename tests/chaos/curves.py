"""The points that TensorBoard shows of a run."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
    plugin_event_accumulator,
)

from distlth.run.paths import RunPaths

Points = list[tuple[int, float | None]]

# How fast a run went is its own.
OF_ITS_OWN = ("speed/",)


def curves(run: RunPaths) -> dict[tuple[str, str], Points]:
    """(folder, tag) -> points (step, value) as TensorBoard shows them; of pictures and texts the steps."""
    found: dict[tuple[str, str], Points] = {}
    for folder in {path.parent for path in run.tensorboard.rglob("events.out.tfevents.*")}:
        name = folder.relative_to(run.tensorboard).as_posix()
        for tag, points in _read(folder).items():
            if not tag.startswith(OF_ITS_OWN):
                found[name, tag] = points
    return found


def _read(folder: Path) -> dict[str, Points]:
    # What TensorBoard's own server reads with: other readers keep texts that a restart has written again.
    events = plugin_event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, next(iter(event.tensor_proto.float_val), None)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
