"""Networks by name: those for small images, every classifier of torchvision, and timm's. Never pretrained.

Importing torchvision takes as long as importing torch: only what needs it does that.
"""

from collections.abc import Callable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from distlth.errors import ConfigError
from distlth.models.blurpool import give_blurpool
from distlth.models.mobilenet_cifar import mobilenet_v1
from distlth.models.pooling import give_fixed_size_pools
from distlth.models.resnet_cifar import resnet20, resnet20_openlth, resnet56, resnet56_openlth
from distlth.models.vgg_cifar import vgg16_bn_cifar, vgg16_bn_openlth
from distlth.models.wrn_cifar import wrn32_2

Stem = Literal["imagenet", "cifar"]

CIFAR_TYPE: dict[str, Callable[[int], nn.Module]] = {
    "mobilenet_v1": mobilenet_v1,
    "resnet20": resnet20,
    "resnet20_openlth": resnet20_openlth,
    "resnet56": resnet56,
    "resnet56_openlth": resnet56_openlth,
    "vgg16_bn_cifar": vgg16_bn_cifar,
    "vgg16_bn_openlth": vgg16_bn_openlth,
    "wrn32_2": wrn32_2,
}
# What people call them besides, as `_bare` leaves it.
ALSO_CALLED = {
    "cifarvgg16bn": "vgg16_bn_cifar",
    "mobilenet": "mobilenet_v1",
    "vgg16cifar": "vgg16_bn_cifar",
    "wideresnet322": "wrn32_2",
}
# `timm/NAME` is a network of timm, an optional extra: the version that the tests know.
TIMM, TIMM_VERSION = "timm/", "1.0.31"
# These two train with auxiliary classifiers by default, whose outputs no other network has.
WITH_AUXILIARY_HEADS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def names() -> tuple[str, ...]:
    """Every name that ``build`` knows, sorted, without timm's."""
    import torchvision.models as tv

    return tuple(sorted({*CIFAR_TYPE, *tv.list_models(module=tv)}))


def check_name(name: str) -> None:
    """Raise ConfigError for a name that ``build`` does not know, with those that are near."""
    if name.startswith(TIMM):
        _check_timm(name)
    elif name not in CIFAR_TYPE and name not in names():
        raise ConfigError(_unknown(name))


def build(
    name: str, num_classes: int, *, seed: int, stem: Stem = "imagenet", blurpool: bool = False
) -> nn.Module:
    """A freshly initialised network on the CPU, the same bits for the same arguments.

    ``stem="cifar"`` gives torchvision's residual networks a 3x3 stem of stride 1 without pooling, for small
    images; the networks of ``CIFAR_TYPE`` have one like it whatever is said. ``blurpool`` blurs what their
    strided convolutions read (`distlth.models.blurpool`). The caller's random state is left as it was.

    Raises ConfigError for an unknown name, a stem or blurring that the network cannot have, or no classes.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; a classifier needs at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _build(name, num_classes, stem)
    if blurpool:
        _give_blurpool(name, model)
    return model


def _build(name: str, num_classes: int, stem: Stem) -> nn.Module:
    if name in CIFAR_TYPE:
        return CIFAR_TYPE[name](num_classes)
    check_name(name)
    if name.startswith(TIMM):
        model = _build_timm(name, num_classes, stem)
    else:
        model = _build_torchvision(name, num_classes, stem)
    give_fixed_size_pools(model)
    return model


def _build_torchvision(name: str, num_classes: int, stem: Stem) -> nn.Module:
    import torchvision.models as tv

    options = WITH_AUXILIARY_HEADS.get(name, {})
    model: nn.Module = tv.get_model(name, weights=None, num_classes=num_classes, **options)
    if stem == "cifar":
        _give_cifar_stem(name, model)
    return model


def _build_timm(name: str, num_classes: int, stem: Stem) -> nn.Module:
    import timm

    if stem == "cifar":
        raise _no_cifar_stem(name)
    model: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=False, num_classes=num_classes)
    return model


def _check_timm(name: str) -> None:
    if find_spec("timm") is None:
        raise ConfigError(f"model {name!r} needs timm; install it with: pip install timm=={TIMM_VERSION}")
    import timm

    bare = name.removeprefix(TIMM)
    if not timm.is_model(bare):
        near = get_close_matches(bare.partition(".")[0], timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(TIMM + each for each in near)}?" if near else ""
        raise ConfigError(f"model {name!r} is not known to timm {timm.__version__}{hint}")


def _give_cifar_stem(name: str, model: nn.Module) -> None:
    import torchvision.models as tv

    if not isinstance(model, tv.ResNet):
        raise _no_cifar_stem(name)
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def _no_cifar_stem(name: str) -> ConfigError:
    return ConfigError(
        f"model {name!r} has no stem 'cifar'; torchvision's ResNet, ResNeXt and Wide ResNet families have one"
    )


def _give_blurpool(name: str, model: nn.Module) -> None:
    import torchvision.models as tv

    if not isinstance(model, tv.ResNet):
        raise ConfigError(
            f"model.blurpool: {name!r} has none; torchvision's ResNet, ResNeXt and Wide ResNet families do"
        )
    give_blurpool(model)


def _unknown(name: str) -> str:
    known = {_bare(known): known for known in names()} | ALSO_CALLED
    near = dict.fromkeys(known[bare] for bare in get_close_matches(_bare(name), known, n=3, cutoff=0.5))
    own = f"{', '.join(CIFAR_TYPE)} and torchvision's classifiers are"
    hint = f"did you mean {' or '.join(near)}?" if near else own
    return f"model {name!r} is not known; {hint}"


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
