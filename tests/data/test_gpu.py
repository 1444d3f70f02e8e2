"""The loader on GPUs; skipped where there are too few."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from distlth.data.dataset import Dataset

LOAD_ON = """
import sys, torch
from distlth.data.dataset import Dataset
from distlth.data.load.loader import TrainLoader

def batches(device, **more):
    loader = TrainLoader(dataset, batch_size=64, resolution=16, seed=1, threads=2, device=device, **more)
    return list(loader.epoch(0))

dataset, device = Dataset.load(sys.argv[1]), torch.device("cuda", int(sys.argv[2]))
torch.cuda.set_device(device)
for (images, labels), (same, like) in zip(batches(device), batches(torch.device("cpu")), strict=True):
    assert images.device == labels.device == device
    assert torch.equal(labels.cpu(), like)
    torch.testing.assert_close(images.cpu(), same, rtol=0, atol=1e-5)
print([number for number in range(torch.cuda.device_count()) if torch._C._cuda_hasPrimaryContext(number)])
"""


def contexts(dataset: Dataset, device: int) -> str:
    """Load an epoch on a GPU in a process of its own; return the GPUs on which it has a context."""
    command = [sys.executable, "-c", LOAD_ON, str(dataset.path), str(device)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_has_the_values_of_the_cpu(digits: Dataset) -> None:
    assert contexts(digits, 0) == "[0]"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_loaders_threads_open_no_context_on_another_gpu(digits: Dataset) -> None:
    last = torch.cuda.device_count() - 1
    assert contexts(digits, last) == f"[{last}]"
