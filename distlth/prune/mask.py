"""What is kept of a network: a mask is a value, with its digest, its packed form and its comparisons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

# What `nn.MultiheadAttention` calls its weights that belong to no module of their own.
PACKED_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

DIGEST_BYTES = 8
_BITS, _SHAPE = "bits", "shape"


def weight_name(layer: str) -> str:
    """Return the name of the parameter that a layer of a mask stands for.

    That is the module's name and `.weight`. A weight that has no module of its own (PACKED_WEIGHTS) is a
    layer under its own name.
    """
    return layer if layer.rpartition(".")[2] in PACKED_WEIGHTS else f"{layer}.weight"


@dataclass(frozen=True, eq=False)
class Mask:
    """Which weights of each prunable layer are kept: an immutable value.

    `layers` maps a layer's name to a bool CPU tensor of the shape of its weight (C_out x ...); True means
    kept. `weight_name` says which parameter that is. The order of the layers counts: it breaks ties and is
    part of the digest. The tensors are copied when the mask is made; treat those it hands out as read-only.

    Raises ValueError when made from no layers, or from a tensor that is not bool, not on the CPU, empty or
    of fewer than two dimensions.
    """

    layers: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a mask needs at least one layer")
        for name, kept in self.layers.items():
            _check_layer(name, kept)
        copies = {name: _contiguous_copy(kept) for name, kept in self.layers.items()}
        object.__setattr__(self, "layers", copies)

    @classmethod
    def dense(cls, shapes: Mapping[str, Sequence[int]]) -> Mask:
        """The mask that keeps every weight of layers of these shapes."""
        return cls({name: torch.ones(tuple(shape), dtype=torch.bool) for name, shape in shapes.items()})

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.layers[name]
        except KeyError:
            raise KeyError(f"no layer {name!r} in this mask; it has {', '.join(self.layers)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self.layers

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def names(self) -> KeysView[str]:
        """The layer names, in order."""
        return self.layers.keys()

    def items(self) -> ItemsView[str, Tensor]:
        """The pairs of layer name and bool tensor, in order."""
        return self.layers.items()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each layer's weight."""
        return {name: tuple(kept.shape) for name, kept in self.items()}

    @property
    def kept(self) -> int:
        """The number of kept weights in all layers."""
        return sum(self.kept_in(name) for name in self)

    @property
    def total(self) -> int:
        """The number of weights in all layers, kept or not."""
        return sum(kept.numel() for kept in self.layers.values())

    @property
    def density(self) -> float:
        """Kept weights over all weights of the masked layers, a fraction."""
        return self.kept / self.total

    def kept_in(self, name: str) -> int:
        """The number of kept weights in one layer."""
        return int(torch.count_nonzero(self[name]))

    def layer_density(self) -> dict[str, float]:
        """The density of each layer, a fraction."""
        return {name: self.kept_in(name) / kept.numel() for name, kept in self.items()}

    def empty_channels(self, name: str) -> Tensor:
        """A bool tensor of C_out entries: True for the output channels of a layer that keep nothing."""
        return ~self[name].flatten(1).any(dim=1)

    def replace(self, layers: Mapping[str, Tensor]) -> Mask:
        """This mask with other tensors for some of its layers, in the same order.

        Raises ValueError for a layer that this mask does not have, or for a changed shape.
        """
        _check_names("replacement", set(layers) - set(self.names), "not in the mask")
        changed = Mask({name: layers.get(name, kept) for name, kept in self.items()})
        _check_same_layout(self, changed)
        return changed

    def __and__(self, other: Mask) -> Mask:
        _check_same_layout(self, other)
        return Mask({name: kept & other[name] for name, kept in self.items()})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return list(self.shapes.items()) == list(other.shapes.items()) and all(
            torch.equal(kept, other[name]) for name, kept in self.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def is_subset(self, other: Mask) -> bool:
        """Whether every weight kept here is kept in `other` too. Raises ValueError for other layers."""
        _check_same_layout(self, other)
        return not any((kept & ~other[name]).any() for name, kept in self.items())

    def differences(self, other: Mask) -> list[str]:
        """One line for each layer in which two masks differ, for people to read; empty if they are equal."""
        lines = [f"{name}: only in the first" for name in self if name not in other]
        lines += [f"{name}: only in the second" for name in other if name not in self]
        shared = [name for name in self if name in other]
        lines += [line for name in shared for line in _layer_difference(name, self[name], other[name])]
        if not lines and list(self.names) != list(other.names):
            lines.append("the same layers in another order")
        return lines

    def digest(self) -> str:
        """A short hex digest of names, shapes and kept cells: equal masks have equal digests."""
        return self.pack().digest()

    def pack(self) -> PackedMask:
        """The same mask with eight cells to a byte: what is stored and sent."""
        bits = tuple(np.packbits(kept.numpy().reshape(-1)).tobytes() for kept in self.layers.values())
        return PackedMask(tuple(self.names), tuple(self.shapes.values()), bits)

    def to_tensors(self) -> dict[str, Tensor]:
        """The mask as small tensors under plain keys, for a file of tensors that may lose their order.

        For layer i these are `i/bits/NAME` (uint8, eight cells to a byte) and `i/shape/NAME` (int64).
        """
        packed = self.pack()
        tensors = {}
        for index, name in enumerate(packed.names):
            bits = np.frombuffer(packed.bits[index], dtype=np.uint8).copy()
            tensors[f"{index:05d}/{_BITS}/{name}"] = torch.from_numpy(bits)
            tensors[f"{index:05d}/{_SHAPE}/{name}"] = torch.tensor(packed.shapes[index], dtype=torch.int64)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Mask:
        """The mask that `to_tensors` turned into these tensors. Raises ValueError for any others."""
        names, shapes, bits = [], [], []
        for key in sorted(tensors):
            index, kind, name = _split_key(key)
            if kind == _BITS:
                shape = tensors.get(f"{index}/{_SHAPE}/{name}")
                if shape is None:
                    raise ValueError(f"stored mask has no shape for layer {name!r}")
                names.append(name)
                shapes.append(tuple(int(size) for size in shape))
                bits.append(tensors[key].numpy().tobytes())
        if len(tensors) != 2 * len(names):
            raise ValueError("stored mask has shapes without bits")
        return PackedMask(tuple(names), tuple(shapes), tuple(bits)).unpack()


@dataclass(frozen=True)
class PackedMask:
    """A mask with eight cells to a byte: hashable, picklable, and small enough to send to every rank.

    `bits[i]` holds the cells of layer `names[i]` in C order, first cell in the highest bit, padded with
    zero bits to whole bytes. Raises ValueError when the three do not fit together.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bits: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.shapes) == len(self.bits):
            raise ValueError("packed mask: as many names, shapes and bit strings are needed")
        if len(set(self.names)) != len(self.names):
            raise ValueError("packed mask: a layer name occurs twice")
        for name, shape, bits in zip(self.names, self.shapes, self.bits, strict=True):
            cells = prod(shape)
            if len(bits) != -(-cells // 8):
                raise ValueError(f"packed mask, layer {name!r}: {len(bits)} bytes for {cells} cells")
            if cells % 8 and bits[-1] & (0xFF >> cells % 8):
                raise ValueError(f"packed mask, layer {name!r}: padding bits are set")

    def unpack(self) -> Mask:
        """The mask itself, equal to the one that was packed."""
        return Mask(
            {
                name: _unpack_bits(bits, shape)
                for name, shape, bits in zip(self.names, self.shapes, self.bits, strict=True)
            }
        )

    def digest(self) -> str:
        """The digest of the mask, without unpacking it."""
        header = json.dumps([self.names, self.shapes]).encode()
        state = hashlib.blake2b(len(header).to_bytes(8, "little") + header, digest_size=DIGEST_BYTES)
        for bits in self.bits:
            state.update(bits)
        return state.hexdigest()


def empty_layers(mask: Mask, before: Mask | None = None) -> tuple[str, ...]:
    """Return the names of the layers that keep no weight, and of `before` some where it is given."""
    names = tuple(name for name, kept in mask.items() if not kept.any())
    return names if before is None else tuple(name for name in names if before[name].any())


def check_weights(mask: Mask, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless `weights` has exactly the mask's layers, all float32 and finite."""
    _check_names("weights", set(mask.names) - set(weights), "missing")
    _check_names("weights", set(weights) - set(mask.names), "not in the mask")
    for name, kept in mask.items():
        check_weight(name, kept, weights[name])


def check_weight(name: str, kept: Tensor, weight: Tensor) -> None:
    """Raise ValueError unless one layer's weight is a finite float32 CPU tensor of its mask's shape."""
    if weight.shape != kept.shape:
        raise ValueError(f"weight {name!r} has shape {tuple(weight.shape)}, its mask {tuple(kept.shape)}")
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise ValueError(f"weight {name!r} is {weight.dtype} on {weight.device}, expected float32 on the CPU")
    if not is_finite(weight):
        raise ValueError(f"weight {name!r} has NaN or infinite entries")


def is_finite(values: Tensor) -> bool:
    """Return whether no entry is NaN or infinite, of one or more: both extremes are NaN where an entry is."""
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(values.detach()))


