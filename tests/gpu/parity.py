"""The same masked steps on a GPU and on the CPU, and in each precision against float32."""

from __future__ import annotations

from typing import Any

import torch

from tests.gpu.lines import Options, check, expect, main
from tests.gpu.work import flat_weights, masked_state, noise, take_steps

# The distance of the weights after 20 steps to those in float32 on the CPU, as a share of what training moved
# them by, and the largest difference of a loss. float32 without TF32; rounding grows from step to step.
KINDS = (("resnet20", 32, 32), ("resnet50", 128, 32))
BOUNDS = {"off": (0.02, 0.005), "tf32": (0.2, 0.05), "bf16": (0.6, 0.2), "fp16": (0.2, 0.05)}


def parity(options: Options) -> None:
    """Compare 20 masked steps of two networks on the device with the CPU's in float32."""
    for name, resolution, batch in KINDS[:1] if options.quick else KINDS:
        batches = noise(resolution, batch)
        steps = options.size(20, 3)
        before = flat_weights(masked_state(name, resolution, torch.device("cpu")).model)
        state = masked_state(name, resolution, torch.device("cpu"))
        losses = take_steps(state, batches, steps)
        after = flat_weights(state.model)
        moved = float((after - before).norm())
        for amp in BOUNDS:
            for channels_last in (True, False):
                if amp == "tf32" and not options.on_gpu:
                    continue
                layout = "channels last" if channels_last else "contiguous"
                with check(f"{name}, {'float32' if amp == 'off' else amp}, {layout}") as said:
                    torch.backends.cudnn.allow_tf32 = amp == "tf32"
                    settings: dict[str, Any] = {"amp": "off" if amp == "tf32" else amp}
                    other = masked_state(
                        name, resolution, options.device, channels_last=channels_last, **settings
                    )
                    own = take_steps(other, noise(resolution, batch, channels_last=channels_last), steps)
                    away = float((flat_weights(other.model) - after).norm()) / moved
                    gap = max(abs(a - b) for a, b in zip(own, losses, strict=True))
                    said.append(f"weights {away:.1e} of the way, loss {gap:.1e} off")
                    expect(away <= BOUNDS[amp][0], f"expected at most {BOUNDS[amp][0]:g}")
                    expect(gap <= BOUNDS[amp][1], f"expected at most {BOUNDS[amp][1]:g}")


if __name__ == "__main__":
    main(parity)
