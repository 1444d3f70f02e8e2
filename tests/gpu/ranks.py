"""Ranks that train together: NCCL over all GPUs, even if one, and two gloo ranks on one device."""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from distlth.train.all_reduce import SparseAllReduce, compare
from distlth.train.warm import set_determinism
from distlth.train.world import World
from tests.gpu.lines import Options, check, expect, main, say
from tests.gpu.work import flat_weights, masked_state, noise, take_steps

PATIENCE = timedelta(seconds=60)


def ranks(options: Options) -> None:
    """Train a few masked steps over ranks, compare their bits, and time an all-reduce."""
    if options.on_gpu:
        count = torch.cuda.device_count()
        with check(f"NCCL, {count} rank{'s' if count > 1 else ''}") as said:
            devices = [f"cuda:{number}" for number in range(count)]
            together("nccl", devices, said)
        if count == 1:
            say("skip", "several GPUs", "this machine has one")
    with check("gloo, 2 ranks on one device") as said:
        together("gloo", ["cuda:0" if options.on_gpu else "cpu"] * 2, said)


def together(backend: str, devices: list[str], said: list[str]) -> None:
    """Run a rank on each device and compare what they ended with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        spawn(rank, args=(backend, devices, port, folder), nprocs=len(devices))
        found = [Path(folder, str(number)).read_text().split(": ") for number in range(len(devices))]
    digests = {digest for digest, _ in found}
    expect(len(digests) == 1, f"the ranks' weights differ: {found}")
    said.append(f"same weights {digests.pop()} on all, {found[0][1]}")


def rank(number: int, backend: str, devices: list[str], port: int, folder: str) -> None:
    """Be one rank: use each collective, train, and leave the digest of the weights."""
    device = torch.device(devices[number])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group(backend, rank=number, world_size=len(devices), timeout=PATIENCE)
    world = World.current(device)
    world.barrier()
    if len(devices) > 1:
        assert world.texts(f"rank {number}") == [f"rank {each}" for each in range(len(devices))]
        world.agree("the same")
    plain, kept = (trained(world, sends_kept=each) for each in (False, True))
    same = plain == kept or world.size > 2  # then sums have another order where fewer entries travel
    expect(same, f"weights {plain}, but {kept} where gradients of kept weights alone travel")
    Path(folder, str(number)).write_text(f"{plain}: {bandwidth(device, len(devices))}{trial(world)}")
    dist.destroy_process_group()


def trained(world: World, *, sends_kept: bool) -> str:
    """Return the digest of weights after a few masked steps on this rank's part of the batches."""
    device, share = world.device, 64 // world.size
    state = masked_state("resnet20", 32, device)
    wrapped = DistributedDataParallel(
        state.model,
        device_ids=[device.index or 0] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
    if sends_kept:
        SparseAllReduce(wrapped, world, torch.float32).use(state.masking.kept())
    part = slice(world.rank * share, (world.rank + 1) * share)
    batches = [(images[part], labels[part]) for images, labels in noise(32, 64)]
    take_steps(replace(state, replicas=wrapped, rank=world.rank), batches, 8)
    world.share_buffers(state.model)
    return hashlib.blake2b(flat_weights(state.model).numpy().tobytes(), digest_size=8).hexdigest()


def trial(world: World) -> str:
    """Return how long a ResNet-50's gradients take, all and kept ones, with deterministic kernels."""
    if world.device.type != "cuda":
        return ""
    set_determinism(True)
    state = masked_state("resnet50", 64, world.device)
    found = compare(state.model, state.masking.kept(), world, torch.float32)
    return f"; a ResNet-50's gradients {1e3 * found.all:.1f} ms, its kept ones {1e3 * found.kept:.1f} ms"


def bandwidth(device: torch.device, size: int) -> str:
    """Return how fast 100 MB of gradients are reduced."""
    if size == 1:
        return "nothing to reduce"
    values = torch.ones(25_600_000, device=device)
    dist.all_reduce(values)
    start = time.perf_counter()
    for _ in range(5):
        dist.all_reduce(values)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / 5
    return f"all-reduce of {values.nbytes / 1e6:.0f} MB in {1e3 * seconds:.1f} ms over {size}"


if __name__ == "__main__":
    main(ranks)
