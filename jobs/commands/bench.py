"""`distlth bench`: what distlth claims about speed, measured as ratios within one run."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distlth.errors import UserError
from jobs.arguments import Commands, find_run, path_given

if TYPE_CHECKING:
    from jobs.measured_tickets import MeasuredTickets

Rows = Sequence[Any]


@dataclass(frozen=True)
class Bench:
    """A benchmark: the module whose `bench(**options)` measures it, and the options of a small one.

    `drawn` is the column that its picture shows. A module may have a `conclusion(rows)`, a sentence.
    """

    module: str
    drawn: str
    quick: Mapping[str, Any] = field(default_factory=dict)

    def run(self, *, quick: bool, **options: Any) -> Rows:
        """Measure, and return the rows: dataclasses of one type."""
        rows: Rows = import_module(self.module).bench(**{**(self.quick if quick else {}), **options})
        return rows

    def conclusion(self, rows: Rows) -> str | None:
        """Return what the rows come to, in a sentence; None where the module has none."""
        conclude = getattr(import_module(self.module), "conclusion", None)
        return None if conclude is None else str(conclude(rows))


BENCHES: Mapping[str, Bench] = {
    "all-reduce": Bench(
        "cluster.bench.all_reduce", "milliseconds", {"model": "resnet20", "batches": ((2, 32),), "rounds": 2}
    ),
    "broadcast": Bench(
        "cluster.bench.broadcast",
        "seconds",
        {"counts": (1, 2), "ranks": 1, "size": 12 * 2**20, "reply_nodes": 1},
    ),
    "checkpoint": Bench("distlth.bench.checkpoint", "time_ratio", {"steps": 3, "pairs": 2, "images": 80}),
    "coordinator": Bench("cluster.bench.coordinator", "calls_per_second", {"ranks": 64, "rounds": 1}),
    "disk": Bench("distlth.bench.disk", "bytes", {"model": "resnet20", "resolution": 32}),
    "index": Bench("distlth.bench.index", "cpu_seconds", {"images": 20_000, "rounds": 1}),
    "infer": Bench(
        "distlth.bench.infer",
        "milliseconds",
        {"resolution": 32, "batches": (1,), "runtimes": ("eager",), "rounds": 3},
    ),
    "loader": Bench(
        "distlth.bench.loader", "images_per_s", {"seconds": 1.0, "resolutions": (32,), "num_images": 64}
    ),
    "regroup": Bench("distlth.bench.regroup", "retained", {"layers": ("layer1.0.conv1", "layer1.0.conv2")}),
    "slim-training": Bench(
        "distlth.bench.slim_training",
        "milliseconds",
        {"resolution": 32, "densities": (0.41,), "rounds": 2},
    ),
    "step": Bench("distlth.bench.step", "milliseconds", {"resolution": 32, "rounds": 2}),
    "turnaround": Bench(
        "cluster.bench.turnaround", "seconds", {"model": "resnet20", "steps": 3, "rounds": 1}
    ),
}


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("bench", help="measure", description="Measure, as ratios in one run.")
    parser.add_argument("name", choices=(*BENCHES, "all"))
    parser.add_argument("run", type=path_given, nargs="?", metavar="RUN", help="of `infer`: a run directory")
    parser.add_argument(
        "tickets", nargs="*", metavar="TICKET", help="and tickets of it that are finished, such as 03/refill"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_inference(parser)
    _add_loader(parser)
    parser.add_argument(
        "--quick", action="store_true", help="a small one: shows that it works, its figures mean little"
    )
    parser.add_argument(
        "--out", type=path_given, metavar="DIR", help="of `all`: where tables and pictures go"
    )
    parser.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> int:
    from distlth.report.console import measured_table, show
    from distlth.report.measured import Measured

    if (options.name == "all") != (options.out is not None):
        raise UserError(
            "`distlth bench all --out DIR` writes what all benchmarks measure; give both or neither"
        )
    asked = {**_of_inference(options), **_of_loader(options)}
    if options.name == "all":
        return _measure_all(options.out, quick=options.quick)
    tickets = _tickets(options)
    rows = BENCHES[options.name].run(quick=options.quick, **(tickets.options if tickets else {}), **asked)
    if options.picture:
        _draw(rows, options.picture)
    if tickets is not None and tickets.keeps:
        tickets.draw()
    machine, conclusion = _machine(), BENCHES[options.name].conclusion(rows)
    if options.json:
        document = {"bench": options.name, "machine": machine, "rows": [asdict(row) for row in rows]}
        document["conclusion"] = conclusion
        print(json.dumps(document, indent=1))
        return 0
    if tickets is not None and tickets.are_summed_up:
        show(tickets.table())
    else:
        show(measured_table(Measured.of(options.name, rows)))
    if tickets is not None and tickets.keeps:
        show(f"kept in {tickets.folder}; distlth report draws it")
    if conclusion:
        show(conclusion)
    show("  ".join(f"{key} {value}" for key, value in machine.items() if value is not None))
    return 0


def _measure_all(folder: Path, *, quick: bool) -> int:
    """Run each benchmark in a process of its own; write what they measure.

    Raises:
        UserError: one failed; the others are written.
    """
    from distlth.files import replacing
    from distlth.report.benchmarks import benchmarks_markdown, write_benchmark
    from distlth.report.measured import Measured

    folder.mkdir(parents=True, exist_ok=True)
    sections, failed = [], []
    for number, (name, each) in enumerate(BENCHES.items(), 1):
        words = ["bench", name, *(["--quick"] if quick else [])]
        print(f"{number}/{len(BENCHES)} {name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-P", "-m", "jobs.cli", *words, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            failed.append(name)
            continue
        found = json.loads(done.stdout)
        measured, typed = Measured(name, found["rows"]), f"distlth {' '.join(words)}"
        sections.append(write_benchmark(folder, measured, typed, each.drawn, found["conclusion"]))
    with replacing(folder / "README.md") as temporary:
        temporary.write_text(benchmarks_markdown(_machine(), sections))
    print(folder / "README.md")
    if failed:
        raise UserError(f"{', '.join(failed)} failed; what it said stands above, the others are written")
    return 0


def _tickets(options: argparse.Namespace) -> MeasuredTickets | None:
    """Return the run's tickets that are asked for; None where there is no run."""
    if options.run is None:
        if options.all:
            raise UserError("--all: expected a run: distlth bench infer RUN --all")
        return None
    if options.name != "infer" or bool(options.tickets) == options.all:
        raise UserError(
            "only `distlth bench infer RUN TICKET...` measures a run, and it needs tickets or --all"
        )
    from jobs.measured_tickets import MeasuredTickets

    keeps = not (options.quick or options.layers or options.paper)
    return MeasuredTickets.of(find_run(options.run), options.tickets, options.device or "cpu", keeps=keeps)


