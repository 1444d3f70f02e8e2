"""The differences between two job files, and which of them a run may resume with."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from distlth.errors import ConfigError

# How work is spread, watched and stored: no bit of the result depends on it.
FREE = (
    *("name", "runs", "log_every", "data.path", "data.threads", "data.cache"),
    *("checkpoint", "train.profile", "train.cuda_graph", "cluster.lanes", "cluster.retries"),
    *("cluster.hang_seconds", "cluster.answer_seconds", "cluster.stale_seconds"),
    *("cluster.start_seconds", "cluster.collective_seconds"),
    *("cluster.nodes", "cluster.min_nodes", "cluster.node_wait_seconds", "cluster.slurm", "cluster.ray"),
    "versions.ray",
)

# The same training with sums in another order: an equally good result, but other bits.
INEXACT = ("cluster.workers", "cluster.cpus_per_worker")

# The files of a run do not fit another value of these.
FIXED = (
    *("model", "prune.scope", "prune.layers", "prune.rewind_epoch", "data.classes"),
    *("prune.imported", "prune.transfer.weights"),
)

# A branch each below it (`prune.branches.refill`), where rounds do not depend on branches.
BRANCHES = "prune.branches"

# Other libraries and devices compute other bits, but of the same jobs.
VERSIONS, DEVICE = "versions", "cluster.device"

Kind = Literal["free", "inexact", "guarded", "fixed"]


@dataclass(frozen=True)
class Change:
    """A value that differs: `key` is a dotted key of the job file, `versions.NAME`, or a fact about data."""

    key: str
    old: Any
    new: Any

    @property
    def kind(self) -> Kind:
        """`free` and `inexact` changes pass, `guarded` ones where allowed by name, `fixed` ones never."""
        if self.adds_jobs:
            return "free"
        kinds: tuple[tuple[Kind, tuple[str, ...]], ...] = (
            ("free", FREE),
            ("inexact", INEXACT),
            ("fixed", FIXED),
        )
        return next((kind for kind, keys in kinds if covers(keys, self.key)), "guarded")

    @property
    def adds_jobs(self) -> bool:
        """Whether the run keeps all its jobs and gets more: seeds, rounds, tickets, branches."""
        if self.key == "prune.rounds":
            return bool(self.new > self.old)
        if self.key == "seeds":
            return {*self.old} <= {*self.new}
        if self.key == "prune.transfer.tickets":  # none: all of them
            return not self.new or (bool(self.old) and {*self.old} <= {*self.new})
        if _option(self.key) == "rounds":  # None: all of them
            return self.new is None or (self.old is not None and {*self.old} <= {*self.new})
        return _option(self.key) == "" and self.old is None

    @property
    def restarts_jobs(self) -> bool:
        """Whether unfinished jobs must restart, so that no job mixes two configs."""
        return self.kind == "guarded" and not covers((VERSIONS, DEVICE), self.key)

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def covers(names: Iterable[str], key: str) -> bool:
    """Return whether `key` is one of `names`, or lies in a section that is."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return the values that differ between two flattened job files, in the order of their keys.

    A version or a fact about the data that only one of them recorded does not count as different. A branch
    that only one of them has is one change, not one for each of its options.
    """
    found = [
        Change(key, old.get(key), new.get(key))
        for key in {**old, **new}
        if old.get(key) != new.get(key) and (_is_config(key) or (key in old and key in new))
    ]
    whole = (_as_whole_branch(change, old, new) for change in found)
    return tuple({change.key: change for change in whole}.values())


def _as_whole_branch(change: Change, old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    """Return the change of a branch that is new or gone in place of that of one of its options."""
    option = _option(change.key)
    if not option:
        return change
    branch = change.key.removesuffix(f".{option}")
    methods = old.get(f"{branch}.method"), new.get(f"{branch}.method")
    return change if all(methods) else Change(branch, *methods)


def _option(key: str) -> str | None:
    """Return `extra` of `prune.branches.refill.extra`, "" of `prune.branches.refill`, None of other keys."""
    return key.removeprefix(f"{BRANCHES}.").partition(".")[2] if key.startswith(f"{BRANCHES}.") else None


def _is_config(key: str) -> bool:
    return not covers((VERSIONS, "data.digest", "data.classes", "data.pages"), key)


def check_allowed(allowed: Collection[str], known: Iterable[str]) -> None:
    """Raise ConfigError for a name given to --allow-change that is neither a key nor a section."""
    names = {".".join(key.split(".")[: depth + 1]) for key in known for depth in range(key.count(".") + 1)}
    for name in allowed:
        if name not in names:
            close = difflib.get_close_matches(name, sorted(names), n=1)
            hint = f"; did you mean {close[0]}?" if close else "; expected a key or a section of the job file"
            raise ConfigError(f"--allow-change {name}: unknown key{hint}")
