"""A masked network with its convolutions as dense blocks, where that is faster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn

from distlth.execute.triton.conv import GroupedConv2d
from distlth.execute.triton.errors import ExecuteError
from distlth.execute.triton.measure import Measured, Trial, candidates, compile_all, conversion_seconds, measure
from distlth.execute.triton.plan import COLUMNS, grouped_blocks
from distlth.execute.triton.sites import Site, folded, module_of, replace, shape_of, sites

Choice = Literal["fastest", "layers", "all"]
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class LayerTime:
    """A layer's seconds, dense (the faster layout) and grouped, each with the sum and ReLU that follow.

    `dense_macs` and `macs` are multiply-accumulates per output pixel, the latter without what is masked.
    """

    dense: float
    grouped: float
    dense_macs: int
    macs: int


@dataclass(frozen=True, eq=False)
class Grouped:
    """The network; the layers that run as blocks; and, where they were measured, the times of those that could."""

    network: nn.Module
    layers: tuple[str, ...]
    times: Mapping[str, LayerTime]


def grouped(
    model: nn.Module,
    images: Tensor,
    *,
    masks: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    tf32: bool = False,
    choice: Choice = "fastest",
) -> Grouped:
    """Return a network that computes what a masked one does in eval mode, BatchNorm folded into convolutions.

    `model` is on the CPU or on the device of `images` (N x C x H x W, any dtype), whose shape the choice is
    made for; the network takes others too. `masks` (by weight's or layer's name, bool) say what is kept; without
    them it is what is not zero. It computes in `dtype`; `tf32` lets float32 round to TF32.

    With `choice` "fastest", each layer is measured on the device, dense by cuDNN and as blocks, and the ways
    are chosen that make the whole network fastest, changes of the maps' layout included; with "layers" each
    by its own time; "all" takes blocks wherever they have fewer products, and measures nothing.

    Raises ExecuteError where the network cannot be traced, or for a dtype other than float32, bfloat16, float16.
    """
    if dtype not in COLUMNS:
        raise ExecuteError(f"grouped execution knows float32, bfloat16 and float16, not {dtype}")
    images = images.to(dtype)
    traced = folded(model).to(device=images.device, dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = sites(traced, images)
    kept = {name.removesuffix(".weight"): mask for name, mask in (masks or {}).items()}
    blocky = [site for site in found if _worthwhile(site, kept.get(site.name))]
    if choice == "all":
        modules = {site: _form(site, kept, tf32) for site in blocky}
        modules = {site: form for site, form in modules.items() if form.macs < form.dense_macs}
        return _with(traced, modules, {})
    return _measured(traced, blocky, kept, tf32, choice)


def _worthwhile(site: Site, mask: Tensor | None) -> bool:
    """Whether a layer has blocks of several rows: others would take long to plan, and are never faster."""
    conv = site.conv
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return False
    kept = conv.weight.detach().cpu() != 0 if mask is None else mask.cpu()
    blocks = grouped_blocks(kept, conv.groups)
    return 0 < len(blocks) <= max(1, conv.out_channels // 4)


def _form(site: Site, masks: Mapping[str, Tensor], tf32: bool) -> GroupedConv2d:
    return GroupedConv2d(site.conv, masks.get(site.name), relu=site.relu, tf32=tf32)


def _measured(
    traced: fx.GraphModule, blocky: Sequence[Site], masks: Mapping[str, Tensor], tf32: bool, choice: Choice
) -> Grouped:
    trials = {site: _trial(site, tf32) for site in blocky}
    forms = {site: candidates(trials[site], masks.get(site.name)) for site in blocky}
    compile_all([(trials[site], forms[site]) for site in blocky])
    times: dict[tuple[object, ...], Measured] = {}
    by_site: dict[Site, Measured] = {}
    for site in blocky:
        kept = tuple(round(form.macs / form.dense_macs, 1) for form in forms[site])
        key = (*trials[site].kind, kept)
        if key not in times:
            times[key] = measure(trials[site], forms[site])
        by_site[site] = times[key]
    taken = _cheapest(traced, by_site) if choice == "fastest" else _each_faster(by_site)
    modules = {}
    for site in taken:
        best = by_site[site]
        modules[site] = GroupedConv2d(
            site.conv,
            masks.get(site.name),
            min_rows=best.min_rows,
            relu=site.relu,
            tf32=tf32,
            launch=best.launch,
        )
    said = {
        site.name: LayerTime(best.dense, best.grouped, site.conv.weight.numel(), forms[site][0].macs)
        for site, best in by_site.items()
    }
    return _with(traced, modules, said)


def _trial(site: Site, tf32: bool) -> Trial:
    source, target = shape_of(site.source), shape_of(site.last)
    assert source is not None
    return Trial(site.conv, source, target if site.sum else None, site.relu, tf32)


def _each_faster(times: Mapping[Site, Measured]) -> list[Site]:
    return [site for site, best in times.items() if best.grouped < best.dense]


def _cheapest(traced: fx.GraphModule, times: Mapping[Site, Measured]) -> list[Site]:
    """Return the layers to run as blocks: a minimum cut between the two layouts of the maps.

    A layer costs its time on its side, and each edge that is cut the time to store its maps in the other layout.
    """
    import networkx  # of torch's own needs

    owner = {node: site for site in times for node in site.chain}
    conversions: dict[tuple[int, ...], float] = {}
    graph = networkx.DiGraph()
    graph.add_nodes_from(("blocks", "dense"))
    for site, best in times.items():
        graph.add_edge("blocks", site, capacity=best.dense)  # paid where the site is on the dense side
        graph.add_edge(site, "dense", capacity=min(best.grouped, 1e9))
    for node in traced.graph.nodes:
        shape = shape_of(node)
        for user in node.users if shape is not None and len(shape) == 4 else ():
            one, other = owner.get(node, node), owner.get(user, user)
            if one is not other and shape_of(user) is not None and len(shape_of(user) or ()) == 4:
                if shape not in conversions:
                    conversions[shape] = conversion_seconds(shape, next(iter(times)).conv.weight)
                for start, end in ((one, other), (other, one)):
                    graph.add_edge(start, end, capacity=conversions[shape])
    for node in traced.graph.nodes:  # other convolutions are cuDNN's
        if isinstance(module_of(traced, node), nn.Conv2d) and node not in owner and node in graph:
            graph.add_edge(node, "dense")
    _, (side, _) = networkx.minimum_cut(graph, "blocks", "dense")
    return [site for site in times if site in side]


def _with(traced: fx.GraphModule, modules: Mapping[Site, GroupedConv2d], times: Mapping[str, LayerTime]) -> Grouped:
    replace(traced, modules)
    _pool_by_planes(traced, {site.name for site in modules})
    return Grouped(traced, tuple(site.name for site in modules), times)


class PlanePool(nn.Module):
    """Pooling of maps stored channel by channel, which stay so; others are pooled as they are."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        if maps.transpose(0, 1).is_contiguous():
            pooled: Tensor = self.pool(maps.transpose(0, 1)).transpose(0, 1)
            return pooled
        pooled = self.pool(maps)
        return pooled


def _pool_by_planes(traced: fx.GraphModule, layers: Iterable[str]) -> None:
    if layers:
        for name, module in list(traced.named_modules()):
            if isinstance(module, POOLS):
                traced.set_submodule(name, PlanePool(module))
