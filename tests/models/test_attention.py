"""Attention networks: published sizes, heads, and what is alive, by hand and by gradients."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional

from distlth.errors import ConfigError
from distlth.methods import Source
from distlth.methods.refill import Refill
from distlth.models import Graph, LinearLayer, anatomy, build, gates, leaks, prunable, zoo
from distlth.models.alive import alive, count_alive, known_alive, macs
from distlth.models.heads import heads
from distlth.models.streams import streams
from distlth.models.trace import trace
from distlth.prune.mask import Mask, weight_name
from distlth.ticket import Ticket, Trained
from distlth.train.masking import Masking, parameter_masks
from tests.transformers import BLOCK, FIRST, OUT, PACKED, SECOND, SIZE, tiny_swin, tiny_vit, unsettled


def shapes_alone(name: str) -> nn.Module:
    """A network of torchvision without numbers."""
    with torch.device("meta"):
        model: nn.Module = tv.get_model(name)
    return model


BOTH = pytest.mark.parametrize("make", [tiny_vit, tiny_swin])


@pytest.mark.parametrize(
    ("name", "num_parameters", "giga_macs", "num_layers"),
    # torchvision's documentation of both weights. ViT-B: the patches, and 4 in each of 12 blocks; Swin-T: the
    # patches, 4 in each of 12 blocks, and 3 merges.
    [("vit_b_16", 86_567_656, 17.56, 49), ("swin_t", 28_288_354, 4.49, 52)],
)
def test_sizes_and_costs_are_the_published_ones(
    name: str, num_parameters: int, giga_macs: float, num_layers: int
) -> None:
    network = anatomy(shapes_alone(name), 224)
    assert network.num_parameters == num_parameters
    assert round(network.macs / 1e9, 2) == giga_macs
    assert macs(network.graph) == network.macs
    assert not network.graph.unfollowed
    assert len(prunable(network, "all", "conv+linear")) == num_layers


def test_linear_layers_are_prunable_where_asked_for_and_the_classifier_never() -> None:
    body = anatomy(tiny_vit(), SIZE)
    assert [layer.name for layer in prunable(body, "all")] == ["conv_proj"]
    found = {layer.name: layer for layer in prunable(body, "all", "conv+linear")}
    assert list(found)[:5] == ["conv_proj", PACKED, OUT, FIRST, SECOND]
    assert [found[name].weight_shape for name in (PACKED, FIRST)] == [(96, 32), (64, 32)]
    assert found[PACKED] == LinearLayer(PACKED, (96, 32), 1, macs=17 * 96 * 32)
    assert not {"conv_proj", "heads.head"} & {each.name for each in prunable(body, "no-stem", "conv+linear")}
    vgg = anatomy(shapes_alone("vgg11"), 32)
    assert [each.name for each in vgg.layers if each not in vgg.convs] == [
        f"classifier.{n}" for n in (0, 3, 6)
    ]
    assert [each.name for each in prunable(vgg, "all", "conv+linear")][-2:] == [
        "classifier.0",
        "classifier.3",
    ]
    assert [weight_name(name) for name in ("a.b", PACKED, "in_proj")] == [
        "a.b.weight",
        PACKED,
        "in_proj.weight",
    ]


@BOTH
def test_a_head_is_its_rows_of_query_key_and_value(make: Callable[[], nn.Module]) -> None:
    body = anatomy(make(), SIZE)
    found = heads(body.graph, {layer.name for layer in body.layers})
    assert all(name.endswith(("in_proj_weight", "qkv")) for name in found)
    assert len(found) == (2 if make is tiny_vit else 4)
    for name, rows in found.items():
        width = body.graph.layers[[each.name for each in body.graph.layers].index(name)].shape[1]
        expected = torch.arange(3 * width).reshape(3, -1, 8).transpose(0, 1).reshape(-1, 24)
        assert torch.equal(rows, expected)
    shapes = {layer.name: layer.weight_shape for layer in prunable(body, "all", "conv+linear")}
    assert leaks(body.graph, shapes) == ()
    assert gates(body.graph, shapes) == ()
    assert [len(stream) for stream in streams(body.graph, shapes.keys())] == (
        [5] if make is tiny_vit else [5, 5]
    )


class Attention(nn.Module):
    """One head of two channels on the four pixels of an image, each projection a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, 2, bias=False) for _ in range(3))
        self.out, self.head = nn.Linear(2, 4, bias=False), nn.Linear(4, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)
        weights = (q @ k.transpose(1, 2)).softmax(dim=-1)
        logits: Tensor = self.head(self.out(weights @ v).mean(dim=1))
        return logits


