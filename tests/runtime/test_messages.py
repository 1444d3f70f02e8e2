"""What processes hand each other arrives as it was sent, and loads nothing that only one of them needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.runtime.error_text import first_line, last_line
from cluster.runtime.messages import (
    Ending,
    Joined,
    Order,
    Reply,
    Started,
    StartRay,
    Stop,
    Unwritten,
    parse_reply,
    parse_request,
    reply_to_json,
)
from distlth.config.read import load_config
from distlth.run.paths import RunPaths


@pytest.mark.parametrize("rendezvous", [None, Path("runs/run/nodes/7-0")])
def test_an_order_arrives_as_it_was_sent(quickstart: Path, rendezvous: Path | None) -> None:
    config = load_config(quickstart, ["cluster.retries=7"])
    order = Order(config, RunPaths(Path("runs/run")), "cpu", rendezvous, 30.0, ("n2",))
    assert parse_request(order.to_json()) == order


def test_a_request_to_start_ray_arrives_as_it_was_sent(quickstart: Path) -> None:
    start = StartRay(load_config(quickstart, ["cluster.workers=3"]).cluster, "cuda")
    assert parse_request(start.to_json()) == start


def test_a_stop_arrives_as_it_was_sent() -> None:
    assert parse_request(Stop("SIGTERM").to_json()) == Stop("SIGTERM")


@pytest.mark.parametrize(
    "reply",
    [
        Started("127.0.0.1:6379"),
        Joined(3),
        Unwritten({"time": 1.5, "event": "job-done", "job": "01/refill"}),
        Ending(),
        Ending(error="no disk\nat all", lost="Ray's raylet died", again=True, without=("n2",)),
    ],
)
def test_a_reply_arrives_as_it_was_sent_in_one_line(reply: Reply) -> None:
    line = reply_to_json(reply)
    assert "\n" not in line
    assert parse_reply(line) == reply


def test_the_process_of_the_command_loads_neither_ray_nor_torch() -> None:
    """Ray reads its settings when it is imported, and they belong to a session; torch takes seconds."""
    code = "import sys, cluster.runtime.service; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_error_is_told_by_the_line_that_says_what_happened() -> None:
    text = "\n  The actor died: killed. \n\n Traceback:\n  ValueError: no disk\n \n"
    assert (first_line(text), last_line(text)) == ("The actor died: killed.", "ValueError: no disk")
    assert (first_line(" \n"), last_line("")) == ("", "")
