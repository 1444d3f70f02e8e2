"""Broadcasting bytes in pieces, so that nodes also fetch from each other and not only from the head.

Ray fetches an object once per node, from a random node among those that have all of it. When all nodes ask
for an object at the same time, as the ranks of a lane do, only the head has it and sends it to every node.
Therefore bytes are broadcast in pieces, and each node fetches the pieces in a different order: while the head
sends a piece to one node, the others fetch theirs elsewhere. The m-th node to fetch a piece finds it on m
nodes and takes it from the head with probability 1/m: of the copies of N nodes, about 1 + 1/2 + .. + 1/N come
from the head, which grows as log N. Nodes agree on nothing and wait for no peer: a node that dies is only one
source less.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

# With many small pieces, nodes rarely ask for the same one; but the head keeps track of each reference.
PIECE_BYTES = 4 * 2**20

Pieces = list["ray.ObjectRef[Any]"]


def hand_out(data: bytes) -> Pieces:
    """Put bytes into this node's object store; return what `fetch` takes, on any node."""
    array = np.frombuffer(data, np.uint8)  # ranks read it in their node's store, without a copy
    return [ray.put(array[start : start + PIECE_BYTES]) for start in range(0, max(len(data), 1), PIECE_BYTES)]


def fetch(pieces: Sequence[ray.ObjectRef[Any]]) -> bytes:
    """Return the bytes that were handed out. A node fetches them once, however many of its processes ask."""
    order = order_of(ray.get_runtime_context().get_node_id(), len(pieces))
    found = {index: ray.get(pieces[index]) for index in order}  # one at a time, in this node's order
    return b"".join(found[index] for index in range(len(pieces)))


def order_of(node: str, count: int) -> list[int]:
    """Return the order in which a node fetches pieces: a random one, the same for all its ranks."""
    order = list(range(count))
    random.Random(node).shuffle(order)
    return order
