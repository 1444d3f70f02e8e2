"""Networks by name: the CIFAR type ResNet-20, and every classifier of torchvision. Never pretrained."""

from difflib import get_close_matches
from typing import Any, Literal

import torch
import torchvision.models as tv
from torch import nn

from distlth.errors import ConfigError
from distlth.models.pooling import give_fixed_size_pools
from distlth.models.resnet_cifar import resnet20

Stem = Literal["imagenet", "cifar"]

CIFAR_TYPE = {"resnet20": resnet20}
# These two train with auxiliary classifiers by default, whose outputs no other network has.
WITH_AUXILIARY_HEADS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def names() -> tuple[str, ...]:
    """Every name that ``build`` knows, sorted."""
    return tuple(sorted({*CIFAR_TYPE, *tv.list_models(module=tv)}))


def check_name(name: str) -> None:
    """Raise ConfigError for a name that ``build`` does not know, with those that are near."""
    if name not in names():
        raise ConfigError(_unknown(name))


def build(name: str, num_classes: int, *, seed: int, stem: Stem = "imagenet") -> nn.Module:
    """A freshly initialised network on the CPU, the same bits for the same arguments.

    ``stem="cifar"`` gives torchvision's residual networks a 3x3 stem of stride 1 without pooling, for small
    images; ``resnet20`` has that stem whatever is said. The caller's random state is left as it was.

    Raises ConfigError for an unknown name, a stem that the network cannot have, or no classes.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; a classifier needs at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _build(name, num_classes, stem)


def _build(name: str, num_classes: int, stem: Stem) -> nn.Module:
    if name in CIFAR_TYPE:
        return CIFAR_TYPE[name](num_classes)
    check_name(name)
    options = WITH_AUXILIARY_HEADS.get(name, {})
    model: nn.Module = tv.get_model(name, weights=None, num_classes=num_classes, **options)
    if stem == "cifar":
        _give_cifar_stem(name, model)
    give_fixed_size_pools(model)
    return model


def _give_cifar_stem(name: str, model: nn.Module) -> None:
    if not isinstance(model, tv.ResNet):
        raise ConfigError(
            f"model {name!r} has no stem 'cifar'; the ResNet, ResNeXt and Wide ResNet families have one"
        )
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def _unknown(name: str) -> str:
    near = get_close_matches(name.lower().replace("-", ""), names(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "resnet20 and torchvision's classifiers are"
    return f"model {name!r} is not known; {hint}"
