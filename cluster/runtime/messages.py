"""What the processes of a run hand each other. Loads neither torch nor Ray: all of them import it.

`distlth run` and the process that holds Ray exchange lines of JSON: requests one way, replies the other.
Coordinator and lanes exchange Python objects, through Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distlth.config.schema import ClusterSection, RunConfig
from distlth.plan import Job
from distlth.run.events import Event
from distlth.run.paths import RunPaths

if TYPE_CHECKING:
    from cluster.runtime.broadcast import Pieces

# -- from `distlth run` to the process that holds Ray --------------------------------------------------------


@dataclass(frozen=True)
class StartRay:
    """A request to start Ray for a run's ranks on a device, `cpu` or `cuda`: it may come before the order."""

    cluster: ClusterSection
    device: str

    def to_json(self) -> str:
        """Return one line of JSON that `parse_request` reads."""
        return json.dumps({"start": {"cluster": self.cluster.model_dump(mode="json"), "device": self.device}})

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> StartRay:
        """Return the request of the fields that `to_json` wrote."""
        return cls(ClusterSection.model_validate(fields["cluster"]), fields["device"])


@dataclass(frozen=True)
class Order:
    """A request to train a run on the nodes that its config names.

    `device` may be `auto` in a Ray cluster that is there already, which decides it. `rendezvous` is a folder
    that all nodes see, through which worker nodes join; None where this machine is the only node. No rank is
    placed on the nodes in `without`, by name.
    """

    config: RunConfig
    run: RunPaths
    device: str
    rendezvous: Path | None
    node_wait_seconds: float
    without: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return one line of JSON that `parse_request` reads."""
        fields = {
            "config": self.config.model_dump(mode="json"),
            "run": str(self.run.root),
            "device": self.device,
            "rendezvous": str(self.rendezvous) if self.rendezvous else None,
            "node_wait_seconds": self.node_wait_seconds,
            "without": self.without,
        }
        return json.dumps({"order": fields})

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Order:
        """Return the order of the fields that `to_json` wrote."""
        return cls(
            config=RunConfig.model_validate(fields["config"]),
            run=RunPaths(Path(fields["run"])),
            device=fields["device"],
            rendezvous=Path(fields["rendezvous"]) if fields["rendezvous"] else None,
            node_wait_seconds=fields["node_wait_seconds"],
            without=tuple(fields["without"]),
        )


@dataclass(frozen=True)
class Stop:
    """A request to have the ranks write a checkpoint and end, because of a `signal` (its name)."""

    signal: str

    def to_json(self) -> str:
        """Return one line of JSON that `parse_request` reads."""
        return json.dumps({"stop": asdict(self)})


Request = StartRay | Order | Stop


def parse_request(line: str) -> Request:
    """Return the request of a line of JSON."""
    ((kind, fields),) = json.loads(line).items()
    if kind == "stop":
        return Stop(**fields)
    return StartRay.parse(fields) if kind == "start" else Order.parse(fields)


# -- and back ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """Ray's head listens at `address`: worker nodes can join."""

    address: str


@dataclass(frozen=True)
class Joined:
    """So many `nodes` have joined, the head node included. Answered by the order that is to be trained."""

    nodes: int


@dataclass(frozen=True)
class Unwritten:
    """An event that the run's log, on a full disk, has not taken yet."""

    event: Event


@dataclass(frozen=True)
class Ending:
    """How training ended: `error` is for the user to fix, `lost` names what died; neither: well.

    With `again` the nodes that are left can resume at once, those in `without` left out.
    """

    error: str | None = None
    lost: str | None = None
    again: bool = False
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "without", tuple(self.without))  # JSON knows lists alone


Reply = Started | Joined | Unwritten | Ending

_REPLIES: dict[str, type[Reply]] = {
    kind.__name__.lower(): kind for kind in (Started, Joined, Unwritten, Ending)
}


def reply_to_json(reply: Reply) -> str:
    """Return one line of JSON that `parse_reply` reads."""
    return json.dumps({type(reply).__name__.lower(): asdict(reply)})


def parse_reply(line: str) -> Reply:
    """Return the reply of a line of JSON."""
    ((kind, fields),) = json.loads(line).items()
    return _REPLIES[kind](**fields)


# -- between coordinator, lanes and the process that holds Ray -----------------------------------------------


@dataclass(frozen=True)
class LaneSpec:
    """What the ranks of a lane are started with; `coordinator` is the actor's name, in their namespace.

    Each asks Ray for `cpus` cores. None of them is placed on the nodes in `without`.
    """

    index: int
    coordinator: str
    config: RunConfig
    run: RunPaths
    device: str
    cpus: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Assignment:
    """A job for a lane. Each rank fetches the pieces of mask and weights (safetensors files) itself."""

    job: Job
    mask_digest: str
    mask: Pieces
    weights: Pieces


@dataclass(frozen=True)
class Outcome:
    """Where a run stands.

    `finished` says that it is over; `error` or `lost` what ended it early, as in `Ending`, and `suspects`
    which nodes may be the reason. With `quiet` it is ending, and no rank has anything left to do.
    `unwritten` are the events that its log has not taken yet.
    """

    finished: bool
    error: str | None = None
    lost: str | None = None
    suspects: frozenset[str] = frozenset()
    quiet: bool = False
    unwritten: tuple[Event, ...] = ()
