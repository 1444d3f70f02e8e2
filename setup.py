"""Build what is in C++, each a shared library behind a C interface. pyproject.toml has all the rest."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# The folders with sources, and the libraries that they make there.
LIBRARIES = {"distlth/execute/cpu": "_engine", "distlth/data/jpeg": "_jpeg"}
# Each instruction set has files of its own; the libraries ask the processor which they may call.
INSTRUCTIONS = {
    "avx2.cpp": ["-mavx2", "-mfma"],
    # GCC takes the undefined vectors of its own header for a mistake.
    "avx512.cpp": ["-mavx512f", "-mavx512vl", "-mfma", "-Wno-uninitialized", "-Wno-maybe-uninitialized"],
    "decode_avx2.cpp": ["-mavx2", "-mbmi", "-mbmi2"],
    "kernels_avx2.cpp": ["-mavx2", "-mbmi2"],
}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


class BuildLibraries(build_ext):
    """Compile with each file's own flags, and say in a line what a machine without a compiler needs."""

    def finalize_options(self) -> None:
        """Build the libraries side by side."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = True

    def build_extensions(self) -> None:
        """Compile and link the libraries."""
        compiler: Any = self.compiler
        compile_file = compiler._compile

        def compile_with_flags(
            obj: str, source: str, extension: str, cc_args: Any, extra: list[str], pp_opts: Any
        ) -> None:
            own = INSTRUCTIONS.get(Path(source).name, []) if IS_X86 else []
            compile_file(obj, source, extension, cc_args, [*extra, *own], pp_opts)

        compiler._compile = compile_with_flags
        try:
            super().build_extensions()
        except CompileError as error:
            line = f"distlth needs a C++20 compiler (g++ 11 or later): {error}"
            raise SystemExit(line) from error


def library(folder: Path, name: str) -> Extension:
    """Return the library of all C++ files of a folder."""
    return Extension(
        ".".join([*folder.parts, name]),
        sources=sorted(str(path) for path in folder.glob("*.cpp")),
        depends=sorted(str(path) for path in folder.glob("*.h")),
        language="c++",
        extra_compile_args=["-std=c++20", "-O3", "-g0", "-Wall", "-pthread"],
        extra_link_args=["-pthread", "-ldl"],
    )


setup(
    ext_modules=[library(Path(folder), name) for folder, name in LIBRARIES.items()],
    cmdclass={"build_ext": BuildLibraries},
)
