"""Parts: which entries of a network's tensors a slim network has, to take them and to put them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """The part of a parameter or buffer that a slim network has.

    `cells` (bool) are the entries that it has along the first dimensions of the tensor called `source`, or
    along all of them; `shape` is that of the part.
    """

    source: str
    cells: Tensor
    shape: tuple[int, ...]

    def take(self, whole: Tensor) -> Tensor:
        """Return the part of a whole tensor."""
        return whole[self.cells.to(whole.device)].reshape(self.shape)

    def put(self, part: Tensor, whole: Tensor) -> None:
        """Write the part into a whole tensor."""
        whole[self.cells.to(whole.device)] = part.reshape(-1, *whole.shape[self.cells.ndim :])


def put_back(
    tensors: Mapping[str, Tensor], parts: Mapping[str, Part], whole: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a whole network: those of a slim one in their places, `whole` everywhere else.

    What a slim network has besides, such as the places where it scatters channels, is left out. A bias that
    only the slim network has is among the result where `whole` has one of that name.
    """
    found = {name: tensor.clone() for name, tensor in whole.items()}
    for name, tensor in tensors.items():
        if name in parts and parts[name].source in found:
            parts[name].put(tensor, found[parts[name].source])
        elif name in found:
            found[name] = tensor.clone()
    return found
