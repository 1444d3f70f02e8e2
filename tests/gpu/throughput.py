"""What a training step of a ResNet-50 costs on the card, in time, memory and waits."""

from __future__ import annotations

from dataclasses import replace

import torch

from distlth.bench.step import CAPTURED, COMPILED, KINDS, MASK, TORCH_PRUNE, Shape, bench
from distlth.train.meter import Meter
from distlth.train.step import train_step
from distlth.train.warm import set_determinism
from distlth.train.world import World
from tests.gpu.lines import Options, check, expect, main, say
from tests.gpu.work import masked_state, noise


def throughput(options: Options) -> None:
    """Time masked steps against others; count waits."""
    if options.on_gpu:
        with check("no step waits for the device") as said:
            said.append(waits(options))
    device = options.device
    shape = (
        Shape("resnet18", 32, 8, "bf16", device)
        if options.quick
        else Shape("resnet50", 224, 256, "bf16", device)
    )
    set_determinism(False)
    with check("masked, bf16") as said:
        rows = {row.name: row for row in bench(shape=shape, rounds=options.size(10, 2), kinds=KINDS)}
        say(
            "figure",
            "images/s",
            ", ".join(f"{name} {row.images_per_second:,.0f}" for name, row in rows.items()),
        )
        masked = rows[MASK]
        said.append(
            f"{masked.to_no_mask:.3f}x unmasked, {masked.to_bare_loop:.3f}x a bare loop, "
            f"torch's prune {rows[TORCH_PRUNE].to_bare_loop:.3f}x"
        )
        if options.on_gpu:
            said.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB for four networks")
            assert masked.to_no_mask is not None
            assert masked.to_bare_loop is not None
            expect(masked.to_no_mask <= 1.03, "expected at most 1.03x unmasked")
            expect(masked.to_bare_loop <= 1.02, "expected at most 1.02x the bare loop")
    free()
    with check("small networks") as said:
        said.append(small(options))
    free()
    with check("deterministic kernels") as said:
        plain = rate(shape, options)
        set_determinism(True)
        exact = rate(shape, options)
        set_determinism(False)
        said.append(f"{plain:,.0f} images/s without, {exact:,.0f} with: {exact / plain:.3f}x")
    with check("precisions and layouts") as said:
        for amp in ("fp16", "off"):
            said.append(f"{amp} {rate(replace(shape, amp=amp), options):,.0f} images/s")
    with check("compiled") as said:
        rows = {
            row.name: row for row in bench(shape=shape, rounds=options.size(10, 1), kinds=(MASK, COMPILED))
        }
        gain = rows[MASK].milliseconds / rows[COMPILED].milliseconds
        said.append(f"{rows[COMPILED].images_per_second:,.0f} images/s, {gain:.2f}x eager")
        if options.on_gpu:
            expect(gain >= 1.1, "expected at least 1.1x")


def small(options: Options) -> str:
    """Time steps that are so small that the device waits for launches."""
    said = []
    for batch in (128, 512)[: options.size(2, 1)]:
        shape = Shape("resnet20", 32, options.size(batch, 8), "bf16", options.device, "cifar")
        kinds = (*KINDS, CAPTURED) if options.on_gpu else KINDS
        rows = bench(shape=shape, rounds=options.size(8, 1), steps_per_round=options.size(20, 1), kinds=kinds)
        rates = ", ".join(f"{row.name} {row.images_per_second:,.0f}" for row in rows)
        said.append(f"ResNet-20, 32 px, batch {shape.batch}, images/s: {rates}")
    return "; ".join(said)


def rate(shape: Shape, options: Options) -> float:
    """Return the images/s of masked steps."""
    rows = bench(shape=shape, rounds=options.size(5, 1), kinds=(MASK,))
    free()
    return rows[0].images_per_second


def waits(options: Options) -> str:
    """Take steps in each precision where torch raises on whatever waits for the device."""
    batches = [(images.to(options.device), labels.to(options.device)) for images, labels in noise(32, 32)]
    for amp in ("off", "bf16", "fp16"):
        state = masked_state("resnet20", 32, options.device, amp=amp)
        meter = Meter(World(0, 1, options.device), batch_size=32)
        for step in range(6):
            torch.cuda.set_sync_debug_mode("error" if step >= 2 else "default")
            try:
                loss = train_step(state, *batches[step % 4], step=step, lr=0.01)
                meter.count(loss, 32, step)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    return "float32, bf16 and fp16: 0 waits in 4 steps each"


def free() -> None:
    """Give memory that nothing uses back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main(throughput)
