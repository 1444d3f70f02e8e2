"""What the benchmark of loaders concludes, and the photographs that it loads."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from distlth.bench.loader import COPIES, OURS, LoaderSpeed, conclusion
from distlth.bench.photos import HEIGHT, WIDTH, photo
from jobs.cli import main

LOADER = LoaderSpeed(OURS, 224, 2, 2000.0, (1900.0, 2100.0), 3.1, 900.0, 3.2, 1.9, 0.0)
STEP = LoaderSpeed("a training step of resnet50 on cuda", 224, 2, 4000.0, (0.0, 0.0), *[None] * 5)


@pytest.mark.parametrize(
    ("loader", "step", "says"),
    [
        (
            LOADER,
            STEP,
            "Decode-bound: the loader delivers 2,000 images/s at 224 px and keeps 1.9 cores busy;",
        ),
        (
            LOADER,
            replace(STEP, images_per_s=1500.0),
            "Compute-bound: .* takes 1,500; nothing about the loader",
        ),
        (
            replace(LOADER, cores=0.4, read_mb_s=40.0),
            STEP,
            "Storage-bound: .* gives 40 MB/s; put the data on",
        ),
        (
            replace(LOADER, cores=0.4),
            STEP,
            "Starved of cores: .* its 2 threads found 0.4 cores; end what else",
        ),
    ],
)
def test_a_sentence_says_what_holds_the_loader_up(loader: LoaderSpeed, step: LoaderSpeed, says: str) -> None:
    assert re.match(says, conclusion([loader, step]))


@pytest.mark.parametrize(
    ("copies", "says"), [(900.0, "Copy-bound: .* reach 900; find"), (9e4, "Decode-bound")]
)
def test_copies_to_the_gpu_can_hold_it_up(copies: float, says: str) -> None:
    row = replace(STEP, loader=COPIES, images_per_s=copies)
    assert re.match(says, conclusion([LOADER, row, STEP]))


def test_photographs_are_all_different() -> None:
    images = [np.asarray(photo(number)) for number in range(9)]
    assert {image.shape for image in images} == {(HEIGHT, WIDTH, 3)}
    assert len({image.tobytes() for image in images}) == 9


def test_data_of_the_users_own_must_be_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "loader", "--data", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere: no such data set")
    assert main(["bench", "disk", "--data", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: --data and --resolutions are of loader\n"
