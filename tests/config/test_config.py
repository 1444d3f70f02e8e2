"""The job file: what is accepted, and the one line that each mistake gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distlth.config.documents import override, parse_yaml
from distlth.config.read import load_config, parse_config
from distlth.config.schema import RunConfig
from distlth.errors import ConfigError
from distlth.methods.refill import Refill
from distlth.methods.regroup import Regroup
from jobs.commands.recipes import head as recipe_head
from tests.tiny_run import MINIMAL

RECIPES = Path(__file__).parent.parent.parent / "jobs" / "recipes"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_load(recipe: Path) -> None:
    assert load_config(recipe).name == recipe.stem


def test_a_recipe_says_what_it_follows() -> None:
    for recipe in RECIPES.glob("*.yaml"):
        head = recipe.read_text().split("name:")[0]
        assert "arXiv 2202.04736" in head
        assert {"reproduces", "differs", "costs"} <= {*recipe_head(head)}
        assert all(line.startswith("# ") for line in head.splitlines())


def test_recipes_on_three_splits_say_how_to_build_them() -> None:
    """Where the paper chooses the epoch on images of their own, so do the recipes."""
    for recipe in RECIPES.glob("*.yaml"):
        head = recipe.read_text().split("name:")[0]
        has_three = recipe.stem.startswith(("cifar10-", "tiny-imagenet"))
        assert ("--val-fraction 0.1" in head) == has_three
        assert load_config(recipe).train.report_epoch == ("best-val" if has_three else "last")


def test_the_recipe_of_the_code_is_the_codes() -> None:
    config = load_config(RECIPES / "imagenet-resnet50-code.yaml")
    train, prune = config.train, config.prune
    assert (train.epochs, train.batch_size, train.lr, train.momentum) == (90, 1024, 0.4, 0.9)
    assert (train.weight_decay, train.decay_norm_and_bias) == (1e-4, True)
    assert (train.schedule.milestones, train.schedule.warmup_epochs) == ((29, 59, 79), 4)
    assert (train.sync_batch_norm, train.amp, train.label_smoothing) == (True, "off", 0)
    assert (prune.rate, prune.rewind_epoch, prune.after_rewind, prune.scope) == (0.2, 15, "restart", "all")


def test_the_recipe_of_the_paper_is_the_texts() -> None:
    config = load_config(RECIPES / "imagenet-resnet50-paper.yaml")
    train, prune = config.train, config.prune
    assert (train.epochs, train.lr, train.momentum) == (95, 0.1, 0.9)
    assert (train.weight_decay, train.decay_norm_and_bias) == (1e-4, True)
    assert (train.schedule.name, train.schedule.milestones) == ("step", (30, 60))
    assert (prune.rate, prune.rewind_epoch, prune.after_rewind) == (0.2, round(0.05 * 95), "continue")
    refill, more, regroup = prune.branches
    assert isinstance(refill, Refill)
    assert (refill.count, refill.extra, refill.criterion, more.label) == ("ceil", 0, "magnitude", "refill+")
    assert isinstance(regroup, Regroup)
    assert regroup.columns == "algorithm3"


def test_overrides_reach_every_depth(job: Path) -> None:
    config = load_config(
        job, ["train.epochs=9", "train.schedule.warmup_epochs=1", "prune.branches.0.extra=0.25", "seed=5"]
    )
    assert (config.train.epochs, config.train.schedule.warmup_epochs, config.seed) == (9, 1, 5)
    refill = config.prune.branches[0]
    assert isinstance(refill, Refill)
    assert refill.extra == 0.25
    assert refill.label == "refill+"


def test_numbers_in_scientific_notation_are_numbers(job: Path) -> None:
    assert load_config(job, ["train.weight_decay=1e-4"]).train.weight_decay == 1e-4


WRITTEN = st.from_regex(
    r"[0-9]{1,6}|0[ox][0-7]{1,4}|[0-9]{1,3}\.[0-9]{0,3}(e[0-9])?|[0-9]{1,2}:[0-9]{2}|[0-9]{4}-[01][0-9]-[0-3][0-9]"
    r"|on|off|yes|no|y|n|inf|0b1",
    fullmatch=True,
)


@given(WRITTEN)
@settings(deadline=None, max_examples=50)
def test_what_is_written_for_a_text_stays_that_text(text: str) -> None:
    job = f"{yaml.safe_dump(MINIMAL)}cluster: {{slurm: {{account: {text}, extra: {{nice: {text}}}}}}}"
    document = parse_yaml(job)
    override(document, [f"cluster.slurm.comment={text}"])
    config = parse_config(document, "x")
    slurm = config.cluster.slurm
    assert (slurm.account, slurm.comment, slurm.extra["nice"]) == (text, text, text)
    assert parse_config(parse_yaml(config.to_yaml()), "x") == config


def test_texts_that_look_like_numbers_and_the_words_off_and_none(job: Path) -> None:
    asked = [
        "name=20241126",
        "train.amp=off",
        "data.crop=none",
        "cluster.slurm.time=0100",
        "train.nesterov=off",
    ]
    config = load_config(job, [*asked, "prune.branches.1.name=007"])
    assert (config.name, config.train.amp, config.data.crop) == ("20241126", "off", "none")
    assert (config.cluster.slurm.minutes, config.train.nesterov) == (100, False)
    assert config.prune.branches[1].label == "007"


def test_a_section_that_is_given_twice_is_refused(job: Path) -> None:
    job.write_text(job.read_text() + "train: {lr: 1}\n")
    with pytest.raises(
        ConfigError, match=r"job\.yaml: not valid YAML: train is given twice, in line \d+, .*keep one$"
    ):
        load_config(job)


def test_resolved_yaml_reads_back_the_same(job: Path) -> None:
    config = load_config(job)
    assert parse_config(yaml.safe_load(config.to_yaml()), source="x") == config
    assert isinstance(config.prune.branches[1], Regroup)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seeds=1", ["seeds: expected a list, such as [a, b], got 1"]),
        ("train.profile=true", ["train.profile: expected a section of keys"]),
        ("train.epoch=3", ["train.epoch: unknown key", "did you mean train.epochs?"]),
        ("trian.epochs=3", ["trian: unknown key", "did you mean train?"]),
        ("epochs=3", ["epochs: unknown key", "did you mean train.epochs?"]),
        ("train.qqq=3", ["train.qqq: unknown key", "allowed: all_reduce, amp, batch_size"]),
        ("train.epochs=many", ["train.epochs:", "valid integer", "'many'"]),
        ("train.epochs=0", ["train.epochs:", "greater than or equal to 1", "got 0"]),
        ("train.amp=bf61", ["train.amp:", "'off', 'bf16' or 'fp16'", "did you mean bf16?"]),
        ("prune.rate=1.5", ["prune.rate:", "less than 1", "got 1.5"]),
        ("prune.branches.0.method=refil", ["prune.branches.0.method:", "'refil'", "did you mean refill?"]),
        (
            "prune.branches.1.extra=1",
            ["prune.branches.1.extra: unknown key", "allowed: columns, groups"],
        ),
        (
            "prune.branches.1.columns=paper",
            ["prune.branches.1.columns: 'paper' is gone: it was a rule of ours"],
        ),
        ("prune.branches.1.min_rows=1", ["prune.branches.1.min_rows:", "greater than or equal to 2, got 1"]),
        ("prune.branches.0.multiple=0", ["prune.branches.0.multiple:", "greater than or equal to 1, got 0"]),
        ("prune.branches.0.count=floor", ["prune.branches.0.count:", "'ceil' or 'exact'"]),
        ("prune.branches.7.extra=1", ["'7' is not an index of a list of 2"]),
        ("prune.branches.1.name=refill", ["two branches are called 'refill'"]),
        ("prune.branches=[{method: refill, rounds: [3]}]", ["round 3 is not in 1..2"]),
        ("prune={rounds: 1, mode: inline, branches: [{method: snip}]}", ["'snip' needs mode: branch"]),
        ("prune.mode=inline", ["inline needs exactly one branch, not 2"]),
        ("prune.rewind_epoch=5", ["prune.rewind_epoch: 5 must be at most train.epochs = 4"]),
        (
            "prune.rewind_epoch=4 prune.after_rewind=continue",
            ["prune.rewind_epoch: 4 must be below train.epochs = 4: after_rewind: continue leaves no epoch"],
        ),
        ("cluster.workers=9", ["train.batch_size: 8 is global", "cluster.workers = 9", "use at most 8"]),
        ("train.nesterov=true train.momentum=0", ["nesterov needs optimizer: sgd with momentum > 0"]),
        ("train.optimizer=adamw train.nesterov=true", ["nesterov needs optimizer: sgd"]),
        ("train.optimizer=adamw train.momentum=0.8", ["momentum belongs to optimizer: sgd, not to adamw"]),
        ("train.betas=[0.9,0.99]", ["betas belongs to optimizer: adamw, not to sgd"]),
        ("train.optimizer=adamw train.betas=[0.9,1]", ["train.betas.1", "less than 1"]),
        ("train.schedule.milestones=[1,2]", ["milestones belong to name: step, not to cosine"]),
        ("data.pad=4", ["pad belongs to crop: pad, not to random-resized"]),
        ("data.crop=pad data.pad=999", ["pad (999) is more than resolution"]),
        ("data.pad_fill=black", ["pad_fill belongs to crop: pad or rotate"]),
        ("data.crop=none data.cache=gpu data.jitter.hue=0.1", ["jitter changes the pixels", "cache: os"]),
        ("data.jitter.hue=0.6", ["data.jitter.hue", "0.5"]),
        ("train.report_epoch=best", ["train.report_epoch", "best-val"]),
        ("data.rotate=200", ["data.rotate:", "less than or equal to 180, got 200"]),
        ("train.schedule.gamma=0.2", ["gamma belongs to name: step, not to cosine"]),
        ("train.schedule.name=step", ["name: step needs milestones"]),
        (
            "train.sync_batch_norm=true cluster.device=cpu",
            ["sync_batch_norm: ", "device: cpu"],
        ),
        ("train.schedule.warmup_epochs=4", ["schedule.warmup_epochs (4) must be below epochs (4)"]),
        ("name=../up", ["name:", "pattern"]),
        ("name=a..b", ["name: must not contain '..'"]),
        ("train.epochs.x=1", ["override train.epochs.x: epochs is a value, not a section"]),
        ("train.epochs", ["expected key=value"]),
        ("train.epochs=[", ["not valid YAML"]),
        ("data=null", ["data:"]),
        ("train={epochs: 3, epochs: 4}", ["epochs is given twice", "column 2 and line 1, column 13"]),
        ("train.lr=.inf", ["train.lr:", "finite number"]),
        ("cluster.slurm.account=true", ["cluster.slurm.account:", "got True; put a word", "in quotes"]),
    ],
)
def test_a_mistake_gets_one_line(job: Path, override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(job, override.split(" ") if "=" in override and "{" not in override else [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a mapping of sections"),
        ("- a\n- b", "expected a mapping of sections"),
        ("a: [", "not valid YAML"),
        ("name: x", "missing"),
        ("!!python/object/apply:os.system [echo]", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_job_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(path)


def test_a_missing_file_names_the_nearest(job: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such job file; did you mean .*job\.yaml"):
        load_config(job.with_name("jbo.yaml"))


def test_defaults_make_a_whole_config() -> None:
    config = RunConfig.model_validate(MINIMAL)
    assert config.cluster.workers == 1
    assert config.prune.mode == "branch"


def test_an_epoch_has_whole_batches_and_at_least_one() -> None:
    config = RunConfig.model_validate(MINIMAL)
    assert [config.steps_per_epoch(images) for images in (8, 15, 16)] == [1, 1, 2]
    with pytest.raises(ConfigError, match=r"^train\.batch_size: 8 is larger than .* data \(7 images\)$"):
        config.steps_per_epoch(7)
