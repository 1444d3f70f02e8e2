"""The same masked steps on a GPU and on the CPU, and in each precision against float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.gpu.lines import Options, check, expect, main
from tests.gpu.work import flat_weights, masked_state, noise, take_steps

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Kind:
    """A network, its images, and how long it is followed.

    Rounding grows with depth and with each step: an untrained ResNet-50's first gradient already differs by
    some 5% between two memory layouts on one CPU, and after ten steps nothing is left in common. So it is
    compared after one step, and its weights in float32 alone. Its loss may be off by `loss_times` LOSS.
    """

    network: str
    resolution: int
    batch: int
    steps: int
    compared: tuple[str, ...]
    loss_times: float = 1.0


KINDS = (
    Kind("resnet20", 32, 32, 20, ("float32", "tf32", "bf16", "fp16")),
    Kind("resnet50", 128, 16, 1, ("float32",), 3.0),
)
SMALL = Kind("resnet20", 16, 8, 2, ("float32", "bf16"))
# The most that weights may be away from the CPU's, as a share of the way that training moved them: times what
# two memory layouts on the CPU are apart. And the most that a loss may differ by.
TIMES = {"float32": 5, "tf32": 15, "bf16": 50, "fp16": 20}
LOSS = {"float32": 0.001, "tf32": 0.002, "bf16": 0.02, "fp16": 0.005}


def parity(options: Options) -> None:
    """Compare masked steps of two networks on the device with the CPU's in float32."""
    for kind in (SMALL,) if options.quick else KINDS:
        start = flat_weights(masked_state(kind.network, kind.resolution, CPU).model)
        after, losses = trained(kind, CPU)
        moved = float((after - start).norm())
        apart = float((trained(kind, CPU, channels_last=False)[0] - after).norm()) / moved
        for precision in TIMES if options.on_gpu else ("float32", "bf16"):
            for channels_last in (True, False):
                layout = "channels last" if channels_last else "contiguous"
                with check(f"{kind.network}, {precision}, {layout}") as said:
                    own, own_losses = trained(kind, options.device, precision, channels_last=channels_last)
                    away = float((own - after).norm()) / moved
                    gap = max(abs(one - other) for one, other in zip(own_losses, losses, strict=True))
                    said.append(
                        f"weights {away:.1e} of the way (CPU's layouts {apart:.1e}), loss {gap:.1e} off"
                    )
                    most = kind.loss_times * LOSS[precision]
                    expect(gap <= most, f"expected at most {most:g}")
                    if precision in kind.compared:
                        expect(
                            away <= TIMES[precision] * apart,
                            f"expected at most {TIMES[precision]} x the CPU's",
                        )


def trained(
    kind: Kind, device: torch.device, precision: str = "float32", *, channels_last: bool = True
) -> tuple[Tensor, list[float]]:
    """Return the weights after the steps of a kind, and the losses."""
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    settings: dict[str, Any] = {"amp": precision if precision in ("bf16", "fp16") else "off"}
    state = masked_state(kind.network, kind.resolution, device, channels_last=channels_last, **settings)
    batches = noise(kind.resolution, kind.batch, channels_last=channels_last)
    losses = take_steps(state, batches, kind.steps)
    return flat_weights(state.model), losses


if __name__ == "__main__":
    main(parity)
