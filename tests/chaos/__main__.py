"""Kill runs at random points, many times, and check that they end with the same bits: python -m tests.chaos.

Ctrl-C ends the campaign and prints the results so far.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.campaign import EVERY_STEPS, Campaign, report


def main() -> int:
    """Run the campaign; return 0 when every run recovered and ended with the same bits."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many faults")
    parser.add_argument("--seed", type=int, default=0, help="of the faults; their timing is not reproducible")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--folder", type=Path, help="working folder, kept afterwards; must be new")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background processes ignore it
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of each restart
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    campaign = Campaign(
        folder.absolute(),
        random.Random(options.seed),
        options.kills,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    try:
        campaign.run()
    except KeyboardInterrupt:
        campaign.say("interrupted; what was found so far:")
    document = report(campaign)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        show(document)
    if options.folder is None and not campaign.lost:
        shutil.rmtree(folder)
    return 1 if campaign.lost else 0


def show(document: dict[str, object]) -> None:
    """Print the table of faults, and what was lost."""
    table = Table(title=f"faults; a checkpoint every {EVERY_STEPS} steps")
    rows: list[dict[str, object]] = document["rows"]  # type: ignore[assignment]
    for name in rows[0]:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()))
    console = Console(width=160)
    console.print(table)
    for line in document["lost"]:  # type: ignore[attr-defined]
        console.print(f"LOST {line}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
