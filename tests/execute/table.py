"""Time a regrouped ResNet-50 and write the table in docs/grouped.md: python -m tests.execute.table.

Weights as in trained layers, regrouped; all networks in turn in one process, medians. On one thread its own
processor time counts, so that other programs on the machine disturb little; with `--threads 2` it is time on
the clock: use a machine that does nothing else. `--layers` prints both forms' times of each layer instead.
Regrouping takes some minutes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from distlth.bench.regroup import MIN_ROWS, resnet50_weights
from distlth.execute import Grouped, grouped
from distlth.execute.measure import LayerTime, thorough
from distlth.export.formats import onnx_model
from distlth.models import build
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.regroup import regroup_layer
from tests.slim.tickets import settle

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "grouped.md"
HEAD = (
    "| blocks | threads | batch | eager, dense | ONNX Runtime, dense | engine, dense | grouped | "
    "saved against eager | against ONNX Runtime | against the engine | MACs saved |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)
LAYERS_HEAD = (
    "| layer | cells left | dense | blocks | of dense | form by cost | faster |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)
RESOLUTION, DENSITY, ROUNDS = 224, 0.42, 9
Call = Callable[[Tensor], object]


def mask(weights: Mapping[str, Tensor], *, by_layer: bool) -> dict[str, Tensor]:
    """Return regrouped masks that keep DENSITY of every layer, or of all weights."""
    parts = [{name: weight} for name, weight in weights.items()] if by_layer else [dict(weights)]
    kept: dict[str, Tensor] = {}
    for part in parts:
        dense = Mask.dense({name: tuple(weight.shape) for name, weight in part.items()})
        kept |= prune_magnitude(part, dense, 1 - DENSITY).layers
    layers = {n: regroup_layer(w, kept[n], min_rows=MIN_ROWS, threads=2) for n, w in weights.items()}
    return {name: layer.mask for name, layer in layers.items()}


def networks(*, by_layer: bool) -> tuple[nn.Module, nn.Module]:
    """Return a dense ResNet-50 and a regrouped one."""
    dense, weights = build("resnet50", 1000, seed=0), resnet50_weights(structured=True)
    masked, kept = copy.deepcopy(dense), mask(weights, by_layer=by_layer)
    with torch.no_grad():
        for name, weight in weights.items():
            dense.get_parameter(f"{name}.weight").copy_(weight)
            masked.get_parameter(f"{name}.weight").copy_(weight * kept[name])
    for model in (dense, masked):
        settle(model, RESOLUTION, torch.Generator().manual_seed(0))
    return dense, masked


def rows(*, by_layer: bool, threads: int) -> list[str]:
    """Return the table's rows of one mask."""
    dense, masked = networks(by_layer=by_layer)
    made = grouped(masked, RESOLUTION, threads=threads, measured=True)
    own = grouped(dense, RESOLUTION, threads=threads)
    session = _session(dense, threads)
    calls: dict[str, Call] = {
        "eager": dense,
        "onnx": lambda images: session.run(None, {"images": images.numpy()}),
        "own": own.network,
        "grouped": made.network,
    }
    saved = 1 - work(made) / work(own)
    clock = time.thread_time if threads == 1 else time.perf_counter
    return [_row(by_layer, threads, batch, _times(calls, batch, clock), saved) for batch in (1, 8)]


def layer_rows(*, by_layer: bool) -> list[str]:
    """Return a row for each layer of one mask that has blocks: both forms' times, each layer by itself."""
    _, masked = networks(by_layer=by_layer)
    choice = thorough()
    fastest, by_cost = grouped(masked, RESOLUTION, measured=choice), grouped(masked, RESOLUTION)
    return [_layer_row(name, found, fastest, by_cost) for name, found in choice.times.items()]


def _layer_row(name: str, found: LayerTime, fastest: Grouped, by_cost: Grouped) -> str:
    shown, chosen = (["blocks", "dense"][made.forms[name].is_dense] for made in (fastest, by_cost))
    times = f"{1e3 * found.dense:.3f} ms | {1e3 * found.by_blocks:.3f} ms"
    return (
        f"| {name} | {found.cells:.0%} | {times} | {found.by_blocks / found.dense:.0%} | {chosen} | {shown} |"
    )


def work(made: Grouped) -> int:
    """Return the multiply-accumulates of one image."""
    positions = _positions(build("resnet50", 1000, seed=0))
    return sum(positions[name] * form.num_cells for name, form in made.forms.items())


def _positions(model: nn.Module) -> dict[str, int]:
    """Return the number of pixels that each layer computes."""
    found: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(
            lambda _module, _read, result, name=name: found.update({name: result[0, 0].numel()})
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, RESOLUTION, RESOLUTION))
    for hook in hooks:
        hook.remove()
    return found


def _session(dense: nn.Module, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    content = onnx_model(dense, RESOLUTION, {})
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _times(calls: Mapping[str, Call], batch: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    images = torch.randn(batch, 3, RESOLUTION, RESOLUTION)
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for number in range(ROUNDS + 2):
            for name, call in calls.items():
                start = clock()
                call(images)
                if number >= 2:  # before that, memory and caches are new
                    times[name].append(clock() - start)
    return times


def _row(
    by_layer: bool, threads: int, batch: int, times: Mapping[str, list[float]], macs_saved: float
) -> str:
    medians = {name: statistics.median(found) for name, found in times.items()}
    saved = {
        name: 1 - statistics.median(a / b for a, b in zip(times["grouped"], times[name], strict=True))
        for name in ("eager", "onnx", "own")
    }
    what = f"{DENSITY:.0%} of {'every layer' if by_layer else 'all weights'}"
    shown = " | ".join(f"{1e3 * medians[name]:.0f} ms" for name in ("eager", "onnx", "own", "grouped"))
    shares = " | ".join(f"{share:.0%}" for share in (*saved.values(), macs_saved))
    return f"| {what} | {threads} | {batch} | {shown} | {shares} |"


def updated(text: str, found: Sequence[str], threads: int) -> str:
    """Return a document with these rows in its table, in place of those with as many threads."""
    before, _, after = text.partition("\n".join(HEAD) + "\n")
    table, _, rest = after.partition("\n\n")
    others = [row for row in table.splitlines() if row.split("|")[2].strip() != str(threads)]
    return "\n".join([before + "\n".join(HEAD), *sorted([*others, *found], key=_place), "", rest])


def _place(row: str) -> list[str]:
    return [row.split("|")[column].strip() for column in (2, 1, 3)]


def main() -> None:
    """Write the table, or print that of the layers."""
    parser = argparse.ArgumentParser(prog="python -m tests.execute.table")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.layers:
        print("\n".join([*LAYERS_HEAD, *layer_rows(by_layer=False)]))
        return
    found = [row for by_layer in (True, False) for row in rows(by_layer=by_layer, threads=asked.threads)]
    DOCUMENT.write_text(updated(DOCUMENT.read_text(), found, asked.threads))


if __name__ == "__main__":
    main()
