"""The schema of the job file: sections, types, bounds, defaults, and which values fit together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from distlth.config.documents import dump_yaml
from distlth.config.resize import ResizeSection
from distlth.config.slurm import SlurmSection
from distlth.errors import ConfigError
from distlth.methods import Branch, Method
from distlth.options import Line, Section, UserPath

Seed = Annotated[int, Field(ge=0, lt=2**32)]

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=64)]
ModelName = Annotated[str, Field(pattern=r"^(timm/)?[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=128)]

# Where a Ray cluster listens for its nodes, as `ray start` prints it.
RAY_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}", re.ASCII)

# Sizes of images for which torch keeps compiled code before it falls back to uncompiled steps.
COMPILED_SIDES = 8

SYNC_NEEDS_GPUS = "torch synchronises BatchNorm on GPUs only"


class JitterSection(Section):
    """How far the colours of training images change, at random; ranges as of torchvision's ColorJitter.

    It comes last: after crop, resize, shift, rotation and mirror, on all that is there, before normalisation.
    The hue turns in YIQ, and not in HSV.
    """

    brightness: float = Field(0.0, ge=0, description="factor in max(0, 1 - brightness) .. 1 + brightness")
    contrast: float = Field(0.0, ge=0, description="the same, about the mean luma of the image")
    saturation: float = Field(0.0, ge=0, description="the same, about the luma of each pixel")
    hue: float = Field(0.0, ge=0, le=0.5, description="turns of the colour circle, either way")


class DataSection(Section):
    """The data set (built by `distlth data build`) and how its images are read."""

    path: UserPath = Field(description="the folder that `distlth data build` made")
    resolution: int = Field(
        224, ge=4, description="side of the square images that the network sees, in pixels"
    )
    resize: ResizeSection | None = Field(
        None, description="training images that start smaller and grow to `resolution`, see below"
    )
    eval_resolution: int | None = Field(
        None,
        ge=4,
        description="side of the images in evaluation, for which multiply-accumulates are counted; default: "
        "`resolution`",
    )
    crop: Literal["random-resized", "pad", "none"] = Field(
        "random-resized",
        description="training crop; `pad` shifts small images by up to `pad` pixels",
    )
    pad: int | None = Field(
        None,
        ge=0,
        description="pixels by which `crop: pad` shifts at most; default: an eighth of `resolution`",
    )
    pad_fill: Literal["mean", "black"] = Field(
        "mean", description="colour of what shifts and rotations uncover: the data set's mean, or black"
    )
    rotate: float = Field(
        0.0, ge=0, le=180, description="degrees by which training images are rotated at most, either way"
    )
    flip: bool = Field(True, description="mirror half of the training images")
    jitter: JitterSection | None = Field(None, description="colour jitter of training images, see below")
    eval_ratio: float | None = Field(
        None,
        gt=0,
        le=1,
        description="centre crop / shorter side in evaluation; default 224/256, 1 with `pad` and `none`",
    )
    shuffle: Literal["full", "lanes"] = Field(
        "full",
        description="order of an epoch: random over all images, or `lanes`, random over a few pages of the "
        "file at a time, for data larger than memory ([more](data.md#data-larger-than-memory-datashuffle))",
    )
    cache: Literal["os", "process", "gpu"] = Field(
        "os",
        description="`os`: memory-mapped, cached by the system; `process`: read ahead into a rank's memory; "
        "`gpu`: decoded once into the memory of the device that trains, a GPU or the CPU ([more](data.md))",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="loader threads per rank; default: a rank's share of the cores, at most 4 on a CPU; "
        "on a GPU 2 less, at most 16",
    )

    @model_validator(mode="after")
    def _augmentation_fits(self) -> DataSection:
        if self.pad is not None and self.crop != "pad":
            raise ValueError(f"pad belongs to crop: pad, not to {self.crop}")
        if self.pad is not None and self.pad > self.sides[-1]:
            raise ValueError(f"pad ({self.pad}) is more than resolution ({self.sides[-1]})")
        if self.cache == "gpu" and self.crop == "random-resized":
            raise ValueError(
                "cache: gpu decodes each image once and fits crop: pad and crop: none; random-resized cuts "
                "another part out of it in each epoch, use cache: os"
            )
        if self.cache == "gpu" and self.jitter is not None:
            raise ValueError("jitter changes the pixels of each image in each epoch; use cache: os with it")
        if self.pad_fill != "mean" and self.crop != "pad" and self.rotate == 0:
            raise ValueError("pad_fill belongs to crop: pad or rotate; without these nothing is uncovered")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> DataSection:
        if self.resize is not None:
            self.resize.check_end(self.resolution)
            if self.cache == "gpu":
                raise ValueError("cache: gpu decodes each image once, at one size; with resize use cache: os")
        return self

    def side(self, epoch: int) -> int:
        """Return the side of the training images of an epoch (from 0), in pixels."""
        return self.resolution if self.resize is None else self.resize.side(epoch, self.resolution)

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides that training images have, the largest first."""
        if self.resize is None:
            return (self.resolution,)
        epochs = range(self.resize.from_epoch, self.resize.to_epoch + 1)
        return tuple(sorted({self.side(epoch) for epoch in epochs}, reverse=True))

    @property
    def eval_side(self) -> int:
        """The side of the images in evaluation, in pixels."""
        return self.eval_resolution or self.resolution

    def relative_cost(self, epoch: int) -> float:
        """Return the pixels of an epoch's image over those of the largest, a fraction: its share of work."""
        return (self.side(epoch) / self.resolution) ** 2


