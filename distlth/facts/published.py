"""Figures that the paper printed, for runs of the same network on the same images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from distlth.config.documents import flatten, parse_yaml
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.facts.rows import Results
from distlth.run.store import RunRecord

PAPER = "arXiv 2202.04736"


@dataclass(frozen=True)
class PublishedPoint:
    """A printed ticket; `density` and `top1` are fractions.

    The density is that of IMP's round where none is printed for the method (`density_is_printed`).
    """

    method: str
    round: int
    density: float
    density_is_printed: bool
    top1: float


@dataclass(frozen=True)
class Published:
    """A printed experiment; `source` says where it stands, `settings` how it was trained, by dotted keys."""

    name: str
    source: str
    settings: Mapping[str, Any]
    dense: float | None
    points: tuple[PublishedPoint, ...]

    def curve(self, method: str) -> tuple[PublishedPoint, ...]:
        """Return the points of a method by round; none of a method that is not printed."""
        return tuple(point for point in self.points if point.method == method)

    def differences(self, config: RunConfig) -> tuple[str, ...]:
        """Return the settings in which a run differs, as `train.epochs 160 (here 40)`."""
        own = flatten(config.model_dump(mode="json"))
        return tuple(
            f"{key} {value} (here {own[key]})" for key, value in self.settings.items() if own[key] != value
        )


@dataclass(frozen=True)
class Comparison:
    """A ticket beside the printed one of its method and round: densities and top-1 are fractions."""

    method: str
    round: int
    density: float
    printed: PublishedPoint
    top1: float
    std: float
    count: int

    @property
    def difference(self) -> float:
        """The run's mean top-1 minus the printed one."""
        return self.top1 - self.printed.top1


def published(record: RunRecord) -> Published | None:
    """Return the experiment that a run repeats; None where its network or its images are others.

    The images are known by the data set, which must still be where the run found it.
    """
    document = published_document()
    data_set = Dataset.load_unchanged(record.config.data.path, record.data.get("digest"))
    if data_set is None:
        return None
    for experiment in document["experiments"]:
        data = document["data"][experiment["data"]]
        if _is_network(experiment["model"], record.config) and _is_data(data, data_set):
            return _parsed(experiment)
    return None


def beside(results: Results, printed: Published) -> tuple[Comparison, ...]:
    """Return the tickets of a run that the paper has, too, by round."""
    by_ticket = {(point.method, point.round): point for point in printed.points}
    points = sorted(results.points, key=lambda point: point.round)
    return tuple(
        Comparison(
            point.method,
            point.round,
            point.density,
            by_ticket[point.method, point.round],
            point.top1.mean,
            point.top1.std,
            point.top1.count,
        )
        for point in points
        if (point.method, point.round) in by_ticket
    )


@cache
def published_document() -> dict[str, Any]:
    """Return what `published.yaml` holds."""
    text = files("distlth.facts").joinpath("published.yaml").read_text(encoding="utf8")
    found: dict[str, Any] = parse_yaml(text)
    return found


def _is_network(model: Mapping[str, str], config: RunConfig) -> bool:
    own = config.model.model_dump(mode="json")
    return all(own[key] == value for key, value in model.items())


def _is_data(known: Mapping[str, Any], data_set: Dataset) -> bool:
    return (
        data_set.num_classes == known["num_classes"]
        and {*known["classes"]} <= {*data_set.classes}
        and sum(split.count for split in data_set.splits.values()) == known["images"]
    )


def _parsed(experiment: Mapping[str, Any]) -> Published:
    rate = experiment["settings"]["prune.rate"]
    points = []
    for method, printed in experiment["methods"].items():
        densities = printed.get("density") or [100 * (1 - rate) ** number for number in printed["rounds"]]
        for number, density, top1 in zip(printed["rounds"], densities, printed["top1"], strict=True):
            is_printed = method == "imp" or "density" in printed
            points.append(PublishedPoint(method, number, density / 100, is_printed, top1 / 100))
    dense = experiment["dense"]
    return Published(
        name=experiment["name"],
        source=f"{PAPER}, {experiment['source']}",
        settings=experiment["settings"],
        dense=None if dense is None else dense / 100,
        points=tuple(points),
    )
