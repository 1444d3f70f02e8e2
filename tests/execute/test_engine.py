"""The CPU engine's convolutions are torch's, for each instruction set that this machine has."""

from __future__ import annotations

import platform
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from distlth.execute.cpu import EngineError, Network, Window, instruction_sets, run
from distlth.execute.cpu.engine import InstructionSet

ENGINE = Path(__file__).parent.parent.parent / "distlth" / "execute" / "cpu"
# What setup.py compiles these files with.
INSTRUCTIONS = {"avx2.cpp": ["-mavx2", "-mfma"], "avx512.cpp": ["-mavx512f", "-mavx512vl", "-mfma"]}
TOLERANCE = 1e-5  # of the largest result


def test_this_machine_runs_the_reference_and_names_the_others() -> None:
    assert instruction_sets()[-1] == "portable"
    assert Network().instructions == instruction_sets()[0]
    with pytest.raises(EngineError, match='no instruction set "sse"'):
        Network("sse")  # type: ignore[arg-type]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_convolution(seed: int) -> None:
    """Any kernel, stride, padding, dilation, groups, size, batch; blocks of any rows; a sum, and a clamp."""
    draw = random.Random(seed)
    torch.manual_seed(seed)

    def pair(most: int, least: int = 1) -> tuple[int, int]:
        return draw.randint(least, most), draw.randint(least, most)

    groups = draw.choice((1, 1, 2, 3))
    channels = groups * draw.randint(1, 9), groups * draw.randint(1, 20)
    window = Window(pair(4), pair(3), pair(3, 0), pair(2))
    images = torch.randn(draw.randint(1, 4), channels[0], draw.randint(7, 19), draw.randint(7, 40))
    weight = torch.randn(channels[1], channels[0] // groups, *window.size)
    weight *= (torch.rand(groups, *weight.shape[1:]) < 0.5).repeat_interleave(channels[1] // groups, 0)
    bias = torch.randn(channels[1])
    exact = functional.conv2d(
        images.double(),
        weight.double(),
        bias.double(),
        window.stride,
        window.padding,
        window.dilation,
        groups,
    )
    wanted = exact.clamp(-1, 6)
    for instructions in instruction_sets():
        network = Network(instructions)
        number = network.convolution(0, channels, window, bounds=(-1, 6))
        _add_blocks(network, number, weight, bias, groups, draw)
        for threads in (1, 3):
            _assert_close(run(images, network, threads), wanted)


def _add_blocks(
    network: Network, number: int, weight: Tensor, bias: Tensor, groups: int, draw: random.Random
) -> None:
    """Give each group's rows to blocks of any height; the rows of a group share their columns."""
    height, matrix = len(weight) // groups, weight.flatten(1).numpy()
    for group in range(groups):
        rows = np.arange(height) + group * height
        kept = np.flatnonzero(matrix[rows].any(axis=0))
        cuts = sorted(draw.sample(range(1, height), min(height - 1, draw.randint(0, 2))))
        for part in np.split(rows, cuts):
            columns = kept + group * matrix.shape[1]
            network.block(number, part, columns, matrix[np.ix_(part, kept)], bias[part].numpy())


def _assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found.double() - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max() or 1.0)


def _dense(network: Network, source: int, weight: Tensor, window: Window, **more: object) -> int:
    channels = weight.shape[1], weight.shape[0]
    number = network.convolution(source, channels, window, **more)  # type: ignore[arg-type]
    rows, columns = np.arange(len(weight)), np.arange(weight[0].numel())
    network.block(number, rows, columns, weight.flatten(1).numpy(), np.zeros(len(weight), np.float32))
    return number


@pytest.mark.parametrize("instructions", instruction_sets())
@pytest.mark.parametrize("size", [(1, 9, 9), (3, 40, 40), (33, 7, 5)])
def test_a_residual_block_and_all_that_stands_between(
    instructions: InstructionSet, size: tuple[int, int, int]
) -> None:
    """Sums in place, several layers strip by strip, pooling, means, concatenation, zeros, a linear layer."""
    torch.manual_seed(0)
    count, height, width = size
    images = torch.randn(count, 3, height, width)
    stem, first, second = torch.randn(96, 3, 3, 3), torch.randn(8, 96, 1, 1) / 9, torch.randn(96, 8, 1, 1) / 3
    third, scale, shift = torch.randn(16, 96, 1, 1) / 9, torch.randn(16), torch.randn(16)
    head = torch.randn(5, 16 + 2 + 1 + 16, 1, 1)
    network = Network(instructions)
    same, point = Window((3, 3), padding=(1, 1)), Window((1, 1))
    stream = _dense(network, 0, stem, same, bounds=(0, np.inf))
    inner = _dense(network, stream, first, point)
    stream = _dense(network, inner, second, point, add=stream, bounds=(0, 6))
    narrow = _dense(network, stream, third, point)
    normed = network.affine(narrow, scale.numpy(), shift.numpy(), bounds=(0, np.inf))
    pooled = network.pool(normed, "max", Window((3, 3), (2, 2), (1, 1), ceil=True))
    average = network.pool(narrow, "mean", Window((3, 3), (2, 2), (1, 1), ceil=True))
    joined = network.concatenation([network.pad(pooled, 2, 1), average])
    _dense(network, network.flatten(network.mean(joined)), head, point)

    x = functional.conv2d(images, stem, padding=1).relu()
    x = (functional.conv2d(functional.conv2d(x, first), second) + x).clamp(0, 6)
    x = functional.conv2d(x, third)
    y = functional.max_pool2d(
        (x * scale[:, None, None] + shift[:, None, None]).relu(), 3, 2, 1, ceil_mode=True
    )
    z = functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
    joined_exact = torch.cat([functional.pad(y, (0, 0, 0, 0, 2, 1)), z], 1)
    wanted = functional.conv2d(joined_exact.mean((2, 3), keepdim=True), head)
    for threads in (1, 2):
        _assert_close(run(images, network, threads), wanted)


def test_threads_share_a_network_and_other_sizes_have_their_own_plans() -> None:
    torch.manual_seed(0)
    weight, network = torch.randn(7, 3, 3, 3), Network()
    _dense(network, 0, weight, Window((3, 3), (2, 2), (1, 1)))
    batches = [torch.randn(1 + i % 3, 3, 8 + i, 9 + i % 5) for i in range(24)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda images: run(images, network, 2), batches * 3))
    for images, result in zip(batches * 3, found, strict=True):
        _assert_close(result, functional.conv2d(images, weight, stride=2, padding=1))
    assert run(torch.empty(0, 3, 8, 8), network).shape == (0, 7, 4, 4)