class ModelSection(Section):
    """The network, always trained from a random initialisation."""

    name: ModelName = Field(
        description="`resnet20`, `resnet56`, `wrn32_2`, `vgg16_bn_cifar`, `mobilenet_v1` (for small images), "
        "any classifier of torchvision, or `timm/NAME` (`pip install 'distlth[timm]'`)"
    )
    stem: Literal["imagenet", "cifar"] = Field(
        "imagenet",
        description="`cifar`: a 3x3 stride-1 first convolution and no pooling (torchvision's ResNets; the "
        "networks for small images have it anyway)",
    )
    blurpool: bool = Field(
        False,
        description="a fixed 3x3 low-pass filter before strided convolutions of 16 input channels or more "
        "(torchvision's ResNets), never pruned",
    )


class ScheduleSection(Section):
    """The learning rate over a job: warm-up from zero, then the curve `name`. Epochs may be fractions."""

    name: Literal["step", "cosine", "linear", "constant"] = Field(
        "cosine", description="the curve after warm-up"
    )
    warmup_epochs: float = Field(0, ge=0, description="linear rise to `lr`")
    milestones: tuple[float, ...] = Field((), description="epochs at which `step` multiplies by `gamma`")
    gamma: float = Field(0.1, gt=0, lt=1, description="factor at each milestone")

    @model_validator(mode="after")
    def _milestones_belong_to_step(self) -> ScheduleSection:
        if self.milestones and self.name != "step":
            raise ValueError(f"milestones belong to name: step, not to {self.name}")
        if self.gamma != 0.1 and self.name != "step":
            raise ValueError(f"gamma belongs to name: step, not to {self.name}")
        if self.name == "step" and not self.milestones:
            raise ValueError("name: step needs milestones; without any step it is name: constant")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError("milestones must rise")
        return self


class ProfileSection(Section):
    """A trace of some steps of each job, in the run's `profile/`: for Perfetto, or TensorBoard's profiler."""

    first: int = Field(20, ge=0, description="steps of a job before the first one that is traced")
    steps: int = Field(10, ge=1, description="steps to trace")
    ranks: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), description="ranks of a lane that trace")


