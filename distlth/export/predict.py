"""What an exported ticket takes images for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distlth.data.layouts.base import Sample
from distlth.data.layouts.walk import EXTENSIONS, Walk
from distlth.data.load.single import prepare
from distlth.data.load.transform import Transform
from distlth.data.pack.image import UnusableImageError, read_image
from distlth.errors import DataError
from distlth.export.saved import Saved


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image, best first, with their probabilities (0..1)."""

    image: str
    top: tuple[tuple[str, float], ...]


def predict(
    saved: Saved, images: Sequence[Path], *, top: int = 5, batch_size: int = 32
) -> Iterator[Prediction]:
    """Iterate over what a ticket takes images for; a folder stands for all images in it.

    Images are cropped, resized and normalised as in the evaluation of the ticket's run.

    Raises:
        DataError: a file is no image, a folder has none, or the exported file does not say how to
            normalise them.
    """
    transform = _transform(saved)
    files = _files(images)
    while paths := list(islice(files, batch_size)):
        pixels = torch.stack([_image(path, saved.about["preprocessing"], transform) for path in paths])
        with torch.inference_mode():
            chances = saved.network(pixels).float().softmax(dim=1)
        yield from (_best(str(path), row, saved.about, top) for path, row in zip(paths, chances, strict=True))


def _transform(saved: Saved) -> Transform:
    how = saved.about["preprocessing"]
    if how["mean"] is None:
        raise DataError(
            f"{saved.path}: does not say how images are normalised, since it was written without the data "
            "set of its run; export it again where that is"
        )
    return Transform(how["resolution"], "none", how["centre_crop"], False, how["mean"], how["std"])


def _files(images: Sequence[Path]) -> Iterator[Path]:
    """Iterate over image files, those of folders included."""
    for given in images:
        if not given.is_dir():
            yield given
            continue
        try:
            found = Walk().images(given)
        except OSError as error:
            raise DataError(f"{given}: cannot be read ({error.strerror})") from None
        if not found:
            raise DataError(f"{given}: has no image ({', '.join(EXTENSIONS)})")
        yield from found


def _image(path: Path, how: Mapping[str, Any], transform: Transform) -> Tensor:
    try:
        return prepare(read_image(Sample(path, 0), how["max_side"]).pixels, transform)
    except UnusableImageError as error:
        raise DataError(f"{path}: {error}") from None


def _best(image: str, chances: Tensor, about: Mapping[str, Any], top: int) -> Prediction:
    names = about["model"]["classes"] or [str(label) for label in range(len(chances))]
    best = chances.topk(min(top, len(chances)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Prediction(image, tuple((names[label], chance) for label, chance in pairs))
