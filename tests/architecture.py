"""The rooms of the code and who imports whom, read from imports: python -m tests.architecture draws it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"

# From values to effects: each room may import itself and the rooms before it, no other.
ROOMS = (
    "distlth.errors",
    "distlth.options",
    "distlth.cores",
    "distlth.memory",
    "distlth.kernels",
    "distlth.process",
    "distlth.files",
    "distlth.lock",
    "distlth.prune",
    "distlth.ticket",
    "distlth.methods",
    "distlth.config",
    "distlth.plan",
    "distlth.imp",
    "distlth.models",
    "distlth.slim",
    "distlth.execute",
    "distlth.data",
    "distlth.run",
    "distlth.foreign",
    "distlth.transfer",
    "distlth.preflight",
    "distlth.export",
    "distlth.maker",
    "distlth.train",
    "distlth.experiment",
    "distlth.facts",
    "distlth.report",
    "distlth.bench",
    "cluster.runtime",
    "cluster.slurm",
    "cluster.bench",
    "jobs",
)

Edges = Mapping[str, set[str]]


def room_of(module: str) -> str | None:
    """Return the room that a module belongs to; None for what is none of ours, and for a bare package."""
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), None)


def modules() -> Iterator[tuple[str, Path]]:
    """Iterate over our modules: dotted name and file."""
    for layer in ("distlth", "cluster", "jobs"):
        for path in sorted((ROOT / layer).rglob("*.py")):
            yield dotted(path.relative_to(ROOT).as_posix()), path


def dotted(file: str) -> str:
    """Return the module's name of a file's path from the root on."""
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(file: str, source: str) -> Iterator[tuple[int, str]]:
    """Iterate over (line, name) of all that a file imports, wherever; `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{_absolute(file, node)}.{alias.name}") for alias in node.names)


def _absolute(file: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = file.split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def edges() -> Edges:
    """Return which rooms each room imports."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, path in modules():
        room = room_of(module)
        for _, name in imports(path.relative_to(ROOT).as_posix(), path.read_text()):
            other = room_of(name)
            if room and other and other != room:
                found[room].add(other)
    return found


# -- drawing ------------------------------------------------------------------------------------------

WIDTH, BOX, GAP, FLOOR, MARGIN = 1100, 172, 18, 96, 24
TINTS = {"distlth": "#dbe9f6", "cluster": "#fde5cc", "jobs": "#dff0d8"}
INK, MUTED = "#1f2933", "#7b8794"


def floors(graph: Edges) -> list[list[str]]:
    """Return the rooms by floor, from the ground up: each stands above all that it imports."""
    height: dict[str, int] = {}
    for room in ROOMS:
        height[room] = 1 + max((height[other] for other in graph[room]), default=-1)
    levels = [[room for room in ROOMS if height[room] == floor] for floor in range(max(height.values()) + 1)]
    return _uncrossed(levels, reduced(graph))


def _uncrossed(levels: list[list[str]], graph: Edges) -> list[list[str]]:
    """Order each floor by where its rooms' neighbours stand, so that few arrows cross."""
    place = {room: index - len(level) / 2 for level in levels for index, room in enumerate(level)}
    near = {room: [*graph[room], *(other for other in ROOMS if room in graph[other])] for room in ROOMS}
    for _ in range(20):
        for index, level in enumerate(levels):
            middle = {room: sum(place[other] for other in near[room]) / len(near[room]) for room in level}
            levels[index] = sorted(level, key=lambda room, middle=middle: (middle[room], room))  # type: ignore[misc]
            place.update({room: spot - len(level) / 2 for spot, room in enumerate(levels[index])})
    return levels


def reduced(graph: Edges) -> Edges:
    """Return the graph without the arrows that follow from others."""
    reach: dict[str, set[str]] = {}
    for room in ROOMS:
        reach[room] = graph[room].union(*(reach[other] for other in graph[room]))
    return {
        room: {other for other in graph[room] if not any(other in reach[via] for via in graph[room])}
        for room in ROOMS
    }


def purpose(room: str) -> str:
    """Return the first words of a room's docstring."""
    path = ROOT / room.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = (ast.get_docstring(ast.parse(source.read_text())) or "").splitlines()[0]
    return text.partition(":")[0].partition(";")[0].partition(". ")[0].rstrip(".")


def draw() -> str:
    """Return the picture as SVG."""
    graph = edges()
    levels = floors(graph)
    height = len(levels) * FLOOR + 2 * MARGIN
    places = {
        room: (
            (WIDTH - len(level) * (BOX + GAP) + GAP) / 2 + index * (BOX + GAP),
            height - (floor + 1) * FLOOR,
        )
        for floor, level in enumerate(levels)
        for index, room in enumerate(level)
    }
    lines = [line for room, others in reduced(graph).items() for line in _arrows(room, others, places)]
    boxes = [_box(room, *place) for room, place in places.items()]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    )
    return "\n".join([head, *lines, *boxes, "</svg>", ""])


def _arrows(room: str, others: set[str], places: Mapping[str, tuple[float, float]]) -> list[str]:
    x, y = places[room]
    return [
        f'<line x1="{x + BOX / 2:.0f}" y1="{y + 62:.0f}" x2="{places[other][0] + BOX / 2:.0f}" '
        f'y2="{places[other][1]:.0f}" stroke="{MUTED}" stroke-width="1.2" opacity="0.7"/>'
        for other in sorted(others)
    ]


def _box(room: str, x: float, y: float) -> str:
    tint = TINTS[room.partition(".")[0]]
    name = room.removeprefix("distlth.")
    words = [
        f'<text x="{x + BOX / 2:.0f}" y="{y + 34 + 12 * index:.0f}" font-size="10" fill="{MUTED}" '
        f'text-anchor="middle">{escape(line)}</text>'
        for index, line in enumerate(_wrapped(purpose(room))[:3])
    ]
    return "\n".join(
        [
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX}" height="62" rx="8" fill="{tint}" stroke="white"/>',
            f'<text x="{x + BOX / 2:.0f}" y="{y + 18:.0f}" font-size="14" fill="{INK}" font-weight="bold" '
            f'text-anchor="middle">{escape(name)}</text>',
            *words,
        ]
    )


def _wrapped(text: str, width: int = 32) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    PICTURE.write_text(draw())
