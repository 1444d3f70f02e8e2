"""Import: networks of another code as a run, whose rounds can be refilled, regrouped, trained, exported."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log, nan
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError, UserError
from distlth.files import replacing_folder, save_tensors, tensors_digest, write_json, write_text
from distlth.foreign import openlth
from distlth.foreign.checkpoint import Checkpoint, of_document, split, state_of
from distlth.foreign.document import NO_DATA, Known, known, resolved
from distlth.foreign.files import file_digest, read_document
from distlth.foreign.fit import Fitted, Target, fit, fit_state
from distlth.models import Anatomy, anatomy, build, prunable
from distlth.models.alive import known_alive, macs
from distlth.plan import Job, plan
from distlth.prune.mask import Mask, empty_layers, weight_name
from distlth.run.events import EventLog
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import RunRecord, library_versions
from distlth.run.tickets import save_structured
from distlth.ticket import Structured


@dataclass(frozen=True)
class Request:
    """What to import: files (or OpenLTH's folders), and how.

    `document` is the job file with what was asked for, `out` the run directory. `init` has the weights that
    tickets start from where the files do not, or is `fresh`: a random initialisation. `round` is that of the
    only file. With `zeros` exact zeros are the mask of a file without masks; with `masks_only` the rounds are
    trained here, from the early weights. `dense_classifier` leaves out masks of layers that are not pruned.
    """

    files: Sequence[Path]
    out: Path
    document: Mapping[str, Any]
    source: str
    init: Path | Literal["fresh"] | None = None
    round: int | None = None
    zeros: bool = False
    masks_only: bool = False
    dense_classifier: bool = False


@dataclass(frozen=True, eq=False)
class Imported:
    """A run that was made of files: its networks by round, and lines about what was found."""

    run: RunPaths
    config: RunConfig
    num_classes: int
    rounds: Mapping[int, Fitted]
    early: str
    notes: Sequence[str]


@dataclass(frozen=True, eq=False)
class Early:
    """The weights that tickets start from, where they are from, and the epoch they are of, where known."""

    weights: dict[str, Tensor]
    source: str
    epoch: int | None


def import_run(request: Request) -> Imported:
    """Make a run of other codes' files. It is there whole, or not at all.

    Raises:
        UserError: a file is damaged, or does not fit the network, or does not say what is needed.
        ConfigError: what is asked for does not fit.
    """
    check_free(request.out)
    found = [checkpoint for path in request.files for checkpoint in read(path)]
    seen = known(next((each for each in found if each.masks), found[0]), request.document)
    rounds = _by_round(found, request)
    config = _config(request, seen, list(rounds), found[0].rewind_epoch)
    num_classes, data = _classes(config, seen)
    network = build(config.model.name, num_classes, seed=config.seed, stem=config.model.stem)
    body = anatomy(network, config.data.resolution)
    layers = [layer.name for layer in prunable(body, config.prune.scope, config.prune.layers)]
    target = Target(config.model.name, network.state_dict(), layers)
    fitted = {
        number: fit(each, target, zeros=request.zeros, dense_classifier=request.dense_classifier)
        for number, each in sorted(rounds.items())
    }
    early = _early(request, found, target)
    if not request.masks_only:
        _check_measurable(config)
    record = RunRecord(config, library_versions(), data, time.time())
    notes = list(_notes(request, fitted, early, config))
    imported = Imported(RunPaths(request.out), config, num_classes, fitted, early.source, notes)
    with replacing_folder(request.out) as folder:
        _write(RunPaths(folder), record, imported, early, body, request.masks_only)
    return imported


def read(path: Path) -> list[Checkpoint]:
    """Return the networks in a file, or those of OpenLTH in a folder."""
    if path.is_dir():
        return [openlth.read_level(level) for level in openlth.levels(path)]
    if openlth.is_model(path):
        return [openlth.read_model(path)]
    return [of_document(path, read_document(path))]


def check_free(out: Path) -> None:
    """Raise UserError where a run cannot be made at a path."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists; name another run with --out, or remove it")


# -- what the files come to ---------------------------------------------------------------------------


