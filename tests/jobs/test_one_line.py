"""Whatever is wrong with a file or folder, a command ends with 2 and one line, by real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distlth.cores import num_cores

ROOT = Path(__file__).parent.parent.parent

# root may read and write everything; a process without these capabilities may not.
POWERS = "-dac_override,-dac_read_search"
PLAIN = ("setpriv", f"--bounding-set={POWERS}", f"--inh-caps={POWERS}") if os.getuid() == 0 else ()

CASES = (
    *("status closed", "status closed/x", "status --runs closed", "report closed", "compare closed closed"),
    *("logs closed", "tensorboard --runs closed", "run closed/x.yaml", "status --runs file", "report file"),
    *("run no-utf8.yaml", "run empty.yaml", "run none.yaml", "status none", "report none", "logs none"),
    *(
        "status broken-yaml",
        "report broken-yaml",
        "status broken-json",
        "logs broken-json",
        "cancel broken-json",
    ),
    *("status no-utf8", "logs no-utf8", "report no-utf8", "status empty", "run \udcff.yaml", "report \udcff"),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    (folder / "closed").mkdir(mode=0o000)
    contents = {
        "file": b"x",
        "no-utf8.yaml": b"\xff",
        "empty.yaml": b"",
        "broken-yaml/job.yaml": b"a: [",
        "broken-json/submission.json": b"{",
        "no-utf8/job.yaml": b"\xff",
        "no-utf8/submission.json": b"\xff",
        "empty/job.yaml": b"",
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.skipif(bool(PLAIN) and shutil.which("setpriv") is None, reason="root, and no setpriv")
def test_every_wrong_place_gets_one_line(places: Path) -> None:
    def run(case: str) -> subprocess.CompletedProcess[bytes]:
        command = [*PLAIN, sys.executable, "-m", "jobs.cli", *case.split(" ")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LANG": "C", "LC_ALL": "C", "HOME": str(places)}
        return subprocess.run(command, env=environment, cwd=places, capture_output=True, check=False)

    with ThreadPoolExecutor(num_cores()) as pool:
        for case, ended in zip(CASES, pool.map(run, CASES), strict=True):
            lines = ended.stderr.decode("ascii", "replace").splitlines()
            assert (case, ended.returncode, len(lines)) == (case, 2, 1), lines
            assert lines[0].startswith("error: ")
