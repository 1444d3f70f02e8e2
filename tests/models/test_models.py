"""The networks: known sizes and costs, same bits from the same seed, clear refusals."""

import pytest
import torch
from torch import nn

from distlth.errors import ConfigError
from distlth.models import anatomy, build, prunable, zoo


@pytest.mark.parametrize(
    ("name", "num_classes", "resolution", "num_convs", "num_parameters", "macs"),
    [
        # arXiv 1512.03385, table 6: 0.27 and 0.85 million parameters.
        ("resnet20", 10, 32, 19, 269_722, 40_551_040),
        ("resnet20", 100, 32, 19, 275_572, 40_556_800),
        ("resnet56", 10, 32, 55, 853_018, 125_485_696),
        ("resnet56", 100, 32, 55, 858_868, 125_491_456),
        # With projections: 16 x 32 + 32 x 64 weights more, and norms of 32 and 64 channels.
        ("resnet20_openlth", 10, 32, 21, 269_722 + 2_752, 40_551_040 + 262_144),
        # arXiv 2202.04736, table 1: 1.86, 14.72 and 3.21 million, and 0.314 G for VGG-16.
        ("wrn32_2", 10, 32, 33, 1_860_522, 275_612_928),
        ("wrn32_2", 100, 32, 33, 1_872_132, 275_624_448),
        ("vgg16_bn_cifar", 10, 32, 13, 14_728_266, 313_201_664),
        ("vgg16_bn_cifar", 100, 32, 13, 14_774_436, 313_247_744),
        ("mobilenet_v1", 10, 32, 27, 3_217_226, 46_354_432),
        ("mobilenet_v1", 100, 32, 27, 3_309_476, 46_446_592),
        ("resnet50", 1000, 224, 53, 25_557_032, 4_089_184_256),
        ("mobilenet_v2", 1000, 224, 52, 3_504_872, 300_774_272),
    ],
)
def test_sizes_and_costs_are_the_published_ones(
    name: str, num_classes: int, resolution: int, num_convs: int, num_parameters: int, macs: int
) -> None:
    network = anatomy(build(name, num_classes, seed=0), resolution)
    assert len(network.convs) == num_convs
    assert network.num_parameters == num_parameters
    assert network.macs == macs


def test_cifar_stem_keeps_the_resolution() -> None:
    assert anatomy(build("resnet18", 100, seed=0, stem="cifar"), 32).num_parameters == 11_220_132
    assert anatomy(build("resnet50", 200, seed=0, stem="cifar"), 64).num_parameters == 23_910_152
    network = anatomy(build("resnet18", 10, seed=0, stem="cifar"), 32)
    assert network.num_parameters == 11_173_962
    assert network.macs == 555_422_720
    assert network.convs[0].weight_shape == (64, 3, 3, 3)
    assert [conv.output_size[0] for conv in network.convs if conv.name.endswith("0.conv2")] == [32, 16, 8, 4]


def test_activation_bytes_count_each_saved_storage_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    image, hidden = 3 * 16 * 16 * 4, 8 * 16 * 16 * 4
    # Saved: the image by the first layer, the ReLU's output by the ReLU and again by the second layer.
    assert anatomy(model, 16).activation_bytes == image + hidden


def test_anatomy_counts_groups_repeats_and_leaves_the_model_alone() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
    model = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2, bias=False), shared, shared).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = anatomy(model, 16)
    assert [conv.macs for conv in network.convs] == [8 * 8 * 8 * 3, 2 * 8 * 8 * 8 * 2 * 9]
    assert network.macs == sum(conv.macs for conv in network.convs)
    assert network.convs[1].weight_shape == (8, 2, 3, 3)
    assert (network.convs[1].fan_in, network.convs[1].num_weights) == (18, 144)
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_scope_excludes_the_layer_that_runs_first_not_the_one_written_first() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late = nn.Conv2d(4, 4, 3)
            self.early = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.head(self.late(self.early(x)).mean((2, 3))))

    network = anatomy(Backwards(), 8)
    assert [conv.name for conv in prunable(network, "all")] == ["late", "early"]
    assert [conv.name for conv in prunable(network, "no-stem")] == ["late"]


@pytest.mark.parametrize(
    ("name", "stem"), [*((name, "imagenet") for name in zoo.CIFAR_TYPE), ("resnet18", "cifar")]
)
def test_a_seed_gives_the_same_bits_and_leaves_the_callers_randomness_alone(name: str, stem: str) -> None:
    torch.manual_seed(5)
    expected_next = torch.rand(3)
    torch.manual_seed(5)
    first = build(name, 10, seed=3, stem="cifar" if stem == "cifar" else "imagenet")
    assert torch.equal(torch.rand(3), expected_next)
    second = build(name, 10, seed=3, stem="cifar" if stem == "cifar" else "imagenet")
    other = build(name, 10, seed=4, stem="cifar" if stem == "cifar" else "imagenet")
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_shortcuts_of_resnet20_pass_the_input_on() -> None:
    model = build("resnet20", 10, seed=0)
    block = model.get_submodule("layer2.0")
    for norm in ("bn1", "bn2"):
        nn.init.zeros_(block.get_parameter(f"{norm}.weight"))
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_wrn_activates_after_the_sum_and_has_a_convolution_in_the_shortcut() -> None:
    """With the branch at zero a block is the ReLU of its shortcut."""
    model = build("wrn32_2", 10, seed=0).eval()
    x = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    for name in ("layer1.0", "layer2.0"):
        block = model.get_submodule(name)
        nn.init.zeros_(block.get_parameter("bn2.weight"))
        shortcut = (
            x if name == "layer1.0" else block.get_submodule("bn3")(block.get_submodule("downsample")(x))
        )
        assert torch.equal(block(x), shortcut.relu())


def test_networks_for_small_images_take_other_sizes_too() -> None:
    for name in zoo.CIFAR_TYPE:
        assert build(name, 7, seed=0).train()(torch.rand(2, 3, 40, 40)).shape == (2, 7)
    with pytest.raises(ConfigError, match="does not accept 28x28 images"):
        anatomy(build("vgg16_bn_cifar", 10, seed=0), 28)


def test_networks_with_auxiliary_heads_give_plain_logits_in_training() -> None:
    assert build("googlenet", 7, seed=0).train()(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'ResNet-50' is not known; did you mean resnet50"):
        build("ResNet-50", 10, seed=0)
    with pytest.raises(ConfigError, match="'zzz' is not known; mobilenet_v1, resnet20, resnet20_openlth"):
        build("zzz", 10, seed=0)


@pytest.mark.parametrize(
    ("guess", "name"),
    [
        ("WRN-32-2", "wrn32_2"),
        ("wide_resnet32_2", "wrn32_2"),
        ("ResNet-56", "resnet56"),
        ("vgg16-cifar", "vgg16_bn_cifar"),
        ("VGG-16-BN-CIFAR", "vgg16_bn_cifar"),
        ("MobileNet", "mobilenet_v1"),
        ("mobilenetv1", "mobilenet_v1"),
    ],
)
def test_other_names_lead_to_the_networks_for_small_images(guess: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {name}[ ?]"):
        zoo.check_name(guess)


def test_impossible_requests_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'mobilenet_v2' has no stem 'cifar'"):
        build("mobilenet_v2", 10, seed=0, stem="cifar")
    with pytest.raises(ConfigError, match="num_classes is 0"):
        build("resnet20", 0, seed=0)
    with pytest.raises(ConfigError, match="does not accept 16x16 images"):
        anatomy(build("alexnet", 10, seed=0), 16)
