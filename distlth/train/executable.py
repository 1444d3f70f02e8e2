"""The network of a job, ready to train on this rank's device, and the job's images at its resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distlth.config.schema import RunConfig
from distlth.cores import loader_threads, num_cores
from distlth.data.dataset import Dataset
from distlth.data.load.loader import EvalLoader, TrainLoader, eval_ratio
from distlth.data.load.order import epoch_order, part
from distlth.data.load.packed import PackedSplit
from distlth.data.load.transform import Jitter
from distlth.models import Anatomy, anatomy, build
from distlth.models.anatomy import BATCH
from distlth.train.all_reduce import SparseAllReduce
from distlth.train.cuda_graph import CudaGraphs
from distlth.train.rehearsal import rehearse
from distlth.train.world import World

Splits = Mapping[str, PackedSplit]


@dataclass(frozen=True, eq=False)
class Executable:
    """A network on its device, with loaders of its images.

    `replicas` is `model` wrapped for DDP, and compiled where the job file asks for that; `gradients` averages
    its gradients where DDP does not do so by itself; `graphs` are its passes as CUDA graphs, where the job
    file asks for those. A job loads its weights into `model`. The loader gives the images in the order of
    `seed`. `open_calibration` returns a loader of the calibration images: the first of a seeded order,
    unaugmented. `eval_loader` is that of val, `test_loader` that of test, where there is one.
    """

    seed: int
    model: nn.Module
    replicas: nn.Module
    gradients: SparseAllReduce | None
    graphs: CudaGraphs | None
    anatomy: Anatomy
    loader: TrainLoader
    eval_loader: EvalLoader
    open_calibration: Callable[[], EvalLoader]
    test_loader: EvalLoader | None


def open_splits(config: RunConfig, dataset: Dataset, device: torch.device) -> Splits:
    """Open the splits that a rank reads: once for all its jobs, whatever their seed and resolution."""
    threads, cache = num_loader_threads(config, device), config.data.cache
    ranks = config.cluster.ranks_per_node
    return {
        name: PackedSplit(dataset, name, threads=threads, cache=cache, ranks=ranks) for name in dataset.names
    }


def num_loader_threads(config: RunConfig, device: torch.device) -> int:
    """Return the loader threads of a rank: as asked, or from its share of the node's cores."""
    share = num_cores() // config.cluster.ranks_per_node
    return config.data.threads or loader_threads(share, device.type)


def make_executable(config: RunConfig, splits: Splits, world: World, seed: int) -> Executable:
    """Build, place and wrap the network, take a step of it, and open its loaders. Collective."""
    classes, asked = splits["train"].dataset.num_classes, config.model
    model = build(asked.name, classes, seed=seed, stem=asked.stem, blurpool=asked.blurpool)
    body = anatomy(model, config.data.eval_side)
    loader = _train_loader(config, splits, world, seed)
    eval_loader = _eval_loader(config, splits["val"], world)
    prepared = prepare(config, world, model, loader)
    calibration = partial(_calibration_loader, config, splits["train"], world, seed)
    test_loader = _eval_loader(config, splits["test"], world) if "test" in splits else None
    return Executable(seed, *prepared, body, loader, eval_loader, calibration, test_loader)


def reseed(executable: Executable, config: RunConfig, splits: Splits, world: World, seed: int) -> Executable:
    """Return the same network with the images in another seed's order; nothing is built or compiled again."""
    return replace(
        executable,
        seed=seed,
        loader=_train_loader(config, splits, world, seed),
        open_calibration=partial(_calibration_loader, config, splits["train"], world, seed),
    )


class Prepared(NamedTuple):
    """A network on its device, what trains it on all ranks, what averages its gradients, and its graphs."""

    model: nn.Module
    replicas: nn.Module
    gradients: SparseAllReduce | None
    graphs: CudaGraphs | None


