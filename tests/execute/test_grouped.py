"""A grouped network computes what the masked one does: whole in the engine, or by layer."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distlth.execute import Grouped, grouped
from distlth.execute.blocks import Form, cost, forms
from distlth.execute.cpu import EngineError
from distlth.export.export import TOLERANCE, largest_difference, rounding
from distlth.models import build
from distlth.prune.blocks import Block, block_mask
from tests.slim.tickets import settle


def blocks_of(shape: torch.Size, density: float, height: int = 16) -> Tensor:
    """A mask of blocks of random rows and columns, with some rows that keep nothing."""
    generator = np.random.default_rng(shape.numel())
    columns = shape.numel() // shape[0]
    groups = np.array_split(generator.permutation(shape[0]), max(1, shape[0] // height))
    blocks = [
        Block(
            np.sort(rows),
            np.sort(generator.choice(columns, max(1, round(columns * density)), replace=False)),
        )
        for rows in groups[: max(1, len(groups) - 1)]
    ]
    return block_mask(blocks, shape)


def ticket(model: nn.Module, size: int, density: float = 0.4) -> nn.Module:
    """Leave blocks of every convolution that sees several channels; give norms their statistics."""
    settle(model, size, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels > 3:
                module.weight *= blocks_of(module.weight.shape, density)
    settle(model, size, None)
    return model


def form(kept: Tensor) -> Form:
    return forms(kept).by_cost


def check(model: nn.Module, size: int) -> Grouped:
    """Compare a network with its grouped form at two sizes of batches."""
    made = grouped(model, size)
    for images in (1, 5):
        difference = largest_difference(model, made.network, size, images)
        assert difference <= max(TOLERANCE, 2 * rounding(model, size))
    return made


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn_cifar", "mobilenet_v1", "resnet18"])
def test_a_network_runs_whole(name: str) -> None:
    model = ticket(build(name, 10, seed=0), 32)
    made = check(model, 32)
    assert made.in_torch == ()
    layers = {n for n, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert set(made.forms) == layers
    kept = {n: int(m.weight.count_nonzero()) for n, m in model.named_modules() if n in layers}
    grouped_layers = [name for name, how in made.forms.items() if not how.is_dense]
    assert len(grouped_layers) > len(layers) // 2 or name == "mobilenet_v1"
    assert all(made.forms[name].num_cells == kept[name] for name in grouped_layers)


class DenseBlock(nn.Module):
    """What DenseNet is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 7, 2, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(24 + 12 * i) for i in range(4))
        self.layers = nn.ModuleList(nn.Conv2d(24 + 12 * i, 12, 3, padding=1) for i in range(3))
        self.head = nn.Linear(60, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=False):
            features.append(layer(norm(torch.cat(features, 1)).relu()))
        x = self.norms[3](torch.cat(features, 1)).relu()
        x = nn.functional.avg_pool2d(nn.functional.dropout(x, 0.5, self.training), 2)
        logits: Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def test_densenet_runs_whole_at_any_size() -> None:
    model = ticket(DenseBlock(), 32)
    made = check(model, 32)
    assert made.in_torch == ()
    for size in (24, 45):
        assert largest_difference(model, made.network, size) <= max(TOLERANCE, 2 * rounding(model, size))


def test_the_form_of_each_layer_can_be_measured() -> None:
    model = ticket(DenseBlock(), 32)
    made = grouped(model, 32, measured=True)
    assert set(made.times) == {"layers.0", "layers.1", "layers.2"}  # the others have nothing to leave out
    for name, found in made.times.items():
        assert made.forms[name].is_dense == (found.dense <= found.by_blocks)
        assert 0 < found.cells < 1
    assert largest_difference(model, made.network, 32) <= max(TOLERANCE, 2 * rounding(model, 32))


class Swish(nn.Module):
    """A network with an operator that the engine lacks, and a layer that it cannot run."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, groups=2)
        self.tokens, self.head = nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(nn.functional.silu(self.norm(self.first(x))))
        logits: Tensor = self.head(self.tokens(x.flatten(2).transpose(1, 2)).mean(1))
        return logits


def test_what_the_engine_lacks_is_named_and_the_layers_run_in_it() -> None:
    made = check(ticket(Swish(), 12), 12)
    assert [hurdle.operator for hurdle in made.in_torch] == ["silu"]
    assert made.in_torch[0].reason == "silu is not in the engine"
    assert set(made.forms) == {"first", "second", "head"}
    assert {name for name, _ in made.network.named_parameters()} == {"tokens.weight", "tokens.bias"}


def test_a_copy_shares_the_engine_and_a_pickle_says_what_to_do() -> None:
    model = ticket(DenseBlock(), 32)
    made = grouped(model, 32).network
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(copy.deepcopy(made)(images), made(images))
    with pytest.raises(TypeError, match="save the model that it was made from"):
        pickle.dumps(made)


def test_only_float32_runs() -> None:
    with pytest.raises(EngineError, match=r"runs float32 on the CPU; stem.weight is torch.float64 on cpu"):
        grouped(DenseBlock().double(), 32)


def test_a_layer_runs_by_blocks_only_where_that_is_less_work() -> None:
    shape = torch.Size((64, 32, 3, 3))
    assert form(torch.ones(shape, dtype=torch.bool)).is_dense
    for density in (0.1, 0.5, 0.9):
        assert not form(blocks_of(shape, density)).is_dense
    scattered = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert form(scattered < 0.6).is_dense
    assert not form(scattered < 0.1).is_dense
    assert cost(32, 100) < cost(16, 100) + cost(16, 100)


def test_rows_that_lack_a_weight_of_their_block_stay_in_it() -> None:
    mask = blocks_of(torch.Size((64, 100)), 0.4, 32)
    whole = form(mask)
    row = int(whole.blocks[0].rows[3])
    mask[row, whole.blocks[0].columns[5]] = False
    found = form(mask)
    assert found.num_cells == whole.num_cells
    assert row in next(block.rows for block in found.blocks if len(block.rows) > 1 and row in block.rows)
    assert len(found.empty_rows) == 32
