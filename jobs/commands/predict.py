"""`distlth predict`: what an exported ticket takes images for."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from distlth.errors import UserError
from jobs.arguments import Commands, path_given


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "predict",
        help="classify images with an exported ticket",
        description="Print the likeliest classes of images, by a file that `distlth export` wrote.",
    )
    parser.add_argument("file", type=path_given, metavar="FILE", help="of any format of `distlth export`")
    parser.add_argument(
        "images", type=path_given, nargs="+", metavar="IMAGE", help="an image, or a folder of images"
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes an image; default: 5")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=_predict)


def _predict(options: argparse.Namespace) -> int:
    if options.top < 1:
        raise UserError(f"--top {options.top}: expected at least 1")
    from distlth.export.predict import predict
    from distlth.export.saved import load_saved
    from distlth.report.console import predictions_table, show

    found = list(predict(load_saved(options.file), options.images, top=options.top))
    if options.json:
        print(json.dumps([asdict(each) for each in found], indent=1))
    else:
        show(predictions_table(found))
    return 0
