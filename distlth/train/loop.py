"""Training one job on one rank: the loop over epochs and steps, and what happens between them."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from distlth.errors import TrainingError
from distlth.files import append_json, remove_temporaries, retry_until_written, save_tensors, tensors_digest
from distlth.methods import Measurement
from distlth.plan import Job
from distlth.prune.mask import empty_layers
from distlth.run.curves import JobBoard
from distlth.run.paths import RunPaths
from distlth.run.results import EpochMetrics, JobResult, Progress, save_progress
from distlth.run.tickets import save_measured
from distlth.ticket import Measured, Ticket
from distlth.train.checkpoint import CheckpointWriter, JobState, newest_state, snapshot
from distlth.train.evaluate import Evaluation, evaluate
from distlth.train.masking import Masking, parameter_masks
from distlth.train.optim import load_momentum, make_optimizer, momentum_of, set_learning_rate
from distlth.train.pulse import Pulse, StoppedEarly
from distlth.train.schedule import learning_rate
from distlth.train.trainer import Trainer
from distlth.train.world import World

PROGRESS_SECONDS = 2.0

# How often the ranks agree on what rank 0's clock and signals say. Each time costs one tiny all-reduce.
AGREE_SECONDS = 1.0

# Positions in a rank's running sums: loss and images since the epoch began, and since the last point.
EPOCH_LOSS, EPOCH_IMAGES, POINT_LOSS, POINT_IMAGES = range(4)


class EventSink(Protocol):
    """Takes what happens, for the run's log."""

    def __call__(self, event: str, **details: Any) -> None:
        """Note that `event` happened now."""


def train_job(
    trainer: Trainer,
    job: Job,
    ticket: Ticket,
    run: RunPaths,
    note: EventSink,
    *,
    needed: tuple[Measurement, ...] = (),
    pulse: Pulse | None = None,
) -> JobResult:
    """Train a job on this rank, from its newest checkpoint where there is one, and leave its files.

    What is `needed` by the tickets to be made from this job is measured on the calibration set. Rank 0
    writes; the result is the same on every rank. `pulse` is shared with whoever watches.

    Raises:
        TrainingError: a loss that is not finite.
        DataError: a sample that does not decode.
        StoppedEarly: `pulse.stop` was set; the newest checkpoint holds all that was done.
    """
    return JobTraining(trainer, job, ticket, run, note, needed, pulse or Pulse()).run()


@dataclass
class _Clock:
    """Wall time of the current epoch and of the time since the last point, in seconds."""

    start: float
    waited: float = 0.0
    images: int = 0

    @classmethod
    def now(cls) -> _Clock:
        return cls(time.perf_counter())

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.seconds, 1e-9)

    @property
    def data_wait(self) -> float:
        return self.waited / max(self.seconds, 1e-9)