def prepare(config: RunConfig, world: World, model: nn.Module, loader: TrainLoader) -> Prepared:
    """Return a network on its device, and wrapped for DDP and compiled where asked for. Collective.

    It has taken a step with each size of images, without a trace: what is compiled or captured is so here.
    `loader` has the images that it trains on.
    """
    model = _placed(model, config, world.device)
    replicas = world.wrap(model)
    gradients = _gradients(config, replicas, world)
    if config.train.compile:  # no shape is dynamic: one graph for each size of images
        replicas = cast(nn.Module, torch.compile(replicas, dynamic=False))
    batch = len(loader.batch_indices(0, 0))
    for side in config.data.sides:
        count = batch if config.train.compile else BATCH
        rehearse(config, replicas, model, _empty_batch(count, side, world.device))
    return Prepared(model, replicas, gradients, _graphs(config, replicas, model, world, batch))


def _graphs(
    config: RunConfig, replicas: nn.Module, model: nn.Module, world: World, batch: int
) -> CudaGraphs | None:
    """Return the network's passes as CUDA graphs where they are asked for; a CPU has none."""
    if not config.train.cuda_graph or world.device.type != "cuda":
        return None
    graphs = CudaGraphs(replicas, model, config.train)
    for side in config.data.sides:
        graphs.capture(_empty_batch(batch, side, world.device))
    return graphs


def _gradients(config: RunConfig, replicas: nn.Module, world: World) -> SparseAllReduce | None:
    """Return what averages the gradients; None where DDP does, or there is one rank."""
    wanted = config.train.all_reduce
    if wanted.is_plain or not isinstance(replicas, DistributedDataParallel):
        return None
    return SparseAllReduce(replicas, world, torch.bfloat16 if wanted.dtype == "bf16" else torch.float32)


def _placed(model: nn.Module, config: RunConfig, device: torch.device) -> nn.Module:
    """Return the model on its device, in its memory format."""
    config.check_device(device.type)
    if config.train.sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(device)
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)
    else:
        model.register_forward_pre_hook(_contiguous)  # loaders give channels-last images
    return model


def _contiguous(_: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(images.contiguous() for images in batch)


def _empty_batch(count: int, resolution: int, device: torch.device) -> Tensor:
    """Return a batch of black images, as loaders lay them out."""
    images = torch.zeros(count, 3, resolution, resolution, device=device)
    return images.contiguous(memory_format=torch.channels_last)


def _train_loader(config: RunConfig, splits: Splits, world: World, seed: int) -> TrainLoader:
    packed = splits["train"]
    return TrainLoader(
        packed.dataset,
        packed=packed,
        batch_size=config.train.batch_size,
        rank=world.rank,
        world_size=world.size,
        resolution=config.data.resolution,
        side=config.data.side,
        crop=config.data.crop,
        flip=config.data.flip,
        pad=config.data.pad,
        fill=config.data.pad_fill,
        rotate=config.data.rotate,
        jitter=Jitter(**config.data.jitter.model_dump()) if config.data.jitter else None,
        seed=seed,
        device=world.device,
        shuffle=config.data.shuffle,
    )


def _eval_loader(
    config: RunConfig,
    packed: PackedSplit,
    world: World,
    indices: Sequence[int] | None = None,
) -> EvalLoader:
    data, train = config.data, config.train
    return EvalLoader(
        packed.dataset,
        packed=packed,
        split=packed.split,
        indices=indices,
        batch_size=train.eval_batch_size or len(part(train.batch_size, world.rank, world.size)),
        rank=world.rank,
        world_size=world.size,
        resolution=config.data.eval_side,
        ratio=data.eval_ratio or eval_ratio(data.crop),
        device=world.device,
    )


def _calibration_loader(config: RunConfig, packed: PackedSplit, world: World, seed: int) -> EvalLoader:
    order = epoch_order(packed.dataset.split("train").count, seed, epoch=0)
    indices = sorted(order[: config.prune.calibration_images].tolist())
    return _eval_loader(config, packed, world, indices)
