"""Two runs beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distlth.report.console.layout import new_table

if TYPE_CHECKING:  # torch, which a login node should not have to load
    from distlth.facts.compare import Comparison, Finding

STYLES = {"same": "green", "differs": "bold red", "missing": "dim"}

# The number of tensors or layers that are named of those that differ in a job; `--json` has all.
SHOWN_DETAILS = 3


def comparison_view(comparison: Comparison) -> Group:
    """Draw a line for each thing of the runs as wholes, a table of jobs, what differs, and the conclusion."""
    lines = [line for found in comparison.differences for line in _details(found)]
    return Group(
        Text(f"first   {comparison.first_run}\nsecond  {comparison.second_run}"),
        Text.assemble(*[part for found in comparison.of_run for part in _line(found)]),
        _jobs_table(comparison),
        *map(Text, lines),
        _conclusion(comparison),
    )


def _line(found: Finding) -> tuple[tuple[str, str], ...]:
    aside = "" if found.counts or found.state != "differs" else "  (does not count)"
    return ((f"{found.what:12}", ""), (found.state, STYLES[found.state]), (f"{aside}\n", "dim"))


def _jobs_table(comparison: Comparison) -> Table:
    of_jobs = comparison.of_jobs
    table = new_table(("job", *next(iter(of_jobs.values()))))
    for job, findings in of_jobs.items():
        states = [found.state for found in findings.values()]
        table.add_row(job, *[Text(state, style=STYLES[state]) for state in states])
    return table


def _details(found: Finding) -> list[str]:
    more = len(found.details) - SHOWN_DETAILS
    lines = [f"{found.place} {found.what}: {line}" for line in found.details[:SHOWN_DETAILS]]
    return [*lines, f"{found.place} {found.what}: and {more} more"] if more > 0 else lines


def _conclusion(comparison: Comparison) -> Text:
    first, jobs = comparison.first_difference, comparison.jobs_compared
    if first is None:
        return Text(f"identical in all that both have; {jobs} jobs compared to their end", style="green")
    return Text(f"first difference: {first.place} {first.what}: {first.details[0]}", style="bold red")