def _add_inference(parser: argparse.ArgumentParser) -> None:
    """Add the options of `infer`."""
    only = parser.add_argument_group("infer")
    only.add_argument("--batch", type=_numbers, metavar="N,N", help="images at a time; default: 1,8")
    only.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu")
    only.add_argument("--threads", type=int, metavar="N", help="default: one for each core; of loader: 2")
    only.add_argument(
        "--runtimes",
        metavar="A,B",
        help="of eager, compile, onnx, openvino, distlth; default: all but compile",
    )
    only.add_argument("--all", action="store_true", help="all finished tickets of RUN, one after the other")
    only.add_argument("--layers", action="store_true", help="each layer by itself")
    only.add_argument("--picture", type=path_given, metavar="FILE.png", help="draw these below their roof")
    only.add_argument("--paper", action="store_true", help="the convolutions alone, as the paper measures")


def _add_loader(parser: argparse.ArgumentParser) -> None:
    """Add the options of `loader`, which takes --threads too."""
    only = parser.add_argument_group("loader")
    only.add_argument(
        "--data", type=path_given, metavar="DIR", help="a data set of `distlth data`; default: photographs"
    )
    only.add_argument(
        "--resolutions", type=_numbers, metavar="N,N", help="sides in pixels; default: 224,160,128"
    )


def _of_loader(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `loader` that are given, but for --threads."""
    given = {"data": options.data, "resolutions": options.resolutions}
    found = {key: value for key, value in given.items() if value is not None}
    if options.name != "loader" and found:
        raise UserError("--data and --resolutions are of loader")
    return found


def _numbers(text: str) -> tuple[int, ...]:
    """Return positive whole numbers: a type for argparse."""
    found = tuple(int(word) for word in text.split(","))
    if min(found) < 1:
        raise ValueError
    return found


def _of_inference(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `infer` that are given."""
    given = {
        "batches": options.batch,
        "device": options.device,
        "threads": options.threads,
        "runtimes": options.runtimes and tuple(options.runtimes.split(",")),
        "layers": options.layers or None,
        "paper": options.paper or None,
    }
    found = {key: value for key, value in given.items() if value is not None}
    theirs = {*found, *(["picture"] if options.picture else [])}
    if options.name != "infer" and theirs - ({"threads"} if options.name == "loader" else set()):
        raise UserError(
            "--batch, --device, --runtimes, --layers, --picture, --paper are of infer; "
            "--threads is of infer and loader"
        )
    if (options.layers or options.paper) and (options.all or len(options.tickets) > 1):
        raise UserError("--layers and --paper measure one ticket at a time")
    if options.layers and options.paper:
        raise UserError("--layers and --paper are two measures; give one of them")
    if options.picture and not options.layers:
        raise UserError("--picture draws what --layers measures; give both")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: expected at least 1")
    return found


def _draw(rows: Rows, path: Path) -> None:
    from distlth.files import replacing
    from distlth.report.pictures import png, roofline_figure

    first = rows[0]
    layers = [(row.network, row.flop_per_byte, row.gflop_per_second) for row in rows]
    peak, bandwidth = first.machine_gflop_per_second, first.machine_gigabyte_per_second
    with replacing(path) as temporary:
        temporary.write_bytes(png(roofline_figure(layers, peak, bandwidth)))


def _machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    import torch

    from distlth.cores import num_cores
    from distlth.run.store import library_versions

    return {
        "cores": num_cores(),
        "cpu": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **library_versions(),
    }
