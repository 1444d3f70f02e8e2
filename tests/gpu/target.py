"""The bare GPU machine that the bundle is made for: x86-64, glibc 2.39, Python 3.12 and some packages."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name

PYTHON = (3, 12)
GLIBC_MINOR = 39
PROVIDED = Path(__file__).with_name("provided.txt")
# Part of the C library, or of the compiler's that torch itself needs: always the target's own.
SYSTEM_LIBRARIES = re.compile(
    r"(ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libutil|libstdc\+\+|libgcc_s)\.so\.\d+"
)
MARKERS = {
    "implementation_name": "cpython",
    "implementation_version": "3.12.3",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "python_full_version": "3.12.3",
    "python_version": "3.12",
    "sys_platform": "linux",
}


def platforms() -> list[str]:
    """Return the platform tags whose wheels load there."""
    old = ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    return [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)] + old


def tags() -> frozenset[Tag]:
    """Return the tags of the wheels that its pip installs."""
    own = cpython_tags(PYTHON, platforms=platforms())
    return frozenset([*own, *compatible_tags(PYTHON, "cp312", platforms=platforms())])


def provided() -> frozenset[str]:
    """Return the canonical names of the packages that it has."""
    lines = PROVIDED.read_text().splitlines()
    return frozenset(canonicalize_name(line) for line in lines if line and not line.startswith("#"))


def needs(lines: list[str], extras: frozenset[str]) -> list[Requirement]:
    """Return those of a package's requirements that hold there, with these extras of the package wanted."""
    requirements = [Requirement(line) for line in lines]
    return [wanted for wanted in requirements if _holds(wanted, extras)]


def _holds(wanted: Requirement, extras: frozenset[str]) -> bool:
    marker = wanted.marker
    return marker is None or any(marker.evaluate({**MARKERS, "extra": extra}) for extra in ("", *extras))
