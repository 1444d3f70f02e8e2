"""`distlth import`: what becomes of the files of other codes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.experiment import run_experiment
from distlth.files import load_tensors
from distlth.foreign.checkpoint import of_document
from distlth.foreign.document import known, resolved
from distlth.foreign.fit import Target, fit_state
from distlth.models import build
from distlth.plan import plan
from distlth.run.paths import RunPaths
from distlth.run.results import JobResult
from distlth.run.store import load_record, open_run
from distlth.run.tickets import load_structured, load_trained
from jobs.cli import main
from tests.foreign.layouts import (
    OpenResNet,
    OpenVgg,
    paper_document,
    pruned,
    saved,
    trained_like,
    write_openlth,
)
from tests.small_job import WORLD

SMALL = (*("train.epochs=1", "train.batch_size=480", "data.resolution=8", "prune.calibration_images=100"),)


def imported(out: Path, *arguments: str | Path) -> RunPaths:
    """The run that an import makes."""
    assert main(["import", *map(str, arguments), "--out", str(out)]) == 0
    return RunPaths(out)


def refusal(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str | Path) -> str:
    """The one line with which an import is refused; it leaves nothing."""
    beside = sorted(out.parent.iterdir())
    assert main(["import", *map(str, arguments), "--out", str(out)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert sorted(out.parent.iterdir()) == beside
    return line


# -- the paper's checkpoints ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A checkpoint of the paper's code, imported, and its round refilled and regrouped here."""
    folder = tmp_path_factory.mktemp("paper")
    file = saved(folder / "2checkpoint.pth.tar", paper_document(2))
    keys = ["prune.branches=[{method: refill}, {method: regroup}]", f"data.path={digits.path}", *SMALL]
    run = imported(folder / "runs" / "theirs", file, "--model", "resnet20", *keys)
    run_experiment(load_config(run.imported_job), WORLD)
    return run


def test_a_checkpoint_of_the_paper_is_a_round(finished: RunPaths) -> None:
    document, trained = paper_document(2), load_trained(finished.job("02"))
    state = document["state_dict"]
    assert "conv1" not in trained.mask
    assert trained.mask.density == pytest.approx(0.64, abs=1e-4)
    for layer, kept in trained.mask.items():
        assert torch.equal(kept, state[f"{layer}.weight_mask"].bool())
        assert torch.equal(
            trained.weights[layer], state[f"{layer}.weight_orig"] * state[f"{layer}.weight_mask"]
        )
    for path in (finished.seed(0).init, finished.seed(0).rewind):
        early = load_tensors(path)[0]
        assert all(torch.equal(early[name], document["init_weight"][name]) for name in early)
    record = load_record(finished).config
    assert (record.prune.scope, record.prune.imported, record.train.lr) == ("no-stem", (2,), 0.1)
    assert record.train.schedule.milestones == (0.5, 0.75)


def test_its_branches_train_from_the_early_weights(finished: RunPaths) -> None:
    jobs = plan(load_record(finished).config)
    assert [job.id for job in jobs] == ["00", "02", "02/refill", "02/regroup"]
    assert all(JobResult.load(finished.job(job.id)) for job in jobs)
    made = load_structured(finished.job("02/refill"))
    assert made is not None
    assert all(
        bool((kept.flatten(1).any(1) == kept.flatten(1).all(1)).all()) for _, kept in made.mask.items()
    )


