"""Which lane trains which job, and when a run ends: every rule of the schedule, without any process."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from cluster.runtime.schedule import Ask, Schedule
from distlth.config.read import parse_config
from distlth.plan import plan

JOBS = ("00", "01", "01/refill", "02", "02/refill")
RETRIES = 2


@pytest.fixture
def schedule() -> Schedule:
    """A run that has just begun, with one lane up and its first job offered."""
    return offered(started(new()), "00")


def new(done: Collection[str] = ()) -> Schedule:
    document = {
        "name": "tiny",
        "data": {"path": "data"},
        "model": {"name": "resnet20"},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.1},
        "prune": {"rounds": 2, "branches": [{"method": "refill"}]},
    }
    jobs = plan(parse_config(document, "test"))
    assert tuple(job.id for job in jobs) == JOBS
    return Schedule(jobs, done, RETRIES)


def started(schedule: Schedule, *lanes: int) -> Schedule:
    for lane in lanes or (0,):
        schedule.start_lane(lane, "first")
    return schedule


def offered(schedule: Schedule, *job_ids: str) -> Schedule:
    for job_id in job_ids:
        schedule.offer(job_id)
    return schedule


def making(schedule: Schedule) -> list[str]:
    return [job.id for job in schedule.start_making()]


def ask(lane: int = 0, attempt: str = "first", turn: int = 0) -> Ask:
    return Ask(lane, attempt, turn)


class TestTickets:
    def test_a_new_run_makes_the_ticket_of_round_0(self) -> None:
        assert making(new()) == ["00"]

    def test_a_ticket_is_made_once(self, schedule: Schedule) -> None:
        assert making(schedule) == ["00"]
        assert making(schedule) == []

    def test_a_done_job_lets_its_children_be_made(self) -> None:
        schedule = new()
        made = []
        for job_id in JOBS:
            made.append(making(schedule))
            schedule.finish(job_id)
        assert made == [["00"], ["01"], ["01/refill", "02"], [], ["02/refill"]]
        assert making(schedule) == []

    def test_a_resumed_run_makes_what_is_not_done(self) -> None:
        assert making(new(done=["00", "01"])) == ["01/refill", "02"]


class TestAnswers:
    def test_a_lane_waits_until_a_job_is_offered(self) -> None:
        schedule = started(new())
        assert not schedule.can_answer(ask())
        assert offered(schedule, "00").can_answer(ask())

    def test_a_lane_that_asks_has_taken_the_job(self, schedule: Schedule) -> None:
        assert schedule.taken_by(0) == []
        assert schedule.answer(ask()) == "00"
        assert schedule.taken_by(0) == ["00"]

    def test_a_rank_that_asks_twice_gets_the_same(self, schedule: Schedule) -> None:
        first = schedule.answer(ask())
        offered(schedule, "01")
        assert schedule.can_answer(ask())
        assert schedule.answer(ask()) == first == "00"
        assert schedule.taken_by(0) == ["00"]

    def test_ranks_of_a_lane_get_the_same_whatever_happens_between_their_asks(
        self, schedule: Schedule
    ) -> None:
        first = schedule.answer(ask())
        schedule.stop()
        assert schedule.answer(ask()) == first

    def test_the_next_turn_is_another_job(self, schedule: Schedule) -> None:
        schedule.answer(ask())
        schedule.finish("00")
        assert not schedule.can_answer(ask(turn=1))
        assert offered(schedule, "01").answer(ask(turn=1)) == "01"

    def test_jobs_go_out_in_plan_order_whenever_they_were_offered(self) -> None:
        schedule = offered(started(new(done=["00", "01"])), "02", "01/refill")
        assert schedule.answer(ask()) == "01/refill"
        schedule.finish("01/refill")
        assert schedule.answer(ask(turn=1)) == "02"

    def test_ranks_that_have_nothing_to_write_wait_for_the_one_that_has(self) -> None:
        schedule = offered(started(new(done=["00", "01"])), "02", "01/refill")
        schedule.answer(ask())
        assert not schedule.can_answer(ask(turn=1))
        schedule.finish("01/refill")
        assert schedule.answer(ask(turn=1)) == "02"


class TestWaiting:
    """When a coordinator has time for pictures."""

    def test_a_lane_with_nothing_to_train_waits_for_a_ticket(self, schedule: Schedule) -> None:
        making(schedule)
        schedule.answer(ask())
        assert not schedule.is_waited_for
        schedule.finish("00")
        assert not schedule.is_waited_for  # nothing is made yet, and nothing would be waited for
        making(schedule)
        assert schedule.is_waited_for
        assert not offered(schedule, "01").is_waited_for

    def test_a_ticket_that_no_lane_needs_now_is_not_waited_for(self) -> None:
        schedule = started(new(done=["00", "01"]))
        making(schedule)
        offered(schedule, "02").answer(ask())
        assert not schedule.is_waited_for
        schedule.finish("02")
        assert schedule.is_waited_for

    def test_nobody_waits_when_the_run_ends(self, schedule: Schedule) -> None:
        schedule.answer(ask())
        schedule.finish("00")
        making(schedule)
        schedule.stop()
        assert not schedule.is_waited_for


class TestLanes:
    def test_lanes_side_by_side_train_different_jobs(self) -> None:
        schedule = offered(started(new(done=["00", "01"]), 0, 1, 2), "01/refill", "02")
        assert schedule.answer(ask(lane=1)) == "01/refill"
        assert schedule.answer(ask(lane=0)) == "02"
        assert not schedule.can_answer(ask(lane=2))
        assert [schedule.taken_by(lane) for lane in range(3)] == [["02"], ["01/refill"], []]

    def test_the_job_of_a_lane_that_restarts_is_open_again(self, schedule: Schedule) -> None:
        schedule.answer(ask())
        schedule.lane_died(0, "", "killed")
        assert not schedule.can_answer(ask(attempt="second"))
        schedule.start_lane(0, "second")
        assert schedule.taken_by(0) == []
        assert schedule.answer(ask(attempt="second")) == "00"

    def test_another_lane_may_take_the_job_of_one_that_restarts(self) -> None:
        schedule = offered(started(new(), 0, 1), "00")
        schedule.answer(ask(lane=0))
        schedule.start_lane(0, "second")
        assert schedule.answer(ask(lane=1)) == "00"
        assert not schedule.can_answer(ask(lane=0, attempt="second"))

    def test_a_restart_leaves_the_other_lanes_their_jobs(self) -> None:
        schedule = offered(started(new(done=["00", "01"]), 0, 1), "01/refill", "02")
        assert (schedule.answer(ask(lane=0)), schedule.answer(ask(lane=1))) == ("01/refill", "02")
        schedule.start_lane(0, "second")
        assert schedule.answer(ask(lane=1)) == "02"
        assert schedule.answer(ask(lane=0, attempt="second")) == "01/refill"

    def test_a_job_whose_result_was_written_before_its_ranks_died_is_done(self, schedule: Schedule) -> None:
        schedule.answer(ask())
        schedule.lane_died(0, "3", "killed")
        schedule.finish("00")  # the coordinator has found the result
        schedule.start_lane(0, "second")
        assert not schedule.can_answer(ask(attempt="second"))
        assert making(schedule) == ["01"]
        assert offered(schedule, "01").answer(ask(attempt="second")) == "01"

    def test_only_the_attempt_that_runs_is_current(self, schedule: Schedule) -> None:
        assert schedule.is_current(0, "first")
        assert not schedule.is_current(1, "first")
        schedule.lane_died(0, "", "killed")
        assert not schedule.is_current(0, "first")
        schedule.start_lane(0, "second")
        assert schedule.is_current(0, "second")
        assert not schedule.is_current(0, "first")

    def test_asks_of_ranks_that_died_take_no_job(self) -> None:
        schedule = started(new())
        schedule.lane_died(0, "", "killed while its ranks waited for a job")
        schedule.start_lane(0, "second")
        offered(schedule, "00")
        assert not schedule.can_answer(ask(attempt="first"))
        assert schedule.answer(ask(attempt="second")) == "00"

    def test_asks_of_ranks_that_died_end_with_the_run(self) -> None:
        schedule = started(new())
        schedule.start_lane(0, "second")
        schedule.stop()
        assert schedule.can_answer(ask(attempt="first"))
        assert schedule.answer(ask(attempt="first")) is None


class TestDeaths:
    """Only deaths without progress between them are bounded."""

    def died(self, schedule: Schedule, *checkpoints: str, lane: int = 0) -> str | None:
        for checkpoint in checkpoints:
            schedule.lane_died(lane, checkpoint, "killed")
        return schedule.lost

    def test_too_many_in_a_row_end_the_run(self, schedule: Schedule) -> None:
        assert self.died(schedule, "", "") is None
        schedule.lane_died(0, "", "rank 1: out of memory")
        assert schedule.lost == "lane 0 died 3 times without progress; the last time: rank 1: out of memory"
        assert schedule.error is None
        assert (schedule.is_over, schedule.is_closed, schedule.is_ending) == (True, True, True)

    def test_the_nodes_of_all_of_them_are_suspects(self, schedule: Schedule) -> None:
        for nodes in (["n1", "n2"], ["n2"], ["n2", "n3"]):
            schedule.lane_died(0, "", "killed", nodes)
        assert schedule.suspects == {"n2"}
        assert schedule.lost == (
            "lane 0 died 3 times without progress, each time on n2; the last time: killed"
        )

    def test_deaths_on_other_nodes_clear_a_node(self, schedule: Schedule) -> None:
        for nodes in (["n2"], ["n1"], ["n2"]):
            schedule.lane_died(0, "", "killed", nodes)
        assert schedule.suspects == frozenset()

    def test_deaths_before_progress_do_not_count_for_a_node(self, schedule: Schedule) -> None:
        for checkpoint, node in (("", "n1"), ("1", "n2"), ("1", "n2"), ("1", "n2")):
            schedule.lane_died(0, checkpoint, "killed", [node])
        assert schedule.suspects == {"n2"}

    def test_each_checkpoint_begins_the_count_anew(self, schedule: Schedule) -> None:
        assert self.died(schedule, "", "", "1", "1", "2", "2") is None
        assert self.died(schedule, "2")

    def test_a_finished_job_begins_the_count_anew(self, schedule: Schedule) -> None:
        schedule.answer(ask())
        assert self.died(schedule, "", "") is None
        schedule.finish("00")
        assert self.died(schedule, "", "") is None
        assert self.died(schedule, "")

    def test_the_progress_of_another_lane_does_not_count(self) -> None:
        schedule = offered(started(new(), 0, 1), "00")
        schedule.answer(ask(lane=1))
        assert self.died(schedule, "", "") is None
        schedule.finish("00")
        assert self.died(schedule, "")

    def test_each_lane_has_its_own_count(self, schedule: Schedule) -> None:
        assert self.died(schedule, "", "", lane=0) is None
        assert self.died(schedule, "", "", lane=1) is None


class TestDivergence:
    def test_what_is_made_from_a_job_that_diverged_is_left_out(self) -> None:
        schedule = new(done=["00", "01"])
        assert making(schedule) == ["01/refill", "02"]
        schedule.diverge("02")
        assert making(schedule) == []
        assert not schedule.is_over
        schedule.finish("01/refill")
        assert schedule.is_over
        assert (schedule.error, schedule.lost) == (None, None)

    def test_it_is_not_trained_again_by_a_run_that_resumes(self) -> None:
        schedule = Schedule(new().jobs, ["00", "01"], 2, ["01/refill"])
        assert making(schedule) == ["02"]

    def test_the_lane_goes_on_with_another_job(self) -> None:
        schedule = offered(started(new(done=["00", "01"])), "02", "01/refill")
        assert schedule.answer(ask()) == "01/refill"
        schedule.diverge("01/refill")
        assert schedule.answer(ask(turn=1)) == "02"


class TestEnd:
    def test_a_run_is_over_when_all_jobs_are_done(self, schedule: Schedule) -> None:
        for job_id in JOBS:
            assert not schedule.is_over
            schedule.finish(job_id)
        assert schedule.is_over
        assert schedule.is_closed
        assert schedule.error is None
        assert schedule.answer(ask()) is None

    def test_a_run_whose_jobs_are_all_on_disk_is_over(self) -> None:
        schedule = new(done=JOBS)
        assert schedule.is_over
        assert making(schedule) == []

    def test_a_stopping_run_hands_nothing_out_and_is_not_over(self, schedule: Schedule) -> None:
        schedule.stop()
        assert (schedule.is_stopping, schedule.is_closed, schedule.is_over) == (True, True, False)
        assert schedule.can_answer(ask())
        assert schedule.answer(ask()) is None
        assert schedule.taken_by(0) == []

    def test_a_failed_run_hands_nothing_out(self, schedule: Schedule) -> None:
        assert schedule.fail("no disk")
        assert (schedule.is_over, schedule.is_closed, schedule.is_stopping) == (True, True, False)
        assert schedule.answer(ask()) is None

    def test_the_first_error_is_the_one_that_is_told(self, schedule: Schedule) -> None:
        assert schedule.fail("no disk")
        assert not schedule.fail("no memory")
        assert schedule.error == "no disk"
