"""Resuming a run: what may change under it, what is refused, and what is recorded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distlth.config.changes import Change, changes
from distlth.config.read import load_config, parse_config
from distlth.config.schema import RunConfig
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError, DataError, RunError
from distlth.files import append_json, read_json_lines, save_tensors
from distlth.run import store
from distlth.run.paths import RunPaths
from distlth.run.store import check_data, load_record, open_run
from distlth.train.checkpoint import JobState
from jobs.cli import main
from tests.tiny_run import make_result

DATA = {"digest": "d", "classes": 10}
TENSORS = {"conv.weight": torch.ones(2)}


def config(**sections: Any) -> RunConfig:
    document: dict[str, Any] = {
        "name": "tiny",
        "data": {"path": "data"},
        "model": {"name": "resnet20"},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.1},
        "prune": {"rounds": 1, "branches": [{"method": "refill"}]},
    }
    for name, values in sections.items():
        document[name] = {**document.get(name, {}), **values} if isinstance(values, dict) else values
    return parse_config(document, "test")


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    """A run whose round 0 is done and whose round 1 is half-way."""
    paths = RunPaths(tmp_path / "tiny")
    open_run(paths, config(), DATA)
    for file in (*paths.seed(0).files, paths.checkpoint("01", 3), paths.job("00").weights):
        save_tensors(file, TENSORS)
    for job in ("00", "01"):
        save_tensors(paths.job(job).mask, TENSORS)
        append_json(paths.job(job).metrics, {})
    make_result("00").save(paths.job("00"))
    return paths


def test_nothing_changed_nothing_is_written(run: RunPaths) -> None:
    before = run.job_file.read_bytes()
    open_run(run, config(), DATA)
    assert run.job_file.read_bytes() == before
    assert not run.log.exists()


@pytest.mark.parametrize(
    ("sections", "key", "same_bits"),
    [
        ({"cluster": {"lanes": 2}}, "cluster.lanes", True),
        ({"cluster": {"retries": 9}}, "cluster.retries", True),
        ({"data": {"threads": 9}}, "data.threads", True),
        ({"data": {"cache": "process"}}, "data.cache", True),
        ({"data": {"path": "moved"}}, "data.path", True),
        ({"checkpoint": {"every_steps": 7}}, "checkpoint.every_steps", True),
        ({"runs": "elsewhere"}, "runs", True),
        ({"cluster": {"workers": 2}}, "cluster.workers", False),
        ({"cluster": {"cpus_per_worker": 2}}, "cluster.cpus_per_worker", False),
    ],
)
def test_what_is_safe_goes_on_and_is_recorded(
    run: RunPaths, sections: dict[str, Any], key: str, same_bits: bool
) -> None:
    open_run(run, config(**sections), DATA)
    stored = load_record(run)
    assert stored.config == config(**sections)
    (entry,) = stored.history
    assert [change["key"] for change in entry["changes"]] == [key]
    (event,) = read_json_lines(run.log)
    assert (event["event"], event["same_bits"], event["jobs_start_anew"]) == ("changed", same_bits, False)
    assert event["changes"].startswith(f"{key}: ")
    assert run.checkpoint("01", 3).exists()
    open_run(run, config(), DATA)
    assert len(load_record(run).history) == 2


@pytest.mark.parametrize(
    ("sections", "change"),
    [
        ({"seeds": [0, 1]}, "seeds: [] -> [0, 1]"),
        ({"prune": {"rounds": 3}}, "prune.rounds: 1 -> 3"),
        (
            {"prune": {"branches": [{"method": "regroup"}, {"method": "refill"}]}},
            "prune.branches.regroup: None -> 'regroup'",
        ),
    ],
)
def test_more_jobs_are_added_to_a_run(run: RunPaths, sections: dict[str, Any], change: str) -> None:
    open_run(run, config(**sections), DATA)
    (event,) = read_json_lines(run.log)
    assert (event["changes"], event["same_bits"], event["jobs_start_anew"]) == (change, True, False)
    assert run.checkpoint("01", 3).exists()
    assert run.job("00").result.exists()
    with pytest.raises(RunError, match="--allow-change"):
        open_run(run, config(), DATA)


@pytest.mark.parametrize(
    ("branch", "words"),
    [
        ({"method": "refill", "name": "l1", "criterion": "l1"}, "branch l1: job 00 is done without its l1"),
        ({"method": "snip"}, "branch snip: job 00 is done without its snip"),
    ],
)
def test_a_new_branch_that_needs_what_nobody_measured_is_refused(
    run: RunPaths, branch: dict[str, Any], words: str
) -> None:
    make_result("01").save(run.job("01"))
    before = run.job_file.read_bytes()
    with pytest.raises(RunError) as caught:
        open_run(run, config(prune={"branches": [{"method": "refill"}, branch]}), DATA)
    assert words in str(caught.value).replace("job 01", "job 00")
    assert run.job_file.read_bytes() == before


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"lr": 0.2}}, "train.lr: 0.1 -> 0.2"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"data": {"resolution": 32}}, "data.resolution: 224 -> 32"),
        ({"data": {"shuffle": "lanes"}}, "data.shuffle: 'full' -> 'lanes'"),
        ({"cluster": {"device": "cpu"}}, "cluster.device: 'auto' -> 'cpu'"),
        ({"prune": {"branches": []}}, "prune.branches.refill: 'refill' -> None"),
        ({"prune": {"rounds": 0}}, "prune.rounds: 1 -> 0"),
    ],
)
def test_what_is_not_safe_is_refused_by_name(run: RunPaths, sections: dict[str, Any], words: str) -> None:
    before = run.job_file.read_bytes()
    asked = config(**sections, checkpoint={"keep": 9})
    with pytest.raises(RunError) as caught:
        open_run(run, asked, DATA, allowed=["train.momentum"])
    message = str(caught.value)
    assert words in message
    assert f"--allow-change {words.split(':')[0]}" in message
    assert "checkpoint" not in message
    assert run.job_file.read_bytes() == before
    assert not run.log.exists()


@pytest.mark.parametrize("allowed", ["train.lr", "train"])
def test_a_change_that_is_meant_starts_unfinished_jobs_anew(run: RunPaths, allowed: str) -> None:
    open_run(run, config(train={"lr": 0.2}), DATA, allowed=[allowed])
    assert load_record(run).config.train.lr == 0.2
    (entry,) = load_record(run).history
    assert entry["allowed"] == [allowed]
    assert entry["changes"] == [{"key": "train.lr", "old": 0.1, "new": 0.2}]
    assert not run.checkpoint("01", 3).exists()
    assert not list(run.job("01").root.iterdir())
    assert run.job("00").result.exists()
    assert run.seed(0).rewind.exists()
    with pytest.raises(RunError, match=r"train\.lr: 0\.2 -> 0\.1"):
        open_run(run, config(), DATA)


def test_before_the_first_result_the_first_weights_are_made_anew_too(run: RunPaths) -> None:
    run.job("00").result.unlink()
    open_run(run, config(seed=1), DATA, allowed=["seed"])
    assert not run.all_seeds.exists()


def test_after_the_first_result_another_seed_starts_from_the_same_weights(run: RunPaths) -> None:
    open_run(run, config(seed=1), DATA, allowed=["seed"])
    for old, new in zip(run.seed(0).files, run.seed(1).files, strict=True):
        assert new.read_bytes() == old.read_bytes()


@pytest.mark.parametrize(
    ("sections", "data", "key"),
    [
        ({"model": {"stem": "cifar"}}, DATA, "model.stem"),
        ({"prune": {"scope": "no-stem"}}, DATA, "prune.scope"),
        ({"prune": {"rewind_epoch": 1}}, DATA, "prune.rewind_epoch"),
        ({}, {"digest": "e", "classes": 11}, "data.classes"),
    ],
)
def test_what_the_files_do_not_fit_is_refused_even_when_meant(
    run: RunPaths, sections: dict[str, Any], data: dict[str, Any], key: str
) -> None:
    with pytest.raises(RunError, match=f"do not fit another {key}"):
        open_run(run, config(**sections), data, allowed=["model", "prune", "data"])


def test_another_data_set_is_refused_and_can_be_meant(run: RunPaths) -> None:
    other = {**DATA, "digest": "e"}
    with pytest.raises(RunError, match=r"data\.digest: 'd' -> 'e'"):
        open_run(run, config(), other)
    open_run(run, config(), other, allowed=["data"])
    assert load_record(run).data["digest"] == "e"
    assert not run.checkpoint("01", 3).exists()


@pytest.mark.parametrize(
    ("library", "refused"), [("torch", True), ("loader", True), ("mtkahypar", True), ("ray", False)]
)
def test_other_versions_of_what_computes_are_refused(run: RunPaths, library: str, refused: bool) -> None:
    document = yaml.safe_load(run.job_file.read_text())
    installed = document["versions"][library]
    document["versions"][library] = "0.0.1"
    run.job_file.write_text(yaml.safe_dump(document))
    if refused:
        with pytest.raises(RunError, match=f"versions.{library}: '0.0.1' -> '{installed}'"):
            open_run(run, config(), DATA)
    open_run(run, config(), DATA, allowed=["versions"] if refused else [])
    assert load_record(run).versions[library] == installed
    assert run.checkpoint("01", 3).exists()


def test_a_run_begun_with_the_first_loader_does_not_mix_its_pixels_with_others_unasked(run: RunPaths) -> None:
    document = yaml.safe_load(run.job_file.read_text())
    del document["versions"]["loader"]  # there was none to record
    run.job_file.write_text(yaml.safe_dump(document))
    with pytest.raises(RunError, match=r"versions\.loader: '1' -> '2'.*--allow-change versions\.loader"):
        open_run(run, config(), DATA)
    open_run(run, config(), DATA, allowed=["versions.loader"])
    assert load_record(run).history[-1]["changes"][0]["new"] == "2"


def test_a_version_that_was_not_recorded_is_no_change(run: RunPaths) -> None:
    document = yaml.safe_load(run.job_file.read_text())
    del document["versions"]["numba"], document["data"]["classes"], document["history"]
    run.job_file.write_text(yaml.safe_dump(document))
    open_run(run, config(), DATA)
    assert not run.log.exists()


@pytest.mark.parametrize(
    ("name", "hint"), [("train.lrr", "did you mean train.lr?"), ("qqq", "expected a key or a section")]
)
def test_a_misspelt_permission_is_told(tmp_path: Path, run: RunPaths, name: str, hint: str) -> None:
    for paths in (run, RunPaths(tmp_path / "new")):
        with pytest.raises(ConfigError) as caught:
            open_run(paths, config(), DATA, allowed=[name])
        assert f"--allow-change {name}: unknown key; {hint}" in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_the_command_refuses_before_anything_starts(
    quickstart: Path, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"data.path={digits.path}", f"runs={tmp_path}", "name=r"]
    stored = load_config(quickstart, overrides)
    open_run(RunPaths(tmp_path / "r"), stored, {"digest": "of-another-set", "classes": 10})
    assert main(["run", str(quickstart), *overrides, "train.lr=0.3", "--allow-change", "train.lr"]) == 2
    error = capsys.readouterr().err
    assert "data.digest: 'of-another-set' -> " in error
    assert "--allow-change data.digest" in error
    assert error.count("\n") == 1


def test_a_data_set_that_changed_during_a_run_is_named(run: RunPaths) -> None:
    check_data(run, {"digest": "d", "pages": "p"})  # an older run has recorded no pages
    with pytest.raises(DataError, match=r"data: another data set \(e\) took the place of .* \(d\)"):
        check_data(run, {"digest": "e"})


def test_pages_that_changed_under_a_run_by_lanes_are_named(tmp_path: Path) -> None:
    by_lanes, data = config(data={"shuffle": "lanes"}), {**DATA, "pages": "p"}
    run = RunPaths(tmp_path / "lanes")
    open_run(run, by_lanes, data)
    check_data(run, data)
    with pytest.raises(DataError, match=r"in other pages, which decide the order of data\.shuffle: lanes"):
        check_data(run, {**data, "pages": "q"})
    with pytest.raises(RunError, match=r"data\.pages: 'p' -> 'q'"):
        open_run(run, by_lanes, {**data, "pages": "q"})


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_data_set_that_was_cut_is_named(digits: Dataset, tmp_path: Path, split: str) -> None:
    shutil.copytree(digits.path, tmp_path / "cut")
    file = tmp_path / "cut" / f"{split}.beton"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{file}: .* bytes, expected .*; it was cut or changed"):
        Dataset.load(tmp_path / "cut")


def test_keys_are_not_taken_for_their_beginnings() -> None:
    """`data.threads` is free; a key that only begins like it would not be."""
    assert Change("data.threads", 1, 2).kind == "free"
    assert Change("data.threads_too", 1, 2).kind == "guarded"
    assert Change("namely", 1, 2).kind == "guarded"


VALUES = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2))


@given(VALUES, VALUES)
def test_changes_lead_from_the_old_to_the_new(old: dict[str, int], new: dict[str, int]) -> None:
    found = changes(old, new)
    assert (found == ()) == (old == new)
    merged = {**old, **{change.key: change.new for change in found}}
    assert {key: value for key, value in merged.items() if value is not None} == new


@given(old=st.integers(1, 5), new=st.integers(1, 5), seed=st.integers(0, 99))
def test_running_sums_keep_their_total_over_another_number_of_ranks(old: int, new: int, seed: int) -> None:
    sums = torch.rand(old, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    state = JobState("00", 1, "m", {}, {}, {}, sums)
    parts = torch.stack([state.sums_of(rank, new) for rank in range(new)])
    assert torch.allclose(parts.sum(0), sums.sum(0), rtol=1e-15)
    assert old != new or torch.equal(parts, sums)


def test_the_libraries_that_compute_are_recorded() -> None:
    assert {"torch", "torchvision", "ffcv", "numba", "numpy", "mtkahypar"} <= set(store.library_versions())
