"""Training in a run folder: begin, save, stop, go on, finish.

What makes a resumed run equal an uninterrupted one, bit for bit: `Training.state` holds all that the next step
depends on; a checkpoint holds that state and the length that metrics.jsonl had; going on cuts the file to that
length and takes the same steps again. So it does not matter at which moment a process dies.
"""

import hashlib
import io
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from apical import continual, data
from apical.errors import NonFiniteError, RunError
from apical.interrupts import Interrupted, StopRequest, stop_requests
from apical.study.configuration import Config
from apical.study.configuration.resolution import Resolved, resolve
from apical.study.runs import display, environment, files, fingerprint, task_record
from apical.study.runs.folder import RunFolder
from apical.study.runs.results import Result
from apical.study.training.loop import Training
from apical.study.training.making import explained, reproducible

log = logging.getLogger("apical")


def train(
    config: Config,
    folder: str | Path,
    *,
    task: data.Task | continual.Stream | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Result:
    """Train a network as `config` says, in a folder of its own, and test it once at the end.

    The settings that the configuration leaves open are chosen first (`apical.study.configuration.resolution`);
    config.toml in the folder has every setting as it was used.

    Args:
        config: what to do.
        folder: for the run; see `apical.study.runs.folder`.
        task: data or a stream of your own instead of `config.task`; `resume` and `evaluate` then need it again. A
            stream is taken as it is, with its own validation parts.
        overwrite: remove a run that is in the folder.
        progress: show a bar on standard error; None: when that is a terminal.

    Returns:
        The finished run.

    Raises:
        ConfigError, DataError, CircuitError: what is asked for cannot be had; no folder is made then.
        RunError: the folder holds a run or other files, is in use, or cannot be written.
        NonFiniteError: training came to NaN or infinity; the last good checkpoint is kept.
        Interrupted: Ctrl-C or SIGTERM; the run is saved, and `resume` continues it.
    """
    run = RunFolder(folder)
    if not overwrite:
        run.refuse_what_is_there()
    if task is not None:
        config = config.with_values({"task": f"own:{task.name}"})
    return begin(resolve(config), run, task=task, overwrite=overwrite, progress=progress)


def begin(
    resolved: Resolved,
    run: RunFolder,
    *,
    task: data.Task | continual.Stream | None,
    overwrite: bool,
    progress: bool | None,
) -> Result:
    """`train` with a configuration that is complete already."""
    if resolved.config.log == "tensorboard":
        display.need_tensorboard()
    task = task_record.load(resolved.config, task, progress=progress)
    with reproducible(resolved.config):
        training = Training(resolved.config, task)
        with run.locked():
            if overwrite and run.exists():
                run.clear()
            else:
                run.refuse_what_is_there()
            run.begin(
                resolved.config, environment.describe(), training.task_record(), training.fingerprint, resolved.notes
            )
            return _Session(run, training).complete(progress)


def resume(
    folder: str | Path,
    *,
    task: data.Task | continual.Stream | None = None,
    changed: bool = False,
    progress: bool | None = None,
) -> Result:
    """Go on with a run that was interrupted, to the same weights and metrics as if it never had been.

    Args:
        folder: of the run.
        task: the data of your own that the run began with.
        changed: go on although its data, network, rule, settings or versions are not those it began with, with a note.
        progress: show a bar on standard error; None: when that is a terminal.

    Raises:
        RunError: there is no run, it has finished, it is in use, or it is not made of what it began with.
        CheckpointError: no checkpoint is whole, or it does not fit the network.
        NonFiniteError, Interrupted: as for `train`.
    """
    run = RunFolder.open(folder)
    with run.locked():
        if run.result() is not None:
            raise RunError(f"{run.path} has finished: apical evaluate {run.path} measures it")
        config = run.config()
        task = task_record.load(config, task, progress=progress)
        with reproducible(config):
            training = Training(config, task)
            sizes = task_record.sizes(run.task(), training.task_record())
            found = fingerprint.changes(run.fingerprint(), training.fingerprint, sizes=sizes)
            note = fingerprint.allow(run, found, changed=changed, remedy="Train again (overwrite the run)")
            session = _Session(run, training)
            if note:
                session.note(note)
            session.restore()
            return session.complete(progress)


class _Session:
    """One process's work on a run: from where it stands to its end."""

    def __init__(self, run: RunFolder, training: Training) -> None:
        self.run = run
        self.training = training
        self.saved_step = 0
        self.saved_at = time.monotonic()
        self._metrics = hashlib.sha256()  # of metrics.jsonl

    def note(self, text: str) -> None:
        self.run.add_note(text)
        log.warning("%s: %s", self.run.path, text)

    def restore(self) -> None:
        """Bring training, and the files that it appends to, to the last whole checkpoint."""
        changes = environment.changes(self.run.environment(), environment.describe())
        if changes:
            self.note(f"resumed in another environment ({'; '.join(changes)}): the last bits may differ")
        checkpoint = self.run.checkpoints.latest()
        size, digest = 0, None
        if checkpoint is not None:
            for damaged in checkpoint.damaged:
                self.note(f"checkpoint {damaged.name} is damaged; went on from {checkpoint.path.name}")
            with explained():
                self.training.restore(checkpoint.content)
                size, digest = int(checkpoint.content["metrics_size"]), checkpoint.content.get("metrics_digest")
            self.saved_step = self.training.step
        self._restore_metrics(size, digest)
        files.drop_partial_line(self.run.timing)

    def _restore_metrics(self, size: int, digest: str | None) -> None:
        """Cut metrics.jsonl to the length that a checkpoint has; if it was damaged, keep the records of its epochs."""
        written = files.content(self.run.metrics)
        self._metrics = hashlib.sha256(written[:size])
        if len(written) >= size and digest in (None, self._metrics.hexdigest()):
            files.truncate(self.run.metrics, size)
            return
        records, past = files.readable_lines(self.run.metrics)[0], range(1, self.training.epoch + 1)
        kept = {record["epoch"]: record for record in records if record.get("epoch") in past}
        lost = ", ".join(str(epoch) for epoch in past if epoch not in kept)
        said = f"the records of the epochs {lost} are lost" if lost else "its records may be wrong"
        self.note(f"metrics.jsonl was damaged after the checkpoint was written: {said}; the weights are not affected")
        written = b"".join(files.line(record) for record in kept.values())
        files.atomic_write(self.run.metrics, written)
        self._metrics = hashlib.sha256(written)

    def complete(self, progress: bool | None) -> Result:
        """Train to the end, then test."""
        training, config = self.training, self.training.config
        with ExitStack() as stack:
            stop = stack.enter_context(stop_requests())
            showing: list[display.Bar | display.Scalars] = []
            if config.log == "tensorboard":
                showing.append(stack.enter_context(display.tensorboard(self.run.tensorboard, after=training.step)))
            bar = stack.enter_context(display.Bar(config.rule.label, training.expected_steps, shown=progress))
            showing.append(bar)

            def after_step() -> None:
                if stop.signal:
                    self._stop(stop)
                elif self._is_time_to_save():
                    self.save()
                bar.step(training.step)

            while not training.ended:
                started, first = time.perf_counter(), training.position
                with self._explained():
                    training.run_epoch(after_step)
                    steps, seconds = training.position - first, time.perf_counter() - started
                    record = training.end_epoch()
                    training.check_weights()
                self._metrics.update(files.append_line(self.run.metrics, record, sync=True))
                files.append_line(
                    self.run.timing, {"epoch": training.epoch, "steps": steps, "seconds": seconds}, sync=False
                )
                bar.expect(training.expected_steps)
                for display_ in showing:
                    display_.epoch(record)
                if training.ended or training.epoch % config.checkpoints.epochs == 0:
                    self.save()
                if stop.signal and not training.ended:
                    self._stop(stop)
            return self._finish()

    def _is_time_to_save(self) -> bool:
        every = self.training.config.checkpoints
        if every.steps and self.training.step - self.saved_step >= every.steps:
            return True
        return every.seconds > 0 and time.monotonic() - self.saved_at >= every.seconds

    def save(self) -> None:
        """Write a checkpoint, of weights that are worth it."""
        self.training.check_weights()
        size = self.run.metrics.stat().st_size if self.run.metrics.exists() else 0
        metrics = {"metrics_size": size, "metrics_digest": self._metrics.hexdigest()}
        self.run.checkpoints.save({**self.training.state(), **metrics})
        self.saved_step = self.training.step
        self.saved_at = time.monotonic()

    def _stop(self, stop: StopRequest) -> None:
        training = self.training
        if training.step != self.saved_step:
            self.save()
        epoch = training.epoch + (training.position > 0)
        raise Interrupted(
            f"stopped and saved at step {training.step} (epoch {epoch} of {training.config.epochs * training.phases}); "
            f"go on with: apical resume {self.run.path}",
            stop.signal,
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of a NaN when it came, what to try, and what is left."""
        try:
            yield
        except NonFiniteError as error:
            config = self.training.config
            advice = [
                f"a smaller learning rate (optimizer.lr = {config.optimizer.lr or 0:g} now)",
                f"a smaller clip ({config.clip:g} now)" if config.clip else "a limit to the gradient (clip = 1)",
            ]
            if not config.schedule.warmup:
                advice.append("a warm-up (schedule.warmup = 1)")
            if config.protect.name != "none":
                advice.append(f"other options of protect (apical protections {config.protect.name})")
            kept = (
                f"the checkpoint of step {self.saved_step} is kept" if self.saved_step else "no checkpoint was due yet"
            )
            raise NonFiniteError(
                f"training stopped at step {self.training.step + 1} of {self.run.path}, in layer {error.layer!r}: "
                f"{str(error).rstrip('.')}. Try {', '.join(advice)}; {kept}.",
                layer=error.layer,
            ) from error
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise RunError(
                f"training stopped at step {self.training.step + 1} of {self.run.path}: a number of the optimizer or "
                f"the rule is too large for the weights' type ({error}). Take a smaller one (optimizer.lr = "
                f"{self.training.config.optimizer.lr or 0:g} now)."
            ) from error

    def _finish(self) -> Result:
        training = self.training
        training.take_best()
        tested = training.best_epoch or training.epoch
        with self._explained():
            tested_on = training.test()
        record = next((each for each in self.run.epochs() if each["epoch"] == tested), {})
        weights = io.BytesIO()
        torch.save(training.circuit.model.state_dict(), weights)
        files.atomic_write(self.run.model, weights.getvalue())
        result = Result(
            folder=self.run.path,
            status="stopped early" if training.stalled else "finished",
            epochs=training.epoch,
            steps=training.step,
            tested_epoch=tested,
            test_loss=tested_on.loss,
            test_accuracy=tested_on.accuracy,
            validation_loss=record.get("validation_loss"),
            validation_accuracy=record.get("validation_accuracy"),
            angles=training.angles() if training.config.alignment else None,
            stream=tested_on.stream,
            spikes=training.spikes(),
            notes=self.run.notes(),
        )
        self.run.finish(result.to_dict())
        return result
