"""What a task tells the process that it starts on its node, as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cluster.runtime.allocation import Allocation
from distlth.config.schema import RunConfig


@dataclass(frozen=True)
class Order:
    """The run to take part in, the same on every node.

    `allowed_changes` names what may differ from the run on disk, as `open_run` takes it.
    """

    config: RunConfig
    allocation: Allocation
    allowed_changes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return one line of JSON that `parse` reads."""
        document = {
            "config": self.config.model_dump(mode="json"),
            "rendezvous": str(self.allocation.rendezvous),
            "address": self.allocation.address,
            "allowed_changes": list(self.allowed_changes),
        }
        return json.dumps(document)

    @classmethod
    def parse(cls, line: str) -> Order:
        """Return the order of a line that `to_json` wrote."""
        document = json.loads(line)
        return cls(
            config=RunConfig.model_validate(document["config"]),
            allocation=Allocation(Path(document["rendezvous"]), document["address"]),
            allowed_changes=tuple(document["allowed_changes"]),
        )
