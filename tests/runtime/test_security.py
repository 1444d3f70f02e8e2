"""Names cannot leave their folder, files and names run no code, nobody else gets into a session of Ray."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.slurm.batch import Batch, sbatch_text
from distlth.config.read import parse_config
from distlth.config.schema import RunConfig
from distlth.errors import ConfigError
from distlth.plan import plan
from distlth.run.paths import RunPaths
from tests.architecture import ROOT
from tests.facts.test_compare import make_run
from tests.test_architecture import LAYERS

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", re.ASCII)
HOSTILE = ["..", "../up", "/etc/passwd", "a/../../b", "a\n", "a\nb", "a\0", "-rf", "--out=x", "$(id)", "`id`"]
HOSTILE += ["a;b", "~", "a b", "ａ", "é", "\u202ea", "a\u0000", ".hidden", "", "a/b", "a\\b", "C:x", "con\t"]
NAMES = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=80), st.from_regex(r"[./a-z\n-]{1,9}"))
FILES = ["mask.safetensors", "result.json", "Result.json", "metrics.jsonl", "weights.safetensors"]


def parse(**changes: Any) -> RunConfig | None:
    """Return the config, None where it is refused; any other error fails the test."""
    document: dict[str, Any] = {
        "name": "tiny",
        "data": {"path": "data"},
        "model": {"name": "resnet20"},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.1},
        "prune": {"rounds": 1},
    }
    try:
        return parse_config({**document, **changes}, "test")
    except ConfigError:
        return None


class TestNames:
    @given(NAMES)
    @example("a..b")
    @example("x" * 65)
    def test_a_run_lies_in_the_folder_of_runs(self, name: str) -> None:
        config = parse(name=name)
        if config is None:
            assert not re.fullmatch(r"[a-z0-9]{1,64}", name)
            return
        assert PLAIN.fullmatch(config.name)
        root = (Path("runs") / config.name).absolute()
        assert Path(os.path.normpath(root)).parent == Path("runs").absolute()

    @given(NAMES)
    @example("..")
    def test_a_branch_lies_in_its_round(self, name: str) -> None:
        config = parse(prune={"rounds": 1, "branches": [{"method": "refill", "name": name}]})
        if config is None:
            assert not re.fullmatch(r"[a-z0-9]{1,64}", name)
            return
        run = RunPaths(Path("runs/tiny").absolute())
        branch = plan(config)[-1].id
        assert PLAIN.fullmatch(branch.removeprefix("01/"))
        for path, parent in (
            (run.job(branch).root, run.job("01").root),
            (run.checkpoints(branch), run.all_checkpoints),
        ):
            assert Path(os.path.normpath(path)).parent == parent

    @pytest.mark.parametrize("name", FILES)
    def test_a_branch_is_not_called_like_a_file_of_its_round(self, name: str) -> None:
        assert parse(prune={"rounds": 1, "branches": [{"method": "refill", "name": name}]}) is None

    @given(st.one_of(NAMES, NAMES.map("01/{}".format)))
    @example("00/..")
    @example("01/a\n")
    @example("٠١")
    def test_a_job_lies_in_its_run(self, job_id: str) -> None:
        run = RunPaths(Path("runs/tiny").absolute())
        try:
            root = run.job(job_id).root
        except ValueError:
            with pytest.raises(ValueError, match="not the name of a job"):
                run.checkpoint(job_id, 1)
            return
        assert Path(os.path.normpath(root)).is_relative_to(run.root / "rounds")
        assert Path(os.path.normpath(root)) == root
        assert "\n" not in job_id

    @given(NAMES)
    def test_a_model_is_only_ever_a_name(self, name: str) -> None:
        config = parse(model={"name": name})
        assert config is None or PLAIN.fullmatch(config.model.name)


VALUES = st.one_of(NAMES, st.text(max_size=40), st.from_regex(r"[ -~\n]{1,20}"))
SHELL = ["a\nrm -rf ~", "'; touch hacked; '", '$(touch hacked) `id` \\" #', "a & b | c > d", "-x", "\t", "\r"]


def script(folder: str = "/runs", **slurm: Any) -> list[str] | None:
    """Return the lines of a run's batch script, None where it is refused."""
    config = parse(cluster={"slurm": {"python": "python", **slurm}})
    if config is None:
        return None
    try:
        text = sbatch_text(Batch(config.name, (config,), Path(folder), Path("/here")))
    except ConfigError:
        return None
    return text.split("\n")


