"""The image: pinned, unprivileged, small to rebuild, and no step that the set-up script does not cover.

It cannot be built where these tests run; what the steps do is tested by the set-up that came before them.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETUP = "bash cluster/setup.sh"

# Of coreutils and the like, and what they change is the image's own.
TRIVIAL = re.compile(
    r"(mkdir|touch|useradd|install --directory|[./\w]*python -m compileall) .*|rm -rf /var/lib/apt/lists/\*"
    r"|apt-get (update|install -y --no-install-recommends [a-z -]+)"
)


def steps() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def of(instruction: str) -> list[str]:
    return [arguments for name, arguments in steps() if name == instruction]


def test_the_base_is_pinned_to_a_point_release() -> None:
    (base,) = of("FROM")
    assert re.fullmatch(r"debian:\d+\.\d+-slim(@sha256:[0-9a-f]{64})?", base)


def test_each_step_is_the_set_up_or_trivial() -> None:
    commands = [command.strip() for run in of("RUN") for command in run.split("&&")]
    rest = [c for c in commands if not c.removeprefix("PIP_NO_CACHE_DIR=1 ").startswith(SETUP)]
    assert len(rest) < len(commands)
    assert [command for command in rest if not TRIVIAL.fullmatch(command)] == []
    assert {name for name, _ in steps()} <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT"}


def test_it_runs_the_command_as_an_ordinary_user() -> None:
    assert of("ENTRYPOINT") == ['["distlth"]']
    (user,) = of("USER")
    assert user not in ("root", "0")
    assert [name for name, _ in steps()].index("USER") > max(
        i for i, s in enumerate(steps()) if s[0] == "RUN"
    )


def test_the_environment_is_a_layer_that_code_does_not_change() -> None:
    first_setup = next(i for i, (name, what) in enumerate(steps()) if name == "RUN" and SETUP in what)
    copied = [what.split()[:-1] for name, what in steps()[:first_setup] if name == "COPY"]
    files = {file for names in copied for file in names}
    script = (ROOT / "cluster" / "setup.sh").read_text()
    (fingerprint,) = re.findall(r"cat (pyproject.*?);", script)
    assert all(any(part.startswith(file) for file in files) for part in fingerprint.split())
    assert files.isdisjoint({".", "distlth", "jobs", "cluster"})


def test_the_docs_name_python_where_it_is() -> None:
    (folder,) = of("WORKDIR")
    named = re.findall(r"\S*\.venv/bin/python", (ROOT / "docs" / "cluster.md").read_text())
    assert [path for path in named if path.startswith("/")] == [f"{folder}/.venv/bin/python"] * 2


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for file in {file for copied in of("COPY") for file in copied.split()[:-1]}:
        assert (ROOT / file).exists(), file
        assert not [pattern for pattern in ignored if fnmatch.fnmatch(file, pattern.removeprefix("/"))]
    assert {".git", ".venv", "/data", "/runs", "**/__pycache__"} <= set(ignored)


def test_an_install_before_the_code_finds_the_code(tmp_path: Path) -> None:
    """As the layers go: first the set-up with empty packages, then the code is copied over them."""
    app, site = tmp_path / "app", tmp_path / "site"
    for file in ("pyproject.toml", "LICENSE"):
        app.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, app)
    (touched,) = re.findall(r"touch (.*?) &&", " ".join(of("RUN")))
    for file in touched.split():
        (app / file).parent.mkdir(exist_ok=True)
        (app / file).touch()
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--prefix", str(site)]
    install.append("--ignore-installed")  # else pip would remove the distlth that is tested
    subprocess.run([sys.executable, "-m", "pip", *install, "-e", app], check=True, capture_output=True)
    for package in ("cluster", "distlth", "jobs"):
        (app / package / "__init__.py").write_text(f"NAME = {package!r}\n")
        (app / package / "late.py").write_text("")
    (folder,) = site.glob("lib/python*/site-packages")
    code = f"import site; site.addsitedir({str(folder)!r})\n" + "".join(
        f"import {package}.late; assert {package}.NAME; print({package}.__file__)\n"
        for package in ("cluster", "distlth", "jobs")
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env={}
    )
    assert {Path(line).parent.parent for line in done.stdout.splitlines()} == {app}
    assert list(site.glob("bin/distlth"))
