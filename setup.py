"""Build the CPU engine: C++ behind a C interface, a shared library. pyproject.toml has all the rest."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ENGINE = Path("distlth/execute/cpu")
# Each instruction set has a file of its own; the engine asks the processor which it may call.
INSTRUCTIONS = {
    "avx2.cpp": ["-mavx2", "-mfma"],
    # GCC takes the undefined vectors of its own header for a mistake.
    "avx512.cpp": ["-mavx512f", "-mavx512vl", "-mfma", "-Wno-uninitialized", "-Wno-maybe-uninitialized"],
}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


class BuildEngine(build_ext):
    """Compile with each file's own flags, and say in a line what a machine without a compiler needs."""

    def build_extensions(self) -> None:
        """Compile and link the engine."""
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
            line = f"distlth's CPU engine needs a C++20 compiler (g++ 11 or later): {error}"
            raise SystemExit(line) from error


setup(
    ext_modules=[
        Extension(
            "distlth.execute.cpu._engine",
            sources=sorted(str(path) for path in ENGINE.glob("*.cpp")),
            depends=sorted(str(path) for path in ENGINE.glob("*.h")),
            language="c++",
            extra_compile_args=["-std=c++20", "-O3", "-g0", "-Wall", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": BuildEngine},
)
