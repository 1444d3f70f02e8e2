"""The ranks of a job and their collectives. Without a process group, the world is one rank."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# DDP's option to broadcast buffers in each forward pass: torch 2.13 renamed it, and warns of the old name.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_OWN_BUFFERS: Any = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}


@dataclass(frozen=True)
class World:
    """The ranks that train a job together, as one of them sees them."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def current(cls, device: torch.device) -> World:
        """Return the world of the default process group, or a world of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """`cpu`, or the name of this rank's GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model with its gradients averaged over the ranks after each backward pass.

        BatchNorm's buffers stay each rank's own in training; rank 0's count (see `share_buffers`).
        """
        if self.size == 1:
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            model, device_ids=device_ids, gradient_as_bucket_view=True, **_OWN_BUFFERS
        )

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of rank 0 to every rank."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the ranks, on every rank. `values` may be changed in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Return every rank's `values`, stacked in order of rank: shape (size, *values.shape)."""
        if self.size == 1:
            return values.unsqueeze(0)
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values)
        return torch.stack(parts)

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.size > 1:
            dist.barrier()

    def texts(self, text: str) -> list[str]:
        """Return the text of every rank, in order. Sent as bytes, since torch's own way would unpickle it."""
        content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        lengths = self.gather(torch.tensor(len(content), device=self.device))
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8, device=self.device)
        padded[: len(content)] = content
        rows = zip(self.gather(padded).tolist(), lengths.tolist(), strict=True)
        return [bytes(row[:length]).decode() for row, length in rows]

    def share_text(self, text: str) -> str:
        """Return rank 0's `text` on every rank."""
        return self.texts(text)[0]

    def agree(self, what: str) -> None:
        """Raise RuntimeError unless every rank passes the same text."""
        texts = self.texts(what)
        if len(set(texts)) > 1:
            raise RuntimeError(f"the ranks do not agree: {dict(enumerate(texts))}")
