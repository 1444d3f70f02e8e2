"""Transfer: another run's masks and early weights, taken over for training on other data (Table A2)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from distlth.config.schema import RunConfig, TransferSection
from distlth.errors import ConfigError, RunError
from distlth.files import exists, load_tensors, read_json, save_tensors, tensors_digest, write_json
from distlth.plan import Job, plan
from distlth.run.paths import RunPaths
from distlth.run.store import RunRecord, load_record
from distlth.run.tickets import load_structured, save_structured


def check_transfer(config: RunConfig) -> None:
    """Raise ConfigError unless the other run has what this one still has to take over from it.

    Raises:
        RunError: the folder holds no run, or is damaged.
        ConfigError: its network or its branches are others, or it has no such ticket.
    """
    transfer, run = config.prune.transfer, RunPaths(config.runs.absolute() / config.name)
    if transfer is None or not (open_jobs := list(_without_mask(run, plan(config)))):
        return
    record = load_record(RunPaths(transfer.run))
    _check_network(config, record, transfer.run)
    _check_branches(config, record, transfer.run, open_jobs)
    for job in open_jobs:
        _check_ticket(transfer.run, source_id(record, job))
    for seed in config.all_seeds if transfer.weights == "rewind" else ():
        if not exists(_rewind(record, transfer, seed)):
            raise ConfigError(
                f"prune.transfer.run: {transfer.run} has no rewind weights yet; wait for its first round, or "
                "say prune.transfer.weights: init"
            )


def take_over(config: RunConfig, run: RunPaths, logits: Collection[str]) -> None:
    """Write the other run's masks and early weights into this run, unless they are there, and their digests.

    Each seed takes its own tickets where the other run has that seed, else those of the other run's first
    one. The layers that make the `logits` keep this run's own initial weights.

    Raises:
        RunError: a file of the other run is missing or damaged, or a mask is of another network.
    """
    transfer = config.prune.transfer
    if transfer is None:
        return
    jobs = plan(config)
    open_jobs = list(_without_mask(run, jobs))
    open_seeds = [seed for seed in config.all_seeds if not exists(run.seed(seed).rewind)]
    if not open_jobs and not open_seeds:
        return
    record = load_record(RunPaths(transfer.run))
    weights = {str(seed): _take_weights(run, record, transfer, seed, logits) for seed in open_seeds}
    tickets = {job.id: _take_mask(run, transfer.run, job, source_id(record, job)) for job in open_jobs}
    _record_origin(run, transfer.run, tickets, weights)


def source_id(record: RunRecord, job: Job) -> str:
    """Return the id that a job's ticket has in the run of `record`."""
    name = job.id.removeprefix(f"{job.of_seed}/")
    seed = _source_seed(record, job.seed)
    return name if seed == record.config.seed else f"seed{seed}/{name}"


def _source_seed(record: RunRecord, seed: int) -> int:
    return seed if seed in record.config.all_seeds else record.config.seed


def _without_mask(run: RunPaths, jobs: Sequence[Job]) -> Iterator[Job]:
    return (job for job in jobs if job.given and not exists(run.job(job.id).mask))


def _rewind(record: RunRecord, transfer: TransferSection, seed: int) -> Path:
    return RunPaths(transfer.run).seed(_source_seed(record, seed)).rewind


def _check_network(config: RunConfig, record: RunRecord, source: Path) -> None:
    own, theirs = config, record.config
    for key, here, there in (
        ("model.name", own.model.name, theirs.model.name),
        ("model.stem", own.model.stem, theirs.model.stem),
        ("prune.scope", own.prune.scope, theirs.prune.scope),
    ):
        if here != there:
            raise ConfigError(
                f"prune.transfer.run: {source} has {key}: {there}, and this run {here}; a ticket fits the "
                "same network alone"
            )


def _check_branches(config: RunConfig, record: RunRecord, source: Path, jobs: Sequence[Job]) -> None:
    """Raise ConfigError where a branch of these jobs says of its masks what is not so in the other run."""
    theirs = {branch.label: _options(branch) for branch in record.config.prune.branches}
    labels = {job.structure.label for job in jobs if job.structure is not None}
    for branch in config.prune.branches:
        if branch.label not in labels or branch.label not in theirs:
            continue
        for option, here in _options(branch).items():
            if here != (there := theirs[branch.label].get(option)):
                raise ConfigError(
                    f"prune.branches: {branch.label} has {option}: {here}, and in {source} {option}: "
                    f"{there}, where its masks are from; write it as it is there"
                )


def _options(branch: Any) -> dict[str, Any]:
    """Return the options of a branch that its masks depend on."""
    options: dict[str, Any] = branch.model_dump(mode="json", exclude={"name", "rounds", "weights"})
    return options


def _check_ticket(source: Path, ticket: str) -> None:
    run = RunPaths(source)
    if not exists(run.job(ticket).mask):
        jobs = [job.id for job in plan(load_record(run).config) if exists(run.job(job.id).mask)]
        raise ConfigError(
            f"prune.transfer: {source} has no ticket {ticket}; there are {', '.join(jobs) or 'none yet'}"
        )


def _take_weights(
    run: RunPaths, record: RunRecord, transfer: TransferSection, seed: int, logits: Collection[str]
) -> dict[str, str]:
    """Write the weights that a seed's jobs start from; return where they are from, and their digest."""
    weights, _ = load_tensors(run.seed(seed).init)
    source = "this run's own initialisation"
    if transfer.weights == "rewind":
        path = _rewind(record, transfer, seed)
        weights |= _but_for(logits, load_tensors(path)[0])
        source = str(path)
    save_tensors(run.seed(seed).rewind, weights)
    return {"source": source, "weights_digest": tensors_digest(weights)}


def _but_for(layers: Collection[str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the entries of some layers."""
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] not in layers}


def _take_mask(run: RunPaths, source: Path, job: Job, ticket: str) -> dict[str, str]:
    """Write the mask of a job; return which ticket it is, and its digest."""
    made = load_structured(RunPaths(source).job(ticket))
    if made is None:
        raise RunError(f"{source}: ticket {ticket} has no mask any more; put it back")
    save_structured(run.job(job.id), made)
    return {"ticket": ticket, "mask_digest": made.mask.digest()}


def _record_origin(
    run: RunPaths, source: Path, tickets: Mapping[str, Any], weights: Mapping[str, Any]
) -> None:
    before = read_json(run.origin) if exists(run.origin) else {"tickets": {}, "weights": {}}
    write_json(
        run.origin,
        {
            "kind": "transfer",
            "run": str(source.absolute()),
            "tickets": {**before["tickets"], **tickets},
            "weights": {**before["weights"], **weights},
        },
    )