class JobTraining:
    """One job on one rank. Steps and epochs count from the start of the schedule."""

    def __init__(
        self,
        trainer: Trainer,
        job: Job,
        ticket: Ticket,
        run: RunPaths,
        note: EventSink,
        needed: tuple[Measurement, ...],
        pulse: Pulse,
    ) -> None:
        self.trainer, self.job, self.ticket, self.run_paths, self.note = trainer, job, ticket, run, note
        self.needed, self.pulse = needed, pulse
        self.config, self.world, self.model = trainer.config.train, trainer.world, trainer.model
        self.paths = run.job(job.id)
        self.steps_per_epoch = trainer.loader.steps_per_epoch
        self.first_step = job.first_epoch * self.steps_per_epoch
        self.last_step = self.config.epochs * self.steps_per_epoch
        self.step = self.first_step
        self.writer = CheckpointWriter(
            run.checkpoints(job.id), trainer.config.checkpoint.keep, self.checkpoint_failed
        )
        self.unwritten_metrics: list[dict[str, Any]] = []
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.world.device)
        # The first step with a loss that is not finite; kept on the device, so that no step waits for it.
        self.bad_step = torch.full((), float("inf"), dtype=torch.float64, device=self.world.device)
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=self.config.amp == "fp16")
        self.started = self.checkpointed = time.perf_counter()
        self.progress_shown = 0.0
        self.next_agreement = self.first_step + 1
        self.agreed_at = (self.first_step, time.perf_counter())
        self.last_loss = float("nan")
        self.board: JobBoard | None = None

    def run(self) -> JobResult:
        """Train from where the job stands to its end, and leave its files."""
        self.begin()
        evaluation = None
        try:
            for epoch in range(self.step // self.steps_per_epoch, self.config.epochs):
                metrics = self.train_epoch(epoch)
                evaluation = self.end_epoch(epoch, metrics)
            return self.finish(evaluation or self.evaluate())
        finally:
            self.pulse.rest()
            self.writer.wait()
            if self.board:
                with suppress(OSError):
                    self.board.close()

    def begin(self) -> None:
        """Load the ticket's weights, or the newest checkpoint over them."""
        self.model.load_state_dict(dict(self.ticket.weights))
        self.optimizer = make_optimizer(self.model, self.config)
        state = newest_state(
            self.run_paths.checkpoints(self.job.id),
            lambda message: self.note_main("checkpoint-damaged", message=message),
        )
        if state is not None:
            self.restore(state)
        parameters = dict(self.model.named_parameters())
        self.masking = Masking(self.model, parameter_masks(self.ticket, self.trainer.anatomy, parameters))
        self.world.agree(f"step {self.step}, mask {self.ticket.mask.digest()}")
        if self.world.is_main:
            remove_temporaries(self.run_paths.checkpoints(self.job.id))
            remove_temporaries(self.paths.root)
            self.board = JobBoard(self.run_paths, self.job.id, first_step=self.step)
            self.note("job-start", job=self.job.id, step=self.step, density=self.ticket.mask.density)
        self.save_rewind_point()

    def restore(self, state: JobState) -> None:
        """Go on from a checkpoint."""
        digest = self.ticket.mask.digest()
        if state.mask_digest != digest:
            raise RuntimeError(f"{self.job.id}: the checkpoint's mask {state.mask_digest} is not {digest}")
        self.model.load_state_dict(dict(state.model))
        load_momentum(self.model, self.optimizer, dict(state.momentum))
        if state.scaler:
            self.scaler.load_state_dict(dict(state.scaler))
        self.sums.copy_(state.sums_of(self.world.rank, self.world.size))
        self.step = state.step
        self.next_agreement = self.step + 1

    def train_epoch(self, epoch: int) -> EpochMetrics:
        """Train the rest of an epoch; returns its metrics over all ranks."""
        self.model.train()
        self.epoch_clock, self.point_clock = _Clock.now(), _Clock.now()
        first = self.step % self.steps_per_epoch
        batches = self.trainer.loader.epoch(epoch, first)
        try:
            for _ in range(first, self.steps_per_epoch):
                images, labels = self.next_batch(batches)
                self.train_step(images, labels)
                self.after_step()
        finally:
            self.pulse.rest()
            batches.close()
        return self.epoch_metrics(epoch)

    def next_batch(self, batches: Any) -> tuple[Tensor, Tensor]:
        """This rank's part of the next global batch; the time spent waiting for it is counted."""
        start = time.perf_counter()
        images, labels = next(batches)
        waited = time.perf_counter() - start
        for clock in (self.epoch_clock, self.point_clock):
            clock.waited += waited
            clock.images += len(labels) * self.world.size
        return images, labels

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """One step of SGD on this rank's part of the global batch."""
        seed_step(self.trainer.config.seed, self.step, self.world)
        set_learning_rate(self.optimizer, self.learning_rate())
        with self.trainer.precision():
            logits = self.trainer.replicas(images)
            loss = functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.masking.mask_gradients()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.count(loss.detach(), len(labels))

    def count(self, loss: Tensor, images: int) -> None:
        """Add a step to the running sums, on the device."""
        total = loss.double() * images
        self.sums += torch.stack([total, torch.full_like(total, images)]).repeat(2)
        failed = torch.where(torch.isfinite(total), float("inf"), float(self.step))
        self.bad_step = torch.minimum(self.bad_step, failed)

    def learning_rate(self) -> float:
        """The learning rate of the current step."""
        c = self.config
        return learning_rate(c.schedule, c.lr, self.step, self.steps_per_epoch, c.epochs)

    def after_step(self) -> None:
        """What follows a step: points, progress, checkpoints. Collective, at the same steps on all ranks."""
        if self.step == self.first_step:
            self.note_main("first-step")
        lr = self.learning_rate()
        self.step += 1
        self.pulse.step()
        if self.step % self.trainer.config.log_every == 0:
            self.check_finite(lr)
            self.log_point(lr)
        if self.step % self.steps_per_epoch:
            self.checkpoint_if_due(lr)

    def check_finite(self, lr: float) -> None:
        """Raise TrainingError on every rank if any rank has met a loss that is not finite."""
        step = self.world.gather(self.bad_step).min().item()
        if step == float("inf"):
            return
        self.writer.wait()
        newest = self.writer.newest()
        last = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
        raise TrainingError(
            f"job {self.job.id}: the loss was not finite at step {int(step)} (learning rate {lr:.4g}); "
            f"{last}. Lower train.lr, lengthen train.schedule.warmup_epochs or set train.clip_norm"
        )

    def log_point(self, lr: float) -> None:
        """Add a point to the curves: means since the point before."""
        sums = self.world.sum(self.sums.clone())
        self.sums[[POINT_LOSS, POINT_IMAGES]] = 0
        self.last_loss = float(sums[POINT_LOSS] / sums[POINT_IMAGES])
        if self.board:
            self.board.train(
                self.step,
                loss=self.last_loss,
                lr=lr,
                images_per_second=self.point_clock.images_per_second,
                data_wait=self.point_clock.data_wait,
                density=self.ticket.mask.density,
            )
            self.show_progress()
        self.point_clock = _Clock.now()

    def show_progress(self, *, now: bool = False) -> None:
        """Report where the job stands, every few seconds."""
        shown_lately = time.perf_counter() - self.progress_shown < PROGRESS_SECONDS
        if not self.world.is_main or (shown_lately and not now):
            return
        self.progress_shown = time.perf_counter()
        rate = self.epoch_clock.images_per_second
        left = (self.last_step - self.step) * self.config.batch_size / max(rate, 1e-9)
        progress = Progress(
            job=self.job.id,
            epoch=min(self.step // self.steps_per_epoch + 1, self.config.epochs),
            epochs=self.config.epochs,
            step=self.step,
            steps=self.last_step,
            loss=self.last_loss,
            images_per_second=rate,
            seconds_left=left,
            time=time.time(),
        )
        with suppress(OSError):  # a full disk: the next one may fit
            save_progress(self.paths, progress)

    def epoch_metrics(self, epoch: int) -> EpochMetrics:
        """The metrics of the epoch that just ended, over all ranks."""
        sums = self.world.sum(self.sums.clone())
        self.sums[[EPOCH_LOSS, EPOCH_IMAGES]] = 0
        return EpochMetrics(
            epoch=epoch,
            step=self.step,
            loss=float(sums[EPOCH_LOSS] / sums[EPOCH_IMAGES]),
            lr=self.learning_rate(),
            images_per_second=self.epoch_clock.images_per_second,
            data_wait=self.epoch_clock.data_wait,
            seconds=self.epoch_clock.seconds,
        )

    def end_epoch(self, epoch: int, metrics: EpochMetrics) -> Evaluation | None:
        """Evaluate where due, write the epoch's line, and leave a checkpoint where due."""
        self.check_finite(metrics.lr)
        self.last_loss = metrics.loss
        is_last = epoch + 1 == self.config.epochs
        if is_last:
            self.note_main("last-step")
        evaluation = None
        if is_last or (epoch + 1) % self.config.eval_every == 0:
            evaluation = self.evaluate()
        if self.world.is_main:
            scores = {} if evaluation is None else _scores(evaluation)
            self.unwritten_metrics.append({**asdict(metrics), **scores})
            if self.board and evaluation:
                self.board.evaluation(
                    self.step, loss=evaluation.loss, top1=evaluation.top1, top5=evaluation.top5
                )
            self.show_progress(now=True)
            with suppress(OSError):  # the next checkpoint tries again, and says so
                self.write_curves()
        self.save_rewind_point()
        if not is_last:
            self.checkpoint_if_due(metrics.lr)
        return evaluation

    def evaluate(self) -> Evaluation:
        """Evaluate on the validation split, with rank 0's BatchNorm statistics on every rank."""
        self.world.share_buffers(self.model)
        batches = self.pulse.watched(self.trainer.eval_loader)
        result = evaluate(self.model, batches, self.world, self.trainer.precision())
        self.model.train()
        return result

    def save_rewind_point(self) -> None:
        """In round 0, keep the weights of exactly `rewind_epoch` epochs for the tickets to come."""
        rewind_step = self.trainer.config.prune.rewind_epoch * self.steps_per_epoch
        if self.job.parent is None and self.step == rewind_step and self.world.is_main:
            weights = snapshot(self.model.state_dict())
            retry_until_written(lambda: save_tensors(self.run_paths.rewind, weights), self.waiting)

    def checkpoint_if_due(self, lr: float) -> None:
        """Leave a checkpoint where one is due, and end the job where it is asked to stop."""
        every_steps = self.trainer.config.checkpoint.every_steps
        late, stop = self.agreement() if self.step >= self.next_agreement else (False, False)
        if late or stop or (every_steps is not None and self.step % every_steps == 0):
            self.check_finite(lr)
            self.checkpoint()
        if stop:
            self.writer.wait()
            self.show_progress(now=True)
            raise StoppedEarly(self.job.id, self.step)

    def agreement(self) -> tuple[bool, bool]:
        """Whether a checkpoint is late, whether to stop, and when to agree next: rank 0 decides for all.

        Between two agreements are as many steps as rank 0 makes in about a second: a step without one costs
        nothing, and all ranks know which step has one.
        """
        due = self.trainer.config.checkpoint
        now = time.perf_counter()
        late = due.every_steps is None and now - self.checkpointed > 60 * due.every_minutes
        step, then = self.agreed_at
        pace = (self.step - step) / max(now - then, 1e-9)
        gap = max(1, min(int(pace * AGREE_SECONDS), 2 * (self.step - step)))
        self.agreed_at = (self.step, now)
        said = torch.tensor([float(late), float(self.pulse.stop), float(gap)], device=self.world.device)
        late_all, stop_all, gap_all = self.world.sum(said * self.world.is_main).tolist()
        self.next_agreement = self.step + int(gap_all)
        return bool(late_all), bool(stop_all)

    def checkpoint(self) -> None:
        """Copy the state to host memory and have it written in the background."""
        sums = self.world.gather(self.sums).cpu()
        self.checkpointed = time.perf_counter()
        if self.world.is_main:
            try:
                self.write_curves()
            except OSError as error:
                self.checkpoint_failed(self.step, error)
                return
            self.writer.write(
                JobState(
                    job=self.job.id,
                    step=self.step,
                    mask_digest=self.ticket.mask.digest(),
                    model=snapshot(self.model.state_dict()),
                    momentum=snapshot(momentum_of(self.model, self.optimizer)),
                    scaler=self.scaler.state_dict(),
                    sums=sums,
                )
            )

    def write_curves(self) -> None:
        """Put metrics and points so far on disk: a resume from a later checkpoint does not repeat them."""
        while self.unwritten_metrics:
            append_json(self.paths.metrics, self.unwritten_metrics[0])
            del self.unwritten_metrics[0]
        if self.board:
            self.board.flush()

    def checkpoint_failed(self, step: int, error: OSError) -> None:
        """A full disk must not end days of training: the last good checkpoint stays, the next is tried."""
        self.note("checkpoint-failed", job=self.job.id, step=step, error=str(error))

    def waiting(self, error: OSError, seconds: float) -> None:
        """What must be written cannot be: say so, once a try."""
        self.note_main("waiting-for-disk", error=f"{error}; next try in {seconds:g} s")

    def finish(self, evaluation: Evaluation) -> JobResult:
        """Check the zeros, write the weights and, last, the result."""
        self.masking.check_zeros()
        self.world.share_buffers(self.model)
        weights = snapshot(self.model.state_dict())
        digest = tensors_digest(weights)
        self.world.agree(f"trained weights {digest}")
        layers = list(self.ticket.mask.names)
        measured = {each.name: self.trainer.measure(each, layers, self.pulse) for each in self.needed}
        result = self.result(evaluation, digest)
        if self.world.is_main:
            retry_until_written(lambda: self.write_result(result, weights, measured), self.waiting)
            with suppress(OSError):  # of a job that is done nobody reads them
                self.writer.clear()
        return result

    def write_result(self, result: JobResult, weights: dict[str, Tensor], measured: Measured) -> None:
        """Write all that the job leaves, and last the result."""
        self.write_curves()
        if measured:
            save_measured(self.paths.activations, measured)
        save_tensors(self.paths.weights, weights)
        result.save(self.paths)

    def result(self, evaluation: Evaluation, digest: str) -> JobResult:
        """What the job leaves for people and for the plan."""
        mask = self.ticket.mask
        return JobResult(
            job=self.job.id,
            round=self.job.round,
            method=self.job.method,
            density=mask.density,
            kept=mask.kept,
            total=mask.total,
            top1=evaluation.top1,
            top5=evaluation.top5,
            eval_loss=evaluation.loss,
            train_loss=self.last_loss,
            epochs=self.config.epochs - self.job.first_epoch,
            steps=self.last_step - self.first_step,
            seconds=time.perf_counter() - self.started,
            world_size=self.world.size,
            mask_digest=mask.digest(),
            weights_digest=digest,
            finished=time.time(),
            empty_layers=len(empty_layers(mask)),
        )

    def note_main(self, event: str, **details: Any) -> None:
        """Log an event of the job, once for all ranks."""
        if self.world.is_main:
            self.note(event, job=self.job.id, step=self.step, **details)


def _scores(evaluation: Evaluation) -> dict[str, float]:
    return {"eval_loss": evaluation.loss, "top1": evaluation.top1, "top5": evaluation.top5}


def seed_step(seed: int, step: int, world: World) -> None:
    """Make what a step draws at random (dropout) a pure function of seed, step and rank."""
    key = hashlib.blake2b(f"{seed}:{step}:{world.rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(key, "little") >> 1)
