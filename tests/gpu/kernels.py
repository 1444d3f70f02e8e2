"""What tickets of a ResNet-50 save on the card: dense blocks by Triton, slim networks, 2:4; against cuDNN."""

from __future__ import annotations

import copy
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distlth.bench.regroup import MIN_ROWS, resnet50_weights
from distlth.cores import num_cores
from distlth.models import anatomy, build, prunable
from distlth.prune.blocks import Block
from distlth.prune.magnitude import prune_magnitude
from distlth.prune.mask import Mask
from distlth.prune.refill import refill
from distlth.prune.regroup import regroup_layer
from distlth.slim import slim
from distlth.ticket import Ticket
from distlth.train.masking import Masking, parameter_masks
from tests.gpu.lines import FailedError, Options, check, expect, main, say

if TYPE_CHECKING:
    from distlth.execute.triton import Grouped, GroupedConv2d
    from distlth.execute.triton.measure import Trial

DENSITY = 0.42
EACH, ALL = "of each layer", "of all weights"
SECONDS = float(os.environ.get("KERNELS_SECONDS", "60"))  # after these, what is left is skipped
MASKS = Path(".gpu-bundle", "masks.npz")
PAPER = 0.6023  # of the time of all convolutions, ResNet-50 with 42% of its weights
PAPER_INPUT = (64, 64, 64)  # images, height, width: of every layer

Weights = Mapping[str, Tensor]
Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class Precision:
    """What a network computes in, and how far a layer may be off, as a share of its largest output."""

    name: str
    dtype: torch.dtype
    tf32: bool
    layer: float


IEEE = Precision("fp32", torch.float32, False, 1e-5)
TF32 = Precision("tf32", torch.float32, True, 3e-3)
BF16 = Precision("bf16", torch.bfloat16, False, 1e-2)
FP16 = Precision("fp16", torch.float16, False, 2e-3)
OFF = 2  # times as far as cuDNN in the same precision is from float32, logits may be


@dataclass(frozen=True)
class Work:
    """The section's network and its sizes, and the seconds that it began at."""

    options: Options
    weights: Weights
    started: float

    @property
    def resolution(self) -> int:
        """The images' height and width."""
        return self.options.size(224, 8)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches that networks are timed with."""
        return (2,) if self.options.quick else (64, 256, 1)

    def images(self, batch: int) -> Tensor:
        """Return noise on the device."""
        return torch.randn(batch, 3, self.resolution, self.resolution, device=self.options.device)

    def network(self) -> nn.Module:
        """Return the network with its weights, on the CPU."""
        model = build("resnet20" if self.options.quick else "resnet50", 1000, seed=0).eval()
        with torch.no_grad():
            for name, weight in self.weights.items():
                model.get_parameter(f"{name}.weight").copy_(weight)
        return model

    def over(self, name: str) -> bool:
        """Return whether the time is over, and say that a part is skipped for that."""
        if time.monotonic() - self.started <= SECONDS:
            return False
        say("skip", name, f"{SECONDS:.0f} s are over")
        return True

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of masks."""
        return (EACH,) if self.options.quick else (EACH, ALL)