def _check_layer(name: object, kept: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a layer name must be a non-empty string, not {name!r}")
    if not isinstance(kept, Tensor):
        raise ValueError(f"mask of layer {name!r} must be a tensor, not {type(kept).__name__}")
    if kept.dtype != torch.bool:
        raise ValueError(f"mask of layer {name!r} must be bool, not {kept.dtype}")
    if kept.device.type != "cpu":
        raise ValueError(f"mask of layer {name!r} must be on the CPU, not on {kept.device}")
    if kept.ndim < 2 or kept.numel() == 0:
        raise ValueError(f"mask of layer {name!r} has shape {tuple(kept.shape)}: not that of a weight")


def _contiguous_copy(kept: Tensor) -> Tensor:
    return kept.detach().clone(memory_format=torch.contiguous_format)


def _check_names(what: str, names: set[str], problem: str) -> None:
    if names:
        raise ValueError(f"{what}: layers {problem}: {', '.join(sorted(names))}")


def _check_same_layout(first: Mask, second: Mask) -> None:
    if list(first.shapes.items()) != list(second.shapes.items()):
        problem = "; ".join(first.differences(second))
        raise ValueError(f"masks of different layers cannot be combined: {problem}")


def _layer_difference(name: str, first: Tensor, second: Tensor) -> list[str]:
    if first.shape != second.shape:
        return [f"{name}: shape {tuple(first.shape)} in the first, {tuple(second.shape)} in the second"]
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    if not only_first and not only_second:
        return []
    return [f"{name}: {only_first} kept only in the first, {only_second} only in the second"]


def _split_key(key: str) -> tuple[str, str, str]:
    parts = key.split("/", 2)
    if len(parts) != 3 or not parts[0].isdigit() or parts[1] not in (_BITS, _SHAPE):
        raise ValueError(f"not a stored mask: unknown tensor {key!r}")
    return parts[0], parts[1], parts[2]


def _unpack_bits(bits: bytes, shape: tuple[int, ...]) -> Tensor:
    cells = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=prod(shape))
    return torch.from_numpy(cells.view(np.bool_).reshape(shape))
