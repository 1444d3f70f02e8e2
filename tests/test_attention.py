"""Runs of tiny attention networks: every kind of ticket, resumed, reported, exported."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from distlth.config.changes import Change
from distlth.config.read import load_config, parse_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.experiment import run_experiment
from distlth.export.export import export
from distlth.facts.compare import compare_runs
from distlth.facts.summary import read_summary
from distlth.files import load_tensors
from distlth.models import zoo
from distlth.plan import plan
from distlth.preflight import preflight
from distlth.prune.mask import Mask, weight_name
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import load_record
from distlth.run.tickets import load_structured, load_trained
from tests.small_job import WORLD
from tests.tiny_run import MINIMAL
from tests.transformers import PACKED, SIZE, tiny_swin, tiny_vit

OF_VIT = (
    "[{method: refill}, {method: refill, name: salient, criterion: saliency}, "
    "{method: refill, name: alive, budget: alive, criterion: l2}, {method: regroup, min_rows: 8}, "
    "{method: nm}, {method: random-channels}, {method: random-blocks, min_rows: 8}, {method: snip}, "
    "{method: grasp}, {method: synflow}]"
)
OF_SWIN = "[{method: refill, criterion: l1}, {method: regroup, min_rows: 8}]"


def configured(digits: Dataset, runs: Path, name: str, *more: str) -> RunConfig:
    """A round at 30% density, one epoch of three steps a job."""
    overrides = [
        *(
            "cluster.workers=1",
            "train.epochs=1",
            "train.schedule.warmup_epochs=0",
            "train.batch_size=480",
            f"data.resolution={SIZE}",
        ),
        *("prune.rounds=1", "prune.rate=0.7", "prune.rewind_epoch=0", "prune.layers=conv+linear"),
        *("prune.calibration_images=20", f"data.path={digits.path}", f"runs={runs}"),
        *("model.stem=imagenet", f"model.name={name}", f"name={name}"),
    ]
    recipe = Path(__file__).parent.parent / "jobs" / "recipes" / "quickstart.yaml"
    return load_config(recipe, [*overrides, *more])


@pytest.fixture(scope="module")
def known() -> Iterator[None]:
    """The tiny networks, by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.CIFAR_TYPE, "tiny_vit", tiny_vit)
        patch.setitem(zoo.CIFAR_TYPE, "tiny_swin", tiny_swin)
        yield


