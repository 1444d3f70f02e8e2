"""What the documents show is true: commands are valid, the quick start runs, the reference is the code's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distlth.config.documents import parse_yaml
from distlth.config.read import load_config, parse_cluster
from distlth.config.reference import reference
from jobs.cli import parse
from jobs.request import requested

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    """Every line of every ```bash block."""
    blocks = [
        block for path in DOCUMENTS for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.S)
    ]
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_readme_has_both_commands() -> None:
    assert {"bash jobs/quickstart.sh", "bash tests/run.sh"} <= set(commands())


@pytest.mark.parametrize("line", sorted({line for line in commands() if line.startswith("distlth ")}))
def test_a_distlth_command_is_valid(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(ROOT / "docs"))
    check(shlex.split(line)[1:])


def check(arguments: list[str]) -> None:
    """The arguments of a distlth command are understood, and make a config where they name a job file."""
    options = parse(arguments)
    if hasattr(options, "seeds"):
        assert requested(options)
    elif hasattr(options, "job"):
        load_config(options.job, options.overrides)


@pytest.mark.parametrize("line", sorted({line for line in commands() if not line.startswith("distlth ")}))
def test_any_other_command_is_there(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program in ("bash", "tensorboard", "docker", "apptainer", "enroot", "ray", "srun", "sbatch", "ssh")
    if program == "bash":
        assert (ROOT / arguments[0]).is_file()
    if program == "sbatch":
        check(shlex.split(arguments[arguments.index("--wrap") + 1])[1:])
    if program == "ray":
        parse(arguments[arguments.index("--") + 2 :])


def snippets() -> list[str]:
    """Every ```yaml block."""
    return [block for path in DOCUMENTS for block in re.findall(r"```yaml\n(.*?)```", path.read_text(), re.S)]


def is_manifest(text: str) -> bool:
    """Whether a ```yaml block is for Kubernetes."""
    return text.startswith("apiVersion:")


@pytest.mark.parametrize("text", [text for text in snippets() if not is_manifest(text)])
def test_a_piece_of_a_job_file_is_valid(text: str) -> None:
    document = parse_yaml(text)
    assert parse_cluster(document.get("cluster", document), "snippet")


def test_the_manifest_is_what_kuberay_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = filter(is_manifest, snippets())
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    monkeypatch.chdir(ROOT)
    check(shlex.split(job["spec"]["entrypoint"])[1:])
    cluster = job["spec"]["rayClusterSpec"]
    pins = (ROOT / "cluster" / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert {"groupName", "replicas", "minReplicas", "maxReplicas"} <= workers.keys()
    ranks = re.findall(r"cluster\.workers=(\d+)", job["spec"]["entrypoint"])
    pods = [group["template"]["spec"] for group in (head, workers) if group["rayStartParams"] is not None]
    (first,), (other,) = [pod["containers"] for pod in pods]
    assert ranks == [str(workers["replicas"] * int(other["resources"]["limits"]["nvidia.com/gpu"]))]
    for key in ("image", "volumeMounts", "workingDir"):  # the same code and files at the same paths
        assert first[key] == other[key]
    for pod in pods:
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_every_command_has_an_example_or_is_named() -> None:
    shown = "\n".join(commands())
    for command in (
        "run",
        "submit",
        "status",
        "logs",
        "cancel",
        "resume",
        "tensorboard",
        "compare",
        "report",
        "export",
        "import",
        "plan",
        "recipes",
        "data build",
        "data adopt",
        "predict",
    ):
        assert f"distlth {command}" in shown


def test_links_and_pictures_exist() -> None:
    for path in DOCUMENTS:
        targets = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
        assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_reference_of_the_job_file_is_the_codes() -> None:
    assert (ROOT / "docs" / "job-file.md").read_text() == reference()


def test_the_quick_start_runs_from_anywhere(tmp_path: Path) -> None:
    """The script itself, with a run made small; it is called twice, the second time with everything done."""
    small = ["train.epochs=1", "train.schedule.warmup_epochs=0", "prune.rewind_epoch=0", "prune.rounds=1"]
    small += ["data.resolution=8", "train.batch_size=240"]
    script = ["bash", str(ROOT / "jobs" / "quickstart.sh"), *small, f"runs={tmp_path}"]
    environment = {**os.environ, "VENV": sys.prefix}
    for _ in range(2):
        done = subprocess.run(
            script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        table = done.stdout[done.stdout.index("results") :]
        assert len(re.findall(r"(imp|refill|regroup) +\d+\.\d+%", table)) == 4
    assert (tmp_path / "quickstart" / "report" / "accuracy.png").exists()
