"""The points in the code where a fault can strike, each named by the function that is called there.

Imports the standard library only: every process of a run loads this before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The part of a run in which a point is reached.
Stage = Literal["start", "rewind", "step", "job", "mask", "build"]


@dataclass(frozen=True)
class Point:
    """A point before or after a call of `function` (MODULE:QUALIFIED.NAME).

    With `path`, only calls whose first argument contains it count. With `torn`, the file of that name is cut
    in half, as a kill in the middle of a write leaves it.
    """

    name: str
    function: str
    stage: Stage
    when: Literal["before", "after"] = "before"
    path: str = ""
    torn: bool = False

    @property
    def module(self) -> str:
        """The name of the module that defines the function."""
        return self.function.partition(":")[0]

    @property
    def qualname(self) -> str:
        """The qualified name of the function in its module."""
        return self.function.partition(":")[2]


# Called with the temporary path, just before the file is renamed.
WRITE = "distlth.files:_fsync"
TRAIN = "distlth.train.trainer:Trainer"

# Reached after every step that is done; also the record of which steps were done.
STEP_DONE = f"{TRAIN}.take_step"

_ALL = (
    # While a run, a lane or its first job starts.
    Point("run made, no order yet", "distlth.run.store:open_run", "start", "after"),
    Point("mid-write of init", WRITE, "start", path=".init.safetensors.", torn=True),
    Point("ranks compare data", "distlth.run.store:check_data", "start"),
    Point("ranks meet", "cluster.runtime.rank:meet", "start"),
    Point("lane start", "distlth.train.warm:WarmRank.__init__", "start"),
    Point("lane warm, no job", "distlth.train.executable:make_executable", "start", "after"),
    Point("job start", f"{TRAIN}.begin", "start", "after"),
    # Round 0 alone.
    Point("mid-write of rewind", WRITE, "rewind", path=".rewind.safetensors.", torn=True),
    Point("rewind written", "distlth.files:save_tensors", "rewind", "after", path="/rewind.safetensors"),
    # Many times per job.
    Point("mid-step", "distlth.train.masking:Masking.mask_gradients", "step"),
    Point("mid-checkpoint-write", WRITE, "step", path="/.0", torn=True),
    Point("checkpoint, old ones there", "distlth.train.checkpoint:JobState.save", "step", "after"),
    Point("checkpoint begun", f"{TRAIN}.checkpoint", "step"),
    Point("evaluation", "distlth.data.load.loader:EvalLoader.__iter__", "step", "after"),
    Point("metrics written", "distlth.train.recorder:Recorder.write_curves", "step", "after"),
    # Once per job, at its beginning or its end.
    Point("mid-broadcast", "distlth.files:parse_tensors", "job"),
    Point("ticket fetched", "cluster.runtime.rank:fetch_ticket", "job", "after"),
    Point("mid-write of weights", WRITE, "job", path=".weights.safetensors.", torn=True),
    Point("weights written, no result", "distlth.run.results:JobResult.save", "job"),
    Point("mid-write of result", WRITE, "job", path=".result.json.", torn=True),
    Point("result written, not told", "distlth.run.results:JobResult.save", "job", "after"),
    Point("job told, not drawn", "distlth.report.board:RunBoard.results", "job"),
    # Once per job that has a parent, when the parent is done.
    Point("mid-prune", "distlth.imp:prune_magnitude", "mask", "after"),
    Point("mid-refill", "distlth.prune.refill:refill", "mask"),
    Point("mid-regroup", "distlth.methods.blocks:_regroup_layer", "mask"),
    Point("mask made, not written", "distlth.maker:next_mask", "mask", "after"),
    Point("mid-write of mask", WRITE, "mask", path=".mask.safetensors.", torn=True),
    Point("mask written, not offered", "distlth.run.tickets:save_structured", "mask", "after"),
    # While a data set is built.
    Point("mid-build, in a worker", "distlth.data.pack.writer:_write", "build", "after"),
    Point("images packed, no index", "distlth.data.pack.writer:Packer._finish", "build"),
    Point("packed, no manifest", "distlth.files:write_text", "build", path="/dataset.json"),
    Point("built, not published", "distlth.files:_publish", "build"),
)

POINTS = {point.name: point for point in _ALL}
