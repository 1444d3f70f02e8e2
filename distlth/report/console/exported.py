"""What an export wrote: the network before and after, and how exactly it is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distlth.report.console.layout import new_table
from distlth.report.text import count, percent

if TYPE_CHECKING:  # torch, which a login node should not have to load
    from distlth.export.export import Exported
    from distlth.export.masked import Masked

# The number of layers that are named of those that keep channels they could do without.
SHOWN_LAYERS = 5


def exported_view(exported: Exported) -> Group:
    """Draw a table of sizes, what could not be removed, and the differences of the logits."""
    lines = [*_whole(exported), _differences(exported)]
    if not exported.removed:
        lines.insert(0, f"nothing to slim: ticket {exported.ticket} removes no channels; its zeros are kept")
    return Group(_sizes(exported), *map(Text, lines), Text(f"wrote {exported.path}", style="green"))


def masked_view(masked: Masked) -> Text:
    """Return a line about a file of masks."""
    return Text(
        f"wrote {masked.path}: {masked.layers} masked layers, {percent(masked.density)} of their weights, "
        f"{_mebibytes(masked.file_bytes)}",
        style="green",
    )


def _sizes(exported: Exported) -> Table:
    before, after = exported.before, exported.after
    table = new_table((exported.ticket, "before", "after", "left"))
    for name, old, new, shown in (
        ("parameters", before.parameters, after.parameters, count),
        ("MACs", before.macs, after.macs, count),
        ("alive MACs", before.macs, exported.alive_macs, count),
        ("file", before.file_bytes, after.file_bytes, _mebibytes),
    ):
        if new is not None:
            table.add_row(name, shown(old), shown(new), percent(new / old, 1))
    return table


def _mebibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.2f} MiB"


def _whole(exported: Exported) -> list[str]:
    shown = exported.whole[:SHOWN_LAYERS]
    lines = [f"{found.layer} keeps {found.channels} channels of zeros: {found.reason}" for found in shown]
    more = len(exported.whole) - len(shown)
    return [*lines, f"and {more} more layers"] if more else lines


def _differences(exported: Exported) -> str:
    line = f"largest difference of a logit, over the largest logit: {exported.difference:.1e}"
    if exported.file_difference is None:
        return f"{line}; the file was not run, nothing here runs it"
    return f"{line}; of the file {exported.file_difference:.1e}"
