"""2:4 layers: which can run as such, and, where there is a GPU, that they compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distlth.errors import UserError
from distlth.execute.semi_structured import MatrixLayer, obstacle, semi_structured
from distlth.prune.n_of_m import n_of_m_within


def two_of_four(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The layer with half of its weights."""
    weight = layer.weight.data
    weight *= n_of_m_within(torch.ones(weight.shape, dtype=torch.bool), weight, 2, 4)
    return layer


def test_a_cpu_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^2:4 kernels run on a GPU; this network is on the CPU$"):
        semi_structured(nn.Linear(64, 32))


def test_layers_that_stay_dense_say_why() -> None:
    assert obstacle(two_of_four(nn.Linear(64, 32))) is None
    assert obstacle(two_of_four(nn.Conv2d(128, 64, 1, stride=2))) is None
    assert obstacle(nn.Linear(64, 32)) == "its weights are not 2:4"
    assert obstacle(two_of_four(nn.Linear(60, 32))) == "32 x 60 weights are not multiples of 32 x 64"
    for conv in (nn.Conv2d(64, 32, 3), nn.Conv2d(64, 32, 1, padding=1), nn.Conv2d(64, 64, 1, groups=2)):
        assert obstacle(conv) == "not a 1x1 convolution without groups and padding"


@pytest.mark.parametrize("bias", [True, False])
def test_a_1x1_convolution_is_a_product_of_matrices(bias: bool) -> None:
    conv, images = nn.Conv2d(6, 4, 1, stride=(2, 3), bias=bias), torch.randn(2, 6, 5, 7)
    layer = MatrixLayer(conv.weight.detach().flatten(1), conv.bias, conv.stride)
    torch.testing.assert_close(layer(images), conv(images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_it_computes_the_same(dtype: torch.dtype) -> None:
    layers = (nn.Conv2d(3, 64, 3), two_of_four(nn.Conv2d(64, 128, 1, stride=2)), nn.AdaptiveAvgPool2d(1))
    network = nn.Sequential(*layers, nn.Flatten(), two_of_four(nn.Linear(128, 64))).to("cuda", dtype)
    found = semi_structured(network)
    assert (found.sparse, list(found.dense)) == (("1", "4"), ["0"])
    images = torch.randn(8, 3, 17, 17, device="cuda", dtype=dtype)
    torch.testing.assert_close(found.network(images), network(images), rtol=0.02, atol=0.02)