def test_their_accuracy_is_shown_as_theirs_alone(
    finished: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    result = JobResult.load(finished.job("02"))
    assert result is not None
    assert np.isnan(result.top1)
    assert result.imported == {
        "file": "2checkpoint.pth.tar",
        "top1": 0.9125,
        "top1_is": "best_sa: its best epoch's",
        "epochs": 160,
    }
    assert main(["report", str(finished.root)]) == 0
    page, table = finished.report.page.read_text(), finished.report.results_csv.read_text()
    assert "top-1 91.25% (best_sa" in page
    assert "imported from 2checkpoint.pth.tar" in finished.report.results_table.read_text()
    assert [line.split(",")[0] for line in table.splitlines()[1:]] == ["00", "02/refill", "02/regroup"]
    assert "91.25" not in table
    capsys.readouterr()
    assert main(["status", str(finished.root)]) == 0
    assert "imported" in capsys.readouterr().out
    assert main(["status", str(finished.root), "--json"]) == 0
    jobs = {job["id"]: job for job in json.loads(capsys.readouterr().out)["jobs"]}
    assert jobs["02"]["result"]["val_top1"] is None


def test_what_came_from_where_is_recorded(finished: RunPaths) -> None:
    origin = json.loads(finished.origin.read_text())["rounds"]["2"]
    made = load_structured(finished.job("02"))
    assert made is not None
    assert origin["mask_digest"] == made.mask.digest()
    assert origin["names"]["layer1.0.conv1.weight"] == "layer1.0.conv1.weight"


def test_masks_go_out_as_torch_has_them_and_come_back(finished: RunPaths, tmp_path: Path) -> None:
    file = tmp_path / "out.pth.tar"
    arguments = ["export", str(finished.root), "02/refill", "--format", "prune", "--out", str(file)]
    assert main(arguments) == 0
    assert main(arguments) == 2  # it is there
    document = torch.load(file, weights_only=True)
    network = build("resnet20", 10, seed=9)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and name != "conv1":
            prune.identity(module, "weight")
    network.load_state_dict(document["state_dict"])
    trained, ours = load_trained(finished.job("02/refill")), build("resnet20", 10, seed=0)
    ours.load_state_dict(load_tensors(finished.job("02/refill").weights)[0])
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), ours.eval()(images))
    assert {"init_weight", "init", "state", "epoch", "best_sa"} <= document.keys()

    again = imported(tmp_path / "again", file, "--model", "resnet20")
    back = load_trained(again.job("02"))
    assert back.mask.digest() == trained.mask.digest()
    assert all(torch.equal(back.weights[layer], trained.weights[layer]) for layer in trained.mask)
    old, new = load_tensors(finished.job("02/refill").weights)[0], load_tensors(again.job("02").weights)[0]
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert load_tensors(again.seed(0).rewind)[0].keys() == old.keys()


def test_an_imported_round_itself_goes_out(finished: RunPaths, tmp_path: Path) -> None:
    file = tmp_path / "out.pth.tar"
    assert main(["export", str(finished.root), "02", "--format", "prune", "--out", str(file)]) == 0
    document = torch.load(file, weights_only=True)
    assert "best_sa" not in document
    assert document["distlth"]["provenance"]["imported"]["top1"] == 0.9125