def kernels(options: Options) -> None:
    """Run the parts, those first that say most; each layer's kernels are compiled once, on all cores."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    work = Work(options, _weights(options), time.monotonic())
    models = {kind: masked(work, masks) for kind, masks in all_masks(work).items()}
    say("figure", "masks", f"{time.monotonic() - work.started:.0f} s after the start")
    first, *others = work.batches
    fast = (BF16, TF32) if options.on_gpu else (IEEE, BF16)
    for precision in fast:
        correct(work, models[EACH], precision, first)
        whole_network(work, EACH, models[EACH], precision, first)
    for precision in (TF32, IEEE) if options.on_gpu else ():
        papers_measure(work, models[EACH], precision)
    two_of_four(work)
    for kind, batch in [(kind, first) for kind in work.kinds[1:]] + [(EACH, batch) for batch in others]:
        for precision in fast:
            whole_network(work, kind, models[kind], precision, batch)
    for precision in (FP16, IEEE) if options.on_gpu else ():
        correct(work, models[EACH], precision, first)
        whole_network(work, EACH, models[EACH], precision, first)
    slim_networks(work)
    say("figure", "seconds", f"{time.monotonic() - work.started:.0f}")


def _weights(options: Options) -> Weights:
    if options.quick:
        model = build("resnet20", 1000, seed=0)
        return {name: m.weight.detach() for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return resnet50_weights(structured=True)


# --- masks ---


def all_masks(work: Work) -> dict[str, Masks]:
    """Return the masks of each kind: those in the file, or regrouped here, which takes a minute."""
    if work.options.quick:
        return {EACH: {name: striped(weight.shape) for name, weight in work.weights.items()}}
    if MASKS.is_file():
        with np.load(MASKS) as packed:
            return {
                kind: {name: unpacked(packed[f"{kind}/{name}"], w) for name, w in work.weights.items()}
                for kind in work.kinds
            }
    with ProcessPoolExecutor(num_cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        started = {kind: regrouping(pool, kind, work.weights) for kind in work.kinds}
        return {
            kind: {name: torch.from_numpy(done.result()) for name, done in each.items()}
            for kind, each in started.items()
        }


def striped(shape: torch.Size) -> Tensor:
    """Return a mask of random blocks of 16 rows."""
    kept = torch.rand(shape[0] // 16, shape.numel() // shape[0]) < DENSITY
    return kept.repeat_interleave(16, 0).view(shape)


def unpacked(bits: npt.NDArray[np.uint8], like: Tensor) -> Tensor:
    """Return a mask of a weight's shape from its bits."""
    return torch.from_numpy(np.unpackbits(bits, count=like.numel()).astype(np.bool_)).view(like.shape)


def write_masks() -> None:
    """Write the masks to the file that the section reads: python -m tests.gpu.kernels --write-masks."""
    work = Work(Options(torch.device("cpu"), False), resnet50_weights(structured=True), 0.0)
    masks = all_masks(work)
    packed = {f"{kind}/{name}": np.packbits(m.numpy()) for kind in masks for name, m in masks[kind].items()}
    np.savez_compressed(MASKS, **packed)  # type: ignore[arg-type]


def regrouping(
    pool: ProcessPoolExecutor, kind: str, weights: Weights
) -> dict[str, Future[npt.NDArray[np.bool_]]]:
    """Start regroup of a network at 42%, of each layer or over all, the largest layers first."""
    dense = {name: tuple(weight.shape) for name, weight in weights.items()}
    if kind == ALL:
        mask = prune_magnitude(dict(weights), Mask.dense(dense), 1 - DENSITY)
        layers = {name: mask[name] for name in weights}
    else:
        layers = {
            name: prune_magnitude({name: weight}, Mask.dense({name: dense[name]}), 1 - DENSITY)[name]
            for name, weight in weights.items()
        }
    order = sorted(weights, key=lambda name: -weights[name].numel())
    return {name: pool.submit(regrouped, weights[name].numpy(), layers[name].numpy()) for name in order}