def test_no_number_stays_none() -> None:
    network = Network()
    _dense(network, 0, torch.ones(20, 1, 1, 1), Window((1, 1)), bounds=(0, 6))
    images = torch.ones(1, 1, 9, 9)
    images[0, 0, 4, 4] = torch.nan
    assert run(images, network).isnan().sum() == 20


def test_a_mistake_is_a_line() -> None:
    network = Network()
    empty, nothing = network.convolution(0, (3, 4), Window((1, 1))), np.empty(0, np.int64)
    with pytest.raises(EngineError, match="an output channel is in no block"):
        run(torch.ones(1, 3, 9, 9), network)
    for rows in ([4], [-1], [2, 2]):
        zeros = np.zeros((len(rows), 0), np.float32)
        with pytest.raises(EngineError, match="an output channel that is not there, or in another block"):
            network.block(empty, np.array(rows), nothing, zeros, zeros.sum(axis=1))
    with pytest.raises(EngineError, match="a column that is not there"):
        network.block(
            empty, np.array([0]), np.array([3]), np.zeros((1, 1), np.float32), np.zeros(1, np.float32)
        )
    network = Network()
    with pytest.raises(EngineError, match="reads what is not there"):
        network.flatten(3)
    _dense(network, 0, torch.ones(4, 3, 5, 5), Window((5, 5)))
    with pytest.raises(EngineError, match="a layer for 3 channels is given 2 x 9 x 9"):
        run(torch.ones(1, 2, 9, 9), network)
    with pytest.raises(EngineError, match="a window larger than its image, 3 x 4 x 9"):
        run(torch.ones(1, 3, 4, 9), network)
    with pytest.raises(EngineError, match="takes float32 images"):
        run(torch.ones(1, 3, 9, 9, dtype=torch.float64), network)


def test_random_networks_run_clean_under_sanitizers(tmp_path: Path) -> None:
    """Nothing is read or written out of bounds, nothing overflows, no memory leaks; the sets agree."""
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    own = INSTRUCTIONS if platform.machine() == "x86_64" else {}
    sources = [*sorted(ENGINE.glob("*.cpp")), Path(__file__).parent / "random_networks.cpp"]
    objects = [tmp_path / f"{source.stem}.o" for source in sources]
    compilers = [
        subprocess.Popen(["g++", "-std=c++20", "-O1", *sanitizers, *own.get(s.name, []), "-c", s, "-o", o])
        for s, o in zip(sources, objects, strict=True)
    ]
    assert not any(compiler.wait() for compiler in compilers)
    driver = tmp_path / "driver"
    subprocess.run(["g++", *sanitizers, *objects, "-o", driver, "-pthread"], check=True)
    done = subprocess.run([driver, "15"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