def test_rounds_of_one_experiment_make_one_run(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{n}.pth.tar", paper_document(n, prefix="module.")) for n in (0, 1, 3)]
    run = imported(tmp_path / "run", *files, "--model", "resnet20", "prune.rounds=5", "--masks-only")
    assert load_record(run).config.prune.scope == "no-stem"
    assert [job.id for job in plan(load_record(run).config)] == ["00", "01", "03", "04", "05"]
    assert [job.parent for job in plan(load_record(run).config)] == [None, None, None, "03", "04"]
    assert not run.job("03").result.exists()
    assert load_record(run).data == {"classes": 10}

    # A change that lets jobs start anew leaves what came from outside.
    kept = [run.job("03").mask, run.seed(0).rewind]
    asked = load_config(run.imported_job, ["train.lr=0.2"])
    open_run(run, asked, {"classes": 10}, ["train.lr"])
    assert all(path.exists() for path in kept)


def test_the_papers_form_for_imagenet_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = paper_document(1, best_acc1=torch.tensor(70.0))
    document["init"] = document.pop("init_weight")
    del document["best_sa"]
    file = saved(tmp_path / "1-checkpoint.pth.tar", document)
    run = imported(tmp_path / "run", file, "--model=resnet20", "prune.scope=all")
    assert "has no mask of conv1, which prune.scope: all prunes" in " ".join(capsys.readouterr().out.split())
    result = JobResult.load(run.job("01"))
    assert result is not None
    assert result.imported is not None
    assert result.imported["top1"] == pytest.approx(0.7)


# -- other codes ---------------------------------------------------------------------------------------


def test_openlths_levels_are_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_openlth(tmp_path / "replicate_1", OpenResNet(), levels=2)
    arguments = (folder, "--model", "resnet20_openlth")
    line = refusal(capsys, tmp_path / "run", *arguments)
    assert "level_1/main/model_ep160_it0.pth: fc.weight is masked, too" in line
    run = imported(tmp_path / "run", *arguments, "--dense-classifier")
    assert "OpenLTH's cifar_resnet" in capsys.readouterr().out
    theirs, ours = OpenResNet().eval(), build("resnet20_openlth", 10, seed=5).eval()
    theirs.load_state_dict(torch.load(folder / "level_1" / "main" / "model_ep160_it0.pth"))
    ours.load_state_dict(load_tensors(run.job("01").weights)[0])
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(theirs(images), ours(images), atol=1e-5)
    config, result = load_record(run).config.prune, JobResult.load(run.job("01"))
    assert (config.imported, config.scope, config.rewind_epoch) == ((0, 1), "all", 1)
    assert config.after_rewind == "continue"
    assert result is not None
    assert result.imported is not None
    assert (result.imported["top1"], result.imported["epochs"]) == (0.91, 160)
    early = load_tensors(run.seed(0).rewind)[0]
    assert not any(bool((early[name] == 0).any()) for name in early if name.endswith("conv1.weight"))


def test_openlths_vgg_computes_here_what_it_computes_there() -> None:
    theirs, ours = trained_like(OpenVgg()).eval(), build("vgg16_bn_openlth", 10, seed=5).eval()
    target = Target("vgg16_bn_openlth", ours.state_dict(), ())
    ours.load_state_dict(fit_state(Path("x"), theirs.state_dict(), target))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(theirs(images), ours(images), atol=1e-4)


def test_a_masked_early_model_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_openlth(tmp_path / "replicate_1", OpenResNet(), levels=2)
    level = folder / "level_1" / "main"
    imported(
        *(tmp_path / "run", level / "model_ep160_it0.pth", "--init", level / "model_ep1_it0.pth"),
        *("--model", "resnet20_openlth", "--dense-classifier"),
    )
    out = " ".join(capsys.readouterr().out.split())
    assert "the early weights are zero wherever the mask of round 1 drops" in out


def test_stem_and_classes_are_taken_from_the_file() -> None:
    network = torchvision.models.resnet18(num_classes=7)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    state = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for name, tensor in network.state_dict().items()
    }
    document = {"model": {"name": "resnet18"}}
    found = known(of_document(Path("net.pth"), {"net": state, "acc": 95.0}), document)
    assert (found.stem, found.num_classes, found.scope) == ("cifar", 7, "all")
    data = resolved(document, found, [3], None)["data"]
    assert (data["resolution"], data["crop"]) == (32, "pad")


def test_exact_zeros_are_a_mask_where_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = pruned(build("resnet20", 10, seed=1), 2)
    for module in network.modules():
        if prune.is_pruned(module) and isinstance(module, nn.Conv2d):
            prune.remove(module, "weight")
    file = saved(tmp_path / "zeros.pth", network.state_dict())
    arguments = (file, "--model", "resnet20", "--init", "fresh")
    assert "36.0" in (line := refusal(capsys, tmp_path / "run", *arguments)) or "35.9" in line
    assert "say --zeros" in line
    made = load_structured(imported(tmp_path / "run", *arguments, "--zeros").job("02"))
    assert made is not None
    assert made.mask["layer1.0.conv1"].equal(network.layer1[0].conv1.weight != 0)  # type: ignore[union-attr,index]


# -- what is refused -----------------------------------------------------------------------------------


class Alien:
    """A class that a checkpoint should not make anybody import."""


def with_state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Write a paper's checkpoint with a changed state dict."""

    def write(path: Path) -> None:
        document = paper_document(1)
        change(document["state_dict"])
        saved(path, document)

    return write


