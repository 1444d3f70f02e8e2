"""Train one job on one rank, from its ticket's weights or its newest checkpoint to its result."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial

from torch import Tensor, nn

from distlth.data.load.loader import EvalLoader
from distlth.errors import DivergedError
from distlth.files import tensors_digest
from distlth.methods import Measurement
from distlth.models.alive import Alive, known_alive, macs
from distlth.plan import Job
from distlth.prune.magnitude import planned_kept
from distlth.prune.mask import empty_layers
from distlth.run.paths import RunPaths
from distlth.run.results import EpochMetrics, JobResult, Progress
from distlth.ticket import Measured, Ticket
from distlth.train.agreement import Agreement
from distlth.train.all_reduce import compare
from distlth.train.calibration import measure
from distlth.train.checkpoint import Best, JobState, snapshot
from distlth.train.evaluate import Evaluation, evaluate
from distlth.train.meter import Meter
from distlth.train.optim import load_memory, memory_of
from distlth.train.penalty import Pull
from distlth.train.pulse import Pulse, StoppedEarly
from distlth.train.recorder import EventSink, OpenCurves, Recorder
from distlth.train.schedule import learning_rate
from distlth.train.step import train_step
from distlth.train.tracer import Tracer
from distlth.train.warm import WarmRank


def train_job(
    rank: WarmRank,
    job: Job,
    ticket: Ticket,
    run: RunPaths,
    note: EventSink,
    open_curves: OpenCurves,
    *,
    needed: tuple[Measurement, ...] = (),
    pulse: Pulse | None = None,
) -> JobResult:
    """Train a job on this rank, from its newest checkpoint where there is one, and leave its files.

    Every rank of the lane calls this; rank 0 writes, and the result is the same on all. `needed` is measured
    for the tickets to be made from this job. `pulse` is shared with the watchdog.

    Raises:
        DivergedError: a loss that is not finite.
        DataError: a sample that does not decode.
        StoppedEarly: `pulse.stop` was set; the newest checkpoint holds all that was done.
    """
    keep = rank.config.checkpoint.keep
    recorder = Recorder(run, job, note, open_curves, keep=keep, is_main=rank.world.is_main)
    section = rank.config.train.profile
    tracer = None
    if section is not None and rank.world.rank in section.ranks:
        failed = partial(note, "trace-failed", job=job.id)
        tracer = Tracer(section, run.trace(job.id, rank.world.rank), lambda message: failed(message=message))
    return Trainer(rank, job, ticket, recorder, needed, pulse or Pulse(), tracer).run()


@dataclass(frozen=True, eq=False)
class _Trained:
    """What is found out about trained weights while they are evaluated: their digest, and what is alive."""

    digest: Future[str]
    used: Future[Alive | None]


class Trainer:
    """One job on one rank. Steps and epochs count from the start of the schedule."""

    def __init__(
        self,
        rank: WarmRank,
        job: Job,
        ticket: Ticket,
        recorder: Recorder,
        needed: tuple[Measurement, ...],
        pulse: Pulse,
        tracer: Tracer | None = None,
    ) -> None:
        self.executable, self.form = rank.executable(job), rank.form(job, ticket)
        self.job, self.ticket, self.recorder = job, ticket, recorder
        self.needed, self.pulse, self.tracer = needed, pulse, tracer
        self.config, self.world = rank.config, rank.world
        self.steps_per_epoch = self.executable.loader.steps_per_epoch
        self.step = self.first_step
        self.meter = Meter(self.world, self.config.train.batch_size)
        self.best: Best | None = None
        self.best_digest: str | None = None
        self.trained: _Trained | None = None
        self.background = ThreadPoolExecutor(1, "trained")
        self.started = time.perf_counter()

    @property
    def model(self) -> nn.Module:
        """The network that trains."""
        return self.form.model

    @property
    def first_step(self) -> int:
        """The steps of the schedule that the job leaves out."""
        return self.job.first_epoch * self.steps_per_epoch

    @property
    def last_step(self) -> int:
        """The steps of the whole schedule."""
        return self.config.train.epochs * self.steps_per_epoch

    def run(self) -> JobResult:
        """Train from where the job stands to its end, and leave its files."""
        evaluation = None
        try:
            self.begin()
            for epoch in range(self.step // self.steps_per_epoch, self.config.train.epochs):
                self.train_epoch(epoch)
                evaluation = self.end_epoch(epoch)
            return self.finish(evaluation or self.evaluate(self.executable.eval_loader))
        finally:
            self.pulse.rest()
            if self.tracer is not None:
                self.tracer.close()
            self.recorder.close()
            self.background.shutdown()

    # -- beginning ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Load the ticket's weights, or the newest checkpoint in their place."""
        found = self.recorder.newest_state(self.step)
        self.check_mask(found)
        self.form.start()
        if found is not None:
            self.model.load_state_dict(dict(found.model))
        self.state = self.form.fresh_state(self.config.train, self.world, self.job.seed)
        self.state = replace(self.state, pull=self.pull())
        if found is not None:
            self.restore(found)
        self.sends_kept = self.choose_gradients(found)
        self.agreement = Agreement(self.config.checkpoint, self.world, self.pulse, self.step)
        self.world.agree(f"step {self.step}, mask {self.ticket.mask.digest()}")
        self.recorder.open(self.step, self.ticket.mask.density)
        self.save_untrained()
        self.save_rewind_point()

    def pull(self) -> Pull | None:
        """Return what the job's method adds to the gradients, if it adds something."""
        penalty = self.job.structure.penalty if self.job.structure else None
        if penalty is None:
            return None
        layers = self.ticket.mask.layers
        kept = planned_kept(self.ticket.mask.total, self.config.prune.rate, self.job.round)[-1]
        return Pull(penalty, self.model, layers, kept)

    def check_mask(self, found: JobState | None) -> None:
        """Raise RuntimeError when a checkpoint is of another mask than the ticket's."""
        digest = self.ticket.mask.digest()
        if found is not None and found.mask_digest != digest:
            raise RuntimeError(f"{self.job.id}: the checkpoint's mask {found.mask_digest} is not {digest}")

    def restore(self, found: JobState) -> None:
        """Resume from a checkpoint whose weights are loaded."""
        load_memory(self.model, self.state.optimizer, found.optimizer)
        if found.scaler:
            self.state.scaler.load_state_dict(dict(found.scaler))
        self.meter.restore(found.sums_of(self.world.rank, self.world.size))
        self.best = found.best
        if self.state.pull is not None:
            self.state.pull.restore(found.penalty)
        self.step = found.step

    def choose_gradients(self, found: JobState | None) -> bool:
        """Return whether gradients of kept weights alone are sent, as the checkpoint has it. Collective."""
        exchange, wanted = self.form.gradients, self.config.train.all_reduce.send
        if exchange is None:
            return False
        kept = self.state.masking.kept()
        sends_kept = bool(kept) and wanted != "all"
        if found is not None:
            sends_kept = found.sends_kept
        elif sends_kept and wanted == "auto":
            trial = compare(self.model, kept, self.world, exchange.dtype)
            sends_kept = trial.pays
            sent = "kept" if sends_kept else "all"
            self.recorder.event("all-reduce", self.step, sent=sent, **asdict(trial))
        exchange.use(kept if sends_kept else {})
        return sends_kept

    # -- steps ----------------------------------------------------------------------------------------

    def train_epoch(self, epoch: int) -> None:
        """Train the rest of an epoch."""
        self.model.train()
        self.meter.start_epoch()
        first = self.step % self.steps_per_epoch
        batches = self.executable.loader.epoch(epoch, first)
        try:
            for _ in range(first, self.steps_per_epoch):
                if self.tracer is not None:
                    self.tracer.before_step(self.step - self.first_step)
                self.take_step(*self.meter.next_batch(batches))
                self.after_step()
        finally:
            self.pulse.rest()
            batches.close()

    def take_step(self, images: Tensor, labels: Tensor) -> None:
        """Train on this rank's part of a global batch, and count it."""
        loss = train_step(self.state, images, labels, step=self.step, lr=self.learning_rate())
        self.meter.count(loss, len(labels), self.step)

    def after_step(self) -> None:
        """Log, and save where due. Collective, at the same steps on all ranks."""
        if self.step == self.first_step:
            self.recorder.event("first-step", self.step)
        lr = self.learning_rate()
        self.step += 1
        self.pulse.step()
        if self.step % self.config.log_every == 0:
            self.check_finite(lr)
            self.log_point(lr)
        if self.step % self.steps_per_epoch:
            self.save_if_due(lr)

    def learning_rate(self) -> float:
        """Return the learning rate of the current step."""
        c = self.config.train
        return learning_rate(c.schedule, c.lr, self.step, self.steps_per_epoch, c.epochs)

    def check_finite(self, lr: float) -> None:
        """Raise DivergedError on every rank if any rank has met a loss that is not finite."""
        step = self.meter.first_bad_step()
        if step is None:
            return
        newest = self.recorder.newest_checkpoint
        last = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
        raise DivergedError(
            f"job {self.job.id}: the loss was not finite at step {step} (learning rate {lr:.4g}); "
            f"{last}. Lower train.lr, lengthen train.schedule.warmup_epochs or set train.clip_norm"
        )

    def log_point(self, lr: float) -> None:
        """Add a point to the curves: means since the point before."""
        means = self.meter.end_point()
        self.recorder.point(self.step, means, lr=lr, density=self.ticket.mask.density)
        self.recorder.progress(self.progress())

    # -- epochs ---------------------------------------------------------------------------------------

    def end_epoch(self, epoch: int) -> Evaluation | None:
        """Evaluate and save where due, and write the epoch's metrics."""
        metrics = EpochMetrics(epoch, self.step, lr=self.learning_rate(), **asdict(self.meter.end_epoch()))
        self.check_finite(metrics.lr)
        if self.state.pull is not None:
            self.state.pull.end_epoch(epoch)
        is_last = epoch + 1 == self.config.train.epochs
        if is_last:
            self.recorder.event("last-step", self.step)
            self.trained = self.leave_weights()
        is_due = is_last or (epoch + 1) % self.config.train.eval_every == 0
        evaluation = self.evaluate(self.executable.eval_loader) if is_due else None
        self.keep_best(epoch, evaluation)
        self.recorder.epoch(metrics, evaluation)
        self.recorder.progress(self.progress(), now=True)
        self.save_rewind_point()
        if not is_last:
            self.save_if_due(metrics.lr)
        return evaluation

    def evaluate(self, loader: EvalLoader) -> Evaluation:
        """Evaluate on the images of `loader`, with rank 0's BatchNorm statistics on every rank."""
        self.world.share_buffers(self.model)
        result = evaluate(self.model, self.pulse.watched(loader), self.world, self.state.precision)
        self.model.train()
        return result

    def keep_best(self, epoch: int, evaluation: Evaluation | None) -> None:
        """Keep the network if it is the best on val so far, where that is reported; a tie changes nothing."""
        if evaluation is None or self.config.train.report_epoch == "last":
            return
        if self.best is None or evaluation.top1 > self.best.evaluation.top1:
            self.best = Best(epoch, evaluation, snapshot(self.model.state_dict()))

    # -- saving ---------------------------------------------------------------------------------------

    def save_untrained(self) -> None:
        """Keep what is measured before the first step; a job that resumes later has it on disk."""
        if self.step == self.first_step:
            self.recorder.untrained(self.step, self.measure(untrained=True))

    def save_rewind_point(self) -> None:
        """In round 0, keep the weights of exactly `rewind_epoch` epochs for the tickets to come."""
        rewind_step = self.config.prune.rewind_epoch * self.steps_per_epoch
        if self.job.makes_rewind_weights and self.step == rewind_step:
            self.recorder.rewind_point(self.step, self.model)

    def save_if_due(self, lr: float) -> None:
        """Leave a checkpoint where one is due, and end the job where it is asked to stop."""
        due = self.agreement.after(self.step)
        if due.checkpoint:
            self.check_finite(lr)
            self.checkpoint()
        if due.stop:
            self.recorder.flush()
            self.recorder.progress(self.progress(), now=True)
            raise StoppedEarly(self.job.id, self.step)

    def checkpoint(self) -> None:
        """Copy the state to host memory and have it written in the background."""
        sums = self.meter.sums()
        if self.world.is_main:
            self.recorder.checkpoint(self.job_state(sums))

    def job_state(self, sums: Tensor) -> JobState:
        """Return a copy of all that the steps to come depend on."""
        return JobState(
            job=self.job.id,
            step=self.step,
            mask_digest=self.ticket.mask.digest(),
            model=snapshot(self.model.state_dict()),
            optimizer=snapshot(memory_of(self.model, self.state.optimizer)),
            scaler=self.state.scaler.state_dict(),
            sums=sums,
            best=self.best,
            penalty=self.state.pull.state() if self.state.pull else {},
            sends_kept=self.sends_kept,
        )

    # -- ending ---------------------------------------------------------------------------------------

    def leave_weights(self) -> _Trained:
        """Begin to write the weights: no evaluation changes them, and it takes longer than a disk does."""
        weights = self.checked_weights()
        kept, graph = self.ticket.mask.layers, self.executable.anatomy.graph
        digest = self.background.submit(tensors_digest, weights)
        used = self.background.submit(known_alive, graph, kept, removed=self.ticket.remove_channels)
        self.recorder.weights(weights, digest.result, self.step)
        return _Trained(digest, used)

    def checked_weights(self) -> dict[str, Tensor]:
        """Return the whole network's weights, with rank 0's statistics; the zeros are zeros."""
        self.world.share_buffers(self.model)
        self.state.masking.check_zeros()
        return snapshot(self.form.whole())

    def finish(self, evaluation: Evaluation) -> JobResult:
        """Measure what is needed, evaluate on test, and write what is not written yet; last, the result.

        `evaluation` is that of the last epoch, whose network the tickets to come are made from.
        """
        trained = self.trained or self.leave_weights()
        self.world.agree(f"trained weights {trained.digest.result()}")
        measured = self.measure(untrained=False)
        best_weights = self.return_to_best()
        result = self.result(evaluation, self.evaluate_on_test(), trained)
        self.recorder.finish(result, best_weights, measured, self.step)
        return result

    def return_to_best(self) -> dict[str, Tensor] | None:
        """Load the best network on val, where that is to be reported, and return its weights."""
        if self.best is None:
            return None
        self.model.load_state_dict(dict(self.best.model))
        weights = self.checked_weights()
        self.best_digest = tensors_digest(weights)
        self.world.agree(f"best weights {self.best_digest}")
        return weights

    def evaluate_on_test(self) -> Evaluation | None:
        """Evaluate on the test split, where there is one."""
        if self.executable.test_loader is None:
            return None
        found = self.evaluate(self.executable.test_loader)
        self.recorder.evaluation("test", self.step, found)
        return found

    def measure(self, *, untrained: bool) -> Measured:
        """Return what is needed of the network before its first step, or after its last."""
        needed = [each for each in self.needed if each.untrained == untrained]
        if needed and self.model is not self.executable.model:
            self.executable.model.load_state_dict(self.form.whole())
        return measure(needed, self.executable, list(self.ticket.mask), self.world, self.pulse)

    def result(self, last: Evaluation, test: Evaluation | None, trained: _Trained) -> JobResult:
        """Return what the job leaves for people and for the plan; `last` is of the last epoch, on val."""
        val = self.best.evaluation if self.best else last
        mask, body = self.ticket.mask, self.executable.anatomy
        used = trained.used.result()
        if used is None:
            self.recorder.event("alive-not-counted", self.step, behind=", ".join(body.graph.unfollowed))
        return JobResult(
            job=self.job.id,
            round=self.job.round,
            method=self.job.method,
            density=mask.density,
            kept=mask.kept,
            total=mask.total,
            **val.scores("val"),
            **(test.scores("test") if test else {}),
            train_loss=self.meter.loss,
            epochs=self.config.train.epochs - self.job.first_epoch,
            steps=self.last_step - self.first_step,
            seconds=time.perf_counter() - self.started,
            world_size=self.world.size,
            mask_digest=mask.digest(),
            weights_digest=trained.digest.result(),
            finished=time.time(),
            empty_layers=len(empty_layers(mask)),
            alive=None if used is None else used.weights,
            macs=body.macs if used is None else macs(body.graph),
            alive_macs=None if used is None else used.macs,
            device=self.world.device_name,
            best_epoch=self.best.epoch + 1 if self.best else None,
            best_digest=self.best_digest,
        )

    def progress(self) -> Progress:
        """Return where the job stands."""
        rate = self.meter.images_per_second
        epochs = self.config.train.epochs
        return Progress(
            job=self.job.id,
            epoch=min(self.step // self.steps_per_epoch + 1, epochs),
            epochs=epochs,
            step=self.step,
            steps=self.last_step,
            loss=self.meter.loss,
            images_per_second=rate,
            seconds_left=(self.last_step - self.step) * self.config.train.batch_size / max(rate, 1e-9),
            time=time.time(),
        )
