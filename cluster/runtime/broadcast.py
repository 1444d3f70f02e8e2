"""Handing bytes to every node: in pieces, so that nodes fetch from each other and not all from the head.

Ray fetches an object once per node, from a node picked at random among those that have all of it. When all
nodes ask for one object at the same time, as a lane's ranks do, only the head has it, and sends it once per
node. So bytes go out in pieces, and each node fetches the pieces in an order of its own: while the head sends
one piece to one node, others get theirs elsewhere. The m-th node to fetch a piece finds it on m nodes, and
takes it from the head with a chance of 1/m: of N nodes' copies, about 1 + 1/2 + .. + 1/N come from the head,
which grows as log N. Nothing is agreed on, nobody waits for a peer: a node that dies is one source less.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

# With many, nodes seldom ask for the same one at once; but each is a reference for the head to keep track of.
PIECE_BYTES = 4 * 2**20

Pieces = list["ray.ObjectRef[Any]"]


def hand_out(data: bytes) -> Pieces:
    """Put bytes into this node's object store, for `fetch` on any node."""
    array = np.frombuffer(data, np.uint8)  # which ranks read where it lies in their node's store
    return [ray.put(array[start : start + PIECE_BYTES]) for start in range(0, max(len(data), 1), PIECE_BYTES)]


def fetch(pieces: Sequence[ray.ObjectRef[Any]]) -> bytes:
    """The bytes that were handed out. However many processes of a node call it, the node fetches once."""
    order = order_of(ray.get_runtime_context().get_node_id(), len(pieces))
    found = {index: ray.get(pieces[index]) for index in order}  # one at a time: the others get elsewhere
    return b"".join(found[index] for index in range(len(pieces)))


def order_of(node: str, count: int) -> list[int]:
    """The order in which a node fetches: its own, the same for all its ranks."""
    order = list(range(count))
    random.Random(node).shuffle(order)
    return order
