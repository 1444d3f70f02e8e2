"""From the options of `distlth submit` and `resume` to configs, over job file and a user's own defaults."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from distlth.config.documents import merge, override, put
from distlth.config.read import load_site, parse_cluster, parse_config, read_job
from distlth.config.schema import ClusterSection, RunConfig
from distlth.errors import ConfigError
from distlth.run.paths import site_file

# Option, the key that it is short for, its type, its metavar, and its help.
OPTIONS: tuple[tuple[str, str, type, str, str], ...] = (
    ("--nodes", "cluster.nodes", int, "N", "machines"),
    ("--gpus-per-node", "cluster.slurm.gpus_per_node", str, "G", "such as 8 or a100:8"),
    ("--cpus-per-node", "cluster.slurm.cpus_per_node", int, "C", "cores"),
    ("--mem", "cluster.slurm.mem_per_node", str, "SIZE", "memory of a node, such as 64G"),
    ("--partition", "cluster.slurm.partition", str, "NAME", "`sinfo` lists them"),
    ("--account", "cluster.slurm.account", str, "NAME", "who pays"),
    ("--qos", "cluster.slurm.qos", str, "NAME", "quality of service"),
    ("--constraint", "cluster.slurm.constraint", str, "FEATURES", "what a node must have"),
    ("--time", "cluster.slurm.time", str, "LIMIT", "of one job, such as 24:00:00; a run requeues itself"),
    ("--comment", "cluster.slurm.comment", str, "TEXT", "for administrators"),
    ("--dependency", "cluster.slurm.dependency", str, "WHAT", "such as afterok:1234"),
    ("--nodelist", "cluster.slurm.nodelist", str, "NODES", "only these"),
    ("--exclude", "cluster.slurm.exclude", str, "NODES", "not these"),
)

# The keys that decide how many GPUs there are.
SIZE_KEYS = {"cluster.nodes", "cluster.slurm.gpus_per_node"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are short for keys of the sections cluster and cluster.slurm."""
    group = parser.add_argument_group("what to ask SLURM for (each is short for a key of cluster.slurm)")
    for option, _, kind, metavar, text in OPTIONS:
        group.add_argument(option, type=kind, metavar=metavar, help=text)
    group.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="KEY[=VALUE]",
        help="any other parameter of sbatch, such as mail-user=me; may be repeated",
    )


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of the job file that the options stand for, with their values."""
    given = {key: getattr(options, option[2:].replace("-", "_")) for option, key, *_ in OPTIONS}
    found = {key: value for key, value in given.items() if value is not None}
    for text in options.extra:
        name, has_value, value = text.partition("=")
        found[f"cluster.slurm.extra.{name}"] = value if has_value else True
    return found


def requested(options: argparse.Namespace) -> tuple[RunConfig, ...]:
    """Return the config of each run that a command line of `distlth submit` asks for.

    The user's own defaults give way to the job file, that to the overrides, those to the options.

    Raises:
        ConfigError: one line that names the file and the key.
    """
    site = load_site(site_file())
    document = merge({"cluster": site}, read_job(options.job, options.overrides))
    keys = {text.partition("=")[0] for text in options.overrides}
    documents = seeded(finished(document, settings(options), keys), options.seeds)
    return tuple(parse_config(each, source=str(options.job)) for each in documents)


def requested_again(
    stored: Mapping[str, Any], options: argparse.Namespace, run: Path
) -> tuple[RunConfig, ...]:
    """Return the config of a run that is submitted again: as it was submitted, changed by the options."""
    document = {**stored, "name": run.name, "runs": str(run.parent)}
    keys = override(document, options.overrides)
    return (parse_config(finished(document, settings(options), keys), source=str(run)),)


def finished(document: dict[str, Any], chosen: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a job file's content with the options put in, and `cluster.workers` set to use all GPUs.

    `keys` are those that the command line overrides.
    """
    for key, value in chosen.items():
        put(document, key, value)
    try:
        cluster = parse_cluster(document.get("cluster") or {}, "")
    except ConfigError:
        return document  # full validation reports this better
    given = {*chosen, *keys}
    check_ray_is_its_own(cluster)
    check_gpus_are_asked_for(cluster)
    is_given = "cluster.workers" in given or ("workers" in document["cluster"] and not given & SIZE_KEYS)
    workers = fitting_workers(cluster, is_given)
    if workers is not None:
        put(document, "cluster.workers", workers)
    return document


def fitting_workers(cluster: ClusterSection, is_given: bool) -> int | None:
    """Return the ranks of a lane that use all GPUs; None without GPUs, or where `cluster.workers` is given.

    Raises:
        ConfigError: the GPUs do not divide among the lanes, or are fewer than the ranks.
    """
    gpus = cluster.nodes * cluster.slurm.num_gpus
    if gpus == 0 or cluster.device == "cpu":
        return None
    have = f"{cluster.nodes} nodes x {cluster.slurm.num_gpus} GPUs"
    if is_given:
        if cluster.lanes * cluster.workers > gpus:
            raise ConfigError(
                f"cluster.workers: {cluster.lanes} lanes x {cluster.workers} ranks need a GPU each, "
                f"{have} are {gpus}; use at most {gpus // cluster.lanes}"
            )
        return None
    if gpus % cluster.lanes:
        raise ConfigError(f"cluster.lanes: {have} do not divide among {cluster.lanes} lanes")
    return gpus // cluster.lanes


def check_ray_is_its_own(cluster: ClusterSection) -> None:
    """Raise ConfigError for a submitted run in a Ray cluster that is there already."""
    if cluster.ray is not None:
        raise ConfigError(
            f"cluster.ray: {cluster.ray} is there already, and needs no SLURM job; use distlth run, or leave "
            "the key out (cluster.ray=null): a submitted run starts a Ray of its own on its nodes"
        )


def check_gpus_are_asked_for(cluster: ClusterSection) -> None:
    """Raise ConfigError for ranks on GPUs where SLURM is asked for none."""
    from cluster.slurm.batch import asks_for_gpus

    if cluster.device == "cuda" and not asks_for_gpus(cluster):
        raise ConfigError(
            "cluster.device: cuda needs GPUs of the allocation; add --gpus-per-node G, "
            "or train on cores with cluster.device=cpu"
        )


def seeded(document: dict[str, Any], seeds: Collection[int] | None) -> list[dict[str, Any]]:
    """Return a job file's content for each seed, with a name of its own; unchanged without seeds."""
    if not seeds:
        return [document]
    if document.get("seeds"):
        raise ConfigError(
            f"--seeds submits a run for each seed, and seeds: {document['seeds']} of the job file are one "
            "run; leave out one of them"
        )
    return [{**document, "seed": seed, "name": f"{document.get('name')}-seed{seed}"} for seed in seeds]


def seed_list(text: str) -> tuple[int, ...]:
    """Return the numbers of `1,2,3` or `1-5`: a type for argparse."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            seeds += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"expected different numbers such as 1,2,3 or 1-5, got {text!r}")
    return tuple(seeds)
