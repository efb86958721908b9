"""The loop that both phases run: compiled steps, one log line an epoch, checkpoints, continuing where a run stopped."""

import functools
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.input_pipeline.feed import Feed
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable
from mulsupcon_tf.models.guarded_model import GuardedModel
from mulsupcon_tf.training.checkpoints import CheckpointStore, TrainingState, restore, save
from mulsupcon_tf.training.clock import CheckpointClock, EpochTiming, Forecast, Pace
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.training.progress_bar import ProgressBar
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.training.tensorboard import TensorBoard
from mulsupcon_tf.training.termination import TerminationNotice
from mulsupcon_tf.utils.errors import InputError, TerminationError
from mulsupcon_tf.utils.graphs import compiled
from mulsupcon_tf.utils.private_apis import forget_kernels
from mulsupcon_tf.utils.wording import in_time

EpochHook = Callable[[int, dict[str, Any]], bool]


def train(
    model: GuardedModel,
    feed: Feed,
    *,
    config: TrainingConfig,
    run: RunDirectory,
    tensorboard: TensorBoard,
    state: TrainingState | None = None,
    devices: Devices | None = None,
    on_epoch_end: EpochHook,
    on_start: Callable[[], None] = lambda: None,
) -> TrainingState:
    """Trains a compiled model, continuing from the newest checkpoint of the run where there is one.

    Args:
        model: compiled; its `train_step` is run inside one compiled loop.
        feed: what it is trained on.
        config: settings of the phase, resolved.
        run: gets `metrics.jsonl` and `checkpoints/`.
        tensorboard: gets the epoch's scalars.
        state: changed in place, so that the hook can keep its own part of it there.
        devices: what the model was built on; None for one device.
        on_epoch_end: called with the finished epoch's number and its log record, to which it may add; returns whether
            training should stop.
        on_start: called before the first step of the run, not where an earlier start of it is continued.

    Returns:
        The final state.

    Raises:
        InputError: loss or gradients are not finite in too many steps in a row, or in all of them, or an image file
            cannot be read. Overflows of float16 that a lower loss scale may end are not counted: see `GuardedModel`.
    """
    state, devices = state or TrainingState(), devices or Devices()
    loop = _Loop(model, feed, config, run, tensorboard=tensorboard, state=state, devices=devices)
    if state.step:
        tensorboard.begin(state.step + 1)
    else:
        tensorboard.begin(0)
        on_start()
    loop.run_all(on_epoch_end)
    forget_kernels()
    return state


