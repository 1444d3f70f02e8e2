"""Recipes and lists of options: costs are computed, each comes to a plan, the ablations are all there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest
from torch import nn

from distlth.config.read import load_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.facts.forecast import forecast
from distlth.methods import METHODS
from distlth.methods.refill import Refill
from distlth.methods.regroup import Regroup
from distlth.methods.sources import SOURCES
from distlth.models import Anatomy, anatomy
from jobs.arguments import RECIPES
from jobs.cli import parse
from jobs.commands.recipes import head
from jobs.dry_run import show_plan

DOCS = Path(__file__).parent.parent.parent / "docs"
IMAGES = {"cifar10": 45_000, "cifar100": 50_000, "tiny": 90_000, "imagenet": 1_281_167}
COSTS = re.compile(
    r"(?P<hours>[\d.]+) GPU-hours a seed \((?P<jobs>\d+) jobs, (?P<epochs>[\d,]+) epochs\) at the "
    r"(?P<rate>[\d,]+) images/s of training steps(?: at (?P<side>\d+) px)? on an H200"
)
ANATOMIES: dict[tuple[str, int], Anatomy] = {}
TIMED = [path for path in sorted(RECIPES.glob("*.yaml")) if path.stem.split("-")[0] in IMAGES]
COMMANDS = re.findall(r"\| `(distlth run [^`]+)` \|", (DOCS / "experiments.md").read_text())


@pytest.mark.parametrize("recipe", TIMED, ids=lambda path: path.stem)
def test_the_costs_of_a_recipe_are_those_of_its_plan(recipe: Path) -> None:
    """At a speed that a card has shown; where that is of other images, by their pixels."""
    config, said = load_config(recipe), COSTS.match(head(recipe.read_text())["costs"])
    assert said
    assert said["rate"] in (DOCS / "gpu.md").read_text()
    side, images = int(said["side"] or config.data.resolution), IMAGES[recipe.stem.split("-")[0]]
    rate = int(said["rate"].replace(",", "")) * (side / config.data.resolution) ** 2
    seconds = config.train.batch_size / config.cluster.workers / rate
    found = forecast(config, config.steps_per_epoch(images), {}, seconds)
    own = [job for job in found.jobs if job.job.seed == config.seed]
    hours = sum(job.hours or 0 for job in own)
    assert said["hours"] == (f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}")
    assert int(said["jobs"]) == len(own)
    assert int(said["epochs"].replace(",", "")) == sum(job.epochs for job in own)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at each network once: many recipes have the same."""

    def remembered(model: nn.Module, resolution: int) -> Anatomy:
        key = str(model), resolution
        if key not in ANATOMIES:
            ANATOMIES[key] = anatomy(model, resolution)
        return ANATOMIES[key]

    monkeypatch.setattr("distlth.preflight.anatomy", remembered)


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_comes_to_a_plan(recipe: Path, digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(recipe, [f"data.path={digits.path}"])
    show_plan(config)
    assert f"{config.prune.rounds:02d}/refill" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split("name=")[1].split()[0])
def test_an_ablation_that_is_a_list_of_options_comes_to_a_plan(
    command: str, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    options = parse(shlex.split(command)[1:])
    config = load_config(options.job, [*options.overrides, f"data.path={digits.path}"])
    show_plan(config)
    assert f" {config.prune.rounds:02d} " in capsys.readouterr().out


def test_the_ablations_are_all_there() -> None:
    branches = load_config(RECIPES / "cifar10-resnet18-ablations.yaml").prune.branches
    refills = [branch for branch in branches if isinstance(branch, Refill)]
    regroups = [branch for branch in branches if isinstance(branch, Regroup)]
    assert {b.criterion for b in refills} == {*get_args(Refill.model_fields["criterion"].annotation)}
    assert {b.columns for b in regroups} == {*get_args(Regroup.model_fields["columns"].annotation)}
    assert {b.source for b in regroups} == {b.source for b in refills} == {"imp", *SOURCES}
    for option in ("groups", "min_kept", "min_rows", "min_columns"):
        assert len({getattr(b, option) for b in regroups if b.columns == "algorithm3"}) == 3
    assert {b.method for b in branches} == METHODS.keys() - {"nm"}
    text = (DOCS / "experiments.md").read_text()
    shown = [b.label for b in branches if f"`{b.label}`" in text]
    assert len(shown) > len(branches) // 2


@pytest.mark.parametrize(("epochs", "first"), [(16, 12), (40, 32), (88, 71)])
def test_the_cheap_recipes_train_as_ffcv_imagenet_does_and_their_rounds_cost_a_fifth(
    epochs: int, first: int
) -> None:
    config: RunConfig = load_config(RECIPES / f"imagenet-resnet50-{epochs}.yaml")
    data, train = config.data, config.train
    assert [data.side(epoch) for epoch in range(epochs)] == [160] * first + [192] * (epochs - first)
    assert (data.eval_side, data.eval_ratio, config.model.blurpool) == (256, None, True)
    assert (train.epochs, train.label_smoothing, train.weight_decay) == (epochs, 0.1, 1e-4)
    assert (train.schedule.name, train.schedule.warmup_epochs) == ("linear", 2)
    assert train.lr == 0.5 * train.batch_size / 256
    assert config.prune.after_rewind == "continue"
    assert 0.8 <= config.prune.rewind_epoch / epochs < 0.82
