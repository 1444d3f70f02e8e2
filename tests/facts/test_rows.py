"""The rows of a run's results: what they hold, what they are compared with, and how they fall into curves."""

from __future__ import annotations

import pytest

from distlth.facts.rows import Results, derive_results
from distlth.plan import plan
from distlth.run.results import JobResult
from tests.tiny_run import make_config, make_result


def derive(*results: JobResult) -> Results:
    """The rows of results that belong to the plan of `make_config`."""
    return derive_results(plan(make_config()), results)


def test_a_row_is_a_result_beside_the_dense_network() -> None:
    results = derive(make_result("00", top1=0.9), make_result("01/refill", 0.79, top1=0.885))
    dense, branch = results.rows
    assert results.dense is dense
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
    curves = {method: [row.job for row in curve] for method, curve in results.curves.items()}
    assert curves == {"imp": ["00", "01", "02"], "refill": ["01/refill", "02/refill"]}
    assert results.methods == ("imp", "refill")


def test_one_seed_gives_no_verdict() -> None:
    assert derive(make_result("00")).verdict == "1 seed, no verdict on winning"