def _by_round(found: Sequence[Checkpoint], request: Request) -> dict[int, Checkpoint]:
    """Return the networks by round: as asked, as the file says, else by density."""
    if request.round is not None and len(found) > 1:
        raise ConfigError(f"--round says one round, and there are {len(found)} networks")
    rounds: dict[int, Checkpoint] = {}
    for each in found:
        number = request.round if request.round is not None else each.round
        if number is None:
            number = _round_by_density(each, request)
        if number in rounds:
            raise UserError(
                f"{each.path}: is of round {number}, as {rounds[number].path} is; import one of them"
            )
        rounds[number] = each
    return rounds


def _round_by_density(found: Checkpoint, request: Request) -> int:
    """Return the round whose planned density, (1 - rate)^round, is nearest to a network's."""
    kept = [mask for mask in found.masks.values() if not bool(mask.all())]
    if request.zeros:
        kept = [weight != 0 for weight in found.weights.values() if weight.ndim == 4]
    total = sum(mask.numel() for mask in kept)
    density = sum(int(mask.sum()) for mask in kept) / total if total else 1.0
    section = request.document.get("prune")
    rate = section.get("rate", 0.2) if isinstance(section, Mapping) else 0.2
    if density >= 1 or not isinstance(rate, float) or not 0 < rate < 1:
        return 0 if density >= 1 else 1
    return max(1, round(log(max(density, 1e-9)) / log(1 - rate)))


def _config(request: Request, seen: Known, rounds: Sequence[int], epoch: int | None) -> RunConfig:
    document = resolved(request.document, seen, rounds, epoch)
    place = {"name": request.out.name, "runs": str(request.out.parent)}
    return parse_config({**document, **place}, source=request.source)


def _classes(config: RunConfig, seen: Known) -> tuple[int, dict[str, Any]]:
    """Return the number of classes, and what the run records of its data: nothing yet, or the data set."""
    if config.data.path == NO_DATA:
        return seen.num_classes, {"classes": seen.num_classes}
    dataset = Dataset.load(config.data.path)
    if dataset.num_classes != seen.num_classes:
        raise UserError(
            f"{config.data.path}: has {dataset.num_classes} classes, and the network of the file "
            f"{seen.num_classes}; name the data set that it was trained on, or none: prune.transfer takes "
            "tickets to other data"
        )
    return dataset.num_classes, dataset.identity


def _early(request: Request, found: Sequence[Checkpoint], target: Target) -> Early:
    """Return the weights that tickets start from.

    Raises:
        UserError: nothing says which, or files have different ones.
    """
    if request.init == "fresh":
        fresh = {name: tensor.clone() for name, tensor in target.state.items()}
        return Early(fresh, "a random initialisation of the run's seed", None)
    if request.init is not None:
        weights, _ = split(request.init, state_of(request.init, read_document(request.init)))
        return Early(fit_state(request.init, weights, target), str(request.init), None)
    own = [each for each in found if each.early is not None]
    if not own:
        raise UserError(
            f"{found[0].path}: does not have the weights that its ticket trains from; say --init FILE, or "
            "--init fresh for a random initialisation"
        )
    fitted = [fit_state(each.path, each.early or {}, target) for each in own]
    digests = [tensors_digest(weights) for weights in fitted]
    for each, digest in zip(own, digests, strict=True):
        if digest != digests[0]:
            raise UserError(
                f"{each.path}: its tickets train from other weights than those of {own[0].path}; import "
                "files of one experiment, or say --init FILE"
            )
    return Early(fitted[0], f"the early weights in {own[0].path}", own[0].rewind_epoch)


def _check_measurable(config: RunConfig) -> None:
    """Raise ConfigError for a branch that needs measured what no file has."""
    jobs = {job.id: job for job in plan(config)}
    for job in jobs.values():
        parent = jobs.get(job.parent or "")
        if job.structure is not None and parent is not None and parent.given:
            for needed in job.structure.measurements(job.density):
                raise ConfigError(
                    f"prune.branches: {job.method} needs {needed.name} scores of job {parent.id}, which are "
                    "measured while it trains; import with --masks-only to train it here, or leave it out"
                )