def srun(lines: list[str]) -> list[str]:
    """Return the words of the command that starts the tasks, which is on one line."""
    (line,) = [line for line in lines if line.startswith("srun ")]
    *words, otherwise, code = shlex.split(line)
    assert (otherwise, code) == ("||", "code=$?")
    return words


class TestBatchScript:
    """A batch script is shell: values that are not meant as shell stay one word in it, or are refused."""

    @given(st.one_of(st.sampled_from(SHELL), VALUES), st.sampled_from(["comment", "account", "nodelist"]))
    def test_a_value_stays_on_its_line(self, value: str, key: str) -> None:
        lines, plain = script(**{key: value}), script(**{key: "x"})
        if lines is None:
            return
        place = (plain or []).index(f"#SBATCH --{key}=x")
        assert lines.pop(place) == f"#SBATCH --{key}={shlex.quote(value)}"
        assert lines == [line for index, line in enumerate(plain or []) if index != place]

    @given(VALUES, st.one_of(st.sampled_from(SHELL), VALUES))
    @example("mail-user", "a\nb")
    @example("a\n", "b")
    def test_a_further_parameter_is_one_line(self, key: str, value: str) -> None:
        lines, plain = script(extra={key: value}), script() or []
        if lines is not None:
            added = [line for line in lines if line not in plain]
            assert added == [f"#SBATCH --{key.replace('_', '-')}={shlex.quote(value)}"]

    @given(st.one_of(st.sampled_from(SHELL), VALUES))
    def test_an_argument_of_srun_is_one_word(self, value: str) -> None:
        lines = script(srun_args=[value])
        if lines is not None:
            assert srun(lines)[-7:-1] == [value, "python", "-P", "-u", "-m", "submitit.core._submit"]

    @given(st.one_of(st.sampled_from(SHELL), VALUES).map("/runs/{}".format))
    def test_a_folder_is_one_word(self, folder: str) -> None:
        lines = script(folder)
        if lines is not None:
            assert len(lines) == len(script() or [])
            assert srun(lines)[-1] == str(Path(folder))

    def test_set_up_lines_are_shell_as_they_are(self) -> None:
        assert "module load $MODULES; echo `id`" in (script(setup=["module load $MODULES; echo `id`"]) or [])


# Modules and calls that run code from a file or a name.
LOADERS = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
CALLS = (
    "torch.load",
    "torch.save",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
)
# Other codes read nothing else; writing such a file runs nothing.
WRITERS = {"distlth/export/masked.py": ["torch.save"]}
BUILTINS = ("eval", "exec")
COLLECTIVES = ("broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list")


def dangers(source: str) -> Iterator[str]:
    """Yield the calls and imports in a source by which a file or a name could run code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in LOADERS)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = (f"{module}.{alias.name}" for alias in node.names)
            yield from (name for name in names if name in CALLS or module.split(".")[0] in LOADERS)
        elif isinstance(node, ast.Call):
            yield from _dangerous_call(node)


def _dangerous_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name == "torch.load" and given.get("weights_only") == "True":  # which makes tensors and numbers alone
        return
    if name in CALLS or name in BUILTINS or name.rpartition(".")[2] in COLLECTIVES:
        yield name
    for keyword in node.keywords:
        if keyword.arg in ("shell", "allow_pickle") and ast.unparse(keyword.value) != "False":
            yield f"{name}({keyword.arg})"


def test_nothing_runs_code_out_of_files_or_names() -> None:
    files = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
    assert len(files) > 50
    found = {path.relative_to(ROOT).as_posix(): list(dangers(path.read_text())) for path in files}
    assert {file: what for file, what in found.items() if what} == WRITERS


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "from torch import load",
        "import yaml\nyaml.load(text)",
        "import subprocess\nsubprocess.run(name, shell=True)",
        "import os\nos.system(name)",
        "import numpy\nnumpy.load('x', allow_pickle=True)",
        "eval(name)",
        "dist.all_gather_object(texts, what)",
    ],
)
def test_a_danger_is_seen(source: str) -> None:
    assert list(dangers(source))
    assert not list(dangers("import yaml, torch\nyaml.safe_load(text)\nmodel.eval()\nsubprocess.run([name])"))
    assert not list(dangers("import torch\ntorch.load('x', weights_only=True)"))


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_run_directory_follows_the_users_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        run = make_run(tmp_path / "run")
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (run.root, *run.root.rglob("*"))}
    assert len(modes) > 20
    for path, mode in modes.items():
        assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, path


SESSION = """
import json, os, sys
from cluster.runtime.session import LOOPBACK, environment, session_folder, start_ray
from distlth.config.schema import ClusterSection

