"""A masked network with its convolutions as dense blocks, where that is faster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx, nn

from distlth.execute.triton.conv import GroupedConv2d, blocks_of
from distlth.execute.triton.errors import ExecuteError
from distlth.execute.triton.layout import channels_last, planes
from distlth.execute.triton.measure import (
    Measured,
    Trial,
    candidates,
    compile_all,
    conversion_seconds,
    measure,
)
from distlth.execute.triton.plan import COLUMNS
from distlth.execute.triton.sites import Site, folded, module_of, replace, shape_of, sites
from distlth.prune.blocks import Block

Blocks = Mapping[str, Sequence[Block]]
Choice = Literal["fastest", "layers", "all"]
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class LayerTime:
    """A layer's seconds, dense (the faster layout) and grouped, each with the sum and ReLU that follow.

    One of `alike` layers of the same shapes was measured. `density` is the layer's kept share.
    """

    dense: float
    grouped: float
    alike: int
    density: float


@dataclass(frozen=True, eq=False)
class Grouped:
    """The network, the layers that run as blocks, and the times of all that could, where measured."""

    network: nn.Module
    layers: tuple[str, ...]
    times: Mapping[str, LayerTime]


def grouped(
    model: nn.Module,
    images: Tensor,
    *,
    blocks: Blocks | None = None,
    dtype: torch.dtype = torch.float32,
    tf32: bool = False,
    choice: Choice = "fastest",
) -> Grouped:
    """Return a network that computes what a masked one does in eval mode, BatchNorm folded into convolutions.

    `model` is on the CPU or on the device of `images` (N x C x H x W, any dtype), whose shape the choice is
    made for; the network takes others too. `blocks` are network_blocks() of it, for who makes several. It
    computes in `dtype`; `tf32` lets float32 round to TF32.

    With `choice` "fastest", each layer is measured on the device, dense by cuDNN and as blocks. Of the layers
    that are faster as blocks, those run so that make the whole network fastest, changes of the maps' layout
    included; with "layers" all of them do; "all" takes blocks wherever they have fewer products, and measures
    nothing.

    Raises ExecuteError where the network cannot be traced, or for another dtype than float32, bfloat16 or
    float16.
    """
    if dtype not in COLUMNS:
        raise ExecuteError(f"grouped execution knows float32, bfloat16 and float16, not {dtype}")
    images = images.to(dtype)
    traced = folded(model).to(device=images.device, dtype=dtype).to(memory_format=torch.channels_last)
    found = sites(traced, images)
    blocks = network_blocks(traced) if blocks is None else blocks
    blocky = {site: blocks[site.name] for site in found if site.name in blocks}
    if choice == "all":
        forms = {site: _form(site, given, tf32) for site, given in blocky.items()}
        modules = {site: form for site, form in forms.items() if form.macs < form.dense_macs}
        return _with(traced, modules, _followed(traced, modules), {})
    return _measured(traced, blocky, tf32, choice)


def network_blocks(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> Blocks:
    """Return the blocks of a network's convolutions that have some of several rows, by layer.

    `masks` (bool, by layer) say what is kept; of other layers it is what is not zero. Others than those
    with blocks of four rows and more take long to plan and are never faster.
    """
    found: dict[str, Sequence[Block]] = {}
    for name, conv in model.named_modules():
        if type(conv) is nn.Conv2d and not isinstance(conv.padding, str) and conv.padding_mode == "zeros":
            blocks = blocks_of(conv, (masks or {}).get(name))
            if 0 < len(blocks) <= max(1, conv.out_channels // 4):
                found[name] = blocks
    return found


def _form(site: Site, blocks: Sequence[Block], tf32: bool) -> GroupedConv2d:
    return GroupedConv2d(site.conv, blocks, relu=site.relu, tf32=tf32)


def _measured(
    traced: fx.GraphModule, blocky: Mapping[Site, Sequence[Block]], tf32: bool, choice: Choice
) -> Grouped:
    kinds: dict[tuple[object, ...], list[Site]] = {}
    for site in blocky:
        kinds.setdefault((*trial_of(site, tf32).kind, round(_density(site, blocky[site]), 1)), []).append(
            site
        )
    first = {key: alike[0] for key, alike in kinds.items()}
    trials = {key: trial_of(site, tf32) for key, site in first.items()}
    forms = {key: candidates(trials[key], blocky[site]) for key, site in first.items()}
    compile_all([(trials[key], forms[key].values()) for key in kinds])
    times = {key: measure(trials[key], forms[key]) for key in kinds}
    by_site = {site: times[key] for key, alike in kinds.items() for site in alike}
    faster = {site: best for site, best in by_site.items() if best.grouped < best.dense}
    stored = _cheapest(traced, faster) if choice == "fastest" else _followed(traced, faster)
    modules = {}
    for site, best in faster.items():
        if site.node not in stored:
            continue
        modules[site] = GroupedConv2d(
            site.conv,
            blocky[site],
            min_rows=best.min_rows,
            relu=site.relu,
            tf32=tf32,
            launch=best.launch,
        )
    said = {
        site.name: LayerTime(times[key].dense, times[key].grouped, len(alike), _density(site, blocky[site]))
        for key, alike in kinds.items()
        for site in alike
    }
    return _with(traced, modules, stored, said)


def _density(site: Site, blocks: Sequence[Block]) -> float:
    return sum(block.num_cells for block in blocks) / site.conv.weight.numel()


def trial_of(site: Site, tf32: bool) -> Trial:
    """Return what is measured for a convolution of a traced network."""
    target = shape_of(site.last) if site.sum else None
    return Trial(site.conv, shape_of(site.source), target, site.relu, tf32)


def _cheapest(traced: fx.GraphModule, faster: Mapping[Site, Measured]) -> set[fx.Node]:
    """Return the nodes whose maps are stored channel by channel: a minimum cut between the two layouts.

    A layer that is faster as blocks costs its time on either side, others are cuDNN's, and an edge that is
    cut costs the time to store its maps in the other layout.
    """
    import networkx  # of torch's own needs

    owner = {node: site for site in faster for node in site.chain}
    conversions: dict[tuple[int, ...], float] = {}
    graph = networkx.DiGraph()
    graph.add_nodes_from(("blocks", "dense"))
    for site, best in faster.items():
        graph.add_edge("blocks", site, capacity=best.dense)  # paid where the site is on the dense side
        graph.add_edge(site, "dense", capacity=best.grouped)
    for node, user in _map_edges(traced) if faster else ():
        one, other = owner.get(node, node), owner.get(user, user)
        shape = shape_of(node)
        if shape not in conversions:
            conversions[shape] = conversion_seconds(shape, next(iter(faster)).conv.weight)
        if one is not other:
            graph.add_edge(one, other, capacity=conversions[shape])
            graph.add_edge(other, one, capacity=conversions[shape])
    for node in traced.graph.nodes:
        if node not in owner and isinstance(module_of(traced, node), nn.Conv2d):
            graph.add_edge(node, "dense")  # without a capacity: never cut
    _, (side, _) = networkx.minimum_cut(graph, "blocks", "dense")
    return {node for node in traced.graph.nodes if owner.get(node, node) in side}


def _followed(traced: fx.GraphModule, taken: Iterable[Site]) -> set[fx.Node]:
    """Return the nodes whose maps are stored channel by channel where these layers run as blocks."""
    found = {node for site in taken for node in site.chain}
    for node in traced.graph.nodes:
        if node not in found and not isinstance(module_of(traced, node), nn.Conv2d):
            found.update([node] if found & set(node.all_input_nodes[:1]) else [])
    return found


def _map_edges(traced: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Iterate over (node, user) where a node's feature maps become those of its user."""
    for node in traced.graph.nodes:
        for user in node.users:
            if len(shape_of(node)) == len(shape_of(user)) == 4:
                yield node, user


