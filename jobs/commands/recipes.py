"""`distlth recipes`: the job files that come with distlth, what each reproduces, and what it costs."""

from __future__ import annotations

import argparse

from jobs.arguments import RECIPES, Commands


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "recipes",
        help="the job files that come along, and what each costs",
        description="List the job files that come along: `distlth run NAME` runs one, data.path=DIR gives it "
        "the data. With a name, print the file.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one")
    parser.set_defaults(command=_recipes)


def _recipes(options: argparse.Namespace) -> int:
    from distlth.errors import UserError
    from distlth.report.console import recipes_table, show

    files = {path.stem: path.read_text() for path in sorted(RECIPES.glob("*.yaml"))}
    if options.name is None:
        show(recipes_table({name: head(text) for name, text in files.items()}))
        return 0
    if options.name not in files:
        raise UserError(f"{options.name}: no such recipe; there are {', '.join(files)}")
    print(files[options.name], end="")
    return 0


def head(text: str) -> dict[str, str]:
    """Return what the comment at the head of a recipe says: `reproduces`, `differs`, `costs`, each a text."""
    found: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        word, colon, rest = line[2:].partition(": ")
        if colon and word in ("reproduces", "differs", "costs", "build the data first"):
            key, found[word] = word, rest
        elif key:
            found[key] += f" {line[2:]}"
    return found
