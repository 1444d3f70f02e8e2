"""The report of an experiment over several seeds: a table, a CSV file, and curves with their spread."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from distlth.facts.seeds import Experiment, Spread, as_dicts, read_experiment
from distlth.files import replacing, write_text
from distlth.report.pictures import png, spread_figure
from distlth.report.text import density_percent, percent, points
from distlth.run.paths import RunPaths

COLUMNS = ("method", "round", "density", "alive", "alive MACs", "top-1", "std", "n", "vs dense", "verdict")


def write_seeds_report(runs: list[RunPaths], folder: Path) -> list[Path]:
    """Write `results.md`, `results.csv`, `density.png` and `alive.png` to a folder; return their paths.

    Raises:
        RunError: see `read_experiment`.
    """
    experiment = read_experiment(runs)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"results.md": seeds_markdown(experiment), "results.csv": seeds_csv(experiment)}
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, axis in (("density.png", "density"), ("alive.png", "alive_density")):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(png(spread_figure(experiment, axis)))  # type: ignore[arg-type]
    return [folder / name for name in (*texts, "density.png", "alive.png")]


def seeds_csv(experiment: Experiment) -> str:
    """Return a row for each job of each seed, all fractions in full precision."""
    rows, buffer = as_dicts(experiment.rows), io.StringIO()
    writer = csv.DictWriter(buffer, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def seeds_markdown(experiment: Experiment) -> str:
    """Return the table of means, and the sparsest ticket of each method that wins."""
    seeds = ", ".join(map(str, experiment.seeds))
    lines = [
        f"# {experiment.name}",
        "",
        f"{len(experiment.rows)} jobs, seeds {seeds}. top-1 on the split val, after the last epoch: mean and "
        "sample standard deviation (std) over n seeds. alive: weights whose input can be non-zero and whose "
        "output is used; alive MACs: what they cost, of the dense network's. vs dense in percentage points.",
        "",
        _line(COLUMNS),
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | :--- |",
        *[_line(_cells(experiment, spread)) for spread in experiment.spreads],
        "",
        *_winners(experiment),
    ]
    return "\n".join([*lines, ""])


def _cells(experiment: Experiment, spread: Spread) -> tuple[str, ...]:
    dense, is_dense = experiment.dense, spread.round == 0
    return (
        "dense" if is_dense else spread.method,
        str(spread.round),
        percent(spread.density),
        percent(spread.alive_density),
        percent(spread.alive_macs),
        percent(spread.mean),
        "" if spread.std is None else f"{100 * spread.std:.2f}",
        str(spread.count),
        "" if dense is None or is_dense else points(spread.mean - dense.mean),
        "" if is_dense else experiment.verdict(spread),
    )


def _winners(experiment: Experiment) -> list[str]:
    if experiment.bar is None:
        return ["Fewer than 3 seeds of the dense network: no verdict on winning."]
    lines = [
        f"A ticket wins if its mean over at least 3 seeds is at least {percent(experiment.bar)}, the dense "
        "mean minus the dense standard deviation. The sparsest winning ticket of each method:",
        "",
    ]
    for method in experiment.curves:
        best = experiment.sparsest_winner(method)
        found = (
            f"{percent(best.mean)} at density {density_percent(best.density)}, alive "
            f"{density_percent(best.alive_density)}"
            if best
            else "none"
        )
        lines.append(f"- {method}: {found}")
    return lines


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
