"""The loop that both phases run: compiled steps, one log line an epoch, checkpoints, continuing where a run stopped."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mulsupcon_tf.config.flags import TrainingConfig
from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset
from mulsupcon_tf.input_pipeline.batches import model_input_shape
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable
from mulsupcon_tf.models.guarded_model import GuardedModel
from mulsupcon_tf.training.checkpoints import CheckpointStore, TrainingState, restore, save, versions
from mulsupcon_tf.training.clock import CheckpointClock, EpochTiming, Pace
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.training.progress_bar import ProgressBar
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.training.tensorboard import TensorBoard
from mulsupcon_tf.training.termination import TerminationNotice
from mulsupcon_tf.utils.errors import InputError, TerminationError

EpochHook = Callable[[int, dict[str, Any]], bool]
InputsOfSteps = Callable[[int, int], np.ndarray | ImageFiles | None]


def prepare_process(config: TrainingConfig) -> None:
    """Sets the process-wide seed and arithmetic; call it before any layer is made."""
    keras.utils.set_random_seed(config.seed)
    policies = {"none": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    keras.mixed_precision.set_dtype_policy(policies[config.mixed_precision])


def train(
    model: GuardedModel,
    batches_from: Callable[[int], tf.data.Dataset],
    *,
    config: TrainingConfig,
    steps_per_epoch: int,
    run: RunDirectory,
    tensorboard: TensorBoard,
    state: TrainingState | None = None,
    on_epoch_end: EpochHook,
    on_start: Callable[[], None] = lambda: None,
    inputs_of: InputsOfSteps = lambda first_step, num_steps: None,
    describe_batch: Callable[[int], str] = lambda step: "",
    devices: Devices | None = None,
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
        on_start: called before the first step of the run, not where an earlier start of it is continued.
        inputs_of: from a step and a number of steps to the training inputs that they read, so that a broken image file
            among them can be named.
        describe_batch: from a step, counted from 0, to what is said of the samples of its batch when it is a bad one.
        devices: what the model was built on; None for one device.

    Returns:
        The final state.

    Raises:
        InputError: loss or gradients are not finite in too many steps in a row, or an image file cannot be read.
    """
    loop = _Loop(
        model, config, run, state or TrainingState(), inputs_of=inputs_of, tensorboard=tensorboard,
        devices=devices or Devices(),
    )  # fmt: skip
    total_steps = min(config.epochs * steps_per_epoch, config.max_steps or config.epochs * steps_per_epoch)
    # A run of bad steps only has learnt nothing, however short it is.
    loop.max_bad_steps, loop.describe_batch = min(config.max_bad_steps, total_steps), describe_batch
    state = loop.state
    if state.step:
        tensorboard.begin(state.step + 1)
    else:
        tensorboard.begin(0)
        on_start()
    if state.step < total_steps and not state.stopped:
        loop.batches = iter(batches_from(state.step))
    with (
        ProgressBar(total_steps, state.step, config.epochs, shown=loop.devices.is_chief) as bar,
        TerminationNotice() as notice,
    ):
        while state.step < total_steps and not state.stopped:
            last_step = min((state.epoch + 1) * steps_per_epoch, total_steps)
            timing = loop.run_until(last_step, bar, notice)
            record: dict[str, Any] = {"epoch": state.epoch + 1, "step": state.step}
            record |= loop.epoch_means(last_step - state.epoch * steps_per_epoch)
            record["learning_rate"] = float(loop.learning_rate())
            record["samples_per_second"] = timing.samples_per_second(config.batch_size)
            record["data_wait_share"] = timing.wait_share
            state.epoch += 1
            stopped = bool(on_epoch_end(state.epoch, record))
            state.stopped = bool(loop.devices.gather([stopped])[0, 0])  # the chief's word: others may round differently
            bar.show(state.epoch, record)
            run.log_epoch(record)
            tensorboard.log_scalars(record, state.step)
            loop.save_if(state.stopped or state.step >= total_steps)
        loop.agree_on_steps(0, notice)
    return state


