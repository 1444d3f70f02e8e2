"""Whether the nodes of a Ray cluster fit a run: the same versions, the run directory and the data set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.error_text import first_line, last_line
from distlth.data.dataset import Dataset
from distlth.errors import RunError, UserError
from distlth.files import await_file, read_small, write_text
from distlth.run.store import library_versions

# A node starts a process for the check, which imports what a rank imports.
ANSWER_SECONDS = 180.0

# A file of another node may take this long to be seen on a network file system.
SEEN_SECONDS = 40.0

PROBE = "probe"


@dataclass(frozen=True)
class Sight:
    """What a node has: versions by name, and how it sees the run's folder and the data set.

    `folder` and `data` say what is wrong with them, empty where nothing is; `digest` is the data set's.
    """

    versions: Mapping[str, str]
    folder: str
    data: str
    digest: str


def check_nodes(nodes: Mapping[str, str], folder: Path, data: Path) -> None:
    """Check by a task on each node, of `nodes` by id and name, that a run can have ranks there.

    `folder` is one of the run that all nodes are to see, `data` the data set; both absolute.

    Raises:
        RunError: one line that names a node, what it has, what is expected, and what to do.
        DataError: there is no data set here.
    """
    here = Sight(versions(), "", "", Dataset.load(data).digest)
    write_text(folder / PROBE, folder.name)
    asked = {_look.options(scheduling_strategy=_on(node)).remote(node, folder, data): node for node in nodes}
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    for answer in answered:
        name = nodes[asked[answer]]
        if why := refusal(here, _sight(answer, name), folder, data):
            raise RunError(f"cluster.ray: node {name} {why}")
    for answer in silent:
        raise RunError(
            f"cluster.ray: node {nodes[asked[answer]]} has started no process in {ANSWER_SECONDS:g} s; "
            "its Ray's logs say why"
        )
    for node, name in nodes.items():
        _await_answer(folder / node, name)


def versions() -> dict[str, str]:
    """Return the versions that must be the same on all nodes."""
    return {"Python": ".".join(map(str, sys.version_info[:2])), **library_versions()}


def refusal(here: Sight, there: Sight, folder: Path, data: Path) -> str:
    """Return why a node does not fit a run whose process has the sight `here`; empty where it does."""
    for name, version in here.versions.items():
        if there.versions.get(name) != version:
            found = there.versions.get(name, "not installed")
            return (
                f"has {name} {found}, this one has {version}; use one image, or one environment, on all nodes"
            )
    if there.folder:
        return (
            f"cannot use {folder.parent.parent} ({there.folder}); runs must be on a file system that all "
            "nodes see at the same path, and may write to (runs=DIR)"
        )
    if there.data:
        return f"cannot read the data set ({there.data}); all nodes must see {data} at the same path"
    if there.digest != here.digest:
        return f"has another data set at {data} ({there.digest}, not {here.digest}); all must see the same"
    return ""


@ray.remote(num_cpus=0, max_retries=0)
def _look(node: str, folder: Path, data: Path) -> Sight:
    """Return what this node, of this id, has; answer the run's process by a file, too."""
    seen, digest, wrong = "", "", ""
    try:
        # Where the folder's own folder is missing, no file system is slow: it is another one.
        probe = folder / PROBE
        read_small(await_file(probe, SEEN_SECONDS if folder.parent.parent.is_dir() else 0.0))
        write_text(folder / node, node)
    except (OSError, UserError) as error:
        seen = str(error)
    try:
        digest = Dataset.load(data).digest
    except (OSError, UserError) as error:
        wrong = str(error)
    return Sight(versions(), seen, wrong, digest)


def _sight(answer: ray.ObjectRef[Sight], name: str) -> Sight:
    try:
        return ray.get(answer)
    except (ray.exceptions.RayError, ImportError) as error:
        # A node without distlth, or with another one, cannot even read the question.
        why = last_line(str(error)) or first_line(repr(error))
        raise RunError(
            f"cluster.ray: node {name} cannot run this distlth ({why}); use one image, or one environment, "
            "on all nodes"
        ) from None


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


def _await_answer(path: Path, name: str) -> None:
    try:
        await_file(path, SEEN_SECONDS)
    except RunError:
        raise RunError(
            f"cluster.ray: what node {name} writes to {path.parent} is not seen here; runs must be on a file "
            "system that all nodes share (runs=DIR)"
        ) from None