def damaged(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Write a paper's checkpoint with other bytes."""

    def write(path: Path) -> None:
        path.write_bytes(content(saved(path, paper_document(1)).read_bytes()))

    return write


LAYER = "layer1.0.conv1.weight"
REFUSED: list[tuple[Callable[[Path], Any], str, str]] = [
    (lambda path: None, "", "x.pth.tar: cannot be read (No such file or directory)"),
    (damaged(lambda content: content[: len(content) // 2]), "", "x.pth.tar: damaged, or not a file of torch"),
    (damaged(lambda content: b""), "", "x.pth.tar: damaged, or not a file of torch.save or safetensors"),
    (damaged(lambda content: b"hello"), "", "x.pth.tar: damaged, or not a file of torch.save or safetensors"),
    (
        lambda path: saved(path, {"state_dict": paper_document(1)["state_dict"], "args": Alien()}),
        "",
        "x.pth.tar: holds objects of tests.foreign.test_import.Alien, which only running code",
    ),
    (lambda path: saved(path, [1, 2]), "", "x.pth.tar: expected a state dict, or a dictionary with one"),
    (
        lambda path: saved(path, paper_document(1)),
        "--model=resnet56",
        "has no layer1.3.conv1.weight, expected shape (16, 16, 3, 3) for resnet56",
    ),
    (
        lambda path: saved(path, paper_document(1, model="resnet56")),
        "",
        "x.pth.tar: layer1.3.conv1.weight (16, 16, 3, 3) has no place in resnet20",
    ),
    (
        lambda path: saved(path, paper_document(1, model="wrn32_2")),
        "",
        "conv1.weight has shape (32, 3, 3, 3), expected (16, 3, 3, 3) (conv1.weight of resnet20)",
    ),
    (
        with_state(lambda s: s.update({f"{LAYER}_mask": torch.ones(16, 16, 1, 1)})),
        "",
        "its weights (16, 16, 3",
    ),
    (with_state(lambda s: s[f"{LAYER}_mask"].mul_(0.5)), "", f"mask of {LAYER} is not of zeros and ones"),
    (with_state(lambda s: s[f"{LAYER}_orig"].view(-1)[0].fill_(np.nan)), "", f"{LAYER} has NaN or infinite"),
    (with_state(lambda s: s.pop(f"{LAYER}_orig")), "", f"the mask of {LAYER} has no weights beside it"),
    (with_state(lambda s: s.update({"bn1.bias_mask": torch.zeros(16)})), "", "bn1.bias is masked, too"),
    (
        lambda path: saved(path, paper_document(1)["state_dict"]),
        "",
        "does not have the weights that its ticket",
    ),
    (lambda path: saved(path, paper_document(1)), "--init=no.pth", "no.pth: cannot be read (No such file"),
    (lambda path: saved(path, paper_document(1)), "train.epoch=3", "train.epoch: unknown key"),
    (
        lambda path: saved(path, paper_document(1)),
        "prune.branches=[{method: refill, criterion: l1}]",
        "refill needs l1 scores of job 01, which are measured while it trains; import with --masks-only",
    ),
]


@pytest.mark.parametrize(("write", "argument", "complaint"), REFUSED, ids=[each[2][:40] for each in REFUSED])
def test_what_cannot_be_a_run_is_refused_in_a_line(
    write: Callable[[Path], Any],
    argument: str,
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.pth.tar")
    model = () if argument.startswith("--model") else ("--model=resnet20",)
    more = (argument,) if argument else ()
    assert complaint in refusal(capsys, tmp_path / "run", "x.pth.tar", *model, *more)


def test_files_that_do_not_go_together_are_refused(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, same = (saved(tmp_path / name, paper_document(1)) for name in ("a.pth.tar", "b.pth.tar"))
    other = paper_document(2)
    other["init_weight"]["fc.bias"] += 1
    two = saved(tmp_path / "c.pth.tar", other)
    hundred = saved(tmp_path / "d.pth.tar", paper_document(1, classes=100))
    model, run = "--model=resnet20", tmp_path / "run"
    assert "b.pth.tar: is of round 1, as" in refusal(capsys, run, one, same, model)
    assert "c.pth.tar: its tickets train from other weights" in refusal(capsys, run, one, two, model)
    line = refusal(capsys, run, hundred, model, f"data.path={digits.path}")
    assert "has 10 classes, and the network of the file 100" in line
    assert "model.name: not given" in refusal(capsys, run, one)
    assert "neither mask.pth nor level_0" in refusal(capsys, run, tmp_path, model)
    taken = tmp_path / "taken"
    (taken / "x").mkdir(parents=True)
    assert "taken: exists" in refusal(capsys, taken, one, model)
