"""`distlth export`: files that others can use, one line for each mistake, and what docs/deploy.md shows."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distlth.config.read import load_config
from distlth.data.dataset import Dataset
from distlth.experiment import run_experiment
from distlth.export.export import TOLERANCE, largest_difference
from distlth.export.formats import safetensors_file
from distlth.export.source import load_source
from distlth.facts.times import read_times
from distlth.files import load_tensors, serialize_tensors
from distlth.plan import plan
from distlth.run.paths import RunPaths
from distlth.run.results import load_results
from distlth.run.store import load_record
from distlth.slim import slim
from jobs.cli import main
from tests.slim.tickets import images, ticket_of
from tests.small_job import WORLD
from tests.small_run import OVERRIDES

TICKET = "02/refill"
ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "docs" / "deploy.md"
QUICKSTART = ROOT / "jobs" / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def run(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """A small run, in this process: its files are those of a run under Ray (tests/test_experiment.py)."""
    places = [f"data.path={digits.path}", f"runs={tmp_path_factory.mktemp('runs')}", "cluster.workers=1"]
    return run_experiment(load_config(QUICKSTART, [*OVERRIDES, *places]), WORLD)


def export(run: RunPaths, *more: str, ticket: str = TICKET) -> int:
    return main(["export", str(run.root), ticket, *more])


@pytest.fixture(scope="module")
def exported(run: RunPaths, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """The ticket in every format that can be written here, and what was printed about it."""
    folder = tmp_path_factory.mktemp("files")
    paths = {"torch": folder / "ticket.pt2", "safetensors": folder / "ticket.safetensors"}
    if find_spec("onnxscript") and find_spec("onnxruntime"):
        paths["onnx"] = folder / "ticket.onnx"
    found = {}
    for name, path in paths.items():
        chosen = () if name == "torch" else ("--format", name)  # torch's is the default
        with redirect_stdout(StringIO()) as printed:
            assert export(run, *chosen, "--out", str(path)) == 0
        found[name] = path, printed.getvalue()
    return found


@pytest.fixture
def files(exported: dict[str, tuple[Path, str]]) -> dict[str, Path]:
    """The ticket in every format that can be written here."""
    return {name: path for name, (path, _) in exported.items()}


def test_the_files_compute_what_the_ticket_does_and_say_what_it_is(
    run: RunPaths,
    exported: dict[str, tuple[Path, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the document's own code loads them."""
    monkeypatch.chdir(tmp_path)
    path, printed = exported["torch"]
    shutil.copy(path, "quickstart-03-refill.pt2")
    assert all(word in printed for word in ("parameters", "alive MACs", "largest difference"))
    source = load_source(run, TICKET)
    files = {"distlth.json": ""}
    loaded = torch.export.load("quickstart-03-refill.pt2", extra_files=files).module()
    assert largest_difference(source.model, loaded, source.resolution) <= TOLERANCE
    about = json.loads(files["distlth.json"])
    assert about["provenance"]["weights_digest"] == source.result.weights_digest
    assert len(about["model"]["classes"]) == about["model"]["num_classes"] == 10
    runs_as_shown("torch.export.load")

    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, printed = exported["onnx"]
    shutil.copy(path, "digits.onnx")
    assert "of the file" in printed
    runs_as_shown("onnxruntime")


