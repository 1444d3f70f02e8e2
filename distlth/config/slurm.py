"""The section `cluster.slurm`: the resources that a run asks SLURM for."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from distlth.options import Line, Section, Text

# minutes[:seconds], hours:minutes:seconds, days-hours[:minutes[:seconds]]
CLOCK = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})", re.ASCII)
MEMORY = re.compile(r"\d+[KMGT]?", re.ASCII)
GPUS = re.compile(r"(?:[A-Za-z0-9_.-]+:)?\d+", re.ASCII)
PARAMETER = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)

# Parameters of sbatch, by its names, that have a key of their own in the job file.
OWN_KEYS = {
    **{name: f"cluster.slurm.{name}" for name in ("partition", "account", "qos", "constraint", "time")},
    **{name: f"cluster.slurm.{name}" for name in ("comment", "dependency", "nodelist", "exclude")},
    "exclusive": "cluster.slurm.exclusive",
    "mem": "cluster.slurm.mem_per_node",
    "gpus-per-node": "cluster.slurm.gpus_per_node",
    "cpus-per-task": "cluster.slurm.cpus_per_node",
    "signal": "cluster.slurm.signal_seconds",
    "nodes": "cluster.nodes",
    "job-name": "name",
}

# Parameters that distlth sets itself.
RESERVED = ("array", "chdir", "error", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable", "wrap")


def minutes(text: str) -> int:
    """Return a time in SLURM's notation as whole minutes, rounded up; ValueError if it is not a time."""
    match = CLOCK.fullmatch(text)
    if match is None:
        raise ValueError("expected a time such as 24:00:00, 1-12:00 (days-hours:minutes) or 90 (minutes)")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is None:
        hours, minute, second = ([0, *parts, 0] if len(parts) == 1 else [0, *parts])[-3:]
        days = 0
    else:
        days, (hours, minute, second) = int(match["days"]), [*parts, 0, 0][:3]
    total = -(-(((days * 24 + hours) * 60 + minute) * 60 + second) // 60)
    if total == 0:
        raise ValueError("a time limit of nothing")
    return total


def _matching(pattern: re.Pattern[str], value: str | None, expected: str) -> str | None:
    """Return a value; ValueError where it is given and is not what is expected."""
    if value is not None and not pattern.fullmatch(value):
        raise ValueError(f"expected {expected}, got {value!r}")
    return value


class SlurmSection(Section):
    """What `distlth submit` asks SLURM for; each key is the sbatch parameter of that name unless noted."""

    partition: Line | None = Field(None, description="partition to run on; default: the cluster's own")
    account: Line | None = Field(None, description="account to charge")
    qos: Line | None = Field(None, description="quality of service")
    constraint: Line | None = Field(None, description="features that a node must have, such as `a100`")
    time: Text | None = Field(
        None,
        description="time limit of one SLURM job, `24:00:00`, `1-00:00:00` or minutes; a longer run requeues "
        "itself; default: the partition's",
    )
    mem_per_node: Text | None = Field(
        None, description="memory per node, such as `64G`; `0` is all (sbatch: mem)"
    )
    gpus_per_node: Text | None = Field(None, description="GPUs per node, `8` or with their type `a100:8`")
    cpus_per_node: int | None = Field(
        None,
        ge=1,
        description="cores per node (sbatch: cpus-per-task); "
        "default: ranks per node x `cluster.cpus_per_worker`, on GPUs at least x (`data.threads` or 4) + 2",
    )
    comment: Line | None = Field(None, description="for administrators")
    dependency: Line | None = Field(None, description="SLURM jobs to wait for, such as `afterok:1234`")
    nodelist: Line | None = Field(None, description="only these nodes")
    exclude: Line | None = Field(None, description="not these nodes")
    exclusive: bool = Field(False, description="share nodes with no other SLURM job")
    signal_seconds: int = Field(
        120, ge=10, le=65535, description="notice before the time limit, enough for a checkpoint"
    )
    extra: dict[str, bool | Text] = Field(
        {},
        description="any other parameter of sbatch, such as `mail-user: me`; `true` for one without a value",
    )
    setup: tuple[str, ...] = Field(
        (), description="shell lines to run first, verbatim, such as `module load cuda`"
    )
    python: Line | None = Field(
        None,
        description="shell command that starts Python, such as `apptainer exec --nv distlth.sif python`; "
        "default: the one that submits",
    )
    srun_args: tuple[Line, ...] = Field((), description="further arguments of srun")

    @property
    def minutes(self) -> int | None:
        """The time limit in minutes; None for the partition's own."""
        return None if self.time is None else minutes(self.time)

    @property
    def num_gpus(self) -> int:
        """GPUs per node; 0 where none are asked for."""
        return 0 if self.gpus_per_node is None else int(self.gpus_per_node.rpartition(":")[2])

    @field_validator("time")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None:
            minutes(value)
        return value

    @field_validator("mem_per_node")
    @classmethod
    def _memory(cls, value: str | None) -> str | None:
        return _matching(MEMORY, value, "a number with K, M, G or T, such as 64G")

    @field_validator("gpus_per_node")
    @classmethod
    def _gpus(cls, value: str | None) -> str | None:
        return _matching(GPUS, value, "a number, or a type and a number such as a100:8")

    @field_validator("extra")
    @classmethod
    def _parameters(cls, value: dict[str, bool | str]) -> dict[str, bool | str]:
        named = {key.replace("_", "-"): given for key, given in value.items()}
        for key, given in named.items():
            if not PARAMETER.fullmatch(key):
                raise ValueError(f"{key!r} is no parameter of sbatch; they are words such as mail-user")
            if key in OWN_KEYS:
                raise ValueError(f"{key} has a key of its own: {OWN_KEYS[key]}")
            if key in RESERVED:
                raise ValueError(f"{key} is what distlth sets itself")
            if isinstance(given, str) and not given.isprintable():
                raise ValueError(f"{key}: the value must be one line, got {given!r}")
        return named

    @model_validator(mode="after")
    def _notice_fits(self) -> SlurmSection:
        if self.minutes is not None and self.signal_seconds >= 60 * self.minutes:
            raise ValueError(
                f"signal_seconds: a notice of {self.signal_seconds} s does not fit in a time of {self.time}"
            )
        return self
