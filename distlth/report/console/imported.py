"""What an import found: the layers by both names, what the files say, and how to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from distlth.report.console.layout import new_table
from distlth.report.text import count, percent

if TYPE_CHECKING:  # torch, which a login node should not have to load
    from distlth.foreign.fit import Fitted
    from distlth.foreign.importing import Imported


def imported_view(imported: Imported) -> Group:
    """Draw the mapping of the layers, a row for each round, notes, and the next command."""
    config = imported.config
    lines = [
        f"{config.model.name}, stem {config.model.stem}, {imported.num_classes} classes, scope "
        f"{config.prune.scope}; tickets train from {imported.early}",
        *(f"note: {note}" for note in imported.notes),
    ]
    last = imported.rounds[max(imported.rounds)]
    made = Text(f"wrote {imported.run.root}; train its tickets with: distlth run {imported.run.imported_job}")
    made.stylize("green")
    return Group(_layers(last), _rounds(imported), *map(Text, lines), made)


def _layers(found: Fitted) -> Table:
    """Draw which layer of the file is which of ours, and how much of it the last round keeps."""
    from distlth.prune.mask import weight_name

    table = new_table(("layer of the file", "is"), ("shape", "kept"), title=f"By {found.names.dialect}")
    densities = found.mask.layer_density()
    for layer, shape in found.mask.shapes.items():
        theirs = found.names.theirs[weight_name(layer)].removesuffix(".weight")
        table.add_row(theirs, layer, " x ".join(map(str, shape)), percent(densities[layer]))
    return table


def _rounds(imported: Imported) -> Table:
    table = new_table(("round", "file"), ("density", "kept", "top-1, it says", "epochs, it says"))
    for number, each in imported.rounds.items():
        stated = each.checkpoint.stated
        table.add_row(
            f"{number:02d}",
            str(each.checkpoint.path),
            percent(each.mask.density),
            count(each.mask.kept),
            percent(stated.top1),
            "–" if stated.epochs is None else str(stated.epochs),
        )
    return table