class _Loop:
    """A model in training: its state in memory and on disk, and the steps that lead from one to the next."""

    def __init__(
        self, model: GuardedModel, config: TrainingConfig, run: RunDirectory, state: TrainingState, *,
        inputs_of: InputsOfSteps, tensorboard: TensorBoard, devices: Devices,
    ):  # fmt: skip
        self.model, self.config, self.state, self.inputs_of, self.devices = model, config, state, inputs_of, devices
        self.run, self.tensorboard = run, tensorboard
        self.store = CheckpointStore(run.checkpoints, config.checkpoints_kept)
        with devices.strategy.scope():
            model.optimizer.build(model.trainable_variables)
        restore(self.store, model, state, run, devices)
        self.clock = CheckpointClock(config.checkpoint_every, state.step, state.epoch)
        self.pace = Pace(config.steps_per_execution)
        self.max_bad_steps = config.max_bad_steps
        self.describe_batch: Callable[[int], str] = lambda step: ""
        self.run_steps = _compiled_steps(model, devices)
        self.read_metrics = devices.metrics_reader(model)
        # Compiled: a schedule is a dozen operations.
        self.learning_rate = tf.function(lambda: tf.convert_to_tensor(model.optimizer.learning_rate))
        self.batches: Iterator = iter(())

    def run_until(self, last_step: int, bar: ProgressBar, notice: TerminationNotice) -> EpochTiming:
        """Trains up to `last_step`, the end of the epoch, with checkpoints on the way; ends the run when told to."""
        timing, state = EpochTiming(), self.state
        while state.step < last_step:
            compiling = self.run_steps.experimental_get_tracing_count() == 0
            # The very first call makes one step only: its time is the compiler's.
            count = 1 if compiling else min(self.pace.steps, last_step - state.step)
            left = self.clock.steps_left(state.step)
            count = self.agree_on_steps(count if left is None else max(1, min(count, left)), notice)
            start = time.perf_counter()
            with naming_unreadable(functools.partial(self.inputs_of, state.step, count)):
                waited, in_row, last_bad = (float(part) for part in self.run_steps(self.batches, tf.constant(count)))
            seconds = time.perf_counter() - start
            if in_row >= self.max_bad_steps:
                first = state.step + int(last_bad) - int(in_row) + 1
                _stop_after_bad_steps(int(in_row), first, self.describe_batch(first))
            timing.add(count, seconds, waited, compiling=compiling)
            if not compiling:
                self.pace.measured(count, seconds)
            state.step, state.seconds = state.step + count, state.seconds + seconds
            bar.advance(count)
            if state.step < last_step:  # else the epoch is logged first, then saved as finished
                self.save_if(False)
        return timing

    def agree_on_steps(self, count: int, notice: TerminationNotice) -> int:
        """The chief's number of steps for the next call, on all workers; or the end of the run, if one is to end.

        Raises:
            TerminationError: a worker has received a signal; the state is saved.
        """
        everyone = self.devices.gather([count, notice.received or 0])
        signal_number = int(everyone[:, 1].max())
        if signal_number:
            self.save_if(True)
            raise TerminationError(signal_number)
        return int(everyone[0, 0])

    def epoch_means(self, num_steps: int) -> dict[str, float]:
        """The running means of an epoch, which begin anew; bad steps are left out, so an epoch of these has none."""
        values = self.read_metrics()
        return values if values["bad_steps"] < num_steps else {"bad_steps": values["bad_steps"]}

    def save_if(self, needed: bool) -> None:
        """The chief writes a checkpoint if it is needed or due."""
        if not self.devices.is_chief:
            return
        if needed or self.clock.due(self.state.step, self.state.epoch):
            start = time.perf_counter()
            self.run.flush_log()  # first: a continued run does not write again what lies before the checkpoint
            self.tensorboard.flush()
            save(self.store, self.model, self.state, self.devices)
            self.clock.saved(self.state.step, self.state.epoch, time.perf_counter() - start)


def _compiled_steps(model: GuardedModel, devices: Devices):
    clock = _clock()
    # No Python `if` or `for` of a step is on a tensor: rewriting them takes longer than building the graph itself.
    on_every_replica = tf.autograph.experimental.do_not_convert(devices.on_every_replica)

    @tf.function(reduce_retracing=True)
    def run_steps(batches, count):
        """`count` training steps.

        Returns:
            Seconds spent waiting for data; the longest row of bad steps, and the last step of it, the first step of
            this call being 0; the row may have begun in an earlier call.
        """
        waited, longest, last = tf.constant(0.0, tf.float64), tf.constant(0, tf.int64), tf.constant(0)
        for number in tf.range(count):
            # Reading the clock depends on nothing: unless told, TensorFlow does it whenever it likes.
            with tf.control_dependencies([longest]):  # the step before is over
                before = clock()
            with tf.control_dependencies([before]):
                batch = next(batches)
            with tf.control_dependencies(tf.nest.flatten(batch)):
                after = clock()
            with tf.control_dependencies([after]):  # else the step may take every thread before the clock is read
                batch = tf.nest.map_structure(tf.identity, batch)
            waited += after - before
            on_every_replica(model.train_step, batch)
            in_row = model.bad_steps_in_row.value
            last = tf.where(in_row > longest, number, last)
            longest = tf.maximum(longest, in_row)
        return waited, longest, last

    return run_steps


def _clock() -> Callable[[], tf.Tensor]:
    """What reads the time within a graph, in seconds, scalar float64."""
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:  # refused where the same result is asked for, as by TF_DETERMINISTIC_OPS
        return lambda: tf.ensure_shape(tf.numpy_function(time.time, [], tf.float64), ())
    return tf.timestamp


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
    changed = {"changed_data": state.changed_data} if state.changed_data else {}
    return {
        "phase": phase,
        "dataset": dataset.name,
        "data_fingerprint": state.data,
        **changed,
        "method": method,
        "seed": config.seed,
        "backbone": config.backbone,
        "input_shape": list(model_input_shape(dataset, config.image_size)),
        "label_names": list(dataset.label_names),
        "split_sizes": {name: len(split) for name, split in dataset.splits.items()},
        "label_frequencies": [round(float(share), 6) for share in dataset.splits["train"].labels.mean(0)],  # in train
        "epochs": state.epoch,
        "steps": state.step,
        "seconds": round(state.seconds, 3),
        "samples_per_second": round(state.step * config.batch_size / max(state.seconds, 1e-9), 1),
        "versions": versions(),
    }


def _stop_after_bad_steps(number: int, first_step: int, samples: str) -> None:
    """Ends a run after too many bad steps.

    Args:
        number: of bad steps in a row.
        first_step: the first of them, counted from 0.
        samples: those of its batch; "" where they are not known.

    Raises:
        InputError: always.
    """
    raise InputError(
        "Loss and gradients must be finite in at least one of --max_bad_steps steps; look at the samples, lower --learning_rate, "
        f"raise --temperature or use another --mixed_precision. Received: {number} bad steps in a row from step "
        f"{first_step + 1} on{samples and f', whose batch has {samples}'}"
    )