def _notes(request: Request, fitted: Mapping[int, Fitted], early: Early, config: RunConfig) -> list[str]:
    """Return what a user should know of an import."""
    notes = []
    if any(each.checkpoint.normalize for each in fitted.values()):
        notes.append(
            "the network normalised images itself (normalize.mean, normalize.std); here the data set's own "
            "mean and deviation do, which differ a little"
        )
    for number, each in fitted.items():
        if _is_masked(early.weights, each.mask):
            notes.append(
                f"the early weights are zero wherever the mask of round {number} drops: what refill brings "
                "back would start from zero; say --init with weights from before pruning"
            )
            break
    if request.zeros:
        notes.append("exact zeros in the prunable layers are taken for what was pruned")
    whole = _unmasked(list(fitted.values()))
    if whole:
        notes.append(
            f"the file has no mask of {', '.join(whole)}, which prune.scope: {config.prune.scope} prunes"
        )
    if request.init is None and early.epoch is None and config.prune.rewind_epoch == 0:
        notes.append(
            "the file does not say of which epoch its early weights are; tickets train for the whole schedule"
        )
    if config.data.path == NO_DATA:
        notes.append("no data set is named yet: say data.path=DIR when you run it")
    return notes


def _unmasked(fitted: Sequence[Fitted]) -> list[str]:
    """Return the prunable layers that no file of pruned networks has a mask of."""
    pruned = [each for each in fitted if each.checkpoint.masks]
    return [
        layer
        for layer in (pruned[0].mask if pruned else ())
        if all(each.names.theirs[weight_name(layer)] not in each.checkpoint.masks for each in pruned)
    ]


def _is_masked(weights: Mapping[str, Tensor], mask: Mask) -> bool:
    """Return whether weights are zero wherever a mask drops, and it drops some."""
    dropped = [weights[weight_name(layer)][~kept] for layer, kept in mask.items()]
    return mask.kept < mask.total and not any(bool(values.any()) for values in dropped)


# -- what is written ----------------------------------------------------------------------------------


def _write(
    run: RunPaths, record: RunRecord, imported: Imported, early: Early, body: Anatomy, masks_only: bool
) -> None:
    """Write the files of the run."""
    config = record.config
    jobs = {job.round: job for job in plan(config) if job.given}
    for number, each in imported.rounds.items():
        _write_round(run, jobs[number], each, body, masks_only)
    seed = run.seed(config.seed)
    for path in (seed.init, seed.rewind):
        save_tensors(path, early.weights)
    write_json(run.origin, _origin(imported, early))
    write_text(run.imported_job, config.to_yaml())
    write_text(run.job_file, record.to_yaml())
    log = EventLog(run.log)
    names = ", ".join(str(each.checkpoint.path) for each in imported.rounds.values())
    log.note("imported", message=f"rounds {', '.join(map(str, imported.rounds))} from {names}")
    log.flush()


def _write_round(run: RunPaths, job: Job, fitted: Fitted, body: Anatomy, masks_only: bool) -> None:
    paths = run.job(job.id)
    save_structured(paths, Structured(fitted.mask))
    if masks_only:
        return
    save_tensors(paths.weights, fitted.weights)
    _result(job, fitted, body).save(paths)


def _result(job: Job, fitted: Fitted, body: Anatomy) -> JobResult:
    """Return the result of a network that was trained elsewhere: our counts of its mask, nothing measured."""
    mask, stated = fitted.mask, fitted.checkpoint.stated
    alive = known_alive(body.graph, mask.layers, removed=False)
    return JobResult(
        job=job.id,
        round=job.round,
        method=job.method,
        density=mask.density,
        kept=mask.kept,
        total=mask.total,
        val_top1=nan,
        val_top5=nan,
        val_loss=nan,
        train_loss=nan,
        epochs=0,
        steps=0,
        seconds=0.0,
        world_size=0,
        mask_digest=mask.digest(),
        weights_digest=tensors_digest(fitted.weights),
        finished=time.time(),
        empty_layers=len(empty_layers(mask)),
        alive=None if alive is None else alive.weights,
        macs=body.macs if alive is None else macs(body.graph),
        alive_macs=None if alive is None else alive.macs,
        imported={"file": fitted.checkpoint.path.name, **asdict(stated)},
    )


def _origin(imported: Imported, early: Early) -> dict[str, Any]:
    """Return where all of it came from: files, digests, names."""
    return {
        "kind": "import",
        "rounds": {
            str(number): {
                "file": str(each.checkpoint.path),
                "file_digest": file_digest(each.checkpoint.path),
                "mask_digest": each.mask.digest(),
                "weights_digest": tensors_digest(each.weights),
                "stated": asdict(each.checkpoint.stated),
                "dialect": each.names.dialect,
                "names": dict(each.names.theirs),
            }
            for number, each in imported.rounds.items()
        },
        "early": {"source": early.source, "weights_digest": tensors_digest(early.weights)},
        "notes": list(imported.notes),
    }