class AllReduceSection(Section):
    """What the ranks of a lane send each other to average their gradients."""

    send: Literal["all", "kept", "auto"] = Field(
        "all",
        description="`kept`: the gradients of kept weights alone; `auto`: of `all` and `kept` what was "
        "faster in a trial at the job's start ([more](performance.md#gradients-over-a-slow-network))",
    )
    dtype: Literal["float32", "bf16"] = Field("float32", description="in which they travel and are summed")

    @property
    def is_plain(self) -> bool:
        """Whether DDP does all of it by itself."""
        return self.send == "all" and self.dtype == "float32"


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainSection(Section):
    """How one job trains. `batch_size` is global: over all ranks of a lane."""

    epochs: int = Field(ge=1, description="of the whole schedule")
    batch_size: int = Field(
        ge=1,
        description="images per step, over all ranks of a lane; their parts of it differ by one at most",
    )
    lr: float = Field(gt=0, description="peak of the learning rate")
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="SGD with momentum, or AdamW, which attention networks are usually trained with"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    nesterov: bool = Field(False, description="Nesterov momentum, for SGD")
    betas: tuple[Beta, Beta] = Field(
        (0.9, 0.999),
        description="of AdamW: how much of the running means of gradients and of their squares stays",
    )
    weight_decay: float = Field(
        1e-4,
        ge=0,
        description="L2 decay of weights with SGD; AdamW multiplies weights by 1 - lr x weight_decay",
    )
    decay_norm_and_bias: bool = Field(
        False, description="decay BatchNorm parameters and biases too, as the paper does"
    )
    schedule: ScheduleSection = ScheduleSection()
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the training loss")
    clip_norm: float | None = Field(None, gt=0, description="maximum norm of all gradients together")
    amp: Literal["off", "bf16", "fp16"] = Field(
        "off", description="mixed precision; fp16 with a gradient scaler"
    )
    channels_last: bool = Field(True, description="memory format of images and weights")
    sync_batch_norm: bool = Field(False, description="BatchNorm statistics over all ranks (GPU only)")
    deterministic: bool = Field(True, description="deterministic kernels only: the same bits in every run")
    compile: bool = Field(
        False, description="training steps through torch.compile, once for all jobs of a lane"
    )
    cuda_graph: bool = Field(
        False,
        description="replay forward and backward passes as a CUDA graph, for small networks and batches, "
        "which else wait for launches ([more](performance.md#small-networks-cuda-graphs)); one rank a lane; "
        "on a CPU it changes nothing",
    )
    all_reduce: AllReduceSection = AllReduceSection()
    execution: Literal["masked", "slim"] = Field(
        "masked",
        description="how tickets that remove channels train: as the whole network, with masks, or without "
        "the removed channels: the same training up to rounding, in less time "
        "([more](slim.md#training)); all other jobs train masked",
    )
    eval_every: int = Field(
        1, ge=1, description="epochs between evaluations on val; the last epoch is always evaluated"
    )
    eval_batch_size: int | None = Field(
        None, ge=1, description="per rank; default: the training batch of a rank"
    )
    report_epoch: Literal["last", "best-val"] = Field(
        "last",
        description="the epoch whose accuracies a job reports: its last, or the evaluated one that was best "
        "on val (of equal ones the first), as the paper's code does; what follows is pruned from the last",
    )

    profile: ProfileSection | None = Field(None, description="trace some steps of each job, see below")

    @model_validator(mode="after")
    def _combinations(self) -> TrainSection:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer: sgd with momentum > 0")
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        if self.optimizer != "sgd" and self.momentum != defaults["momentum"]:
            raise ValueError(f"momentum belongs to optimizer: sgd, not to {self.optimizer}: set betas")
        if self.optimizer != "adamw" and self.betas != defaults["betas"]:
            raise ValueError(f"betas belongs to optimizer: adamw, not to {self.optimizer}: set momentum")
        if self.schedule.warmup_epochs >= self.epochs:
            warmup = self.schedule.warmup_epochs
            raise ValueError(f"schedule.warmup_epochs ({warmup:g}) must be below epochs ({self.epochs})")
        return self


