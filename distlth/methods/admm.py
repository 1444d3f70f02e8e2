"""ADMM pruning: the dense network trains towards its nearest sparse one (Zhang et al., arXiv 1804.03294).

Training minimises f(W) + g(W), where g is 0 if W has no more weights than the round keeps, else infinite.
With a copy Z of the weights and a (scaled) dual U this is done in turns, until W is nearly sparse by itself:

    W: steps of SGD on f(W) + rho / 2 ||W - Z + U||^2, that is with rho (W - Z + U) added to the gradient
    Z: the projection of W + U, its weights of largest magnitude and zeros elsewhere
    U: U + W - Z

The paper has a number of weights for each layer; here, as for all methods, there is one for all together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distlth.methods.base import MadeFrom, Method, Penalty, Source

if TYPE_CHECKING:
    from distlth.ticket import Structured

RHO, EVERY = 0.01, 1


class AdmmTraining(Method):
    """The training that comes before an ADMM ticket: all weights, pulled towards as many as are to stay."""

    method: Literal["admm-training"] = "admm-training"
    rho: float
    every: int

    @property
    def default_label(self) -> str:
        """The name of the training, with its options where these are not the defaults."""
        is_default = (self.rho, self.every) == (RHO, EVERY)
        return self.method if is_default else f"{self.method}-{self.rho:g}-{self.every}"

    @property
    def made_from(self) -> MadeFrom:
        """The dense network, whose mask this has."""
        return "dense"

    @property
    def penalty(self) -> Penalty:
        """What is added to the loss."""
        return Penalty(self.rho, self.every)

    def make(self, source: Source) -> Structured:
        """Return the mask of the dense network."""
        from distlth.ticket import Structured

        return Structured(source.mask)


class Admm(Method):
    """Single weights: the largest of a dense network that was trained towards the round's density.

    That training is a job of its own, `admm-training`, with a round's schedule and from the same weights.
    """

    method: Literal["admm"] = Field(
        description="single weights, by magnitude in a dense network that was trained towards as many"
    )
    rho: float = Field(RHO, gt=0, description="strength of the pull in that training")
    every: int = Field(EVERY, ge=1, description="epochs of it between two updates of what it is pulled to")

    @property
    def made_from(self) -> MadeFrom:
        """The dense network, trained once more."""
        return "dense"

    @property
    def training(self) -> AdmmTraining:
        """The training of the dense network towards this ticket."""
        return AdmmTraining(rho=self.rho, every=self.every)

    def make(self, source: Source) -> Structured:
        """Return the largest weights over all layers together, as many as the round keeps by plan."""
        from distlth.prune.scores import keep_best
        from distlth.ticket import Structured

        magnitudes = {name: weight.abs() for name, weight in source.trained.weights.items()}
        return Structured(keep_best(magnitudes, source.mask, source.kept))
