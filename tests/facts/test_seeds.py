"""Several seeds of one experiment: means, spread and verdicts by hand, from the folders of made-up runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import pytest

from distlth.config.read import parse_config
from distlth.errors import RunError
from distlth.facts.seeds import Experiment, SeedRow, read_experiment
from distlth.files import write_text
from distlth.models import anatomy, build, prunable
from distlth.prune.mask import Mask
from distlth.report.seeds import write_seeds_report
from distlth.run.paths import RunPaths
from distlth.run.store import RunRecord
from distlth.run.tickets import save_structured
from distlth.ticket import Structured
from jobs.cli import main
from tests.tiny_run import MINIMAL, NOW, make_result

TOP1 = {0: 0.90, 1: 0.92, 2: 0.94}  # dense: mean 0.92, std 0.02
REFILLED = {0: 0.89, 1: 0.90, 2: 0.91}
GROUPED = {0: 0.89, 1: 0.90, 2: 0.9099}


@pytest.fixture(scope="module")
def masks() -> dict[str, Mask]:
    """The dense mask of the runs' network, and one without a channel that another layer reads."""
    layers = prunable(anatomy(build("resnet20", 10, seed=0), 32), "all")
    dense = Mask.dense({layer.name: layer.weight_shape for layer in layers})
    first = dense.layers["layer1.0.conv1"].clone()
    first[0] = False
    return {"dense": dense, "refill": dense.replace({"layer1.0.conv1": first})}


def new_run(
    folder: Path, seed: int, top1: Mapping[str, float], masks: dict[str, Mask], **more: object
) -> RunPaths:
    config = parse_config({**MINIMAL, "name": f"tiny-seed{seed}", "seed": seed, **more}, "test")
    run = RunPaths(folder / f"seed{seed}")
    write_text(run.job_file, RunRecord(config, {}, {"classes": 10, "digest": "d"}, NOW).to_yaml())
    for job, accuracy in top1.items():
        mask = masks["refill" if job.endswith("refill") else "dense"]
        save_structured(run.job(job), Structured(mask))
        make_result(job, mask.density, accuracy).save(run.job(job))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, masks: dict[str, Mask]) -> list[RunPaths]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        new_run(folder, s, {"00": TOP1[s], "01/refill": REFILLED[s], "01/regroup": GROUPED[s]}, masks)
        for s in TOP1
    ]


def test_a_ticket_wins_if_its_mean_reaches_the_dense_mean_less_one_deviation(runs: list[RunPaths]) -> None:
    experiment = read_experiment(runs)
    dense, refill, regroup = experiment.spreads
    assert (experiment.name, experiment.seeds, experiment.dense) == ("tiny", (0, 1, 2), dense)
    assert [dense.mean, dense.std, dense.count] == pytest.approx([0.92, 0.02, 3])
    assert experiment.bar == pytest.approx(0.90)
    assert regroup.mean < 0.90 - 1e-6
    assert experiment.verdict(regroup) == "loses"
    better = Experiment("x", tuple(row if row.job != "01/refill" else raised(row) for row in experiment.rows))
    assert [better.verdict(each) for each in better.spreads[1:]] == ["wins", "loses"]
    assert better.sparsest_winner("refill") == better.spreads[1]
    assert better.sparsest_winner("regroup") is None
    assert refill.std == pytest.approx(0.01)


def raised(row: SeedRow) -> SeedRow:
    """A row with the accuracy that just wins, whatever the rounding."""
    return SeedRow(**{**vars(row), "top1": row.top1 + 1e-6})


def test_two_seeds_have_no_verdict(runs: list[RunPaths]) -> None:
    experiment = read_experiment(runs[:2])
    assert {experiment.verdict(each) for each in experiment.spreads[1:]} == {"no verdict"}
    one = read_experiment(runs[:1])
    assert (one.spreads[0].std, one.bar) == (None, None)


def test_alive_weights_leave_out_what_reads_a_channel_that_is_gone(
    runs: list[RunPaths], masks: dict[str, Mask]
) -> None:
    dense, refill, _ = read_experiment(runs).spreads
    assert dense.density == dense.alive_density == dense.alive_macs == 1
    kept = masks["refill"].kept
    total = masks["refill"].total
    assert refill.density == kept / total
    assert refill.alive_density == pytest.approx(
        (kept - 16 * 9) / total
    )  # layer1.0.conv2's, 3x3 of 16 outputs
    assert refill.alive_macs < 1


def test_the_report_has_a_row_a_job_and_a_line_a_method(
    runs: list[RunPaths], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *(str(run.root) for run in runs), "--out", str(tmp_path / "report")]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [file.name for file in files] == ["results.md", "results.csv", "density.png", "alive.png"]
    table = files[0].read_text()
    assert "| dense | 0 | 100.00% | 100.00% | 100.00% | 92.00% | 2.00 | 3 |  |  |" in table
    assert "| regroup | 1 | 100.00% | 100.00% | 100.00% | 90.00% | 1.00 | 3 | -2.00 | loses |" in table
    assert "- regroup: none" in table
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    assert len(rows) == 9
    assert [float(row["top1"]) for row in rows if row["job"] == "01/refill"] == list(REFILLED.values())
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[2:])


def test_runs_that_do_not_belong_together_are_named(
    runs: list[RunPaths], tmp_path: Path, masks: dict[str, Mask], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match=r"seed0: seed 0 is that of \S+seed0 too"):
        read_experiment([runs[0], runs[0]])
    other = new_run(tmp_path, 5, {"00": 0.5}, masks, train={"epochs": 4, "batch_size": 8, "lr": 0.2})
    with pytest.raises(
        RunError, match=r"seed5 is another experiment than \S+seed0: train.lr is 0.2, not 0.1"
    ):
        read_experiment([runs[0], other])
    with pytest.raises(RunError, match="no job of these runs is done"):
        read_experiment([new_run(tmp_path, 6, {}, masks)])
    assert main(["report", str(runs[0].root), str(runs[1].root)]) == 2
    assert "--out DIR" in capsys.readouterr().err
    runs[2].job("01/regroup").mask.rename(tmp_path / "mask")
    with pytest.raises(RunError, match="missing, although the job is done"):
        read_experiment(runs)
    (tmp_path / "mask").rename(runs[2].job("01/regroup").mask)


def test_a_folder_for_one_run_has_the_report_of_its_seed(runs: list[RunPaths], tmp_path: Path) -> None:
    write_seeds_report(runs[:1], tmp_path)
    assert "Fewer than 3 seeds" in (tmp_path / "results.md").read_text()