def test_predictions_are_those_of_the_evaluation(
    run: RunPaths, files: dict[str, Path], digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the files that the validation split was packed from, by a file of each format."""
    capsys.readouterr()
    top1 = load_source(run, TICKET).result.top1
    for file in files.values():
        found = predict(file, digits.path.parent / "images" / "val", capsys)
        assert len(found) == digits.split("val").count
        best = [Path(each["image"]).parent.name == each["top"][0][0] for each in found]
        assert sum(best) / len(best) == pytest.approx(top1, abs=1e-9)
        assert all(len(each["top"]) == 5 for each in found)


def predict(file: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["predict", str(file), str(images), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_one_image_is_a_line(
    files: dict[str, Path], digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((digits.path.parent / "images" / "val" / "7").iterdir())
    for file in files.values():
        assert main(["predict", str(file), str(image), "--top", "2"]) == 0
    assert capsys.readouterr().out.count("%") == 2 * len(files)


def test_what_cannot_be_predicted_is_one_line(
    files: dict[str, Path],
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, other = digits.path.parent / "images" / "val" / "7", tmp_path / "other"
    other.mkdir()
    (text := tmp_path / "text.png").write_text("no image")
    plain, broken = tmp_path / "plain.pt2", tmp_path / "broken.safetensors"
    torch.save(torch.zeros(3), plain)
    broken.write_bytes(files["safetensors"].read_bytes()[:-7])
    (foreign := tmp_path / "foreign.safetensors").write_bytes(serialize_tensors({"a": torch.zeros(1)}))
    file = files["torch"]
    cases: list[tuple[list[Path | str], str]] = [
        ([file, text], f"{text}: not an image of a kind that Pillow reads"),
        ([file, other], f"{other}: has no image"),
        ([file, tmp_path / "none.png"], "No such file"),
        ([plain, image], f"{plain}: not a file that `distlth export` wrote (torch: "),
        ([text, image], f"{text}: not a file that `distlth export` wrote (onnx: "),
        ([broken, image], f"{broken}: not a file that `distlth export` wrote (damaged"),
        ([foreign, image], f"{foreign}: not a file that `distlth export` wrote (it says nothing"),
        ([tmp_path / "none.pt2", image], "cannot be read (No such file or directory)"),
        ([file, image, "--top", "0"], "--top 0: expected at least 1"),
    ]
    for arguments, expected in cases:
        assert main(["predict", *map(str, arguments)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert (len(lines), expected in lines[0]) == (1, True), lines
    monkeypatch.setattr("distlth.export.formats.find_spec", lambda name: None)
    if "onnx" in files:
        assert main(["predict", str(files["onnx"]), str(image)]) == 2
        assert "needs onnxruntime; install with" in capsys.readouterr().err


def test_a_ticket_without_removed_channels_is_written_with_its_zeros(
    run: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "imp.safetensors"
    assert export(run, "--format", "safetensors", "--out", str(out), ticket="02") == 0
    assert "nothing to slim" in capsys.readouterr().out
    written, about = load_tensors(out)
    trained, _ = load_tensors(run.job("02").weights)
    assert json.loads(about["distlth"])["provenance"]["method"] == "imp"
    assert all(torch.equal(tensor, trained[name]) for name, tensor in written.items())


def test_every_ticket_is_an_onnx_model_of_standard_operators(
    run: RunPaths, files: dict[str, Path], tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    regrouped = tmp_path / "regroup.onnx"
    assert export(run, "--format", "onnx", "--out", str(regrouped), ticket="02/regroup") == 0
    for path, form in ((regrouped, "masked"), (files["onnx"], "slim")):
        model = onnx.load(str(path))
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        (about,) = (json.loads(each.value) for each in model.metadata_props if each.key == "distlth")
        assert about["execution"]["form"] == form


def test_mistakes_are_one_line_each(
    run: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken.pt2"
    taken.write_text("mine")
    unfinished = RunPaths(tmp_path / "unfinished")
    shutil.copytree(run.root, unfinished.root)
    unfinished.job(TICKET).result.unlink()
    for place, more, ticket, expected in (
        (run, [], "09/refill", "no ticket '09/refill'; there are 00, 01, 01/refill"),
        (run, [], "../x", "no ticket '../x'"),
        (unfinished, [], TICKET, "ticket 02/refill is not trained to its end; finished: 00, 01"),
        (run, ["--out", str(taken)], TICKET, "exists; give another --out, or --overwrite"),
        (run, ["--out", str(tmp_path)], TICKET, "is a folder; name a file with --out"),
        (RunPaths(tmp_path / "none"), [], TICKET, "no such run directory"),
    ):
        assert export(place, *more, ticket=ticket) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert expected in lines[0]
    assert taken.read_text() == "mine"


def test_another_network_is_never_written(
    run: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(model: nn.Module, *more: Any) -> Any:
        found = slim(model, *more)
        next(iter(found.network.parameters())).data[0] += 1
        return found

    monkeypatch.setattr("distlth.export.export.slim", wrong)
    assert export(run, "--out", str(tmp_path / "x.pt2")) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_torchvision_takes_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("resnet18", "mobilenet_v2"):
        masked = ticket_of(name, 32)
        about = {"model": {"name": name, "num_classes": 10}}
        Path("ticket.safetensors").write_bytes(safetensors_file(slim(masked, 32).network, 32, about))
        network = runs_as_shown("torchvision")["network"]
        with torch.no_grad():
            torch.testing.assert_close(network(images(32)), masked(images(32)), rtol=1e-4, atol=1e-4)


def runs_as_shown(word: str) -> dict[str, Any]:
    """Run the Python code of docs/deploy.md that has a word, and return its names."""
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", DEPLOY.read_text(), re.S) if word in block
    )
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_a_ticket_is_timed_whole_and_layer_by_layer(
    run: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(*more: str) -> list[dict[str, Any]]:
        assert main(["bench", "infer", str(run.root), TICKET, "--quick", "--json", *more]) == 0
        rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
        return rows

    dense, masked, slimmed = measured("--threads", "1", "--batch", "2")
    assert [row["network"] for row in (dense, masked, slimmed)] == ["dense", "masked", "slim"]
    assert (dense["batch"], len(dense["cores"]), dense["saved_of_fastest"]) == (2, 1, 0)
    assert slimmed["parameters"] < masked["parameters"]
    assert slimmed["file_bytes"] < masked["file_bytes"]
    assert 0 < slimmed["macs_saved"] < 1
    layers = measured("--layers", "--picture", str(picture := tmp_path / "roof.png"))
    assert picture.stat().st_size > 1000
    assert {row["layer"] for row in layers} >= {"conv1", "layer1.0.conv1"}
    for name, macs in (("dense", dense["macs"]), ("slim", slimmed["macs"])):
        flop = sum(row["gflop"] for row in layers if row["network"] == name) * 1e9
        assert flop == pytest.approx(2 * macs, rel=0.01)
    dense, slimmed = measured("--paper")
    assert 0 < slimmed["gflop_saved"] < 1
    for arguments, expected in (
        (["infer", "--layers", "--paper"], "--layers and --paper are two measures"),
        (["infer", "--picture", "x.png"], "--picture draws what --layers measures"),
        (["infer", "--runtimes", "eager,none"], "--runtimes none: unknown; known: eager, compile, onnx"),
        (["step", "--batch", "1"], "are of infer"),
        (["infer", "--all"], "--all: expected a run"),
        (["infer", str(run.root)], "it needs tickets or --all"),
        (["infer", str(run.root), "--all", "--paper"], "measure one ticket at a time"),
    ):
        assert main(["bench", *arguments, "--quick"]) == 2
        assert expected in capsys.readouterr().err


def test_all_tickets_are_timed_and_kept(
    run: RunPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the same dense network; a ticket that is measured again has its newest figures alone."""
    own = RunPaths(tmp_path / "run")
    shutil.copytree(run.root, own.root)
    for result in load_results(own, plan(load_record(own).config)).values():
        if result.job not in ("00", "01", TICKET):
            own.job(result.job).result.unlink()
    chosen = ["--runtimes", "eager", "--batch", "2", "--threads", "1"]
    for tickets in (["--all"], [TICKET]):
        assert main(["bench", "infer", str(own.root), *tickets, *chosen]) == 0
    assert "01, batch 2 (1 of 2)" in capsys.readouterr().err
    results = load_results(own, plan(load_record(own).config))
    times = read_times(own, results)
    assert [time.job for time in times] == ["01", TICKET]
    assert {(time.setting.batch, time.setting.threads, time.fastest_runtime) for time in times} == {
        (2, 1, "eager")
    }
    assert len(list(own.timings.rglob("*.json"))) == len(times)
    saved = {time.job: time.macs_saved for time in times}
    assert 0 < saved[TICKET] < 1
    changed = {job: replace(result, mask_digest="another") for job, result in results.items()}
    assert read_times(own, changed) == ()
