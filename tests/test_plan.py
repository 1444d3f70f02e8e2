"""Which jobs a run has, and when each can start."""

from __future__ import annotations

import re
from typing import Any

import pytest

from distlth.config.schema import RunConfig
from distlth.plan import measurements, plan, ready
from tests.tiny_run import MINIMAL


def config(**prune: Any) -> RunConfig:
    return RunConfig.model_validate({**MINIMAL, "prune": {"rounds": 2, **prune}})


BOTH = [{"method": "refill"}, {"method": "regroup", "rounds": [2]}]


def test_branch_mode_has_the_trunk_and_its_branches() -> None:
    jobs = plan(config(branches=BOTH))
    assert [(job.id, job.parent) for job in jobs] == [
        ("00", None),
        ("01", "00"),
        ("01/refill", "01"),
        ("02", "01"),
        ("02/refill", "02"),
        ("02/regroup", "02"),
    ]
    assert [job.is_trunk for job in jobs] == [True, True, False, True, False, False]
    assert {job.method for job in jobs} == {"imp", "refill", "regroup"}


def test_inline_mode_structures_the_trunk() -> None:
    jobs = plan(config(mode="inline", branches=BOTH[:1]))
    assert [(job.id, job.method, job.structure is not None) for job in jobs] == [
        ("00", "imp", False),
        ("01", "imp-refill", True),
        ("02", "imp-refill", True),
    ]


def test_each_seed_has_all_jobs() -> None:
    several = RunConfig.model_validate(
        {**MINIMAL, "seeds": [3, 1], "prune": {"rounds": 1, "branches": BOTH[:1]}}
    )
    jobs = plan(several)
    assert [(job.id, job.parent, job.seed, job.is_trunk) for job in jobs] == [
        ("00", None, 3, True),
        ("01", "00", 3, True),
        ("01/refill", "01", 3, False),
        ("seed1/00", None, 1, True),
        ("seed1/01", "seed1/00", 1, True),
        ("seed1/01/refill", "seed1/01", 1, False),
    ]


def test_the_jobs_of_a_seed_that_a_run_began_with_keep_their_names() -> None:
    alone = RunConfig.model_validate({**MINIMAL, "seed": 3})
    several = RunConfig.model_validate({**MINIMAL, "seed": 3, "seeds": [1, 3]})
    assert plan(alone) == plan(several)[len(plan(alone)) :]


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ({"seeds": [1, 1]}, "1 is there more than once"),
        ({"seed": 5, "seeds": [1, 2]}, "5 is not among seeds: [1, 2]"),
    ],
)
def test_seeds_that_do_not_fit_are_refused(seeds: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        RunConfig.model_validate({**MINIMAL, **seeds})


@pytest.mark.parametrize(
    ("after_rewind", "start", "first_epoch"),
    [("restart", "rewind", 0), ("continue", "rewind", 2), ("lr-rewind", "trained", 2)],
)
def test_what_follows_a_rewind(after_rewind: str, start: str, first_epoch: int) -> None:
    first, *tickets = plan(config(rewind_epoch=2, after_rewind=after_rewind, branches=BOTH))
    assert (first.start, first.first_epoch) == ("init", 0)
    assert {(job.start, job.first_epoch) for job in tickets} == {(start, first_epoch)}


def test_with_lr_rewind_a_branch_starts_where_its_rounds_trunk_job_does() -> None:
    jobs = plan(config(rewind_epoch=2, after_rewind="lr-rewind", branches=BOTH))
    assert {job.id: job.start_job for job in jobs} == {
        "00": None,
        "01": "00",
        "01/refill": "00",
        "02": "01",
        "02/refill": "01",
        "02/regroup": "01",
    }


def test_a_job_is_ready_when_its_parent_is_done() -> None:
    jobs = plan(config(branches=BOTH))

    def ids(done: set[str]) -> list[str]:
        return [job.id for job in ready(jobs, done)]

    assert ids(set()) == ["00"]
    assert ids({"00"}) == ["01"]
    assert ids({"00", "01"}) == ["01/refill", "02"]
    assert ids({"00", "01", "02", "01/refill"}) == ["02/refill", "02/regroup"]
    assert ids({job.id for job in jobs}) == []


def test_channel_scores_are_asked_of_the_jobs_whose_children_use_them() -> None:
    branches = [
        {"method": "refill", "criterion": "l1"},
        {"method": "refill", "name": "s", "criterion": "saliency"},
        {"method": "refill", "name": "m"},
    ]
    jobs = plan(config(branches=branches))
    needed = {job.id: [each.name for each in measurements(jobs, job)] for job in jobs}
    assert {job: names for job, names in needed.items() if names} == {
        "01": ["l1", "saliency"],
        "02": ["l1", "saliency"],
    }


def test_a_method_that_prunes_the_untrained_network_has_round_0_measured_and_starts_from_init() -> None:
    jobs = plan(config(rewind_epoch=2, after_rewind="lr-rewind", branches=[{"method": "snip"}]))
    branches = [job for job in jobs if not job.is_trunk]
    assert [(job.id, job.parent, job.start, job.first_epoch) for job in branches] == [
        ("01/snip", "00", "init", 0),
        ("02/snip", "00", "init", 0),
    ]
    assert [job.density for job in branches] == [jobs[1].density, jobs[3].density]
    needed = {job.id: [(each.name, each.untrained) for each in measurements(jobs, job)] for job in jobs}
    assert {job: found for job, found in needed.items() if found} == {"00": [("snip", True)]}


def test_planned_density_falls_by_the_rate() -> None:
    jobs = plan(config(rate=0.2))
    assert [job.density for job in jobs] == pytest.approx([1, 0.8, 0.64])