class _Loop:
    """A model in training: its state in memory and on disk, and the steps that lead from one to the next."""

    def __init__(
        self,
        model: GuardedModel,
        feed: Feed,
        config: TrainingConfig,
        run: RunDirectory,
        *,
        tensorboard: TensorBoard,
        state: TrainingState,
        devices: Devices,
    ):
        self.model, self.feed, self.config, self.state, self.devices = model, feed, config, state, devices
        self.run, self.tensorboard = run, tensorboard
        self.store = CheckpointStore(run.checkpoints, config.checkpoints_kept)
        with devices.strategy.scope():
            model.optimizer.build(model.trainable_variables)
        restore(self.store, model, state, run, devices)
        self.total_steps = config.total_steps(feed.steps_per_epoch)
        self.clock = CheckpointClock(config.checkpoint_every, state.step, state.epoch)
        self.pace = Pace(config.steps_per_execution)
        self.forecast = Forecast(self.total_steps)
        self.run_steps = compiled_steps(model, devices, xla=config.xla)
        self.read_metrics = devices.metrics_reader(model)
        # Compiled: a schedule is a dozen operations.
        self.learning_rate = compiled(lambda: tf.convert_to_tensor(model.optimizer.learning_rate))
        self.batches = iter(()) if self.ended else iter(feed.batches_from(state.step))

    @property
    def ended(self) -> bool:
        """Whether there is no step left to do."""
        return self.state.stopped or self.state.step >= self.total_steps

    def run_all(self, on_epoch_end: EpochHook) -> None:
        """Trains to the end of the run, epoch by epoch."""
        with (
            ProgressBar(self.total_steps, self.state.step, self.config.epochs, shown=self.devices.is_chief) as bar,
            TerminationNotice() as notice,
        ):
            while not self.ended:
                self.run_epoch(on_epoch_end, bar, notice)
            self.agree_on_steps(0, notice)

    def run_epoch(self, on_epoch_end: EpochHook, bar: ProgressBar, notice: TerminationNotice) -> None:
        """Trains to the end of the epoch, or of the run if that is nearer; logs it and saves what is due."""
        state, first_step = self.state, self.state.epoch * self.feed.steps_per_epoch
        last_step = min(first_step + self.feed.steps_per_epoch, self.total_steps)
        timing = self.run_until(last_step, bar, notice)
        if last_step == self.total_steps and self.devices.value(self.model.bad_steps) == last_step:
            self.stop_after_bad_steps(last_step, 0)  # it has learnt nothing, however short it is
        record: dict[str, Any] = {"epoch": state.epoch + 1, "step": state.step}
        record |= self.epoch_means(last_step - first_step)
        record["learning_rate"] = float(self.learning_rate())
        record["samples_per_second"] = timing.samples_per_second(self.config.batch_size)
        record["data_wait_share"] = timing.wait_share
        state.epoch += 1
        stopped = bool(on_epoch_end(state.epoch, record))
        state.stopped = bool(self.devices.gather([stopped])[0, 0])  # the chief decides: others may round differently
        bar.show(state.epoch, record)
        self.run.log_epoch(record)
        self.tensorboard.log_scalars(record, state.step)
        self.save_if(self.ended)

    def run_until(self, last_step: int, bar: ProgressBar, notice: TerminationNotice) -> EpochTiming:
        """Trains up to `last_step`, the end of the epoch, with checkpoints on the way; ends the run on a signal."""
        timing, state = EpochTiming(), self.state
        while state.step < last_step:
            compiling = self.run_steps.experimental_get_tracing_count() == 0
            # The very first call makes one step only: its time is the compiler's.
            count = 1 if compiling else min(self.pace.steps, last_step - state.step)
            left = self.clock.steps_left(state.step)
            count = self.agree_on_steps(count if left is None else max(1, min(count, left)), notice)
            start = time.perf_counter()
            with naming_unreadable(functools.partial(self.feed.inputs_of, state.step, count)):
                waited, in_row, last_bad = (float(part) for part in self.run_steps(self.batches, tf.constant(count)))
            seconds = time.perf_counter() - start
            if in_row >= self.config.max_bad_steps:
                self.devices.part()
                self.stop_after_bad_steps(int(in_row), state.step + int(last_bad) - int(in_row) + 1)
            timing.add(count, seconds, waited, compiling=compiling)
            if not compiling:
                self.pace.measured(count, seconds)
                state.timed_steps, state.timed_seconds = state.timed_steps + count, state.timed_seconds + seconds
                rest = self.forecast.after(state.step + count, count, seconds)
                if rest is not None:
                    bar.say("training will take about %s more", in_time(rest))
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
            self.devices.part()
            raise TerminationError(signal_number)
        return int(everyone[0, 0])

    def stop_after_bad_steps(self, number: int, first_step: int) -> None:
        """Ends a run after too many bad steps.

        Args:
            number: of bad steps in a row.
            first_step: the first of them, counted from 0.

        Raises:
            InputError: always.
        """
        samples = self.feed.describe_batch(first_step)
        raise InputError(
            "Loss and gradients must be finite in at least one of --max_bad_steps steps; look at the samples, lower --learning_rate, "
            f"raise --temperature or use another --mixed_precision. Received: {number} bad steps in a row from step "
            f"{first_step + 1} on{samples and f', whose batch has {samples}'}"
        )

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


def compiled_steps(model: GuardedModel, devices: Devices, *, xla: bool) -> Any:
    """The graph that trains: a function of an iterator of batches and a number of steps, see `run_steps` below."""
    clock = _clock()
    # The step alone: XLA can neither fetch a batch nor read the time.
    train_step = compiled(model.train_step, jit_compile=True) if xla else model.train_step

    def run_steps(batches, count):
        """`count` training steps.

        Returns:
            Seconds spent waiting for data; the longest row of bad steps, and the last step of it, the first step of
            this call being 0; the row may have begun in an earlier call.
        """

        def one_step(number, waited, longest, last):
            # Reading the clock depends on nothing: unless told, TensorFlow does it whenever it likes.
            with tf.control_dependencies([longest]):  # the step before is over
                before = clock()
            with tf.control_dependencies([before]):
                batch = batches.get_next()
            with tf.control_dependencies(tf.nest.flatten(batch)):
                after = clock()
            with tf.control_dependencies([after]):  # else the step may take every thread before the clock is read
                batch = tf.nest.map_structure(tf.identity, batch)
            devices.on_every_replica(train_step, batch)
            in_row = model.bad_steps_in_row.value
            last = tf.where(in_row > longest, number, last)
            return number + 1, waited + (after - before), tf.maximum(longest, in_row), last

        start = (tf.constant(0), tf.constant(0.0, tf.float64), tf.constant(0, tf.int64), tf.constant(0))
        return tf.while_loop(lambda number, *_: number < count, one_step, start)[1:]

    return compiled(run_steps, reduce_retracing=True)


def _clock() -> Callable[[], tf.Tensor]:
    """What reads the time within a graph, in seconds, scalar float64."""
    try:
        tf.timestamp()
    except tf.errors.FailedPreconditionError:  # refused where the same result is asked for, as by TF_DETERMINISTIC_OPS
        return lambda: tf.ensure_shape(tf.numpy_function(time.time, [], tf.float64), ())
    return tf.timestamp
