"""The loop that both phases run: compiled steps, one log line an epoch, checkpoints, continuing where a run stopped."""

import dataclasses
import functools
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mulsupcon_tf
from mulsupcon_tf.checkpoint import CheckpointStore, assign_all
from mulsupcon_tf.config import TrainingConfig, parse_checkpoint_interval
from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset
from mulsupcon_tf.errors import InputError
from mulsupcon_tf.image_files import naming_unreadable
from mulsupcon_tf.input_pipeline import model_input_shape
from mulsupcon_tf.monitoring import ProgressBar, TensorBoard
from mulsupcon_tf.run_directory import RunDirectory

MAX_STEPS_PER_EXECUTION = 64
EpochHook = Callable[[int, dict[str, Any]], bool]
InputsOfSteps = Callable[[int, int], np.ndarray | ImageFiles | None]


@dataclasses.dataclass
class TrainingState:
    """Where training stands. Saved with each checkpoint.

    Attributes:
        epoch: finished epochs.
        step: finished steps.
        seconds: wall time spent in training so far, over all starts of the run.
        best_loss: lowest validation loss so far.
        best_epoch: the epoch that reached it.
        best_weights: model variables of that epoch; empty where no validation is done.
        stopped: whether the epoch hook ended training before its last epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    stopped: bool = False

    def progress(self) -> dict[str, Any]:
        """Everything but the weights, for the checkpoint's JSON."""
        fields = dataclasses.asdict(dataclasses.replace(self, best_weights=[]))
        del fields["best_weights"]
        return fields


