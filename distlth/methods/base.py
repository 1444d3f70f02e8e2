"""What a method is: options, what it needs measured, and one pure function from a trained parent to a mask.

Job files are read on login nodes, which should not wait for torch: a method's module imports what computes
inside the functions that do.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from distlth.errors import RunError
from distlth.options import Section

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distlth.prune.mask import Mask
    from distlth.ticket import Structured, Trained

# A branch is a folder beside its round's files, whose names all have a dot.
BranchName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$", max_length=64)]

# Which network a ticket is made from: that of its round's trunk job, trained; that of round 0, trained; or
# that of round 0 before its first step.
MadeFrom = Literal["round", "dense", "untrained"]

# Runs a function on each item, as `map` does; the caller decides where and how many at a time.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class Calibration(Protocol):
    """A network in eval mode and the calibration images, on one of the ranks that measure together."""

    @property
    def model(self) -> nn.Module:
        """The network; a measurement leaves its weights and gradients as they were."""

    @property
    def layers(self) -> Sequence[str]:
        """The names of the prunable layers."""

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Iterate over this rank's images and labels, from the start."""

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over the ranks, on every rank."""


@dataclass(frozen=True)
class Measurement:
    """Something measured on a network with data, which a method makes its mask from.

    `measure` runs on every rank and returns the same on each: layer -> CPU tensor. With `untrained` it runs
    on the dense network before its first step, not on the trained parent. Equal names are equal measurements.
    """

    name: str
    measure: Callable[[Calibration], dict[str, Tensor]]
    untrained: bool = False


@dataclass(frozen=True)
class Penalty:
    """A term of the loss that pulls all weights towards the number of them that the round keeps.

    `rho` is its strength; every `every` epochs that to which they are pulled is computed anew.
    """

    rho: float
    every: int


class Costs(Protocol):
    """What a mask costs: its alive weights, and the multiply-accumulates of an image that these take."""

    @property
    def weights(self) -> int:
        """Kept weights whose input can be non-zero and whose output is used."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, other layers' included."""


class CountAlive(Protocol):
    """Counts the costs of a mask; with `removed`, channels that keep nothing put out zeros."""

    def __call__(self, kept: Mapping[str, Tensor], *, removed: bool) -> Costs:
        """Return the costs of the kept weights of each layer."""


@dataclass(frozen=True)
class Source:
    """What a method makes its mask from.

    `mask` is that of the network that the ticket is made from: the round's, unstructured, or dense. `trained`
    is that network (with its initial weights where the method is `made_from` the untrained one), `kept` the
    weights that the ticket's round keeps by plan, `run_map` a `map` for work on many layers, `density` the
    planned one, a fraction, `count_alive` what a mask costs in this network (None where nobody knows it).
    `streams` are the residual streams, where the method needs them: for each layer that writes to one the
    channel (int64) at each place. `units` are the layers whose channels are heads of attention: for each the
    rows (int64) of each head.
    """

    mask: Mask
    trained: Trained
    kept: int
    seed: int
    run_map: Map = map
    density: float = 1.0
    count_alive: CountAlive | None = None
    streams: Sequence[Mapping[str, Tensor]] = ()
    units: Mapping[str, Tensor] = field(default_factory=dict)

    def measured(self, name: str) -> Mapping[str, Tensor]:
        """Return what was measured on the network under a name: layer -> tensor.

        Raises:
            RunError: nothing was, since the branch came into the job file after the network had trained.
        """
        found = self.trained.measured.get(name)
        if found is None:
            raise RunError(
                f"{name!r} was not measured when the job trained that the branch is made from; leave the "
                "branch out, or start another run (name=...)"
            )
        return found


class Method(Section):
    """A way to make a ticket: the options of a branch in the job file, and what they come to."""

    method: str = Field(description="one of those below, each with options of its own")
    name: BranchName | None = Field(None, description="in folders, tables and curves; default: the method")
    rounds: tuple[int, ...] | None = Field(
        None, description="which rounds get this branch; default: all from 1"
    )
    weights: Literal["rewind", "reinit"] = Field(
        "rewind",
        description="what the ticket trains from: `rewind`, as its round does (a method that prunes the "
        "untrained network: the initial weights); `reinit`, a control: another random initialisation, for "
        "the whole schedule",
    )

    @property
    def made_from(self) -> MadeFrom:
        """The network that tickets are made from; from the untrained one, they train from its weights."""
        return "round"

    @property
    def label(self) -> str:
        """The branch's name in folders, tables and curves."""
        return self.name or self.default_label

    @property
    def default_label(self) -> str:
        """The name of a branch that the job file gives none."""
        return self.method

    @property
    def training(self) -> Method | None:
        """The method of a job that trains first, and whose network the ticket is made from."""
        return None

    @property
    def penalty(self) -> Penalty | None:
        """What the method's own training adds to the loss."""
        return None

    @property
    def removes_channels(self) -> bool:
        """Whether a channel that keeps no weight loses its bias and its BatchNorm's parameters too."""
        return False

    @property
    def needs_streams(self) -> bool:
        """Whether masks are made from the network's residual streams, too."""
        return False

    def check_machine(self) -> None:
        """Raise ConfigError where this machine lacks what the method needs."""

    def check_model(self, model: nn.Module) -> None:
        """Raise ConfigError where the network lacks what the method needs."""

    def measurements(self, density: float) -> tuple[Measurement, ...]:
        """Return what must be measured on the parent before a mask of this planned density can be made."""
        return ()

    @abstractmethod
    def make(self, source: Source) -> Structured:
        """Return the mask. A pure function: the same source gives the same bits."""


class Untrained(Method):
    """Single weights that are chosen before training: of one measurement, those that score highest."""

    @property
    def made_from(self) -> MadeFrom:
        """The untrained network."""
        return "untrained"

    @abstractmethod
    def measurement(self, density: float) -> Measurement:
        """Return what is measured on the untrained network: a score for each weight, or which are left."""

    def measurements(self, density: float) -> tuple[Measurement, ...]:
        """Return the one of the scores."""
        return (self.measurement(density),)

    def make(self, source: Source) -> Structured:
        """Return the weights of the highest scores, as many as the round keeps by plan."""
        from distlth.prune.scores import keep_best
        from distlth.ticket import Structured

        measured = source.measured(self.measurement(source.density).name)
        scores = {name: tensor.float() for name, tensor in measured.items()}
        return Structured(keep_best(scores, source.mask, source.kept))
