"""Files that together make up a split, and tell it by their names or their folder's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from distlth.data.layouts.splits import SPLIT_OF
from distlth.data.layouts.walk import is_hidden, visible_folders
from distlth.errors import DataError

_WORD = re.compile(r"[a-z]+")


def shards(path: Path, ending: str) -> dict[str, list[Path]]:
    """Return the shards by split: `NAME-train-000000.tar` in `path`, or `train/*.tar`.

    {} where there are none, or where folders of something else are: what lies beside those is no data set.
    """
    if not path.is_dir():
        return {}
    folders = visible_folders(path)
    found: dict[str, list[Path]] = {}
    for file in [] if folders else _files(path, ending):
        if named := [SPLIT_OF[word] for word in _WORD.findall(file.stem.casefold()) if word in SPLIT_OF]:
            found.setdefault(named[0], []).append(file)
    for folder in folders:
        split = SPLIT_OF.get(folder.name.casefold())
        if split and not visible_folders(folder) and (files := _files(folder, ending)):
            found[split] = files
    return found


def check_train(path: Path, found: Mapping[str, Sequence[Path]]) -> None:
    """Raise DataError where train is missing."""
    if "train" not in found:
        raise DataError(f"{path}: has shards of {' and '.join(sorted(found))}, but none of train")


def _files(folder: Path, ending: str) -> list[Path]:
    names = sorted(name for name in os.listdir(folder) if name.endswith(ending) and not is_hidden(name))
    return [folder / name for name in names]