@pytest.fixture(scope="module")
def vit(digits: Dataset, known: None, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """The run of the ViT, with all of its jobs done."""
    runs = tmp_path_factory.mktemp("runs")
    return run_experiment(configured(digits, runs, "tiny_vit", f"prune.branches={OF_VIT}"), WORLD)


def mask_of(run: RunPaths, job: str) -> Mask:
    made = load_structured(run.job(job))
    assert made is not None
    return made.mask


def test_every_ticket_of_a_vit_meets_its_density_and_stays_masked(vit: RunPaths) -> None:
    jobs = [job for job in plan(load_record(vit).config) if job.round]
    assert len(jobs) == 11
    for job in jobs:
        result, trained = JobResult.load(vit.job(job.id)), load_trained(vit.job(job.id))
        assert result is not None
        expected = 0.5 if job.method == "nm" else 0.3
        assert abs(result.density - expected) < (0.1 if job.id != "01/alive" else 0.3), job.id
        assert not any(trained.weights[name][~kept].any() for name, kept in trained.mask.items()), job.id
        assert result.alive is not None
        assert result.alive <= result.kept


def test_channels_are_heads_and_blocks_are_dense(vit: RunPaths) -> None:
    heads = torch.arange(96).reshape(3, 4, 8).transpose(0, 1).reshape(4, 24)
    for method in ("refill", "salient", "alive", "random-channels"):
        kept = mask_of(vit, f"01/{method}")[PACKED]
        by_head = kept[heads].flatten(1)
        assert torch.equal(by_head.any(dim=1), by_head.all(dim=1)), method
        assert kept.any(), method
    regrouped = load_structured(vit.job("01/regroup"))
    assert regrouped is not None
    assert regrouped.blocks[PACKED]
    assert not regrouped.ungrouped.keys() - {"conv_proj"}
    groups = mask_of(vit, "01/nm")[PACKED].reshape(96, 8, 4).sum(dim=2)
    assert bool((groups == 2).all())


def test_a_resume_makes_the_same_tickets(vit: RunPaths, known: None, tmp_path: Path) -> None:
    shutil.copytree(vit.root, tmp_path / "tiny_vit")
    run = RunPaths(tmp_path / "tiny_vit")
    for job in ("01/refill", "01/regroup"):
        shutil.rmtree(run.job(job).root)
    run_experiment(load_record(vit).config.model_copy(update={"runs": tmp_path}), WORLD)
    comparison = compare_runs(vit, run)
    assert comparison.first_difference is None, comparison.to_json()


def test_a_report_has_the_density_of_each_layer(vit: RunPaths) -> None:
    details = read_summary(vit).details[0]
    assert details.layers["refill"][PACKED] == mask_of(vit, "01/refill").layer_density()[PACKED]


def test_neurons_are_gone_from_the_exported_file(vit: RunPaths, known: None, tmp_path: Path) -> None:
    found = export(vit, "01/refill", out=tmp_path / "refill.pt2")
    assert found.removed > 0
    assert found.after.macs < found.before.macs
    assert {whole.layer for whole in found.whole} >= {PACKED}  # heads stay where they are
    assert found.alive_macs is not None
    assert found.alive_macs < found.after.macs


def test_a_swin_trains_masked_and_says_what_slim_training_cannot_do(
    digits: Dataset, known: None, tmp_path: Path
) -> None:
    config = configured(digits, tmp_path, "tiny_swin", f"prune.branches={OF_SWIN}")
    run = run_experiment(config, WORLD)
    weights, _ = load_tensors(run.job("01/refill").weights)
    mask = mask_of(run, "01/refill")
    assert not any(weights[weight_name(name)][~kept].any() for name, kept in mask.items())
    kept = mask["features.3.1.attn.qkv"].any(dim=1).reshape(3, 4, 8)
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0].any(dim=1), kept[0].all(dim=1))
    assert not any("relative_position" in name for name in mask)
    with pytest.raises(ConfigError, match=r"tiny_swin cannot train slim: it drops whole blocks at random"):
        preflight(
            configured(digits, tmp_path, "tiny_swin", f"prune.branches={OF_SWIN}", "train.execution=slim")
        )


def test_slim_training_of_a_vit_is_masked_training(digits: Dataset, vit: RunPaths, tmp_path: Path) -> None:
    slim = run_experiment(
        configured(digits, tmp_path, "tiny_vit", "prune.branches=[{method: refill}]", "train.execution=slim"),
        WORLD,
    )
    (ours, _), (masked, _) = (load_tensors(run.job("01/refill").weights) for run in (slim, vit))
    for name, tensor in masked.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)


def test_what_cannot_be_done_is_refused_by_name(digits: Dataset, known: None, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no prunable convolution; prune.layers: conv\+linear prunes its lin"
    ):
        preflight(configured(digits, tmp_path, "tiny_vit", "prune.layers=conv", "prune.scope=no-stem"))
    with pytest.raises(
        ConfigError, match="slimming prunes by the scales of BatchNorm, and this network has none"
    ):
        preflight(configured(digits, tmp_path, "tiny_vit", "prune.branches=[{method: slimming}]"))


def test_job_files_from_before_mean_convolutions() -> None:
    """A job.yaml without the key parses to what it meant; the files of a run do not fit another value."""
    assert parse_config(MINIMAL, "test").prune.layers == "conv"
    assert Change("prune.layers", "conv", "conv+linear").kind == "fixed"
    named = {**MINIMAL, "model": {"name": "timm/test_vit.r160_in1k"}}
    assert parse_config(named, "test").model.name == "timm/test_vit.r160_in1k"
    with pytest.raises(ConfigError, match=r"model\.name"):
        parse_config({**MINIMAL, "model": {"name": "timm/../x"}}, "test")
