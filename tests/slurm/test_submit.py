"""Submitting: options and configs, the batch script, refusals, and a run on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from submitit.core.utils import JobPaths

from cluster.slurm.advice import refusal
from cluster.slurm.batch import QUEUE_AGAIN, Batch, cpus_per_node, sbatch_flags, sbatch_text
from cluster.slurm.squeue import own_words, parse_queue
from cluster.slurm.standing import standing
from cluster.slurm.submit import outside_of_jobs
from distlth.config.read import load_config, parse_config
from distlth.config.schema import RunConfig
from distlth.config.slurm import minutes
from distlth.data.dataset import Dataset
from distlth.errors import ConfigError
from distlth.files import read_json_lines
from distlth.run.paths import RunPaths, SubmissionPaths
from distlth.run.store import load_record, open_run
from distlth.run.submission import (
    Standing,
    load_submission,
    record_cancelled,
    record_submission,
)
from jobs.cli import main, parse
from jobs.request import requested, seed_list
from tests.disk import Disk
from tests.small_run import write_own_modules
from tests.tiny_run import make_submission

ROOT = Path(__file__).parent.parent.parent
IMAGENET = ROOT / "jobs" / "recipes" / "imagenet-resnet50.yaml"
GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path("/cluster/ann/runs/.submitit/imagenet/1")


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own files; empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def user_file(folder: Path, text: str) -> Path:
    path = folder / "distlth" / "cluster.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def asked(*arguments: str, job: Path = IMAGENET) -> tuple[RunConfig, ...]:
    """Return the configs that a command line of `distlth submit` asks for."""
    return requested(parse(["submit", str(job), *arguments]))


class TestTime:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("90", 90),
            ("24:00:00", 1440),
            ("90:00", 90),
            ("0:30", 1),
            ("1-0", 1440),
            ("1-12:30", 2190),
            ("1-00:00:01", 1441),
            ("00:30:00", 30),
        ],
    )
    def test_a_time_of_slurm_in_minutes(self, text: str, expected: int) -> None:
        assert minutes(text) == expected

    @pytest.mark.parametrize("text", ["", "1h", "1:2:3:4", "0", "-1", "1-", "UNLIMITED", "1\n"])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError, match="time"):
            minutes(text)

    @pytest.mark.parametrize("text", ["24:00:00", "'24:00:00'", "1440", "1-00:00:00"])
    def test_it_may_stand_in_yaml_as_it_is(self, tmp_path: Path, text: str) -> None:
        """YAML 1.1 reads 24:00:00 as the number 86400."""
        job = tmp_path / "job.yaml"
        job.write_text(IMAGENET.read_text() + f"  slurm: {{time: {text}}}\n")
        assert load_config(job).cluster.slurm.minutes == 1440
        assert load_config(job, ["cluster.slurm.time=02:30:00"]).cluster.slurm.minutes == 150
        config = load_config(job)
        assert parse_config(yaml.safe_load(config.to_yaml()), "x") == config


class TestRequest:
    def test_options_are_short_for_keys(self) -> None:
        (config,) = asked(
            *("--nodes", "2", "--gpus-per-node", "a100:4", "--cpus-per-node", "48", "--mem", "64G"),
            *("--partition", "gpu", "--account", "7", "--qos", "long", "--constraint", "nvlink"),
            *("--time", "24:00:00", "--comment", "a: b", "--dependency", "afterok:1"),
            *("--nodelist", "n[1-4]", "--exclude", "n9", "--extra", "mail-user=me", "--extra", "contiguous"),
        )
        assert config.cluster.nodes == 2
        assert config.cluster.slurm.model_dump(exclude_defaults=True) == {
            "partition": "gpu",
            "account": "7",
            "qos": "long",
            "constraint": "nvlink",
            "time": "24:00:00",
            "mem_per_node": "64G",
            "gpus_per_node": "a100:4",
            "cpus_per_node": 48,
            "comment": "a: b",
            "dependency": "afterok:1",
            "nodelist": "n[1-4]",
            "exclude": "n9",
            "extra": {"mail-user": "me", "contiguous": True},
        }

    @pytest.mark.parametrize(
        ("arguments", "workers"),
        [
            (["--nodes", "4", "--gpus-per-node", "8"], 32),
            (["--nodes", "4", "--gpus-per-node", "8", "cluster.lanes=2"], 16),
            (["--gpus-per-node", "4"], 4),
            (["--nodes", "3", "--gpus-per-node", "8"], 24),
            (["--nodes", "4", "--gpus-per-node", "8", "cluster.workers=16"], 16),
            (["--nodes", "4", "cluster.device=cpu"], 8),
            (["cluster.slurm.gpus_per_node=16"], 16),
        ],
    )
    def test_ranks_follow_the_gpus(self, arguments: list[str], workers: int) -> None:
        assert asked(*arguments)[0].cluster.workers == workers

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--nodes", "129", "--gpus-per-node", "8"], ["1024 is global", "cluster.workers = 1032"]),
            (["--gpus-per-node", "8", "cluster.lanes=3"], ["cluster.lanes: 1 nodes x 8 GPUs", "3 lanes"]),
            (["--gpus-per-node", "4", "cluster.workers=8"], ["cluster.workers:", "are 4; use at most 4"]),
            ([], ["cluster.device: cuda needs GPUs", "--gpus-per-node G"]),
            (["--gpus-per-node", "8x"], ["cluster.slurm.gpus_per_node: expected a number", "'8x'"]),
            (["--gpus-per-node", "8", "--time", "1h"], ["cluster.slurm.time: expected a time such as"]),
            (["--gpus-per-node", "8", "--time", "1"], ["cluster.slurm: signal_seconds: a notice of 120 s"]),
            (["--gpus-per-node", "8", "--mem", "64GB"], ["mem_per_node: expected a number with K, M, G"]),
            (
                ["--gpus-per-node", "8", "--extra", "mem=1"],
                ["mem has a key of its own: cluster.slurm.mem_per"],
            ),
            (["--gpus-per-node", "8", "--extra", "output=x"], ["output is what distlth sets itself"]),
            (["--gpus-per-node", "8", "--extra", "A B=x"], ["'A B' is no parameter of sbatch"]),
            (["cluster.slurm.partion=x"], ["cluster.slurm.partion: unknown key", "cluster.slurm.partition?"]),
            (["--gpus-per-node", "8", "--seeds", "1", "name=" + "x" * 60], ["name:", "64"]),
        ],
    )
    def test_a_mistake_gets_one_line(self, arguments: list[str], words: list[str]) -> None:
        with pytest.raises(ConfigError) as caught:
            asked(*arguments)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message

    def test_seeds_are_runs_of_their_own(self) -> None:
        configs = asked("--gpus-per-node", "8", "--seeds", "1,2,7-8", "name=r50")
        assert [(config.name, config.seed) for config in configs] == [
            ("r50-seed1", 1),
            ("r50-seed2", 2),
            ("r50-seed7", 7),
            ("r50-seed8", 8),
        ]

    @pytest.mark.parametrize("text", ["", "a", "1,1", "2-1", "1,"])
    def test_wrong_seeds(self, text: str) -> None:
        with pytest.raises(Exception, match="such as 1,2,3"):
            seed_list(text)


class TestUserFile:
    def test_job_file_and_command_line_override_it(self, user_folder: Path, tmp_path: Path) -> None:
        user_file(
            user_folder,
            "workers: 2\ncpus_per_worker: 6\n"
            "slurm: {partition: gpu, account: 4711, time: 12:00:00, gpus_per_node: 4, extra: {nice: 1}}\n",
        )
        job = tmp_path / "job.yaml"
        job.write_text(IMAGENET.read_text() + "  slurm: {time: 24:00:00, qos: long}\n")
        (config,) = asked("--partition", "big", "--nodes", "2", "--extra", "x=y", job=job)
        slurm = config.cluster.slurm
        assert (slurm.partition, slurm.account, slurm.qos, slurm.minutes) == ("big", "4711", "long", 1440)
        assert slurm.extra == {"nice": "1", "x": "y"}
        assert (config.cluster.cpus_per_worker, config.cluster.workers) == (12, 8)

    def test_run_does_not_read_it(self, user_folder: Path) -> None:
        user_file(user_folder, "lanes: 7\n")
        assert load_config(IMAGENET).cluster.lanes == 1

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("slurm: {partion: gpu}", "slurm.partion: unknown key; did you mean slurm.partition?"),
            ("lanes: many", "lanes:"),
            ("- a", "expected a mapping of keys of the section cluster"),
            ("a: [", "not valid YAML"),
        ],
    )
    def test_a_mistake_names_the_file(self, user_folder: Path, text: str, words: str) -> None:
        path = user_file(user_folder, text)
        with pytest.raises(ConfigError) as caught:
            asked("--gpus-per-node", "8")
        assert str(caught.value).startswith(f"{path}: ")
        assert words in str(caught.value)


def batch(*arguments: str) -> Batch:
    """Return a batch with fixed folders."""
    configs = asked("cluster.slurm.python=python", *arguments)
    return Batch("imagenet", configs, FOLDER, Path("/cluster/ann"))


ALL = [
    *("--nodes", "4", "--gpus-per-node", "8", "--mem", "480G", "--partition", "gpu", "--account", "vision"),
    *("--qos", "normal", "--constraint", "a100&ib", "--time", "24:00:00", "--dependency", "afterok:1:2"),
    *("--comment", 'it\'s a $(test) of `quotes` & "more"; # 1', "--exclude", "n[1,3]"),
    *("--extra", "mail-user=ann@example.org", "--extra", "contiguous", "cluster.slurm.exclusive=true"),
    "cluster.slurm.setup=[module purge, module load cuda/12.4, source venv/bin/activate]",
    "cluster.slurm.srun_args=['--container-image=distlth.sqsh', '--container-mounts=/data dir:/data']",
]


class TestText:
    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("one", ["--gpus-per-node", "8"]),
            ("all", [*ALL, "cluster.min_nodes=3"]),
            ("array", [*ALL, "--seeds", "1-3"]),
        ],
    )
    def test_golden(self, name: str, arguments: list[str]) -> None:
        """Compare the exact text; DISTLTH_GOLDEN=write rewrites the files."""
        path, text = GOLDEN / f"{name}.sbatch.sh", sbatch_text(batch(*arguments))
        if os.environ.get("DISTLTH_GOLDEN") == "write":
            path.write_text(text)
        assert text == path.read_text()
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0

    def test_cores_come_from_the_ranks_of_a_node(self) -> None:
        (config,) = asked("--nodes", "3", "cluster.device=cpu", "cluster.workers=4", "cluster.lanes=2")
        assert cpus_per_node(config) == 3 * 12

    @pytest.mark.parametrize(
        ("more", "cores"),
        [
            ((), 8 * 6),
            (("data.threads=5",), 8 * 7),
            (("data.threads=5", "cluster.cpus_per_worker=9"), 8 * 9),
            (("data.threads=5", "--cpus-per-node", "40"), 40),
            (("--cpus-per-node", "16"), 16),
            (("cluster.device=cpu", "cluster.workers=8"), 8),
        ],
    )
    def test_gpus_get_the_cores_that_feed_them(self, more: tuple[str, ...], cores: int) -> None:
        job = ("data.threads=null", "cluster.cpus_per_worker=1", "--gpus-per-node", "8")
        assert cpus_per_node(asked(*job, *more)[0]) == cores

    def test_cores_that_do_not_feed_the_gpus_are_refused(self) -> None:
        job = ("cluster.cpus_per_worker=1", "--gpus-per-node", "8", "--cpus-per-node")
        with pytest.raises(ConfigError, match=r"data\.threads: 8 ranks x 10 loader threads .* need 80 cores"):
            batch(*job, "79")
        with pytest.raises(ConfigError, match=r"8 ranks on the GPUs of a node need 2 cores each, .* for 15;"):
            batch(*job, "15", "data.threads=null")

    def test_a_parameter_that_is_false_is_left_out(self) -> None:
        text = sbatch_text(batch("--gpus-per-node", "8", "cluster.slurm.extra.requeue=false"))
        assert "--requeue" not in text

    def test_a_dry_run_prints_it_and_writes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for cluster in ("auto", "slurm", "local"):
            arguments = ["--nodes", "2", "--gpus-per-node", "8", "--dry-run", "--cluster", cluster]
            assert main(["submit", str(IMAGENET), *arguments, "--seeds", "1,2"]) == 0
            printed = capsys.readouterr().out
            if cluster == "local":
                assert "tasks_per_node: 2" in printed
            else:
                assert f"#SBATCH --chdir={tmp_path}\n" in printed
                assert f"{tmp_path}/runs/.submitit/imagenet-resnet50/1/%A_%a_%t_log.out" in printed
                assert "#SBATCH --array=0-1%2\n" in printed
        assert list(tmp_path.iterdir()) == []

    def test_logs_are_where_submitit_puts_them(self) -> None:
        for job_id in ("12", "12_3"):
            theirs = JobPaths(FOLDER, job_id=job_id, task_id=1).stdout
            assert SubmissionPaths(FOLDER).log(job_id, 1) == theirs


class TestSlurmsAnswers:
    @pytest.mark.parametrize(
        ("said", "line"),
        [
            (
                "sbatch: error: invalid partition specified: gpuu\n"
                "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
                "sbatch: invalid partition specified: gpuu; Batch job submission failed: Invalid partition "
                "name specified; take one of cpu, gpu with --partition",
            ),
            (
                "sbatch: error: CPU count per node can not be satisfied\nsbatch: error: Batch job "
                "submission failed: Requested node configuration is not available",
                "sbatch: CPU count per node can not be satisfied; Batch job submission failed: Requested "
                "node configuration is not available; ask for less of a node; "
                "`sinfo -o '%P %D %c %m %G'` lists cores, MB and GPUs",
            ),
            ("", "sbatch: no reason given; nothing was submitted, correct the request"),
        ],
    )
    def test_a_refusal_is_one_line_with_advice(self, said: str, line: str) -> None:
        assert refusal(said, ["cpu", "gpu"]) == line

    def test_own_words_are_not_said_twice(self) -> None:
        assert own_words("scancel: error: No.\nscancel: error: No\n") == "No"

    def test_what_is_asked_for_wins_over_the_variables_of_a_site(self) -> None:
        """They win over what a script says, but not over arguments."""
        text = sbatch_text(batch(*ALL))
        flags = sbatch_flags(text)
        assert len(flags) == text.count("#SBATCH ")
        assert {"--partition=gpu", "--time=1440", "--requeue"} < set(flags)
        assert f"--comment={asked(*ALL)[0].cluster.slurm.comment}" in flags

    def test_a_job_submitted_from_a_job_takes_nothing_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (
            *("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_CONF"),
            *("SBATCH_ACCOUNT", "SBATCH_CPUS_PER_GPU"),
        ):
            monkeypatch.setenv(name, "x")
        with outside_of_jobs():
            kept = {name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))}
        assert kept == {"SLURM_CONF", "SBATCH_ACCOUNT"}
        assert os.environ["SLURM_CPUS_PER_TASK"] == "x"

    def test_the_queue(self) -> None:
        text = "12|RUNNING|None\n13_0|PENDING|Resources\n13_1|PENDING|(null)\nbroken\n14|PENDING|a|b\n"
        assert parse_queue(text) == {
            "12": Standing("RUNNING"),
            "13_0": Standing("PENDING", "Resources"),
            "13_1": Standing("PENDING"),
            "14": Standing("PENDING", "a|b"),
        }

    def test_how_a_submission_stands(self) -> None:
        queue = {"12": Standing("PENDING", "Priority")}
        assert str(standing(make_submission("12"), queue)) == "PENDING (Priority)"
        assert str(standing(make_submission("13"), queue)) == "ended"
        assert str(standing(make_submission("13", cancelled=1.0), queue)) == "cancelled"
        assert standing(make_submission("12"), None).state == "unknown"
        assert standing(make_submission("1", cluster="local", host="elsewhere"), {}).state == "unknown"


class TestQueuedAgain:
    """A task has itself queued again: by scontrol, or where that is missing or refuses by its exit code."""

    @pytest.mark.parametrize("call", ["checkpoint()", "_terminate()"])
    @pytest.mark.parametrize(("scontrol", "code"), [(None, QUEUE_AGAIN), (1, QUEUE_AGAIN), (0, 75)])
    def test_exit_codes(self, tmp_path: Path, scontrol: int | None, code: int, call: str) -> None:
        commands = {"squeue": "echo RUNNING", "scontrol": f'echo "$@" > {tmp_path}/asked; exit {scontrol}'}
        for name, line in commands.items() if scontrol is not None else ():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod(0o755)
        ended = subprocess.run(
            [sys.executable, "-c", f"from cluster.slurm.task import RunTask; RunTask(None).{call}"],
            env={**os.environ, "PATH": str(tmp_path), "SLURM_JOB_ID": "7"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (code, "")
        if scontrol is not None:
            assert (tmp_path / "asked").read_text() == "requeue 7\n"


class TestRecord:
    def test_earlier_submissions_are_kept_and_the_run_is_still_new(self, tmp_path: Path) -> None:
        run = RunPaths(tmp_path / "imagenet-resnet50")
        assert load_submission(run) is None
        record_submission(run, make_submission("12"))
        record_submission(run, make_submission("13"))
        record_cancelled(run, 5.0)
        assert load_submission(run) == make_submission("13", cancelled=5.0)
        assert [entry["job_id"] for entry in json.loads(run.submission.read_text())["submissions"]] == [
            "12",
            "13",
        ]
        (config,) = asked("--gpus-per-node", "8")
        open_run(run, config, {"digest": "d", "classes": 10})
        assert list(load_record(run).history) == []

    def test_folders_are_numbered(self, tmp_path: Path) -> None:
        assert SubmissionPaths.next(tmp_path, "a").root == tmp_path / ".submitit" / "a" / "1"
        (tmp_path / ".submitit" / "a" / "9").mkdir(parents=True)
        (tmp_path / ".submitit" / "a" / "x").mkdir()
        assert SubmissionPaths.next(tmp_path, "a").root.name == "10"


SMALL = [
    *("train.epochs=2", "train.schedule.warmup_epochs=0", "prune.rounds=0", "prune.rewind_epoch=0"),
    *("prune.branches=[]", "cluster.workers=1"),
]


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without SLURM's commands, whatever this one has."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.mark.usefixtures("no_slurm")
class TestRefused:
    def test_without_sbatch(
        self, quickstart: Path, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [f"data.path={digits.path}", f"runs={tmp_path / 'runs'}", *SMALL]
        assert main(["submit", str(quickstart), *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        for word in ("no sbatch on PATH", "--cluster local", "distlth run"):
            assert word in error
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["data.path=nowhere"], "nowhere: no such data set"),
            (["train.batch_size=2000"], "train.batch_size: 2000 is larger than the train split"),
            (["model.name=resnet21"], "model 'resnet21' is not known; did you mean"),
            (["--allow-change", "nothing"], "--allow-change nothing: unknown key"),
        ],
    )
    def test_what_could_not_train(
        self,
        quickstart: Path,
        digits: Dataset,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        words: str,
    ) -> None:
        """It is refused before it has waited in a queue, and nothing is left."""
        given = [f"data.path={digits.path}", f"runs={tmp_path / 'runs'}", *SMALL, *arguments]
        assert main(["submit", str(quickstart), "--cluster", "local", *given]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
        assert not (tmp_path / "runs").exists()

    def test_a_run_that_would_resume_with_another_config(
        self, quickstart: Path, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [f"data.path={digits.path}", f"runs={tmp_path / 'runs'}", *SMALL]
        run = RunPaths(tmp_path / "runs" / "quickstart")
        data = {"digest": digits.digest, "classes": digits.num_classes}
        open_run(run, load_config(quickstart, arguments), data)
        assert main(["submit", str(quickstart), "--cluster", "local", *arguments, "train.lr=9"]) == 2
        assert "train.lr: 0.1 -> 9.0" in capsys.readouterr().err
        assert not run.submission.exists()

    @pytest.mark.parametrize("command", ["cancel", "resume"])
    def test_a_run_that_was_not_submitted(
        self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([command, str(tmp_path)]) == 2
        assert "was not submitted" in capsys.readouterr().err
        assert main([command, str(tmp_path / "none")]) == 2
        assert "no such run directory" in capsys.readouterr().err


class TestUnwritable:
    def test_into_a_file_or_a_place_that_cannot_be_written(
        self, quickstart: Path, digits: Dataset, disk: Disk, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (disk.folder / "file").touch()
        submit = ["submit", str(quickstart), "--cluster", "local", f"data.path={digits.path}", *SMALL]

        def refused(runs: Path) -> str:
            before = sorted(disk.folder.rglob("*"))
            assert main([*submit, f"runs={runs}"]) == 2
            assert sorted(disk.folder.rglob("*")) == before
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert "runs=DIR" in error
            return error

        assert f"{disk.folder / 'file'}: a file, where a folder" in refused(disk.folder / "file")
        assert f"{disk.folder / 'file'}: a file, where a folder" in refused(disk.folder / "file" / "runs")
        disk.fill()
        refused(disk.folder)
        disk.free()
        with disk.read_only():
            assert f"{disk.folder}: you may not write there" in refused(disk.folder / "runs")

    def test_what_cannot_be_recorded_is_taken_back(
        self, quickstart: Path, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = RunPaths(tmp_path / "runs" / "quickstart")
        (run.root / f".submission.json.{os.getpid()}.tmp").mkdir(parents=True)
        arguments = [f"data.path={digits.path}", f"runs={tmp_path / 'runs'}", *SMALL]
        assert main(["submit", str(quickstart), "--cluster", "local", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"submission.json.{os.getpid()}.tmp: Is a directory; make room for it" in error
        assert not list((tmp_path / "runs" / ".submitit").glob("*/*"))
        alive = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert not [line for line in alive if str(tmp_path) in line]


class TestOnThisMachine:
    """`--cluster local` for real: submitted, watched, refused while it lives, cancelled, submitted again."""

    def test_from_submission_to_result(
        self,
        quickstart: Path,
        digits: Dataset,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        write_own_modules(tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        job = [str(quickstart), f"data.path={digits.path}", *SMALL]
        run = RunPaths(tmp_path / "runs" / "quickstart")

        assert main(["submit", *job, "--cluster", "local", "train.epochs=200"]) == 0
        submission = load_submission(run)
        assert submission is not None
        assert f"process {submission.job_id} on {submission.host}: runs/quickstart" in capsys.readouterr().out
        assert os.getsid(int(submission.job_id)) != os.getsid(0)  # it outlives this shell
        assert main(["submit", *job, "--cluster", "local"]) == 2
        assert f"process {submission.job_id} on {submission.host} is RUNNING" in capsys.readouterr().err
        wait_for(lambda: "first-step" in events(run))
        assert main(["status"]) == 0
        assert "RUNNING" in capsys.readouterr().out

        assert main(["cancel", "quickstart"]) == 0
        assert "has left a checkpoint and ended" in capsys.readouterr().out
        assert "stopped" in events(run)
        assert list(run.checkpoints("00").glob("[0-9]*.safetensors"))
        assert main(["cancel", "runs/quickstart"]) == 2
        assert "nothing to cancel" in capsys.readouterr().err
        assert main(["logs", "quickstart"]) == 0
        printed = capsys.readouterr().out
        assert "Starting with JobEnvironment" in printed
        assert "first step" in printed

        monkeypatch.chdir("/")  # it goes on where it was submitted from, wherever that is asked from
        again = ["train.epochs=2", "--allow-change", "train.epochs", "--time", "60"]
        assert main(["resume", str(run.root), *again]) == 0
        wait_for(lambda: "run-done" in events(run))
        second = load_submission(run)
        assert second is not None
        wait_for(lambda: not standing(second, None).is_active)
        assert (second.directory, second.config["cluster"]["slurm"]["time"]) == (str(tmp_path), "60")
        capsys.readouterr()
        assert main(["resume", str(run.root)]) == 2
        assert "all 1 jobs are done" in capsys.readouterr().err


def events(run: RunPaths) -> list[str]:
    """Return the kinds of events of a run so far."""
    return [event["event"] for event in read_json_lines(run.log)]


def wait_for(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    """Return when a condition holds; fail after some time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)
