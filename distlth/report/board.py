"""TensorBoard: the curves, pictures and texts of a run over all its jobs; `run.curves` has those of one job.

Under a run's `tensorboard/` each folder is one curve of the page:

    jobs/03-refill      a job over its steps: train/*, val/*, test/*, speed/*, ticket/density, its
                        hyperparameters
    accuracy/refill     a method over density, over the other shares of the page, over measured time
    masks/refill        a method over rounds: layer_density_by_round/* and masks/* (pictures);
                        `masks/seed2-refill` of a seed that is not the run's own
    accuracy            the figure of accuracy against density
    config              the job file, and what the tags mean
    layout              which curves stand together under Custom Scalars
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import layout_pb2, metadata  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import summary_v2 as hparams  # type: ignore[import-untyped]
from tensorboard.plugins.text.summary_v2 import text_pb  # type: ignore[import-untyped]
from tensorboard.util.tensor_util import make_tensor_proto  # type: ignore[import-untyped]

from distlth.config.schema import RunConfig
from distlth.facts.axes import Axis, share_axes, time_axes
from distlth.facts.masks import LayerMasks, layer_masks, representative_layers
from distlth.facts.points import Point
from distlth.facts.rows import ResultRow, Results, derive_results
from distlth.facts.times import read_times
from distlth.plan import Job, plan
from distlth.prune.blocks import Block
from distlth.prune.mask import Mask
from distlth.run.curves import LOSS, Writer, job_folder, picture_steps, scalars
from distlth.run.paths import RunPaths, path_component
from distlth.run.results import JobResult

HPARAMS_SUFFIX = ".hparams"

FIGURE = "accuracy/figure"


def curve_tag(split: str, score: str, axis: str = "density") -> str:
    """Return the tag of the curve of `score` (top1 or top5) on a split, over what an axis leaves."""
    return f"accuracy/{split}_{score}_over_{axis}_permille"


GUIDE = f"""
| tag | meaning | x |
| :-- | :-- | :-- |
| {curve_tag("val", "top1")} | mean top-1 (and top5) of a method's tickets; \
`test` in place of `val` where the data set has such a split | density, per mille |
| {curve_tag("val", "top1", "alive")} (and macs) | the same | alive density, multiply-accumulates, per mille |
| {curve_tag("val", "top1", "time-*")} | the same, measured | time left of the dense network's, per mille |
| {FIGURE} | the same on a logarithmic axis | finished jobs |
| val/*, test/* | over a whole split, test once after the last epoch; top1 and top5 are fractions | step |
| layer_density_by_round/* | kept share of a layer's weights | round |
| masks/* | a layer before and after structuring, rows of a group together | round |
| speed/data_wait | share of the training time spent waiting for the loader, 0..1 | step |
| speed/images_per_second | training images of all ranks | step |
| ticket/density | kept share of the weights of all prunable layers | step |
| train/loss | mean since the last point | step |

Curves over few points are plain to read with the smoothing at 0.
"""


class RunBoard:
    """The TensorBoard pages of a whole run, written by the coordinator.

    They are drawn from masks and results alone, so that a resumed run can draw them again: nothing doubles.
    Each call has written to disk when it returns; calls from several threads take turns.
    """

    def __init__(self, run: RunPaths) -> None:
        self._run = run
        self._writers: dict[str, Writer] = {}
        self._num_results = 0
        self._turn = threading.Lock()

    def config(self, yaml_text: str) -> None:
        """Show the job file as text, and what the page's tags mean."""
        texts = (text_pb("config", f"```yaml\n{yaml_text}\n```"), text_pb("guide", GUIDE))
        with self._turn:
            self._rewrite("config", 0, {0: [value for text in texts for value in text.value]})

    def mask(
        self, job: Job, mask: Mask, before: Mask | None, blocks: Mapping[str, tuple[Block, ...]]
    ) -> None:
        """Show a job's mask: the density of each layer and, if the mask is structured, pictures.

        `before` is the magnitude mask that it was made from, `blocks` has the dense blocks of each layer that
        was regrouped. A mask that is already shown is skipped.
        """
        with self._turn:
            if not self.shows_mask(job):
                points = {job.round: _mask_values(job, mask, before, blocks)}
                _write_once(self._run, *self._mask_place(job), points)

    def shows_mask(self, job: Job) -> bool:
        """Return whether this board, or one before it, has shown a job's mask."""
        return _holds(*self._mask_place(job))

    def _mask_place(self, job: Job) -> tuple[Path, str]:
        """Return the folder of a job's mask, and how its event file's name ends."""
        curve = "-".join(filter(None, (job.of_seed, job.method)))
        return self._run.tensorboard / "masks" / curve, f".{path_component(job.id)}"

    def results(self, results: Sequence[JobResult], config: RunConfig) -> None:
        """Show all results so far: curves over density, the figure, and each job's hyperparameters.

        Skipped if an earlier call has shown as many.
        """
        with self._turn:
            if len(results) <= self._num_results:
                return
            self._num_results = len(results)
            shown = derive_results(plan(config), results)
            if not shown.rows:  # imported networks alone
                return
            axes = self._axes(shown, results)
            for method, curve in shown.curves.items():
                self._rewrite(f"accuracy/{method}", 0, _curve_values(curve, axes))
            self._rewrite("layout", 0, {0: [_layout(axes, shown.split)]})
            for row in shown.rows:
                _write_hparams(self._run, row, config)
            figure = _accuracy(shown)
            self._rewrite("accuracy", len(results), {len(results): [figure]})

    def catch_up(self, results: Sequence[JobResult], config: RunConfig) -> None:
        """Show results as they came in, from the first on that an earlier board did not live to show."""
        known = picture_steps(self._run.tensorboard / "accuracy", FIGURE)
        imported = sum(result.imported is not None for result in results)  # no figure has these alone
        first = next(number for number in count(imported + 1) if number not in known)
        for number in range(min(first, len(results)), len(results) + 1):
            self.results(results[:number], config)

    def close(self) -> None:
        """End the background threads."""
        with self._turn:
            for writer in self._writers.values():
                writer.close()
            self._writers.clear()

    def _axes(self, shown: Results, results: Sequence[JobResult]) -> tuple[Axis, ...]:
        """Return what the page shows accuracy over."""
        times = read_times(self._run, {result.job: result for result in results})
        measured = time_axes(shown, times)
        return (*share_axes(shown), *(axis for each in measured for axis in each.axes))

    def _rewrite(self, folder: str, first_step: int, points: Mapping[int, Iterable[Summary.Value]]) -> None:
        """Replace the folder's points from `first_step` on."""
        if folder not in self._writers:
            self._writers[folder] = Writer(self._run.tensorboard / folder)
        writer = self._writers[folder]
        writer.forget_from(first_step)
        for step, values in points.items():
            writer.add(step, values)
        writer.flush()


def _curve_values(curve: Sequence[Point], axes: Sequence[Axis]) -> Mapping[int, Sequence[Summary.Value]]:
    """Return the points of a method by step, on each axis; what an axis saves is drawn as what it leaves."""
    found: dict[int, list[Summary.Value]] = {}
    for axis in axes:
        for point in curve:
            value = axis.value(point)
            if value is not None:
                step = round(1000 * (value if axis.kind == "left" else 1 - value))
                found.setdefault(step, []).extend(
                    scalars({curve_tag(point.split, "top1", axis.name): point.top1.mean})
                )
    for point in curve:
        top5 = scalars({curve_tag(point.split, "top5"): point.top5})
        found.setdefault(round(1000 * point.density), []).extend(top5)
    # Ascending: where steps go back, TensorBoard drops those that came before.
    return {step: found[step] for step in sorted(found)}


def _layout(axes: Sequence[Axis], split: str) -> Summary.Value:
    """Return the page of Custom Scalars: a chart of all methods for each axis, and of all jobs."""
    accuracy = [
        (f"top-1 on {split} over {_left(axis)}", curve_tag(split, "top1", axis.name)) for axis in axes
    ]
    training = [("training loss", LOSS), ("top-1 on val", "val/top1")]
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=[_chart(name, tag) for name, tag in charts])
            for title, charts in (("accuracy", accuracy), ("training", training))
        ]
    )
    return Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=metadata.create_summary_metadata(),
        tensor=make_tensor_proto(layout.SerializeToString()),
    )


def _left(axis: Axis) -> str:
    """Return what the steps of an axis's curves are: shares of the dense network that are left."""
    if axis.kind == "left":
        return axis.label
    return f"{axis.label.replace('time saved against', 'time left of', 1)}, {axis.note}"


def _chart(title: str, tag: str) -> layout_pb2.Chart:
    content = layout_pb2.MultilineChartContent(tag=[f"^{re.escape(tag)}$"])
    return layout_pb2.Chart(title=title, multiline=content)


def _mask_values(
    job: Job, mask: Mask, before: Mask | None, blocks: Mapping[str, tuple[Block, ...]]
) -> Iterable[Summary.Value]:
    densities = mask.layer_density()
    yield from scalars({f"layer_density_by_round/{name}": value for name, value in densities.items()})
    if job.structure is not None:
        for layer in representative_layers(mask):
            yield _layer_image(layer_masks(job.method, layer, mask, before, blocks))


def _write_once(
    run: RunPaths, folder: Path, suffix: str, points: Mapping[int, Iterable[Summary.Value]]
) -> None:
    """Write an event file whole or not at all: a file without its events would count as written."""
    run.root.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".events.", suffix=".tmp", dir=run.root) as temporary:
        writer = Writer(Path(temporary), suffix)
        for step, values in points.items():
            writer.add(step, values)
        writer.close()
        folder.mkdir(parents=True, exist_ok=True)
        for file in Path(temporary).iterdir():
            os.replace(file, folder / file.name)


def _holds(folder: Path, suffix: str) -> bool:
    return any(path.name.endswith(suffix) for path in folder.glob("events.out.tfevents.*"))


# matplotlib takes a while to import: no picture is drawn before a mask is structured, or a job is done.


def _accuracy(shown: Results) -> Summary.Value:
    from distlth.report.pictures import accuracy_figure, png

    return _image(FIGURE, png(accuracy_figure(shown)))


def _layer_image(shown: LayerMasks) -> Summary.Value:
    from distlth.report.pictures import masks_figure, png

    return _image(f"masks/{shown.layer}", png(masks_figure([shown])))


def _image(tag: str, encoded: bytes) -> Summary.Value:
    return Summary.Value(tag=tag, image=Summary.Image(encoded_image_string=encoded))


def _write_hparams(run: RunPaths, row: ResultRow, config: RunConfig) -> None:
    folder = job_folder(run, row.job)
    if _holds(folder, HPARAMS_SUFFIX):
        return
    values = {
        "density": row.density,
        "method": row.method,
        "model.name": config.model.name,
        "prune.rate": config.prune.rate,
        "prune.rewind_epoch": config.prune.rewind_epoch,
        "round": row.round,
        "seed": row.seed,
        "train.batch_size": config.train.batch_size,
        "train.epochs": config.train.epochs,
        "train.lr": config.train.lr,
        "train.weight_decay": config.train.weight_decay,
    }
    splits = dict.fromkeys(("val", row.split))
    metrics = [hparams.Metric(f"{split}/{score}") for split in splits for score in ("top1", "top5", "loss")]
    columns = hparams.hparams_config_pb([hparams.HParam(name) for name in values], metrics)
    session = hparams.hparams_pb(values, trial_id=row.job)
    _write_once(run, folder, HPARAMS_SUFFIX, {0: [*columns.value, *session.value]})
