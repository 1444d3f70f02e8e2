"""The rows of a run's results: what they hold, what they are compared with, and how they fall into curves."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from distlth.config.read import parse_config
from distlth.errors import RunError
from distlth.facts.axes import DENSITY
from distlth.facts.points import Spread
from distlth.facts.rows import Results, derive_results, join_results
from distlth.plan import plan
from distlth.run.results import JobResult
from tests.tiny_run import MINIMAL, make_config, make_result


def derive(*results: JobResult) -> Results:
    """The rows of results that belong to the plan of `make_config`."""
    return derive_results(plan(make_config()), results)


def test_a_row_is_a_result_beside_the_dense_network() -> None:
    results = derive(make_result("00", top1=0.9), make_result("01/refill", 0.79, top1=0.885))
    dense, branch = results.rows
    assert results.dense == Spread(0.9, 0.0, 1)
    assert (dense.job, dense.is_trunk, dense.vs_dense) == ("00", True, None)
    assert (branch.job, branch.round, branch.method, branch.is_trunk) == ("01/refill", 1, "refill", False)
    assert (branch.density, branch.mask_digest, branch.weights_digest) == (0.79, "m", "w")
    assert branch.vs_dense == pytest.approx(-0.015)


def test_without_the_dense_network_there_is_no_difference() -> None:
    results = derive(make_result("01", 0.8))
    assert results.dense is None
    assert results.rows[0].vs_dense is None


def test_each_method_has_a_curve_from_the_densest_ticket_down() -> None:
    jobs = {"02": 0.64, "00": 1.0, "01/refill": 0.79, "01": 0.8, "02/refill": 0.63}
    results = derive(*[make_result(job, density) for job, density in jobs.items()])
    curves = {method: [point.round for point in curve] for method, curve in results.curves.items()}
    assert curves == {"imp": [0, 1, 2], "refill": [1, 2]}
    assert results.methods == ("imp", "refill")


def test_one_seed_gives_no_verdict() -> None:
    assert derive(make_result("00")).verdict == "1 seed, no verdict on winning"


def over_seeds(*top1: float, branch: tuple[float, ...] = ()) -> Results:
    """The dense network of each seed, and its first refill ticket."""
    config = parse_config({**MINIMAL, "seeds": list(range(len(top1)))}, "test")
    names = [f"seed{seed}/" if seed else "" for seed in range(len(top1))]
    found = [make_result(f"{name}00", top1=value) for name, value in zip(names, top1, strict=True)]
    tickets = zip(names, branch, strict=False)
    found += [make_result(f"{name}01/refill", 0.8, top1=value) for name, value in tickets]
    return derive_results(plan(config), found)


def test_a_point_is_a_ticket_over_its_seeds() -> None:
    results = over_seeds(0.90, 0.92, 0.94, branch=(0.89, 0.92, 0.95))
    assert results.seeds == (0, 1, 2)
    assert results.dense is not None
    assert astuple(results.dense) == pytest.approx((0.92, 0.02, 3))
    (refill,) = results.curves["refill"]
    assert astuple(refill.top1) == pytest.approx((0.92, 0.03, 3))
    assert refill.vs_dense == pytest.approx(0.0)
    assert [row.vs_dense for row in results.rows[3:]] == pytest.approx([-0.01, 0.0, 0.01])


@pytest.mark.parametrize(("branch", "wins"), [((0.90,) * 3, True), ((0.8999,) * 3, False)])
def test_a_ticket_wins_from_the_dense_mean_less_its_deviation(branch: tuple[float, ...], wins: bool) -> None:
    results = over_seeds(0.90, 0.92, 0.94, branch=branch)
    (refill,) = results.curves["refill"]
    assert refill.wins is wins
    assert (results.best_winners(DENSITY.best) == {"refill": refill}) is wins
    assert results.verdict.endswith("found by refill" if wins else "found by no method")


def test_two_seeds_give_no_verdict() -> None:
    results = over_seeds(0.90, 0.92, branch=(0.99, 0.99))
    assert results.curves["refill"][0].wins is None
    assert results.verdict == "2 seeds, no verdict on winning"


def test_runs_of_one_seed_are_not_joined() -> None:
    one = derive(make_result("00"))
    assert [row.job for row in join_results({"a": over_seeds(0.9, 0.8)}).rows] == ["a/00", "a/seed1/00"]
    with pytest.raises(RunError, match="a and b both have seed 0; expected different seeds"):
        join_results({"a": one, "b": one})


def test_a_ticket_of_too_few_seeds_has_no_verdict_yet() -> None:
    assert over_seeds(0.90, 0.92, 0.94, branch=(0.99, 0.99)).curves["refill"][0].wins is None