# A round or a branch of it, of any seed: what `distlth status` calls it, without the seed.
TicketName = Annotated[str, Field(pattern=r"^[0-9]{2,}(/[A-Za-z0-9][A-Za-z0-9_.+-]*)?$")]


class TransferSection(Section):
    """Tickets of another run, trained on this run's data (the paper's Table A2): see docs/import.md.

    The jobs of this run have the masks of the jobs of the same names there, and start together with the
    dense network from the same weights. The layer that makes the logits is always this run's own.
    """

    run: UserPath = Field(description="the run directory whose masks and early weights are taken over")
    tickets: tuple[TicketName, ...] = Field(
        (),
        description="the jobs to train, such as `03/refill`, beside the dense one; default: all of the plan",
    )
    weights: Literal["rewind", "init"] = Field(
        "rewind",
        description="what all jobs start from: `rewind`, that run's rewind weights; `init`, this run's own "
        "initialisation",
    )


class PruneSection(Section):
    """Iterative magnitude pruning and the structured tickets made on the way.

    Round 0 trains dense; round r of 1..rounds trains the ticket of density (1 - rate)^r.
    """

    rounds: int = Field(ge=0, description="number of prunings; round 0 trains the dense network")
    rate: float = Field(0.2, gt=0, lt=1, description="fraction of the remaining weights that a round removes")
    rewind_epoch: int = Field(
        0,
        ge=0,
        description="tickets start from round 0's weights after this epoch; 0 = init; with `after_rewind: "
        "restart` up to all of `train.epochs`, the trained weights",
    )
    after_rewind: Literal["restart", "continue", "lr-rewind"] = Field(
        "restart",
        description="the full schedule; from the rewind epoch on; or from there on, with the weights that "
        "the round before has trained, of which only refilled ones are rewound",
    )
    layers: Literal["conv", "conv+linear"] = Field(
        "conv",
        description="what is pruned: convolutions, or linear layers too, attention's among them "
        "([more](methods.md#linear-layers)); never the classifier",
    )
    scope: Literal["all", "no-stem"] = Field(
        "all", description="all of these layers, or all but the first convolution"
    )
    mode: Literal["branch", "inline"] = Field(
        "branch", description="structured tickets beside the unstructured rounds, or in their place"
    )
    branches: tuple[Branch, ...] = Field((), description="the structured tickets of each round, see below")
    calibration_images: int = Field(1024, ge=1, description="training images that channels are scored on")
    transfer: TransferSection | None = Field(
        None, description="masks and early weights of another run's tickets, see below"
    )
    imported: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="rounds whose masks `distlth import` has brought ([more](import.md)); rounds between "
        "them are left out",
    )

    @model_validator(mode="after")
    def _given_masks_fit(self) -> PruneSection:
        if self.transfer is not None:
            self._check_given("transfer")
            if self.imported:
                raise ValueError("transfer and imported exclude each other")
            if self.rewind_epoch or self.after_rewind != "restart":
                raise ValueError(
                    "transfer trains tickets for the whole schedule; leave out rewind_epoch and after_rewind"
                )
        if self.imported:
            self._check_given("imported")
            if list(self.imported) != sorted({*self.imported}):
                raise ValueError(f"imported must rise, got {list(self.imported)}")
            if self.imported[-1] > self.rounds:
                raise ValueError(f"imported: round {self.imported[-1]} is above rounds ({self.rounds})")
            if self.after_rewind == "lr-rewind":
                raise ValueError(
                    "imported rounds do not say what they started from; after_rewind: lr-rewind needs that"
                )
        return self

    def _check_given(self, key: str) -> None:
        if self.mode == "inline":
            raise ValueError(
                f"{key} brings masks that are there already; mode: inline makes them, use branch"
            )

    @model_validator(mode="after")
    def _labels_are_unique(self) -> PruneSection:
        labels = [branch.label for branch in self.branches]
        labels += {branch.training.label for branch in self.branches if branch.training}
        for label in labels:
            if label == "imp":
                raise ValueError("a branch cannot be called 'imp', which the rounds themselves are called")
            if labels.count(label) > 1:
                raise ValueError(f"two branches are called {label!r}; give each its own name")
        return self

    @model_validator(mode="after")
    def _branches_fit_mode_and_rounds(self) -> PruneSection:
        if self.mode == "inline" and len(self.branches) != 1:
            raise ValueError(f"mode: inline needs exactly one branch, not {len(self.branches)}")
        if self.mode == "inline":
            self._check_inline(self.branches[0])
        for branch in self.branches:
            self._check_rounds(branch)
        return self

    def _check_inline(self, branch: Method) -> None:
        if branch.made_from != "round":
            raise ValueError(f"mode: inline prunes each round's network; {branch.label!r} needs mode: branch")
        if branch.weights != "rewind":
            raise ValueError(f"mode: inline rewinds; weights: {branch.weights} needs mode: branch")

    def _check_rounds(self, branch: Method) -> None:
        if branch.rounds is None:
            return
        if self.mode == "inline":
            raise ValueError("mode: inline structures every round; leave out `rounds` of the branch")
        for number in branch.rounds:
            if not 1 <= number <= self.rounds:
                raise ValueError(f"branch {branch.label!r}: round {number} is not in 1..{self.rounds}")


