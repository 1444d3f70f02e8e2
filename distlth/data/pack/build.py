"""Build a packed data set from a folder of images, whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distlth.cores import num_cores
from distlth.data.dataset import MANIFEST, Dataset, Split, split_file
from distlth.data.digest import split_digest
from distlth.data.layouts import check_layout, scan
from distlth.data.layouts.base import Draw, Sample, Source, printable
from distlth.data.pack.encode import WRITE_MODES, Encoding, WriteMode
from distlth.data.pack.image import DEEP_BITS
from distlth.data.pack.review import depth, review
from distlth.data.pack.writer import Packed, Packer
from distlth.errors import DataError
from distlth.files import replacing_folder, write_text
from distlth.lock import Purpose, hold

STALE_SECONDS = 60.0


@dataclass(frozen=True)
class BuildOptions:
    """How a data set is packed.

    max_resolution: the longer side, in pixels, to which larger images are reduced; None keeps all.
    jpeg_quality: 1..100, for images stored as JPEG.
    write_mode: 'raw' pixels, 'jpg', or 'smart': raw up to 64 KiB of pixels (147 x 147), jpg above.
    workers: processes that read and encode; 0 for one per core.
    skip_broken: leave out images that cannot be read, instead of stopping.
    val_fraction, val_images, seed: how val is drawn from train; see `distlth.data.layouts.base.Draw`.
    layout: the name of the source's layout; None for the first that matches.
    """

    max_resolution: int | None = None
    jpeg_quality: int = 90
    write_mode: WriteMode = "smart"
    workers: int = 0
    skip_broken: bool = False
    val_fraction: float | None = None
    seed: int = 0
    layout: str | None = None
    val_images: int | None = None

    def __post_init__(self) -> None:
        if self.write_mode not in WRITE_MODES:
            raise DataError(
                f"write mode {self.write_mode!r} is not known; choose one of {', '.join(WRITE_MODES)}"
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise DataError(f"JPEG quality {self.jpeg_quality} is not in 1..100")
        if self.max_resolution is not None and self.max_resolution < 1:
            raise DataError(f"maximal resolution {self.max_resolution} is not positive")
        if self.workers < 0:
            raise DataError(f"{self.workers} workers; give at least 1, or 0 for one a core")
        if self.layout is not None:
            check_layout(self.layout)
        Draw(self.val_fraction, self.seed, self.val_images)


def progress_bar(console: Console | None = None) -> Progress:
    """Return the progress bar of `build` and `check`: images done, of how many, and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def build(
    source: str | Path,
    out: str | Path,
    options: BuildOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Pack the images under `source` (see `distlth.data.layouts`) into the new folder `out`.

    It is built beside `out` under a hidden name and renamed when complete; what a killed build left there is
    removed first. `overwrite` replaces an existing data set. Raises DataError, and leaves no folder behind,
    when `out` exists, another build of it is running, a worker dies, or images cannot be read: the error
    lists those.
    """
    options = options or BuildOptions()
    out = Path(out)
    try:
        check_is_free(out, overwrite)
        found = scan(source, options.val_fraction, options.seed, options.layout, options.val_images)
        write_whole(out, lambda folder: _pack_all(found, folder, options, progress))
    except OSError as error:
        raise DataError(f"{printable(out)}: cannot be built ({printable(str(error))})") from error
    return Dataset.load(out)


def write_whole(out: Path, make: Callable[[Path], Dataset]) -> None:
    """Write a data set that `make` puts into the folder it is given, under the name `out`, or nothing."""
    purpose = Purpose(out, "another build of it is running", DataError)
    with (
        hold(out.with_name(f".{out.name}.lock"), purpose, STALE_SECONDS) as lock,
        replacing_folder(out) as folder,
    ):
        write_text(folder / MANIFEST, make(folder).to_json())
        if lock.is_lost:
            raise DataError(f"{out}: another build has taken its place, since this one stood still")


def check_is_free(out: Path, overwrite: bool) -> None:
    """Raise DataError where `out` is there, unless it is a data set that may be overwritten."""
    if out.exists() and not (overwrite and (out / MANIFEST).is_file()):
        hint = "overwrite it or choose another name" if (out / MANIFEST).is_file() else "choose another name"
        raise DataError(f"{out}: exists already; {hint}")


def _pack_all(source: Source, folder: Path, options: BuildOptions, progress: Progress | None) -> Dataset:
    packed = _pack_splits(source, folder, options, progress, DEEP_BITS)
    if depth(packed) < DEEP_BITS:  # known only now that all images were seen
        packed = _pack_splits(source, folder, options, progress, depth(packed))
    broken = [
        (printable(samples[position].path), reason)
        for split, samples in source.splits.items()
        for position, reason in packed[split].broken
    ]
    if broken and not options.skip_broken:
        raise DataError(_broken_text(broken, sum(map(len, source.splits.values()))))
    return describe(source, folder, packed, asdict(options), broken)


def describe(
    source: Source,
    folder: Path,
    packed: Mapping[str, Packed],
    options: Mapping[str, Any],
    skipped: Sequence[tuple[str, str]] = (),
) -> Dataset:
    """Return the data set of packed splits in `folder`; DataError where a class has no image in one."""
    mean, std = _statistics(packed["train"])
    return Dataset(
        path=folder,
        classes=source.classes,
        mean=mean,
        std=std,
        splits={
            split: _split(split_file(folder, split), source, samples, packed[split])
            for split, samples in source.splits.items()
        },
        options=options,
        versions=_versions(),
        skipped=tuple(skipped),
        notes=(*source.notes, *review(source, packed)),
    )


def _pack_splits(
    source: Source, folder: Path, options: BuildOptions, progress: Progress | None, bits: int
) -> dict[str, Packed]:
    return {
        split: _pack(
            split_file(folder, split), samples, options, bits, _advance(progress, split, len(samples))
        )
        for split, samples in source.splits.items()
    }


def _pack(
    file: Path, samples: Sequence[Sample], options: BuildOptions, bits: int, advance: Callable[[int], None]
) -> Packed:
    encoding = Encoding(options.write_mode, options.jpeg_quality)
    workers = options.workers or num_cores()
    # Evaluation reads in order, and needs no mixed pages.
    packer = Packer(
        *(file, encoding, options.max_resolution, workers, bits), is_shuffled=file.stem == "train"
    )
    return packer.pack(samples, advance)


def _advance(progress: Progress | None, split: str, total: int) -> Callable[[int], None]:
    if progress is None:
        return lambda count: None
    task = progress.add_task(split, total=total)
    return lambda count: progress.advance(task, count)


def _broken_text(broken: list[tuple[str, str]], total: int) -> str:
    lines = [f"{len(broken):,} of {total:,} images cannot be used (--skip-broken builds without them):"]
    return "\n".join(lines + [f"  {path}: {reason}" for path, reason in broken])


def _statistics(packed: Packed) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and standard deviation of each channel in units of 0..1, from exact integer sums."""
    mean, std = [], []
    for counts in packed.histogram.tolist():
        pixels = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        mean.append(first / pixels / 255 if pixels else 0.0)
        std.append((second * pixels - first * first) ** 0.5 / pixels / 255 if pixels else 0.0)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _split(file: Path, source: Source, samples: tuple[Sample, ...], packed: Packed) -> Split:
    labels = np.array([sample.label for sample in samples])[packed.kept]
    counts = np.bincount(labels, minlength=len(source.classes))
    if (counts == 0).any():
        name = source.classes[int(np.argmin(counts))]
        raise DataError(f"{source.path}: no usable image of class {name} in the {file.stem} split")
    heights, widths = packed.sizes.T.tolist()
    return Split(
        count=len(labels),
        digest=split_digest(packed.digests),
        size=file.stat().st_size,
        class_counts=tuple(counts.tolist()),
        min_height=min(heights),
        max_height=max(heights),
        min_width=min(widths),
        max_width=max(widths),
    )


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("distlth", "ffcv", "numpy", "pillow")}
    return {"python": sys.version.split()[0], **packages}
