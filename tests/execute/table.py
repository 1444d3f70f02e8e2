"""Time a regrouped ResNet-50 and write the table in docs/grouped.md: python -m tests.execute.table.

Weights as in trained layers, regrouped; one thread, whose own processor time counts, so that other programs
on the machine disturb little; all networks in turn in one process, medians. Regrouping takes some minutes.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from distlth.bench.regroup import MIN_ROWS, resnet50_weights
from distlth.execute import Grouped, grouped
from distlth.export.formats import onnx_model
from distlth.models import build
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.regroup import regroup_layer
from tests.slim.tickets import settle

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "grouped.md"
HEAD = (
    "| blocks | batch | eager, dense | ONNX Runtime, dense | engine, dense | grouped | saved against eager | "
    "against ONNX Runtime | against the engine | MACs saved |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
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


def rows(*, by_layer: bool) -> list[str]:
    """Return the table's rows of one mask."""
    dense, masked = networks(by_layer=by_layer)
    made, own = grouped(masked, RESOLUTION), grouped(dense, RESOLUTION)
    session = _session(dense)
    calls: dict[str, Call] = {
        "eager": dense,
        "onnx": lambda images: session.run(None, {"images": images.numpy()}),
        "own": own.network,
        "grouped": made.network,
    }
    saved = 1 - work(made) / work(own)
    return [_row(by_layer, batch, _times(calls, batch), saved) for batch in (1, 8)]


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


def _session(dense: nn.Module) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    content = onnx_model(dense, RESOLUTION, {})
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _times(calls: Mapping[str, Call], batch: int) -> dict[str, list[float]]:
    images = torch.randn(batch, 3, RESOLUTION, RESOLUTION)
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for number in range(ROUNDS + 2):
            for name, call in calls.items():
                start = time.thread_time()
                call(images)
                if number >= 2:  # before that, memory and caches are new
                    times[name].append(time.thread_time() - start)
    return times


def _row(by_layer: bool, batch: int, times: Mapping[str, list[float]], macs_saved: float) -> str:
    medians = {name: statistics.median(found) for name, found in times.items()}
    saved = {
        name: 1 - statistics.median(a / b for a, b in zip(times["grouped"], times[name], strict=True))
        for name in ("eager", "onnx", "own")
    }
    what = f"{DENSITY:.0%} of {'every layer' if by_layer else 'all weights'}"
    shown = " | ".join(f"{1e3 * medians[name]:.0f} ms" for name in ("eager", "onnx", "own", "grouped"))
    shares = " | ".join(f"{share:.0%}" for share in (*saved.values(), macs_saved))
    return f"| {what} | {batch} | {shown} | {shares} |"


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    found = [*rows(by_layer=True), *rows(by_layer=False)]
    before, _, after = DOCUMENT.read_text().partition("\n".join(HEAD))
    rest = after.partition("\n\n")[2]
    DOCUMENT.write_text("\n".join([before + "\n".join(HEAD), *found, "", rest]))


if __name__ == "__main__":
    main()
