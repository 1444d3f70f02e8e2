"""What looks wrong in images that were packed, in lines of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from distlth.data.layouts.base import Sample, Source, few, printable
from distlth.data.pack.image import DEEP_BITS
from distlth.data.pack.writer import Packed


def depth(packed: Mapping[str, Packed]) -> int:
    """Return how many bits (8..16) the highest value of all images of 16 bits a value has."""
    highest = [one.highest for one in packed.values() if one.highest is not None]
    return max(8, max(highest).bit_length()) if highest else DEEP_BITS


def review(source: Source, packed: Mapping[str, Packed]) -> tuple[str, ...]:
    """Return warnings of the packed splits: depth, images of one colour, images that come twice."""
    samples = source.splits
    found = (
        _shallow(packed),
        _constant(samples, packed),
        *_twice(samples, packed),
        *_labels(samples, packed),
    )
    return tuple(f"warning: {line}" for line in found if line)


def _shallow(packed: Mapping[str, Packed]) -> str:
    bits = depth(packed)
    if bits == DEEP_BITS:
        return ""
    return f"the images with 16 bits a value use {bits} of them at most; values were scaled by that"


def _constant(samples: Mapping[str, Sequence[Sample]], packed: Mapping[str, Packed]) -> str:
    found = [samples[split][place] for split, one in packed.items() for place in one.constant]
    return f"{_images(found)} of one colour: {_names(found)}" if found else ""


def _twice(samples: Mapping[str, Sequence[Sample]], packed: Mapping[str, Packed]) -> Iterator[str]:
    """Say which images of val and test are also in a split before them: what they measure is memory."""
    for earlier, later in combinations(samples, 2):
        common = np.isin(packed[later].contents, packed[earlier].contents)
        found = [samples[later][place] for place in packed[later].kept[common]]
        if found:
            yield f"{_images(found, f' of {later}')} also in {earlier}: {_names(found)}"


def _labels(samples: Mapping[str, Sequence[Sample]], packed: Mapping[str, Packed]) -> list[str]:
    """Say which images come under two labels."""
    contents = np.concatenate([one.contents for one in packed.values()])
    kept = [samples[split][place] for split, one in packed.items() for place in one.kept]
    labels = np.array([sample.label for sample in kept], np.int64)
    found = [kept[place] for place in _of_two_labels(contents, labels)]
    return [f"{_images(found)} in more than one class: {_names(found)}"] if found else []


def _of_two_labels(contents: npt.NDArray[np.uint64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Return the positions of those contents that have another label elsewhere."""
    _, group = np.unique(contents, return_inverse=True)
    lowest = np.full(group.max() + 1, np.iinfo(np.int64).max)
    highest = np.full(group.max() + 1, -1)
    np.minimum.at(lowest, group, labels)
    np.maximum.at(highest, group, labels)
    return np.flatnonzero((lowest < highest)[group])


def _images(samples: Sequence[Sample], which: str = "") -> str:
    count = len(samples)
    return f"{count:,} image{which} is" if count == 1 else f"{count:,} images{which} are"


def _names(samples: Sequence[Sample]) -> str:
    return few([printable(sample.path) for sample in samples], limit=3)
