"""`distlth import`: networks that other codes have trained, as a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distlth.errors import UserError
from jobs.arguments import Commands, job_given, path_given


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "import",
        help="checkpoints of other codes as a run",
        description="Make a run of networks that other codes have trained: the paper's checkpoints, "
        "OpenLTH's folders, state dicts of torch.nn.utils.prune. Its rounds can be refilled, "
        "regrouped, trained and exported.",
    )
    parser.add_argument(
        "given",
        nargs="+",
        metavar="FILE",
        help="one a round, or OpenLTH's folders; key=value sets a key of the job file, as data.path=DIR",
    )
    parser.add_argument(
        "--out", type=path_given, required=True, metavar="RUN", help="the run directory to make"
    )
    parser.add_argument("--model", metavar="NAME", help="such as resnet18 (the key model.name)")
    parser.add_argument(
        "--job",
        dest="base",
        type=job_given,
        metavar="JOB.yaml",
        help="a job file or a recipe's name: how tickets train; default: as the paper on CIFAR",
    )
    parser.add_argument(
        "--init",
        type=_init,
        metavar="FILE",
        help="the weights that tickets train from, or fresh for random ones; default: those in the files",
    )
    parser.add_argument("--round", type=int, metavar="N", help="default: what the file says, or by density")
    parser.add_argument(
        "--zeros", action="store_true", help="the files have no masks: exact zeros are what was pruned"
    )
    parser.add_argument(
        "--masks-only", action="store_true", help="train the rounds here, too, from the early weights"
    )
    parser.add_argument(
        "--dense-classifier", action="store_true", help="leave out masks of layers that are never pruned here"
    )
    parser.set_defaults(command=_import, overrides=[])


def _init(given: str) -> Path | str:
    return given if given == "fresh" else path_given(given)


def _import(options: argparse.Namespace) -> int:
    from distlth.foreign.importing import Request, import_run
    from distlth.report.console import imported_view, show

    words = [*options.given, *options.overrides]
    assignments = [word for word in words if "=" in word and not Path(word).exists()]
    files = [path_given(word) for word in words if word not in assignments]
    if not files:
        raise UserError("name a file to import")
    request = Request(
        files=files,
        out=options.out,
        document=_document(options, assignments),
        source=str(options.base or "distlth import"),
        init=options.init,
        round=options.round,
        zeros=options.zeros,
        masks_only=options.masks_only,
        dense_classifier=options.dense_classifier,
    )
    show(imported_view(import_run(request)))
    return 0


def _document(options: argparse.Namespace, assignments: Sequence[str]) -> dict[str, Any]:
    """Return the job file that was asked for, with the options and assignments over it."""
    from distlth.config.documents import override, put
    from distlth.config.read import read_job

    document = read_job(options.base) if options.base else {}
    if options.model is not None:
        put(document, "model.name", options.model)
    override(document, assignments)
    return document