def note(line):
    print(line, file=sys.stderr)

with session_folder() as folder:
    os.environ.update(environment(folder))
    start_ray(ClusterSection(), "cpu", folder, LOOPBACK, note)
    import ray

    @ray.remote
    def work():
        return ray.get_runtime_context().gcs_address

    print(json.dumps({"address": ray.get(work.remote()), "folder": str(folder)}), flush=True)
    sys.stdin.read()
    ray.shutdown()
"""

CLIENT = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
    print("let in to", len(ray.nodes()))
except Exception as error:
    print("refused:", error)
"""


@dataclass(frozen=True)
class Session:
    """A session of Ray that another process holds."""

    address: str
    folder: Path
    processes: tuple[psutil.Process, ...]

    @property
    def token(self) -> Path:
        return self.folder / "token"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    arguments = [sys.executable, "-c", SESSION]
    elsewhere = {**os.environ, "RAY_AUTH_TOKEN": "f" * 64}  # as in a pod of a Ray cluster
    with subprocess.Popen(
        arguments, env=elsewhere, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            place = json.loads(process.stdout.readline())
            owner = psutil.Process(process.pid)
            processes = (owner, *owner.children(recursive=True))
            yield Session(place["address"], Path(place["folder"]), processes)
        finally:
            process.stdin.close()
            process.wait(timeout=60)
    assert not Path(place["folder"]).exists()


def client(session: Session, **environment: str) -> subprocess.Popen[str]:
    """Start a process that tries to join a session; Ray tries once instead of for 20 seconds."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    ours = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    variables = {**inherited, **ours, **environment}
    arguments = [sys.executable, "-c", CLIENT, session.address]
    return subprocess.Popen(
        arguments, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


class TestSession:
    def test_who_has_no_token_is_refused(self, session: Session) -> None:
        wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        clients = {
            "without": client(session, RAY_AUTH_MODE="disabled"),
            "wrong": client(session, **wrong),
            "right": client(session, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(session.token)),
        }
        said = {name: process.communicate(timeout=90)[0] for name, process in clients.items()}
        assert "let in to 1" in said["right"]
        for name in ("without", "wrong"):
            assert "refused:" in said[name]
            assert "let in" not in said[name]
            assert "InvalidAuthToken" in said[name], said[name]

    def test_it_listens_on_loopback_alone(self, session: Session) -> None:
        listening = {
            (process.name(), connection.laddr.ip)
            for process in session.processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
        assert {ip.removeprefix("::ffff:") for _, ip in listening} == {"127.0.0.1"}

    def test_the_token_is_its_owners_alone(self, session: Session) -> None:
        assert session.token.stat().st_mode & 0o777 == 0o600
        assert session.folder.stat().st_mode & 0o777 == 0o700
        assert len(session.token.read_text()) == 64

    def test_the_token_is_in_no_arguments_environment_or_log(self, session: Session) -> None:
        token = session.token.read_text()
        for process in session.processes:
            assert not any(token in word for word in process.cmdline())
            assert token not in process.environ().values()
        logs = [path for path in (session.folder / "ray").rglob("*") if path.is_file()]
        assert any(path.name.startswith("gcs_server") for path in logs)
        assert not [path for path in logs if token.encode() in path.read_bytes()]
