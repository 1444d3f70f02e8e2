"""Which entry of another code's state dict is which of ours: known dialects, else equal names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

# Counts that torch adds to norms; older files lack them.
COUNTER = ".num_batches_tracked"

# From all names of a state dict to ours.
Dialect = Callable[[Collection[str]], Mapping[str, str]]


@dataclass(frozen=True)
class Names:
    """The names that fit: `theirs` of each of ours that the file has, and whose `dialect` they are."""

    dialect: str
    theirs: Mapping[str, str]


def names(theirs: Collection[str], ours: Collection[str]) -> Names:
    """Return which of `theirs` is which of `ours`: by the first dialect that has all of them.

    Where none has, names count as equal, so that the first difference can be named.
    """
    wanted = {name for name in ours if not name.endswith(COUNTER)}
    for dialect, translate in DIALECTS.items():
        translated = {our: their for their, our in translate(theirs).items()}
        if wanted <= translated.keys():
            return Names(dialect, {our: translated[our] for our in ours if our in translated})
    return Names("equal names", {our: our for our in ours if our in theirs})


def _equal(theirs: Collection[str]) -> dict[str, str]:
    return {name: name for name in theirs}


def _openlth_resnet(theirs: Collection[str]) -> dict[str, str]:
    """`conv`, `bn`, `blocks.K`, `shortcut`, `fc`: three stages of as many blocks."""
    blocks = {int(match[1]) for name in theirs if (match := re.match(r"blocks\.(\d+)\.", name))}
    in_stage = max(1, len(blocks) // 3)

    def block(match: re.Match[str]) -> str:
        stage, index = divmod(int(match[1]), in_stage)
        return f"layer{stage + 1}.{index}."

    def translate(name: str) -> str:
        name = re.sub(r"^(conv|bn)\.", r"\g<1>1.", name)
        return re.sub(r"^blocks\.(\d+)\.", block, name).replace(".shortcut.", ".projection.")

    return {name: translate(name) for name in theirs}


def _openlth_vgg(theirs: Collection[str]) -> dict[str, str]:
    """`layers.K.conv`, `layers.K.bn`, `fc`; K counts poolings, which have no weights, too."""
    places = sorted({int(match[1]) for name in theirs if (match := re.match(r"layers\.(\d+)\.", name))})

    def layer(match: re.Match[str]) -> str:
        index = places.index(int(match[1]))
        poolings = int(match[1]) - index
        return f"features.{3 * index + poolings + (match[2] == 'bn')}."

    return {
        name: re.sub(r"^fc\.", "classifier.", re.sub(r"^layers\.(\d+)\.(conv|bn)\.", layer, name))
        for name in theirs
    }


def _pytorch_cifar(theirs: Collection[str]) -> dict[str, str]:
    """`shortcut` and `linear` for what torchvision's residual networks call `downsample` and `fc`."""
    return {name: re.sub(r"^linear\.", "fc.", name.replace(".shortcut.", ".downsample.")) for name in theirs}


# The paper's networks are called here as there.
DIALECTS: Mapping[str, Dialect] = {
    "equal names": _equal,
    "OpenLTH's cifar_resnet": _openlth_resnet,
    "OpenLTH's cifar_vgg": _openlth_vgg,
    "pytorch-cifar's ResNet": _pytorch_cifar,
}
