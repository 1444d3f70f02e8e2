"""A step's passes as a CUDA graph, which is one launch: for small networks, which else wait for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from distlth.config.schema import TrainSection
from distlth.errors import ConfigError
from distlth.train.rehearsal import untouched
from distlth.train.step import precision

# Passes before a capture: libraries allocate and choose their kernels in them.
WARM_UP = 3


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, and the memory that it reads and writes: in each replay the same."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    labels: Tensor
    scale: Tensor
    loss: Tensor
    gradients: Sequence[tuple[nn.Parameter, Tensor]]


class CudaGraphs:
    """Captures a network's passes once for each size of its images, and replays them.

    The same kernels run as without it, on the weights that lie in the network by then. Between replays
    parameters and buffers may change, but not move. `replicas` is the network, or its compiled form.
    """

    def __init__(self, replicas: nn.Module, model: nn.Module, config: TrainSection) -> None:
        self._replicas, self._model, self._config = replicas, model, config
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, images: Tensor) -> None:
        """Capture the passes for images of this shape and memory format, and leave no other trace.

        Raises:
            ConfigError: the network does something that cannot be captured, such as to wait for the device.
        """
        device = images.device
        labels = torch.zeros(len(images), dtype=torch.int64, device=device)
        inputs = images.clone(), labels, torch.ones((), device=device)
        self._model.train()
        with untouched(self._model, device):
            self._warm_up(*inputs)
            try:
                self._captured[tuple(images.shape)] = self._capture(*inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                raise ConfigError(
                    f"train.cuda_graph: the passes of this network cannot be captured ({reason}); "
                    "set train.cuda_graph: false"
                ) from error

    def __call__(self, images: Tensor, labels: Tensor, scaler: torch.amp.GradScaler) -> Tensor:
        """Leave the gradients of a batch's mean loss in the parameters; return the loss, a scalar tensor."""
        captured = self._captured[tuple(images.shape)]
        captured.images.copy_(images)
        captured.labels.copy_(labels)
        if scaler.is_enabled():
            captured.scale.copy_(scaler.scale(torch.ones_like(captured.scale)))
        captured.graph.replay()
        for parameter, gradient in captured.gradients:
            parameter.grad = gradient
        return captured.loss.clone()

    def _warm_up(self, images: Tensor, labels: Tensor, scale: Tensor) -> None:
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._passes(images, labels, scale)
                self._model.zero_grad(set_to_none=True)
        torch.cuda.current_stream(images.device).wait_stream(stream)

    def _capture(self, images: Tensor, labels: Tensor, scale: Tensor) -> _Captured:
        graph = torch.cuda.CUDAGraph()
        # Other threads of a rank use the device meanwhile: what they do is no part of the graph.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            loss = self._passes(images, labels, scale)
        gradients = [(each, each.grad) for each in self._model.parameters() if each.grad is not None]
        return _Captured(graph, images, labels, scale, loss, gradients)

    def _passes(self, images: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
        with precision(self._config.amp, images.device):
            logits = self._replicas(images)
            loss = functional.cross_entropy(logits, labels, label_smoothing=self._config.label_smoothing)
        (loss * scale if self._config.amp == "fp16" else loss).backward()
        return loss.detach()