def prepare_process(config: TrainingConfig) -> None:
    """Sets the process-wide seed and arithmetic; call it before any layer is made."""
    keras.utils.set_random_seed(config.seed)
    policies = {"none": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    keras.mixed_precision.set_dtype_policy(policies[config.mixed_precision])


def train(
    model: keras.Model,
    batches_from: Callable[[int], tf.data.Dataset],
    *,
    config: TrainingConfig,
    steps_per_epoch: int,
    run: RunDirectory,
    tensorboard: TensorBoard,
    state: TrainingState | None = None,
    on_epoch_end: EpochHook,
    inputs_of: InputsOfSteps = lambda first_step, num_steps: None,
) -> TrainingState:
    """Trains a compiled model, continuing from the newest checkpoint of the run where there is one.

    Args:
        model: compiled; its `train_step` is run inside one `tf.function`.
        batches_from: from a step to the endless batches that start there.
        config: settings of the phase, resolved.
        steps_per_epoch: steps in one epoch.
        run: gets `metrics.jsonl` and `checkpoints/`.
        tensorboard: gets the epoch's scalars.
        state: changed in place, so that the hook can keep its own part of it there.
        on_epoch_end: called with the finished epoch's number and its log record, to which it may add; returns whether
            training should stop.
        inputs_of: from a step and a number of steps to the training inputs that they read, so that a broken image file
            among them can be named.

    Returns:
        The final state.

    Raises:
        InputError: the loss is not finite, or an image file cannot be read.
    """
    state = state or TrainingState()
    model.optimizer.build(model.trainable_variables)
    store = CheckpointStore(run.checkpoints)
    _restore(store, model, state, run)
    total_steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
    clock = _CheckpointClock(config.checkpoint_every, state.epoch)
    run_steps = _compiled_steps(model)
    if state.step < total_steps and not state.stopped:
        batches: Iterator = iter(batches_from(state.step))
    with ProgressBar(total_steps, state.step, config.epochs) as bar:
        while state.step < total_steps and not state.stopped:
            steps = min(steps_per_epoch, total_steps - state.step)
            timing = _run_epoch(
                run_steps, batches, steps, config, bar, inputs_of=functools.partial(_after, inputs_of, state.step)
            )
            record: dict[str, Any] = {"epoch": state.epoch + 1, "step": state.step + steps}
            record |= {name: float(value) for name, value in model.get_metrics_result().items()}
            model.reset_metrics()
            if not math.isfinite(record["loss"]):
                raise InputError(
                    "The loss must stay finite; lower --learning_rate, raise --temperature or use another --mixed_precision. "
                    f"Received: {record['loss']} in epoch {record['epoch']}")  # fmt: skip
            record["learning_rate"] = float(model.optimizer.learning_rate)
            record["samples_per_second"] = timing.samples_per_second(config.batch_size)
            record["data_wait_share"] = timing.wait_share
            state.epoch, state.step, state.seconds = state.epoch + 1, state.step + steps, state.seconds + timing.seconds
            state.stopped = on_epoch_end(state.epoch, record)
            bar.show(state.epoch, record)
            run.log_epoch(record)
            tensorboard.log_scalars(record, state.step)
            if state.stopped or state.step >= total_steps or clock.due(state.epoch):
                _save(store, model, state)
    return state


def _compiled_steps(model: keras.Model):
    @tf.function(reduce_retracing=True)
    def run_steps(batches, count):
        """`count` training steps; returns the seconds spent waiting for data."""
        waited = tf.constant(0.0, tf.float64)
        for _ in tf.range(count):
            before = tf.timestamp()
            batch = next(batches)
            waited += tf.timestamp() - before
            model.train_step(batch)
        return waited

    return run_steps


@dataclasses.dataclass
class _EpochTiming:
    """Wall time of an epoch; the first call of the compiled graph, which contains its compilation, is not timed."""

    seconds: float = 0.0
    timed_seconds: float = 0.0
    timed_steps: int = 0
    waited: float = 0.0

    def samples_per_second(self, batch_size: int) -> float | None:
        return self.timed_steps * batch_size / self.timed_seconds if self.timed_steps else None

    @property
    def wait_share(self) -> float | None:
        return min(1.0, self.waited / self.timed_seconds) if self.timed_steps else None


def _run_epoch(
    run_steps, batches: Iterator, steps: int, config: TrainingConfig, bar: ProgressBar, *, inputs_of: InputsOfSteps
) -> _EpochTiming:
    timing = _EpochTiming()
    per_execution = config.steps_per_execution or MAX_STEPS_PER_EXECUTION
    done = 0
    while done < steps:
        compiled = run_steps.experimental_get_tracing_count() > 0
        # The very first call makes one step only: its time is the compiler's.
        count = min(per_execution, steps - done) if compiled else 1
        start = time.perf_counter()
        with naming_unreadable(functools.partial(inputs_of, done, count)):
            waited = float(run_steps(batches, tf.constant(count)))
        seconds = time.perf_counter() - start
        timing.seconds += seconds
        if compiled:
            timing.timed_seconds, timing.timed_steps, timing.waited = (
                timing.timed_seconds + seconds, timing.timed_steps + count, timing.waited + waited)  # fmt: skip
        done += count
        bar.advance(count)
    return timing


def _after(inputs_of: InputsOfSteps, first_step: int, done: int, count: int) -> np.ndarray | ImageFiles | None:
    return inputs_of(first_step + done, count)


class _CheckpointClock:
    """Says when the next checkpoint is due."""

    def __init__(self, interval: str, epoch: int):
        self.amount, self.unit = parse_checkpoint_interval(interval)
        self.last_time, self.last_epoch = time.monotonic(), epoch

    def due(self, epoch: int) -> bool:
        passed = time.monotonic() - self.last_time if self.unit == "seconds" else epoch - self.last_epoch
        if passed < self.amount:
            return False
        self.last_time, self.last_epoch = time.monotonic(), epoch
        return True


def _save(store: CheckpointStore, model: keras.Model, state: TrainingState) -> None:
    arrays = {
        "model": [np.asarray(variable) for variable in model.variables],
        "optimizer": [np.asarray(variable) for variable in model.optimizer.variables],
        "best": state.best_weights,
    }
    store.save(state.step, arrays, state.progress())


def _restore(store: CheckpointStore, model: keras.Model, state: TrainingState, run: RunDirectory) -> None:
    loaded = store.load_latest()
    if loaded is None:
        run.forget_epochs_after(0)
        return
    arrays, progress = loaded
    assign_all(model.variables, arrays["model"], "model")
    assign_all(model.optimizer.variables, arrays["optimizer"], "optimizer")
    for name, value in progress.items():
        setattr(state, name, value)
    state.best_weights = arrays.get("best", [])
    run.forget_epochs_after(state.epoch)
    logging.getLogger("mulsupcon_tf").info("continuing %s after epoch %d (step %d)", run.path, state.epoch, state.step)


def summary_of_run(
    config: TrainingConfig, dataset: MultiLabelDataset, state: TrainingState, *, phase: str, method: str
) -> dict[str, Any]:
    """The part of `summary.json` that both phases have.

    Args:
        config: resolved settings.
        dataset: what was trained on.
        state: after training.
        phase: "pretrain" or "finetune".
        method: contrastive method, or "bce".
    """
    return {
        "phase": phase,
        "dataset": dataset.name,
        "method": method,
        "seed": config.seed,
        "backbone": config.backbone,
        "input_shape": list(model_input_shape(dataset, config.image_size)),
        "label_names": list(dataset.label_names),
        "epochs": state.epoch,
        "steps": state.step,
        "seconds": round(state.seconds, 3),
        "samples_per_second": round(state.step * config.batch_size / max(state.seconds, 1e-9), 1),
        "versions": {
            "mulsupcon_tf": mulsupcon_tf.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    }
