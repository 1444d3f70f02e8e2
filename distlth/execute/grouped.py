"""Run a masked network by its dense blocks on the CPU, in the engine as a whole where that is possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from distlth.execute.blocks import Form
from distlth.execute.cpu import EngineError, Network, run
from distlth.execute.cpu.engine import InstructionSet
from distlth.execute.lower import Lowering, Unsupported
from distlth.execute.measure import Choice, LayerTime, measuring
from distlth.slim.program import graph_module, operator_name, program, shape_of

LAYERS = {"conv2d", "linear"}
# What goes into the layer before it.
TAILS = {"batch_norm", "hardtanh", "relu", "relu6"}


@dataclass(frozen=True)
class InTorch:
    """An operator that torch runs, and why the engine does not."""

    operator: str
    reason: str


@dataclass(frozen=True, eq=False)
class Grouped:
    """A network that runs by blocks.

    `network` takes float32 images, N x 3 x H x W, any number of any size that the model takes, and gives the
    masked network's logits; several threads may call it. `forms` says how each layer runs, by name, `times`
    what was measured of layers that could run in two ways.
    `in_torch` is empty where the engine runs everything; else it names what keeps it from that, and each
    layer runs in the engine by itself.
    """

    network: nn.Module
    forms: Mapping[str, Form]
    times: Mapping[str, LayerTime]
    in_torch: Sequence[InTorch]


class InEngine(nn.Module):
    """A network of the engine, as a module; `threads` None means torch's number."""

    def __init__(self, network: Network, *, flat: bool, threads: int | None = None) -> None:
        super().__init__()
        self.network, self.flat, self.threads = network, flat, threads

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's result: N x C x H x W, or N x C where it is flat."""
        if images.ndim == 2:
            images = images[:, :, None, None]
        result = run(images, self.network, self.threads)
        return result.flatten(1) if self.flat else result


def grouped(
    model: nn.Module,
    resolution: int,
    *,
    masks: Mapping[str, Tensor] | None = None,
    instructions: InstructionSet = "auto",
    threads: int | None = None,
    measured: bool | Choice = False,
) -> Grouped:
    """Return a network that computes what `model` does in eval mode, by the dense blocks of its weights.

    A layer's blocks are read off its mask: `masks` by the weight's name, or which weights are not zero. A
    layer that is faster as a whole runs as a whole: by a model of the engine's cost, or with `measured` by
    running both forms of each layer on one image, on one thread, for at most some 1.5 seconds in all. `model`
    is left as it was, and traced for images of `resolution` x `resolution`. `instructions` and `threads` are
    the engine's; None means torch's number.

    Raises:
        EngineError: the engine is not compiled, this machine lacks these instructions, or the model is not
            float32 on the CPU.
        SlimError: the forward pass cannot be traced.
    """
    _check(model)
    module = graph_module(program(model, resolution))
    module.graph.eliminate_dead_code()
    choice = measured if isinstance(measured, Choice) else measuring(instructions, measured=measured)
    whole = Lowering(module, masks or {}, Network(instructions), choice)
    hurdles = _lower_all(module.graph, whole)
    if not hurdles:
        (result,) = _results(module.graph)
        return Grouped(_in_engine(whole, result, threads), whole.forms, choice.times, ())
    forms: dict[str, Form] = {}
    for node in list(module.graph.nodes):
        if operator_name(node) in LAYERS:
            alone = Lowering(module, masks or {}, Network(instructions), choice)
            forms |= _replace(module, node, alone, threads)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    return Grouped(fx.GraphModule(module, module.graph, "Grouped"), forms, choice.times, hurdles)


def _check(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise EngineError(
                f"the CPU engine runs float32 on the CPU; {name} is {parameter.dtype} on {parameter.device}"
            )


def _lower_all(graph: fx.Graph, lowering: Lowering) -> list[InTorch]:
    """Lower a whole program; return what the engine does not have. What only reads that is not named."""
    hurdles = []
    missing: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            lowering.begin(node)
        elif node.op == "call_function":
            try:
                lowering.lower(node)
            except Unsupported as reason:
                if not missing.intersection(node.all_input_nodes):
                    hurdles.append(InTorch(node.name, str(reason)))
                missing.add(node)
    if not hurdles and len(_results(graph)) != 1:
        hurdles.append(InTorch("output", "it is more than one tensor"))
    return hurdles


def _results(graph: fx.Graph) -> list[fx.Node]:
    (output,) = graph.find_nodes(op="output")
    return list(output.all_input_nodes)


def _in_engine(lowering: Lowering, result: fx.Node, threads: int | None) -> InEngine:
    lowering.finish(result)
    return InEngine(lowering.network, flat=len(shape_of(result)) == 2, threads=threads)


def _replace(
    module: fx.GraphModule, node: fx.Node, lowering: Lowering, threads: int | None
) -> Mapping[str, Form]:
    """Let the engine run a layer of a program, with a norm and clamp behind it; return its form, by name."""
    lowering.begin(source := node.args[0])  # type: ignore[arg-type]
    try:
        lowering.lower(node)
    except Unsupported:
        return {}
    last = node
    while len(last.users) == 1 and operator_name(user := next(iter(last.users))) in TAILS:
        lowering.lower(last := user)
    engine = _in_engine(lowering, last, threads)
    (name,) = lowering.forms
    target = f"grouped_{name.replace('.', '_')}"
    module.add_submodule(target, engine)
    with module.graph.inserting_after(last):
        new = module.graph.call_module(target, (source,))
    new.meta = dict(last.meta)
    last.replace_all_uses_with(new)
    return lowering.forms
