"""A rank of a lane: what it keeps warm from job to job."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from distlth.config.schema import RunConfig
from distlth.cores import loader_threads, num_cores
from distlth.data.dataset import Dataset
from distlth.data.load.loader import EvalLoader, TrainLoader, eval_ratio
from distlth.data.load.order import epoch_order
from distlth.methods import Measurement
from distlth.models import Anatomy, anatomy, build
from distlth.train.calibration import CalibrationRun
from distlth.train.pulse import Pulse
from distlth.train.world import World


class Trainer:
    """One rank of a lane: model, loaders and process group, warm from job to job."""

    def __init__(self, config: RunConfig, dataset: Dataset, world: World) -> None:
        self.config = config
        self.world = world
        self.anatomy: Anatomy
        train, data, device = config.train, config.data, world.device
        _set_determinism(train.deterministic)
        self.model = build(config.model.name, dataset.num_classes, seed=config.seed, stem=config.model.stem)
        self.anatomy = anatomy(self.model, data.resolution)
        if train.sync_batch_norm and device.type == "cuda":
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.model.to(device)
        if train.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.loader = TrainLoader(
            dataset,
            batch_size=train.batch_size,
            rank=world.rank,
            world_size=world.size,
            resolution=data.resolution,
            crop=data.crop,
            flip=data.flip,
            seed=config.seed,
            threads=self.threads,
            cache=data.cache,
            device=device,
        )
        self.eval_loader = self._eval_loader(dataset)
        self._dataset = dataset
        self.replicas = world.wrap(self.model)
        self._settle()

    @property
    def threads(self) -> int:
        """Loader threads of this rank."""
        share = num_cores() // self.config.cluster.ranks_per_node
        return self.config.data.threads or loader_threads(share, self.world.device.type)

    @property
    def rank_batch(self) -> int:
        """Training images of one step on this rank."""
        return self.config.train.batch_size // self.world.size

    def precision(self) -> torch.autocast:
        """The context that forward passes run in."""
        amp = self.config.train.amp
        dtype = torch.float16 if amp == "fp16" else torch.bfloat16
        return torch.autocast(self.world.device.type, dtype=dtype, enabled=amp != "off")

    def measure(self, measurement: Measurement, layers: list[str], pulse: Pulse) -> dict[str, Tensor]:
        """Measure the model on the calibration set: the first images of a seeded order, in eval mode."""
        count = self._dataset.split("train").count
        order = epoch_order(count, self.config.seed, epoch=0)
        indices = sorted(order[: self.config.prune.calibration_images].tolist())
        loader = self._eval_loader(self._dataset, split="train", indices=indices)
        self.model.eval()
        try:
            return measurement.measure(CalibrationRun(self.model, layers, loader, self.world, pulse))
        finally:
            loader.close()

    def close(self) -> None:
        """Give back threads and mappings."""
        self.loader.close()
        self.eval_loader.close()

    def _eval_loader(self, dataset: Dataset, **choice: Any) -> EvalLoader:
        data = self.config.data
        return EvalLoader(
            dataset,
            **choice,
            batch_size=self.config.train.eval_batch_size or self.rank_batch,
            rank=self.world.rank,
            world_size=self.world.size,
            resolution=data.resolution,
            ratio=data.eval_ratio or eval_ratio(data.crop),
            threads=self.threads,
            cache=data.cache,
            device=self.world.device,
        )

    def _settle(self) -> None:
        """One pass over an empty batch before any job.

        DDP lays its gradient buckets out anew after the first backward pass it ever sees, and with more
        than two ranks the layout decides the order of sums. Past this, every step of every job has the
        same layout, whether its lane is fresh or has restarted.
        """
        if self.replicas is self.model:
            return
        size = self.config.data.resolution
        images = torch.zeros(2, 3, size, size, device=self.world.device)
        self.model.train()
        self.replicas(images).sum().backward()
        self.model.zero_grad(set_to_none=True)


def _set_determinism(deterministic: bool) -> None:
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS may vary from run to run
    torch.use_deterministic_algorithms(deterministic)
    # Filling fresh memory is a debugging aid; all of ours is written before it is read.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
