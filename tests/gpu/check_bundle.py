"""Check a bundle against the machine that it is made for: python -m tests.gpu.check_bundle PART."""

from __future__ import annotations

import lzma
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from io import BytesIO
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from tests.gpu.target import SYSTEM_LIBRARIES, needs, provided, tags

MOST_BYTES = 60 << 20
LINE = re.compile(r"^\s*(?P<name>\S+) => (?P<path>.+?)(?: \(0x[0-9a-f]+\))?$", re.M)
UNDEFINED = re.compile(r"^(?:undefined symbol: (?P<symbol>\S+)|(?P<version>.*version .* not found.*))", re.M)
PYTHON_SYMBOL = re.compile(r"_?Py")


@dataclass(frozen=True)
class Wheel:
    """A wheel of the bundle, out of its xz where it has one."""

    file: str
    content: bytes

    @property
    def name(self) -> str:
        """Return the package's canonical name."""
        return parse_wheel_filename(self.file)[0]

    @property
    def version(self) -> Version:
        """Return the package's version."""
        return parse_wheel_filename(self.file)[1]

    def requirements(self) -> list[str]:
        """Return the packages that it says it needs, with markers and extras as written."""
        with zipfile.ZipFile(BytesIO(self.content)) as archive:
            (about,) = (
                name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)
            )
            return message_from_bytes(archive.read(about)).get_all("Requires-Dist", [])

    def fits(self) -> bool:
        """Return whether the target's pip installs it."""
        return bool(parse_wheel_filename(self.file)[3] & tags())

    def extract(self, folder: Path) -> None:
        """Unpack its files."""
        with zipfile.ZipFile(BytesIO(self.content)) as archive:
            archive.extractall(folder)


def wheels(part: Path) -> list[Wheel]:
    """Return the wheels of a bundle's folder."""
    plain = [Wheel(file.name, file.read_bytes()) for file in sorted(part.glob("*.whl"))]
    packed = [Wheel(file.stem, lzma.decompress(file.read_bytes())) for file in sorted(part.glob("*.whl.xz"))]
    return plain + packed


def problems(part: Path) -> Iterator[str]:
    """Yield a line for each thing that keeps the bundle from travelling to the target and working there."""
    size = sum(file.stat().st_size for file in part.iterdir())
    if size > MOST_BYTES:
        yield f"{size / 2**20:.1f} MiB, above {MOST_BYTES >> 20}: leave out more in tests/gpu/bundle.py"
    found = wheels(part)
    yield from (f"{wheel.file}: no tag of it fits the target" for wheel in found if not wheel.fits())
    yield from (f"{wheel.file}: the target has its own" for wheel in found if wheel.name in provided())
    yield from unmet(found)
    with tempfile.TemporaryDirectory(prefix="distlth-bundle-") as folder:
        for wheel in found:
            wheel.extract(Path(folder))
        yield from unresolved(Path(folder))


def unmet(found: list[Wheel]) -> Iterator[str]:
    """Yield a line for each need of distlth, direct or not, that neither bundle nor target meets."""
    by_name = {wheel.name: wheel for wheel in found}
    left, seen = [Requirement("distlth")], set[str]()
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if str(wanted) in seen or name in provided():
            continue
        seen.add(str(wanted))
        wheel = by_name.get(name)
        if wheel is None or wheel.version not in wanted.specifier:
            yield f"{wanted}: in neither the bundle nor tests/gpu/provided.txt"
        else:
            left += needs(wheel.requirements(), frozenset(wanted.extras))


def unresolved(site: Path) -> Iterator[str]:
    """Yield a line for each library or symbol that a file under `site` lacks or takes from elsewhere."""
    for file in sorted(site.rglob("*")):
        if file.is_file() and _is_linked(file):
            yield from (f"{file.relative_to(site)}: {wrong}" for wrong in _wrong_links(file, site))


def _is_linked(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _wrong_links(file: Path, site: Path) -> Iterator[str]:
    """Yield what the dynamic linker cannot find for a file with nothing in the environment to help it."""
    done = subprocess.run(["/usr/bin/ldd", "-r", file], env={}, capture_output=True, text=True, check=False)
    for link in LINE.finditer(done.stdout):
        inside = Path(link["path"]).is_relative_to(site)
        if not inside and not SYSTEM_LIBRARIES.fullmatch(link["name"]):
            yield f"{link['name']}: {link['path']}"
    for lack in UNDEFINED.finditer(done.stdout + done.stderr):
        if not PYTHON_SYMBOL.match(lack["symbol"] or ""):  # the interpreter has those
            yield lack[0]


def main(part: Path) -> int:
    """Print what is wrong with a bundle; return 1 if anything is."""
    found = list(problems(part))
    for line in found:
        print(f"gpu-bundle: {line}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
