"""Reading the points of a run's curves, as TensorBoard shows them."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
    plugin_event_accumulator,
)

from distlth.run.paths import RunPaths

Points = list[tuple[int, float | None]]

# Speed differs from run to run.
OF_ITS_OWN = ("speed/",)


def curves(run: RunPaths) -> dict[tuple[str, str], Points]:
    """Return (folder, tag) -> points (step, value); the value of pictures and texts is None."""
    found: dict[tuple[str, str], Points] = {}
    for folder in {path.parent for path in run.tensorboard.rglob("events.out.tfevents.*")}:
        name = folder.relative_to(run.tensorboard).as_posix()
        for tag, points in _read(folder).items():
            if not tag.startswith(OF_ITS_OWN):
                found[name, tag] = points
    return found


def _read(folder: Path) -> dict[str, Points]:
    # The reader of TensorBoard's own server: others keep both copies of a text that a restart has rewritten.
    events = plugin_event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, next(iter(event.tensor_proto.float_val), None)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
