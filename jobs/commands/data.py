"""`distlth data`: build a data set from images, adopt FFCV files as one, or check one."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from jobs.arguments import Commands, path_given

if TYPE_CHECKING:
    from distlth.data.dataset import Dataset


def add(commands: Commands) -> None:
    """Add the command and its actions to the parser."""
    parser = commands.add_parser("data", help="build, adopt or check a data set")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_build(actions)
    _add_adopt(actions)
    _add_check(actions)


def _add_build(actions: Commands) -> None:
    build = actions.add_parser(
        "build", help="pack a folder of images", description="Pack a folder of images."
    )
    build.add_argument(
        "source",
        type=path_given,
        metavar="SOURCE",
        help="a folder of images, ImageNet (folders, tars, Kaggle's), Tiny-ImageNet, CIFAR or IDX files",
    )
    build.add_argument(
        "--layout", metavar="NAME", help="insist on a layout, such as imagenet-tars; default: found out"
    )
    build.add_argument("--out", type=path_given, required=True, metavar="DIR")
    build.add_argument("--max-resolution", type=int, metavar="PIXELS", help="shrink longer sides to this")
    build.add_argument("--jpeg-quality", type=int, default=90, metavar="1..100")
    build.add_argument("--write-mode", choices=("smart", "jpg", "raw"), default="smart")
    build.add_argument("--workers", type=int, default=0, metavar="N", help="processes; default: one per core")
    drawn = build.add_mutually_exclusive_group()
    drawn.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="draw this share of each class from train as val, and keep the split that is there as test; "
        "default: 0.1 where there is no val split",
    )
    drawn.add_argument("--val-images", type=int, metavar="N", help="the same, N images in all")
    build.add_argument("--seed", type=int, default=0, help="of a val split drawn here")
    build.add_argument("--skip-broken", action="store_true", help="leave out images that do not decode")
    build.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    build.set_defaults(command=_build)


def _add_adopt(actions: Commands) -> None:
    adopt = actions.add_parser(
        "adopt",
        help="take FFCV files for a data set, without copying",
        description="Take FFCV files with the fields image and label, such as ffcv-imagenet writes, for a "
        "data set. Every sample is checked once; the files stay where they are.",
    )
    adopt.add_argument("train", type=path_given, metavar="TRAIN", help="FFCV file (.beton, .ffcv)")
    adopt.add_argument("val", type=path_given, metavar="VAL", help="FFCV file")
    adopt.add_argument("test", type=path_given, metavar="TEST", nargs="?", help="FFCV file, if there is one")
    adopt.add_argument("--out", type=path_given, required=True, metavar="DIR")
    adopt.add_argument(
        "--classes",
        type=path_given,
        metavar="FILE",
        help="class names by label, one a line; default: numbers",
    )
    adopt.add_argument("--workers", type=int, default=0, metavar="N", help="threads; default: one per core")
    adopt.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    adopt.set_defaults(command=_adopt)


def _add_check(actions: Commands) -> None:
    check = actions.add_parser(
        "check", help="verify a built data set", description="Verify a built data set."
    )
    check.add_argument("path", type=path_given, metavar="DIR")
    check.set_defaults(command=_check)


def _build(options: argparse.Namespace) -> int:
    from distlth.data.pack.build import BuildOptions, build, progress_bar
    from distlth.report.console import output_console

    chosen = BuildOptions(
        max_resolution=options.max_resolution,
        jpeg_quality=options.jpeg_quality,
        write_mode=options.write_mode,
        workers=options.workers,
        skip_broken=options.skip_broken,
        val_fraction=options.val_fraction,
        seed=options.seed,
        layout=options.layout,
        val_images=options.val_images,
    )
    with progress_bar(output_console()) as progress:
        dataset = build(options.source, options.out, chosen, overwrite=options.overwrite, progress=progress)
    _describe(dataset)
    return 0


def _adopt(options: argparse.Namespace) -> int:
    from distlth.data.pack.adopt import adopt
    from distlth.data.pack.build import progress_bar
    from distlth.report.console import output_console

    with progress_bar(output_console()) as progress:
        dataset = adopt(
            options.train,
            options.val,
            options.out,
            test=options.test,
            classes=options.classes,
            workers=options.workers,
            overwrite=options.overwrite,
            progress=progress,
        )
    _describe(dataset)
    return 0


def _describe(dataset: Dataset) -> None:
    _say(f"{dataset.path}: {_counts(dataset)}")
    for path, reason in dataset.skipped:
        _say(f"left out {path}: {reason}")
    for note in dataset.notes:
        _say(note)


def _counts(dataset: Dataset) -> str:
    """Return the images of each split in words."""
    counts = " + ".join(f"{dataset.split(name).count:,}" for name in dataset.names)
    return f"{counts} images of {dataset.num_classes:,} classes ({', '.join(dataset.names)})"


def _check(options: argparse.Namespace) -> int:
    from distlth.data.pack.build import progress_bar
    from distlth.data.pack.check import check
    from distlth.report.console import output_console

    with progress_bar(output_console()) as progress:
        report = check(options.path, progress=progress)
    _say(f"{options.path}: {report.num_samples:,} images, {report.num_bytes:,} bytes: all as they were built")
    _say(_counts(report.dataset))
    return 0


def _say(line: str) -> None:
    """Print a line; characters that standard output cannot have, as those of odd file names, are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding))