def test_what_is_alive_in_attention_by_hand() -> None:
    graph = trace(Attention().to("meta").train(), torch.empty(2, 3, 2, 2, device="meta"))
    # Projections of 4 tokens, query x key and attention x value of 4 x 4 x 2, and the head, once.
    assert macs(graph) == 4 * (3 * 2 * 3 + 2 * 4) + 2 * 4 * 4 * 2 + 4 * 5
    kept = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in graph.layers}
    assert heads(graph, kept).keys() == {"q", "k", "v"}
    kept["q"][0] = False  # its product with the key's channel is zero, and nobody uses that channel
    found = alive(graph, kept)
    assert [found[name].any(dim=1).tolist() for name in "qkv"] == [[False, True], [False, True], [True, True]]
    assert count_alive(graph, kept).macs == macs(graph) - 4 * 2 * 3 - 4 * 4
    kept["q"][1] = False  # attention is uniform now, and a constant factor
    found = alive(graph, kept)
    assert [bool(found[name].any()) for name in ("q", "k", "v", "out")] == [False, False, True, True]
    kept["v"][:] = False
    assert count_alive(graph, kept) == count_alive(graph, {**kept, "k": ~kept["k"]})
    assert count_alive(graph, kept).macs == count_alive(graph, kept).weights == 0
    assert {leak.layer for leak in leaks(graph, dict.fromkeys("qkv", (2, 3)))} == set()
    assert gates(graph, {"q": (2, 3)}) == ("q",)


def refilled(body_graph: Graph, weights: Mapping[str, Tensor], density: float) -> Mask:
    """A mask of whole channels and heads, of as many as an unstructured one of this density amounts to."""
    generator = torch.Generator().manual_seed(1)
    mask = Mask({name: torch.rand(w.shape, generator=generator) < density for name, w in weights.items()})
    source = Source(mask, Trained(mask, weights), mask.kept, 0, units=heads(body_graph, mask.names))
    return Refill(method="refill").make(source).mask