def _with(
    traced: fx.GraphModule,
    modules: Mapping[Site, GroupedConv2d],
    stored: set[fx.Node],
    times: Mapping[str, LayerTime],
) -> Grouped:
    """Return the network with layers as blocks, and the maps of the nodes `stored` channel by channel."""
    _pool_by_planes(traced, stored)
    _convert(traced, stored)
    replace(traced, modules)
    return Grouped(traced, tuple(site.name for site in modules), times)


def _convert(traced: fx.GraphModule, stored: set[fx.Node]) -> None:
    """Change the layout of maps once, where they go from one layout to the other."""
    cut: dict[fx.Node, list[fx.Node]] = {}
    for node, user in _map_edges(traced):
        if (node in stored) != (user in stored):
            cut.setdefault(node, []).append(user)
    for node, users in cut.items():
        with traced.graph.inserting_after(node):
            new = traced.graph.call_function(channels_last if node in stored else planes, (node,))
        new.meta = dict(node.meta)
        for user in users:
            user.replace_input_with(node, new)


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


def _pool_by_planes(traced: fx.GraphModule, stored: set[fx.Node]) -> None:
    for node in traced.graph.nodes:
        module = module_of(traced, node)
        if node in stored and isinstance(module, POOLS):
            traced.set_submodule(str(node.target), PlanePool(module))
