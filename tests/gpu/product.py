"""The whole product on the card: Ray, a lane, the quick start; a rank killed; a resume; the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from distlth.data.pack.build import BuildOptions, build
from distlth.files import read_json_lines
from distlth.run.paths import RunPaths
from jobs.digits import write_digits
from tests.chaos.victims import session_of, victims
from tests.gpu.lines import Options, check, expect, main

SECONDS = 200


def product(options: Options) -> None:
    """Run the quick start undisturbed, with a rank killed, and stopped and resumed; compare."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_digits(home / "images")
        build(home / "images", home / "digits", BuildOptions(workers=2))
        jobs = {"undisturbed": undisturbed, "killed": killed, "stopped": stopped, "branches": branches}
        workers = max(1, torch.cuda.device_count()) if options.on_gpu else 1
        command = arguments(home, workers, options)
        with ThreadPoolExecutor(1 if options.quick else len(jobs)) as pool:
            runs = {name: pool.submit(each, [*command, f"name={name}"], home) for name, each in jobs.items()}
            for name, run in runs.items():
                with check(f"quick start, {name}") as said:
                    said.append(run.result())
        for name in ("killed", "stopped"):
            with check(f"undisturbed and {name} compared") as said:
                said.append(compared(home, name))


def arguments(home: Path, workers: int, options: Options) -> list[str]:
    """Return the command of a small quick start on the device."""
    short = (
        ["train.epochs=2", "prune.rounds=1", "prune.rewind_epoch=1"] if options.quick else ["train.epochs=6"]
    )
    return [
        *(sys.executable, "-m", "jobs.cli", "run", "jobs/recipes/quickstart.yaml"),
        *(f"data.path={home / 'digits'}", f"runs={home / 'runs'}", f"cluster.device={options.device.type}"),
        *(f"cluster.workers={workers}", "cluster.cpus_per_worker=2", "checkpoint.every_steps=5"),
        *("prune.rounds=2", "train.amp=bf16", *short),
    ]


def undisturbed(command: list[str], home: Path) -> str:
    """Run to the end."""
    start = time.monotonic()
    run(command)
    return f"{time.monotonic() - start:.0f} s, {trained_on(home)}"


def run(command: list[str]) -> None:
    """Run a command that is to end well."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    expect(ended.returncode == 0, f"exit code {ended.returncode}: {ended.stderr[-600:]}")


def trained_on(home: Path) -> str:
    """Return how long each job took."""
    results = sorted((home / "runs" / "undisturbed" / "rounds").rglob("result.json"))
    seconds = [json.loads(path.read_text())["seconds"] for path in results]
    return f"{len(seconds)} jobs of {min(seconds):.1f} to {max(seconds):.1f} s"


def branches(command: list[str], home: Path) -> str:
    """Run methods that train in ways of their own, on images that lie on the device."""
    asked = [
        "prune.branches=[{method: refill}, {method: admm}, {method: nm}]",
        *("train.execution=slim", "data.cache=gpu", "data.crop=pad", "data.pad=2"),
        *(["train.cuda_graph=true"] if "cluster.workers=1" in command else []),
    ]
    run([*command, *asked])
    results = sorted((home / "runs" / "branches" / "rounds").rglob("result.json"))
    found = {str(path.parent.relative_to(path.parents[2])): json.loads(path.read_text()) for path in results}
    return ", ".join(f"{name} {each['val_top1']:.0%}" for name, each in found.items() if "/" in name)


def killed(command: list[str], home: Path) -> str:
    """Kill a rank with SIGKILL once there is a checkpoint; the lane restarts by itself."""
    run = RunPaths(home / "runs" / "killed")
    with started(command) as process:
        wait_for(lambda: any(run.all_checkpoints.rglob("*.safetensors")), process)
        victims("one rank", session_of(process.pid))[0].kill()
        expect(process.wait(SECONDS) == 0, f"exit code {process.returncode} after a rank was killed")
    events = [line["event"] for line in read_json_lines(run.log)]
    expect(events.count("lane-start") == 2, f"the log does not tell of a second start: {events}")
    return "a rank killed, the lane restarted"


def stopped(command: list[str], home: Path) -> str:
    """Send SIGTERM once there is a checkpoint, and run it again."""
    run = RunPaths(home / "runs" / "stopped")
    with started(command) as process:
        wait_for(lambda: any(run.all_checkpoints.rglob("*.safetensors")), process)
        process.terminate()
        code = process.wait(SECONDS)
    expect(code == os.EX_TEMPFAIL, f"exit code {code} after SIGTERM, expected {os.EX_TEMPFAIL}")
    again = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    expect(again.returncode == 0, f"resumed: exit code {again.returncode}: {again.stderr[-600:]}")
    return "ended with 75 at SIGTERM, resumed to the end"


def compared(home: Path, name: str) -> str:
    """Compare two runs by `distlth compare`."""
    runs = [str(home / "runs" / each) for each in ("undisturbed", name)]
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "compare", *runs], capture_output=True, text=True, check=False
    )
    said = " ".join((ended.stdout + ended.stderr).split())
    expect(ended.returncode == 0, said[-400:])
    return said.partition("settings: ")[2]


def started(command: list[str]) -> subprocess.Popen[bytes]:
    """Start it in a session of its own."""
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=silent, stderr=silent, start_new_session=True)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until `what` returns True while the process lives."""
    deadline = time.monotonic() + SECONDS
    while not what():
        expect(process.poll() is None, f"it ended with {process.returncode} before its time")
        expect(time.monotonic() < deadline, f"waited {SECONDS} s in vain")
        time.sleep(0.05)


if __name__ == "__main__":
    main(product)
