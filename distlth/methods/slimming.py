"""Network slimming: channels by the scale of their BatchNorm (Liu et al., arXiv 1708.06519)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from distlth.errors import ConfigError
from distlth.methods.base import Calibration, MadeFrom, Measurement, Source
from distlth.methods.channels import Removing

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from distlth.ticket import Structured

SCALES = "slimming"
NO_NORM = "no BatchNorm reads its output: it keeps all channels"


class Slimming(Removing):
    """Whole channels of all layers together, by the scale of their BatchNorm in the trained dense network.

    The paper also trains with an L1 penalty on the scales; here round 0 trains as it does, for all methods.
    """

    method: Literal["slimming"] = Field(description="whole channels, by the scale of their BatchNorm")

    @property
    def made_from(self) -> MadeFrom:
        """The trained dense network."""
        return "dense"

    def check_model(self, model: nn.Module) -> None:
        """Raise ConfigError for a network without BatchNorm."""
        from torch.nn.modules.batchnorm import _BatchNorm

        if not any(isinstance(module, _BatchNorm) and module.affine for module in model.modules()):
            raise ConfigError(
                f"prune.branches: {self.label} prunes by the scales of BatchNorm, and this network has none; "
                "use magnitude-channels, or leave the branch out"
            )

    def measurements(self, density: float) -> tuple[Measurement, ...]:
        """Return the one of scales."""
        return (Measurement(SCALES, scales),)

    def make(self, source: Source) -> Structured:
        """Return whole channels; a layer without a norm behind it keeps all of its own and says why."""
        from distlth.prune.scores import keep_best_channels
        from distlth.prune.units import from_units, scores_in_units, shapes_in_units
        from distlth.ticket import Structured

        found, shapes, units = source.measured(SCALES), source.mask.shapes, source.units
        sums = scores_in_units(found, units)
        means = {name: total * len(total) / len(found[name]) for name, total in sums.items()}
        channels = keep_best_channels(means, shapes_in_units(shapes, units), source.kept)
        kept = from_units(channels, shapes, units)
        lacking = [name for name, values in found.items() if values.isinf().any()]
        return Structured(kept, {}, dict.fromkeys(lacking, NO_NORM))


def scales(calibration: Calibration) -> dict[str, Tensor]:
    """Return |gamma| of the norm that reads each prunable layer's output: C_out entries (float64).

    A layer whose output no norm reads has infinite ones.
    """
    import torch

    from distlth.prune.mask import weight_name

    model = calibration.model
    behind = _norms_behind(calibration)
    device = next(model.parameters()).device
    # A rank may have no image to look with.
    looked = calibration.total(torch.tensor([float(behind is not None)], dtype=torch.float64, device=device))
    found = {}
    for name in calibration.layers:
        channels = len(model.get_parameter(weight_name(name)))
        blank = torch.full((channels,), 0.0 if behind is None else torch.inf, device=device)
        gamma = (behind or {}).get(name, blank)
        found[name] = (calibration.total(gamma.detach().abs().double()) / looked).cpu()
    return found


def _norms_behind(calibration: Calibration) -> dict[str, Tensor] | None:
    """Return the weight of the norm behind each layer that has one, found by running images; None without."""
    import torch

    images = next((images[:2] for images, _ in calibration.batches()), None)
    if images is None:
        return None
    norms = _Norms()
    hooks = norms.watch(calibration)
    try:
        with torch.no_grad():
            calibration.model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return norms.behind


class _Norms:
    """Notes, by forward hooks, which norm reads the output of which layer."""

    def __init__(self) -> None:
        self._outputs: dict[int, tuple[str, Tensor]] = {}  # a tensor that is held keeps its id
        self.behind: dict[str, Tensor] = {}

    def watch(self, calibration: Calibration) -> list[RemovableHandle]:
        from torch.nn.modules.batchnorm import _BatchNorm

        model = calibration.model
        modules = dict(model.named_modules())  # an attention's packed weight has none
        layers = [
            modules[name].register_forward_hook(self._layer_hook(name))
            for name in calibration.layers
            if name in modules
        ]
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.affine]
        return layers + [norm.register_forward_pre_hook(self._on_norm) for norm in norms]

    def _layer_hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def on_forward(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._outputs[id(output)] = (name, output)

        return on_forward

    def _on_norm(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in self._outputs:
            name, _ = self._outputs[id(inputs[0])]
            self.behind.setdefault(name, norm.get_parameter("weight"))
