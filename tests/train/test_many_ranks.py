"""Three and four ranks: gradients of the global batch, the same bits again, each image evaluated once."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from distlth.data.dataset import Dataset
from distlth.files import load_tensors
from distlth.run.results import JobResult, load_metrics
from tests.small_job import WORLD
from tests.train.many_ranks import PRECISIONS, WORLDS, Place, evaluated, train_small

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_SECONDS = 300.0


@pytest.fixture(scope="module")
def place(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What the worlds of four and of three ranks left."""
    place = Place(
        tmp_path_factory.mktemp("ranks"), ROOT / "jobs" / "recipes" / "quickstart.yaml", digits.path
    )
    command = [sys.executable, "-m", "tests.train.many_ranks"]
    ended = subprocess.run(
        [*command, place.folder, place.job_file, place.data],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return place


def found(place: Place, size: int) -> dict[str, Any]:
    """What a world has written down."""
    findings: dict[str, Any] = json.loads(place.found(size).read_text())
    return findings


@pytest.mark.parametrize("size", WORLDS)
@pytest.mark.parametrize("amp", PRECISIONS)
def test_ranks_with_parts_of_unequal_size_take_the_steps_of_one_rank(
    place: Place, size: int, amp: str
) -> None:
    """Parts of 3, 3 and 2 images: each image weighs the same, in the gradients and in the mean loss."""
    alone, loss = train_small(WORLD, amp)
    weights, _ = load_tensors(place.weights(amp, size))
    rtol, atol = (1e-4, 1e-6) if amp == "off" else (1e-2, 1e-3)
    for name, expected in alone.state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=rtol, atol=atol)
    assert found(place, size)["losses"][amp] == pytest.approx(loss, rel=atol)


@pytest.mark.parametrize("size", WORLDS)
def test_they_train_to_the_same_bits_again_and_after_a_stop(place: Place, size: int) -> None:
    whole, again, parts = (place.run(name, size).job("00") for name in ("whole", "again", "parts"))
    expected = JobResult.load(whole)
    assert expected is not None
    assert (expected.world_size, expected.steps) == (size, 12)
    for job in (again, parts):
        result = JobResult.load(job)
        assert result is not None
        assert result.weights_digest == expected.weights_digest
        assert (result.train_loss, result.val_loss) == (expected.train_loss, expected.val_loss)
        assert [line.loss for line in load_metrics(job)] == [line.loss for line in load_metrics(whole)]


@pytest.mark.parametrize("size", WORLDS)
def test_each_image_is_evaluated_once_in_batches_of_any_size(
    place: Place, size: int, digits: Dataset
) -> None:
    whole = place.run("whole", size)
    result = JobResult.load(whole.job("00"))
    alone = evaluated(WORLD, place.config(1), digits, whole)
    count = digits.split("val").count
    assert result is not None
    assert (alone["count"], alone["top1"], alone["top5"]) == (count, result.top1, result.top5)
    for scores in found(place, size)["evaluations"]:
        assert (scores["count"], scores["top1"], scores["top5"]) == (count, result.top1, result.top5)
        assert scores["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        assert sorted(chain.from_iterable(scores["seen"])) == list(range(count))