@BOTH
def test_alive_is_what_has_gradients(make: Callable[[], nn.Module]) -> None:
    """In float64, with random parameters, a kept weight has a gradient if and only if it is alive."""
    model = unsettled(make())
    body = anatomy(model, SIZE)
    layers = prunable(body, "all", "conv+linear")
    weights = {layer.name: model.get_parameter(weight_name(layer.name)).detach() for layer in layers}
    mask = refilled(body.graph, weights, 0.4)
    Masking(model, parameter_masks(Ticket(mask, {}, True), body, dict(model.named_parameters())))
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model.double().eval()(images).logsumexp(1).sum().backward()
    found, left = alive(body.graph, mask.layers), 0
    for name, kept in mask.items():
        gradient = model.get_parameter(weight_name(name)).grad
        assert gradient is not None
        assert torch.equal(found[name], kept & (gradient != 0)), name
        left += int((kept & (gradient != 0)).sum())
    counted = count_alive(body.graph, mask.layers)
    assert counted.weights == left < mask.kept
    rest = sum(int(found[layer.name].sum()) * layer.macs // found[layer.name].numel() for layer in layers)
    products = counted.macs - rest - 10 * 32  # but for the classifier
    if make is tiny_vit:  # 2 of 4 heads are left in both blocks: 17 x 17 x 8 for each product
        assert [mask.kept_in(name) for name in mask if name.endswith("in_proj_weight")] == [2 * 24 * 32] * 2
        assert products == 2 * 2 * 2 * 17 * 17 * 8


def test_removed_heads_and_neurons_put_out_zeros_and_the_fused_form_sees_it() -> None:
    model = unsettled(tiny_vit()).eval()
    body = anatomy(model, SIZE)
    rows = heads(body.graph, [PACKED])[PACKED]
    kept = {PACKED: torch.ones(96, 32, dtype=torch.bool), FIRST: torch.ones(64, 32, dtype=torch.bool)}
    kept[PACKED][rows[1]], kept[FIRST][:5] = False, False
    masks = parameter_masks(Ticket(Mask(kept), {}, True), body, dict(model.named_parameters()))
    assert masks.keys() == {
        PACKED,
        f"{BLOCK}.self_attention.in_proj_bias",
        f"{FIRST}.weight",
        f"{FIRST}.bias",
    }
    assert not masks[f"{BLOCK}.self_attention.in_proj_bias"][rows[1]].any()
    Masking(model, masks)
    read = {}
    seen = (model.get_submodule(name) for name in (SECOND, FIRST))
    for name, module in zip((SECOND, FIRST), seen, strict=True):
        module.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    step_by_step = model(images)
    assert not read[SECOND][..., :5].any()
    assert read[SECOND][..., 5:].any()
    with torch.no_grad():
        fused = model(images)  # torch runs attention as one operator where it needs no gradients
        model.get_parameter(f"{OUT}.weight")[:, 8:16] = 5.0  # what reads the head reads zeros
        assert torch.equal(model(images), fused)
        model.get_parameter(PACKED)[rows[0]] = 0
        assert not torch.allclose(model(images), fused)
    torch.testing.assert_close(step_by_step.detach(), fused, rtol=1e-4, atol=1e-5)


def test_masked_gradients_of_packed_weights_stay_zero() -> None:
    model = unsettled(tiny_vit()).train()
    kept = torch.rand(96, 32, generator=torch.Generator().manual_seed(0)) < 0.5
    masking = Masking(model, {PACKED: kept})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        functional.cross_entropy(model(torch.rand(2, 3, SIZE, SIZE)), torch.tensor([1, 2])).backward()
        masking.mask_gradients()
        optimizer.step()
    masking.check_zeros()
    assert not model.get_parameter(PACKED)[~kept].any()
    assert model.get_parameter(PACKED)[kept].all()


def test_what_is_not_followed_is_named_and_not_counted() -> None:
    graph = anatomy(shapes_alone("swin_v2_t"), 64).graph
    assert graph.unfollowed == ("index", "linalg_vector_norm")
    assert known_alive(graph, {}) is None


def test_timm_by_name() -> None:
    pytest.importorskip("timm")
    model, again = (build("timm/test_vit", 10, seed=0).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.items())
    body = anatomy(build("timm/test_vit", 10, seed=1), 160)
    assert body.num_parameters == sum(tensor.numel() for tensor in model.values()) == 306_890
    assert heads(body.graph, ["blocks.0.attn.qkv"])["blocks.0.attn.qkv"].shape == (2, 3 * 32)
    assert len(prunable(body, "all", "conv+linear")) == 1 + 4 * 6
    with pytest.raises(
        ConfigError, match=r"'timm/test_vitt' is not known to timm .*did you mean timm/test_vit"
    ):
        build("timm/test_vitt", 10, seed=0)
    with pytest.raises(ConfigError, match="'timm/test_vit' has no stem 'cifar'"):
        build("timm/test_vit", 10, seed=0, stem="cifar")


def test_without_timm_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        zoo.check_name("timm/test_vit")
    pin = f"timm=={zoo.TIMM_VERSION}"
    assert str(caught.value) == f"model 'timm/test_vit' needs timm; install it with: pip install {pin}"
    project = tomllib.loads((Path(__file__).parent.parent.parent / "pyproject.toml").read_text())
    assert project["project"]["optional-dependencies"]["timm"] == [pin]