class CheckpointSection(Section):
    """When a job writes checkpoints: every `every_steps` steps if given, else every `every_minutes`."""

    every_minutes: float = Field(10.0, gt=0, description="wall time between checkpoints")
    every_steps: int | None = Field(None, ge=1, description="steps between checkpoints, in place of minutes")
    keep: int = Field(2, ge=1, description="number of newest checkpoints to keep")


class ClusterSection(Section):
    """How many lanes train side by side, and what each rank of a lane gets."""

    lanes: int = Field(1, ge=1, description="jobs that train side by side")
    workers: int = Field(
        1,
        ge=1,
        description="ranks per lane, over all nodes; `distlth submit --nodes N --gpus-per-node G` sets "
        "N x G / lanes unless this is given as well",
    )
    nodes: int = Field(1, ge=1, description="nodes of an allocation (`distlth submit`)")
    min_nodes: int | None = Field(
        None,
        ge=1,
        description="nodes that suffice for a submitted run to resume, on fewer ranks, when others are lost; "
        "default: a run that loses a node is requeued",
    )
    node_wait_seconds: float = Field(
        300.0, gt=0, description="how long the nodes of a submitted run wait for each other"
    )
    cpus_per_worker: int = Field(1, ge=1, description="cores per rank, and torch's threads on a CPU")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: GPUs if this machine has any")
    retries: int = Field(
        3, ge=0, description="restarts of a lane without a new checkpoint or result before the run ends"
    )
    hang_seconds: float = Field(
        300.0, gt=0, description="a rank without a heartbeat or a finished step for this long is killed"
    )
    start_seconds: float = Field(
        600.0, gt=0, description="a lane whose ranks have not all met in this time is restarted"
    )
    collective_seconds: float = Field(
        600.0, gt=0, description="a rank that waits for another in a collective for this long gives up"
    )
    answer_seconds: float = Field(
        300.0, gt=0, description="a coordinator that does not answer for this long counts as dead"
    )
    stale_seconds: float = Field(
        60.0, ge=15, description="a run whose process had no heartbeat for this long may be taken over"
    )
    ray: Line | None = Field(
        None,
        description="a Ray cluster that is there already, of which this machine is a node: `HOST:6379`, or "
        "`auto` (`distlth run --ray`); default: a Ray of the run's own",
    )
    slurm: SlurmSection = SlurmSection()

    @field_validator("ray")
    @classmethod
    def _ray_is_the_address_of_a_cluster(cls, value: str | None) -> str | None:
        if value is None or value == "auto" or RAY_ADDRESS.fullmatch(value):
            return value
        if "://" in value:
            raise ValueError(
                f"{value} is for clients outside of the cluster; run on one of its nodes with --ray auto, or "
                "send the command there: ray job submit -- distlth run JOB.yaml --ray auto"
            )
        raise ValueError(f"expected auto or HOST:PORT, such as 10.0.0.1:6379, got {value!r}")

    @property
    def ranks_per_node(self) -> int:
        """The most ranks that a node of the run has, over all lanes."""
        return -(-self.lanes * self.workers // self.nodes)


class RunConfig(Section):
    """The whole job file."""

    name: Name = Field(description="name of the run and of its directory")
    runs: UserPath = Field(Path("runs"), description="the folder that holds run directories")
    seed: Seed = Field(0, description="seed of initialisation, data order and augmentation")
    seeds: tuple[Seed, ...] = Field(
        (),
        description="several seeds in one run, each with all jobs; `seed` is one of them, else the first",
    )
    log_every: int = Field(20, ge=1, description="steps between TensorBoard points")
    data: DataSection
    model: ModelSection
    train: TrainSection
    prune: PruneSection
    checkpoint: CheckpointSection = CheckpointSection()
    cluster: ClusterSection = ClusterSection()

    @field_validator("name")
    @classmethod
    def _name_stays_in_runs(cls, value: str) -> str:
        if value.endswith(".") or ".." in value:
            raise ValueError("must not contain '..' or end with '.'")
        return value

    @model_validator(mode="before")
    @classmethod
    def _seed_is_the_first_of_seeds(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "seed" not in values:
            seeds = values.get("seeds")
            if isinstance(seeds, Sequence) and not isinstance(seeds, str) and seeds:
                return {**values, "seed": seeds[0]}
        return values

    @model_validator(mode="after")
    def _seeds_are_different_and_hold_seed(self) -> RunConfig:
        for seed in self.seeds:
            if self.seeds.count(seed) > 1:
                raise ValueError(f"seeds: {seed} is there more than once")
        if self.seeds and self.seed not in self.seeds:
            raise ValueError(
                f"seed: {self.seed} is not among seeds: {list(self.seeds)}; add it there, or change seed"
            )
        return self

    @model_validator(mode="after")
    def _imported_rounds_are_of_one_seed(self) -> RunConfig:
        if self.prune.imported and len(self.seeds) > 1:
            raise ValueError(
                "seeds: imported rounds have the masks and weights of one seed; import each seed's files "
                "into a run of its own, and report them together"
            )
        return self

    @model_validator(mode="after")
    def _transferred_tickets_are_planned(self) -> RunConfig:
        transfer, prune = self.prune.transfer, self.prune
        labels = {branch.label for branch in prune.branches}
        for ticket in transfer.tickets if transfer else ():
            number, _, label = ticket.partition("/")
            if not 1 <= int(number) <= prune.rounds or (label and label not in labels):
                known = ", ".join(sorted(labels)) or "none"
                raise ValueError(
                    f"prune.transfer.tickets: {ticket} is no ticket of prune.rounds = {prune.rounds} and of "
                    f"prune.branches ({known}); write its branch here as its run has it"
                )
        return self

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the run, in the order of the job file."""
        return self.seeds or (self.seed,)

    @model_validator(mode="after")
    def _each_rank_has_an_image(self) -> RunConfig:
        batch, workers = self.train.batch_size, self.cluster.workers
        if batch < workers:
            raise ValueError(
                f"train.batch_size: {batch} is global and leaves some of cluster.workers = {workers} ranks "
                f"without an image; use at most {batch} ranks, or a larger batch"
            )
        return self

    @model_validator(mode="after")
    def _ranks_that_trace_are_there(self) -> RunConfig:
        workers = self.cluster.workers
        for rank in self.train.profile.ranks if self.train.profile else ():
            if rank >= workers:
                raise ValueError(
                    f"train.profile.ranks: there is no rank {rank}; the {workers} of cluster.workers are "
                    f"0 to {workers - 1}"
                )
        return self

    @model_validator(mode="after")
    def _each_node_has_a_rank(self) -> RunConfig:
        nodes, lanes, workers = self.cluster.nodes, self.cluster.lanes, self.cluster.workers
        if lanes * workers < nodes:
            raise ValueError(
                f"cluster.nodes: {nodes} nodes for {lanes} lanes x {workers} workers leave some "
                f"without a rank; use at most {lanes * workers}"
            )
        if self.cluster.min_nodes is not None and self.cluster.min_nodes > nodes:
            raise ValueError(f"cluster.min_nodes: {self.cluster.min_nodes} is above cluster.nodes = {nodes}")
        return self

    @model_validator(mode="after")
    def _sync_batch_norm_has_gpus(self) -> RunConfig:
        if self.train.sync_batch_norm and self.cluster.device == "cpu":
            raise ValueError(f"train.sync_batch_norm: {SYNC_NEEDS_GPUS}, not on cluster.device: cpu")
        return self

    @model_validator(mode="after")
    def _captured_passes_have_one_rank(self) -> RunConfig:
        if self.train.cuda_graph and self.cluster.workers > 1:
            raise ValueError(
                f"train.cuda_graph: the passes of one rank are captured, and cluster.workers is "
                f"{self.cluster.workers}; set cluster.workers: 1 and train more jobs at a time "
                "(cluster.lanes), or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _slim_training_has_removed_channels(self) -> RunConfig:
        if self.train.execution == "slim" and not any(b.removes_channels for b in self.prune.branches):
            raise ValueError(
                "train.execution: slim trains tickets without their removed channels, and no branch "
                "removes any; add a branch of method: refill (with bn: mask), or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _images_grow_up(self) -> RunConfig:
        resize, epochs = self.data.resize, self.train.epochs
        if resize is not None and resize.to_epoch >= epochs:
            raise ValueError(
                f"data.resize.to_epoch: {resize.to_epoch} must be below train.epochs = {epochs}, or no image "
                f"has data.resolution = {self.data.resolution} pixels"
            )
        if self.train.compile and len(self.data.sides) > COMPILED_SIDES:
            raise ValueError(
                f"data.resize: train.compile compiles the network for each of {len(self.data.sides)} sizes; "
                f"torch keeps {COMPILED_SIDES}: use a larger data.resize.multiple"
            )
        return self

    @model_validator(mode="after")
    def _tickets_have_epochs_left(self) -> RunConfig:
        rewind, epochs, then = self.prune.rewind_epoch, self.train.epochs, self.prune.after_rewind
        if rewind > epochs:
            raise ValueError(f"prune.rewind_epoch: {rewind} must be at most train.epochs = {epochs}")
        if rewind == epochs and then != "restart":
            raise ValueError(
                f"prune.rewind_epoch: {rewind} must be below train.epochs = {epochs}: after_rewind: {then} "
                "leaves no epoch to train; use a lower one, or after_rewind: restart"
            )
        return self

    def steps_per_epoch(self, train_images: int) -> int:
        """Return the number of whole batches in a train split of `train_images` images.

        Raises:
            ConfigError: there is not one.
        """
        batch = self.train.batch_size
        if batch > train_images:
            raise ConfigError(
                f"train.batch_size: {batch} is larger than the train split of {self.data.path} "
                f"({train_images} images)"
            )
        return train_images // batch

    def check_device(self, device: str) -> None:
        """Raise ConfigError for what cannot be trained on a device, `cpu` or `cuda`."""
        if self.train.sync_batch_norm and device == "cpu":
            raise ConfigError(
                f"train.sync_batch_norm: {SYNC_NEEDS_GPUS}, and this machine has none; set it to false, "
                "or cluster.device: cuda for a machine that has some"
            )

    def to_yaml(self) -> str:
        """Return the resolved config as YAML, with every default."""
        return dump_yaml(self.model_dump(mode="json"))
