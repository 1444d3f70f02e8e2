"""`prune.transfer`: tickets of one run, trained on the data of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.data.pack.build import BuildOptions, build
from distlth.errors import ConfigError
from distlth.experiment import run_experiment
from distlth.files import load_tensors
from distlth.plan import plan
from distlth.preflight import preflight
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.tickets import load_structured
from tests.small_job import WORLD

BRANCHES = "prune.branches=[{method: refill}, {method: regroup, rounds: [1]}]"
SMALL = ("cluster.workers=1", "train.epochs=2", "train.batch_size=480", "data.resolution=8", "prune.rounds=1")
QUICKSTART = Path(__file__).parent.parent / "jobs" / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Other data with other classes: nine shades of grey."""
    folder = tmp_path_factory.mktemp("other")
    for split, count in (("train", 16), ("val", 2)):
        for label in range(9):
            images = folder / "images" / split / str(label)
            images.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (20 * label + index,) * 3).save(images / f"{index}.png")
    return build(folder / "images", folder / "packed", BuildOptions(workers=1))


@pytest.fixture(scope="module")
def source(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A run whose tickets are to be transferred."""
    runs = tmp_path_factory.mktemp("source")
    keys = [*SMALL, BRANCHES, "prune.rewind_epoch=1", f"data.path={digits.path}", "name=run", f"runs={runs}"]
    return run_experiment(load_config(QUICKSTART, keys), WORLD)


def asked(source: RunPaths, other: Dataset, runs: Path, *more: str) -> RunConfig:
    """The config of a run on other data."""
    keys = [*SMALL, "train.batch_size=48", "prune.rewind_epoch=0", BRANCHES, f"data.path={other.path}"]
    place = ["name=there", f"runs={runs}", f"prune.transfer.run={source.root}"]
    return load_config(QUICKSTART, [*keys, *place, *more])


def test_tickets_train_on_other_data_from_the_same_early_weights(
    source: RunPaths, other: Dataset, tmp_path: Path
) -> None:
    config = asked(source, other, tmp_path, "prune.transfer.tickets=[01/refill]")
    jobs = plan(config)
    assert [(job.id, job.parent, job.start) for job in jobs] == [
        ("00", None, "rewind"),
        ("01/refill", None, "rewind"),
    ]
    run = run_experiment(config, WORLD)
    results = [JobResult.load(run.job(job.id)) for job in jobs]
    there, here = load_structured(source.job("01/refill")), load_structured(run.job("01/refill"))
    assert there is not None
    assert here is not None
    assert here.mask == there.mask
    assert all(results)
    early, own, theirs = (
        load_tensors(path)[0] for path in (run.seed(0).rewind, run.seed(0).init, source.seed(0).rewind)
    )
    assert early["fc.weight"].shape == (9, 64)
    for name, tensor in early.items():
        expected = own if name.startswith("fc.") else theirs
        assert torch.equal(tensor, expected[name]), name
    trained = load_tensors(run.job("01/refill").weights)[0]
    assert not bool(trained["layer1.0.conv1.weight"][~here.mask["layer1.0.conv1"]].any())
    origin = json.loads(run.origin.read_text())
    assert origin["run"] == str(source.root)
    assert origin["tickets"] == {"01/refill": {"ticket": "01/refill", "mask_digest": there.mask.digest()}}

    # More tickets run alone; what was taken over does not need its run any more.
    more = asked(source, other, tmp_path, "prune.transfer.tickets=[01/refill, 01/regroup]")
    before = run.job("01/refill").result.read_text()
    run_experiment(more, WORLD)
    assert run.job("01/refill").result.read_text() == before
    assert JobResult.load(run.job("01/regroup"))
    moved = source.root.with_name("moved")
    source.root.rename(moved)
    try:
        preflight(more)
    finally:
        moved.rename(source.root)


def test_seeds_without_tickets_of_their_own_take_those_of_the_first(
    source: RunPaths, other: Dataset, tmp_path: Path
) -> None:
    config = asked(
        source,
        other,
        tmp_path,
        "seeds=[0, 2]",
        "prune.transfer.weights=init",
        "prune.transfer.tickets=['01']",
    )
    run = run_experiment(config, WORLD)
    origin = json.loads(run.origin.read_text())
    assert origin["tickets"]["seed2/01"]["ticket"] == "01"
    weights = [load_tensors(path)[0] for path in (run.seed(2).rewind, run.seed(2).init)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (["prune.rounds=2"], "prune.transfer: .* has no ticket 02; there are 00, 01, 01/refill, 01/regroup"),
        (["model.name=resnet56"], "has model.name: resnet20, and this run resnet56; a ticket fits the same"),
        (["prune.scope=all"], "has prune.scope: no-stem, and this run all"),
        (
            ["prune.branches=[{method: refill, extra: 0.5, name: refill}]"],
            "prune.branches: refill has extra: 0.5, and in .* extra: 0.0, where its masks are from",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    source: RunPaths, other: Dataset, tmp_path: Path, keys: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        preflight(asked(source, other, tmp_path, *keys))


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (["prune.rewind_epoch=1"], "transfer trains tickets for the whole schedule"),
        (["prune.mode=inline", "prune.branches=[{method: refill}]"], "mode: inline makes them, use branch"),
        (["prune.transfer.tickets=[02/refill]"], "02/refill is no ticket of prune.rounds = 1"),
        (["prune.transfer.tickets=[01/nm]"], "01/nm is no ticket of .* prune.branches .refill, regroup."),
        (["prune.imported=[1]"], "transfer and imported exclude each other"),
    ],
)
def test_what_no_transfer_can_do_is_refused_by_the_job_file(
    source: RunPaths, other: Dataset, tmp_path: Path, keys: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        asked(source, other, tmp_path, *keys)