def regrouped(weight: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a layer's mask as dense blocks."""
    torch.set_num_threads(1)
    return regroup_layer(torch.from_numpy(weight), torch.from_numpy(mask), min_rows=MIN_ROWS).mask.numpy()


def masked(work: Work, masks: Masks) -> nn.Module:
    """Return the network with a mask, its BatchNorms' statistics those of noise: values stay in range."""
    model = work.network().to(work.options.device)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(f"{name}.weight").mul_(mask.to(work.options.device))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        model.train()(work.images(8))
    return model.eval()


# --- 2:4 ---


def two_of_four(work: Work) -> None:
    """Time 1x1 convolutions as products with 2:4 weights, against cuBLAS and cuDNN."""
    if not work.options.on_gpu:
        say("skip", "2:4", "needs a GPU")
        return
    if work.over("2:4"):
        return
    for dtype in (torch.bfloat16, torch.float16):
        with check(f"2:4, {str(dtype)[6:]}, batch 64") as said:
            said.append("ms as cuDNN's convolution, cuBLAS, 2:4:")
            for rows, columns, side in (
                (256, 64, 56),
                (512, 128, 28),
                (1024, 256, 14),
                (2048, 512, 7),
                (512, 2048, 7),
            ):
                said.append(_two_of_four(rows, columns, 64, side, dtype))


def _two_of_four(rows: int, columns: int, batch: int, side: int, dtype: torch.dtype) -> str:
    from distlth.execute.triton.measure import seconds

    device = torch.device("cuda")
    weight = torch.randn(rows, columns, device=device, dtype=dtype)
    best = weight.abs().view(rows, -1, 4).topk(2, dim=2).indices
    weight = weight * torch.zeros(rows, columns // 4, 4, device=device).scatter_(2, best, 1).view_as(
        weight
    ).to(dtype)
    x = torch.randn(batch * side * side, columns, device=device, dtype=dtype) / columns**0.5
    maps = x.view(batch, side, side, columns).permute(0, 3, 1, 2)
    sparse = torch.sparse.to_sparse_semi_structured(weight)
    with torch.no_grad():
        want, got = F.linear(x, weight), F.linear(x, sparse)
    error = float((got - want).abs().max() / want.abs().max())
    expect(error <= 1e-2, f"2:4 {rows}x{columns} is off by {error:.1e}")
    kernel = weight.view(rows, columns, 1, 1).contiguous(memory_format=torch.channels_last)
    times = [
        seconds(call, device)
        for call in (lambda: F.conv2d(maps, kernel), lambda: F.linear(x, weight), lambda: F.linear(x, sparse))
    ]
    return f"{rows}x{columns} " + ", ".join(f"{1e3 * each:.3f}" for each in times)


# --- slim ---


def slim_networks(work: Work) -> None:
    """Time the slim network of a refilled one (multiples of 8) against the dense one, whole."""
    if work.over("slim network"):
        return
    with check("slim network") as said:
        dense, small, saved = refilled(work)
        said.append(f"{saved:.1%} of MACs saved")
        precisions = (BF16, TF32) if work.options.on_gpu else (BF16,)
        for precision in precisions:
            set_tf32(precision.tf32)
            both = [_cast(network, precision, work) for network in (dense, small)]
            for batch in work.batches:
                images = work.images(batch).to(precision.dtype, memory_format=torch.channels_last)
                compare(work, f"slim, {precision.name}, batch {batch}", both[0], both[1], images)


def refilled(work: Work) -> tuple[nn.Module, nn.Module, float]:
    """Return the dense network, the slim one of its refill ticket, and the share of MACs that it saves."""
    from distlth.export.export import macs

    dense = work.network()
    body = anatomy(dense, work.resolution)
    whole = Mask.dense({layer.name: layer.weight_shape for layer in prunable(body, "all")})
    mask = refill(prune_magnitude(dict(work.weights), whole, 1 - DENSITY), dict(work.weights), multiple=8)
    model = work.network()
    ticket = Ticket(mask, {}, remove_channels=True)
    Masking(model, parameter_masks(ticket, body, dict(model.named_parameters())))
    small = slim(model, work.resolution, "zeros", multiple=8).network
    images = torch.randn(2, 3, work.resolution, work.resolution)
    with torch.no_grad():
        want, got = model(images), small(images)
    expect(float((got - want).abs().max() / want.abs().max()) <= 1e-4, "slim and masked logits differ")
    return dense, small, 1 - macs(small, work.resolution) / macs(dense, work.resolution)


def _cast(network: nn.Module, precision: Precision, work: Work) -> nn.Module:
    return network.to(work.options.device, precision.dtype).to(memory_format=torch.channels_last)


# --- grouped ---


def correct(work: Work, model: nn.Module, precision: Precision, batch: int) -> None:
    """Compare each kind of layer, as it is timed, and the whole network with what torch computes."""
    from distlth.execute.triton import grouped
    from distlth.execute.triton.sites import folded

    if work.over(f"grouped is right, {precision.name}"):
        return
    set_tf32(False)
    with check(f"grouped layers are right, {precision.name}") as said:
        start = time.monotonic()
        kinds = layer_forms(work, model, precision, batch)
        said.append(f"{len(kinds)} kinds of layer compiled in {time.monotonic() - start:.1f} s")
        worst = max(layer_error(trial, forms) for trial, forms in kinds)
        said.append(f"off by {worst:.1e} of the largest output at most")
        expect(worst <= precision.layer, f"expected {precision.layer:.0e}")
    with check(f"grouped network is right, {precision.name}") as said:
        images = work.images(min(batch, 8))
        network = grouped(
            model, images, blocks=blocks_of(model), dtype=precision.dtype, tf32=precision.tf32, choice="all"
        )
        dense = _cast(folded(model), precision, work)
        with torch.no_grad():
            want = model(images)
            set_tf32(precision.tf32)
            own = largest(dense(images.to(precision.dtype)).float() - want) / largest(want)
            error = largest(network.network(images.to(precision.dtype)).float() - want) / largest(want)
        said.append(
            f"{len(network.layers)} layers as blocks, logits off by {error:.1e}, dense ones by {own:.1e}"
        )
        times = OFF if work.options.on_gpu else 2 * OFF  # the interpreter cuts bits off, it does not round
        expect(error <= times * own + 1e-5, f"expected at most {times} times the dense network's")


def largest(values: Tensor) -> float:
    """Return the largest magnitude."""
    return float(values.abs().max())


def blocks_of(model: nn.Module) -> Mapping[str, Sequence[Block]]:
    """Return a network's blocks, which are found once."""
    from distlth.execute.triton import network_blocks

    if not hasattr(model, "_blocks"):
        object.__setattr__(model, "_blocks", network_blocks(model))
    found: Mapping[str, Sequence[Block]] = model._blocks  # type: ignore[assignment]
    return found


def layer_forms(
    work: Work, model: nn.Module, precision: Precision, batch: int
) -> list[tuple[Trial, Mapping[int, GroupedConv2d]]]:
    """Return each kind of the network's layers with its forms as blocks, compiled."""
    from distlth.execute.triton.measure import candidates, compile_all
    from distlth.execute.triton.network import trial_of
    from distlth.execute.triton.sites import folded, sites

    traced = _cast(folded(model), precision, work)
    images = work.images(batch).to(precision.dtype, memory_format=torch.channels_last)
    kinds: dict[tuple[object, ...], tuple[Trial, Mapping[int, GroupedConv2d]]] = {}
    for site in sites(traced, images):  # type: ignore[arg-type]
        trial = trial_of(site, precision.tf32)
        if site.name in blocks_of(model) and trial.kind not in kinds:
            kinds[trial.kind] = trial, candidates(trial, blocks_of(model)[site.name])
    compile_all([(trial, forms.values()) for trial, forms in kinds.values()])
    return list(kinds.values())


def layer_error(trial: Trial, forms: Mapping[int, GroupedConv2d]) -> float:
    """Return the largest error of a layer's forms, as a share of the largest output, over all launches."""
    from distlth.execute.triton.measure import launches

    x, added = trial.maps()
    conv, errors = trial.conv, [0.0]
    with torch.no_grad():
        bias = None if conv.bias is None else conv.bias.float()
        want = F.conv2d(x.float(), conv.weight.float(), bias, conv.stride, conv.padding)
        want = want if added is None else want.add_(added)
        want = want.relu_() if trial.relu else want
        for rows, form in forms.items():
            for launch in launches(trial, form):
                form.launch = launch
                try:
                    errors.append(float((form(x, added) - want).abs_().max() / want.abs().max()))
                except Exception as error:  # that launch is not used; the others count
                    say(
                        "figure", "did not run", f"{form.geometry}, {rows} rows, {launch}: {str(error)[:120]}"
                    )
    if not max(errors) <= 1 or len(errors) == 1:
        raise FailedError(f"{conv}: off by {errors[1:]}")
    return max(errors)


def whole_network(work: Work, kind: str, model: nn.Module, precision: Precision, batch: int) -> None:
    """Time layers as blocks, and the network of those that are faster so, against the dense one."""
    from distlth.execute.triton import grouped
    from distlth.execute.triton.sites import folded

    form = f"{precision.name} b{batch}"
    if work.over(f"grouped, 42% {kind}, {form}"):
        return
    with check(f"grouped, 42% {kind}, {form}") as said:
        set_tf32(precision.tf32)
        images = work.images(batch).to(precision.dtype, memory_format=torch.channels_last)
        start = time.monotonic()
        found = grouped(model, images, blocks=blocks_of(model), dtype=precision.dtype, tf32=precision.tf32)
        took = time.monotonic() - start
        for line in layer_lines(found, form):
            if kind == EACH and batch == work.batches[0]:
                say("figure", *line)
            keep(f"{kind} {' '.join(line)}")
        dense = sum(each.dense for each in found.times.values())
        best = sum(min(each.dense, each.grouped) for each in found.times.values())
        blocks = sum(each.grouped for each in found.times.values())
        cells = sum(layer.num_cells for each in blocks_of(model).values() for layer in each)
        density = cells / sum(weight.numel() for weight in work.weights.values())
        said.append(
            f"{density:.1%} of the weights; sum of layers: dense {1e3 * dense:.2f} ms, all as blocks "
            f"{1 - blocks / dense:.1%}, the faster of each {1 - best / dense:.1%} saved"
        )
        compare(
            work, f"whole, 42% {kind}, {form}", _cast(folded(model), precision, work), found.network, images
        )
        said.append(f"{len(found.layers)} of {len(found.times)} layers as blocks; built in {took:.1f} s")


def layer_lines(found: Grouped, form: str) -> Iterator[tuple[str, str]]:
    """Iterate over the layers that were measured: name, and microseconds dense and as blocks."""
    shown: set[tuple[float, float]] = set()
    for name, each in found.times.items():
        if (each.dense, each.grouped) not in shown:  # else it is like a layer before it
            shown.add((each.dense, each.grouped))
            times = (
                f"{1e6 * each.dense:8.1f} -> {1e6 * each.grouped:8.1f} us {each.grouped / each.dense:5.2f}"
            )
            mark = "blocks" if name in found.layers else "dense"
            yield f"{form} {name}", f"{each.alike:2}x {each.density:4.0%} {times} {mark}"


def keep(line: str) -> None:
    """Append a line to kernels.txt in the folder that the variable OUT names, if there is one."""
    if folder := os.environ.get("OUT"):
        with Path(folder, "kernels.txt").open("a") as file:
            file.write(f"{line}\n")


def compare(work: Work, name: str, dense: nn.Module, other: nn.Module, images: Tensor) -> None:
    """Print the times of two networks, eager and as CUDA graphs."""
    from distlth.execute.triton.measure import captured

    def timed(calls: Sequence[Callable[[], object]]) -> list[float]:
        rounds = [[_clock(call, images.device) for call in calls] for _ in range(work.options.size(7, 1))]
        return [median(times) for times in zip(*rounds, strict=True)]

    with torch.no_grad():
        calls = [partial(dense, images), partial(other, images)]
        for call in calls * 2:
            call()
        said = [_saved("eager", timed(calls))]
        if work.options.on_gpu:
            graphs = [captured(call) for call in calls]
            replays: list[Callable[[], object]] = [graph.replay for graph in graphs]
            said.append(_saved("graphed", timed(replays)))
    say("figure", name, "; ".join(said))


def _saved(how: str, times: Sequence[float]) -> str:
    return f"{how} {1e3 * times[0]:.2f} -> {1e3 * times[1]:.2f} ms ({1 - times[1] / times[0]:.1%} saved)"


def _clock(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def papers_measure(work: Work, model: nn.Module, precision: Precision) -> None:
    """Time the sum of convolutions alone, each on an input of the paper's size."""
    from distlth.execute.triton.measure import Trial, candidates, compile_all, measure

    if work.over(f"the paper's measure, {precision.name}"):
        return
    with check(f"the paper's measure, {precision.name}") as said:
        cast = _cast(copy.deepcopy(model), precision, work)
        alike: dict[tuple[object, ...], list[tuple[Trial, str]]] = {}
        for name, conv in cast.named_modules():
            if isinstance(conv, nn.Conv2d):
                shape = (PAPER_INPUT[0], conv.in_channels, *PAPER_INPUT[1:])
                trial = Trial(conv, shape, None, False, precision.tf32)
                alike.setdefault(trial.kind, []).append((trial, name))
        first = [(each[0][0], blocks_of(model)[each[0][1]]) for each in alike.values()]
        forms = [candidates(trial, blocks) for trial, blocks in first]
        compile_all([(trial, form.values()) for (trial, _), form in zip(first, forms, strict=True)])
        dense = best = blocks_alone = 0.0
        for (trial, _), form, each in zip(first, forms, alike.values(), strict=True):
            found = measure(trial, form)
            dense += len(each) * found.dense
            best += len(each) * min(found.dense, found.grouped)
            blocks_alone += len(each) * found.grouped
        said.append(
            f"dense {1e3 * dense:.1f} ms, all as blocks {1 - blocks_alone / dense:.1%}, the faster of each "
            f"{1 - best / dense:.1%} saved; the paper's card {PAPER:.1%}"
        )


def set_tf32(on: bool) -> None:
    """Let cuDNN and cuBLAS round float32 to TF32, or not."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on


if __name__ == "__main__":
    if "--write-masks" in sys.argv:
        write_masks()
    else:
        main(kernels)
