import json
import logging
import math
import os
import pathlib
import signal
import statistics
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.commands.phase import prepare_process
from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline.batches import training_batches
from mulsupcon_tf.input_pipeline.feed import Feed
from mulsupcon_tf.input_pipeline.sampling_order import describe_batch
from mulsupcon_tf.models.guarded_model import GuardedModel
from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.optimizers.schedules import warmup_cosine
from mulsupcon_tf.training.checkpoints import TrainingState
from mulsupcon_tf.training.loop import train
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.training.tensorboard import TensorBoard
from mulsupcon_tf.utils.errors import InputError, TerminationError
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors

pytestmark = pytest.mark.usefixtures("without_graph_optimisation")

ORDER = {"batch_size": 8, "seed": 3}

STEPS, EPOCHS, BATCH = 5, 4, 8


def config(**settings):
    return TrainingConfig(
        **{"workdir": "w", "epochs": EPOCHS, "batch_size": BATCH, "checkpoint_every": "1e", **settings}
    )


class Network(GuardedModel):
    """Layers, one after the other, in a model that `train` can train."""

    def __init__(self, *layers):
        super().__init__()
        self.network = keras.Sequential([keras.Input((3,)), *layers])
        self.built = True

    def call(self, inputs, training=False):
        return self.network(inputs, training=training)


def new_model(seed=0):
    """Dropout, normalisation and a schedule: all state that a continued run has to find again."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = Network(layers.Dense(6), layers.BatchNormalization(), layers.Dropout(0.4), layers.Dense(1))
    schedule = warmup_cosine(0.05, total_steps=STEPS * EPOCHS, warmup_steps=3)
    model.compile(optimizer=KernelAdamW(schedule, weight_decay=0.01), loss="mse")
    return model


def batches_from(first_step):
    def batch(step):
        x = tf.random.stateless_normal([BATCH, 3], tf.stack([step, 1]))
        return x, tf.reduce_sum(x, axis=1, keepdims=True)

    return tf.data.Dataset.counter(start=first_step).map(batch)


class InterruptedRunError(Exception):
    """Stands for whatever ends a process."""


def run_training(
    folder,
    *,
    hook=lambda epoch, record: False,
    model=None,
    state=None,
    batches=batches_from,
    **settings,
):
    known = {name: settings.pop(name) for name in ("inputs_of", "describe_batch") if name in settings}
    resolved = config(**settings)
    with RunDirectory(folder) as run:
        run.claim(resolved)
        board, model, state = TensorBoard(run.tensorboard), model or new_model(), state or TrainingState()
        feed = Feed(batches, STEPS, **known)
        try:
            train(model, feed, config=resolved, run=run, tensorboard=board, state=state, on_epoch_end=hook)
        finally:
            board.close()
    return run, model, state


def dies_in(epoch):
    def hook(number, record):
        if number == epoch:
            raise InterruptedRunError
        return False

    return hook


def logged(run, *names):
    return [tuple(record[name] for name in names) for record in run.epochs()]


def test_each_epoch_leaves_one_line_with_what_happened(tmp_path):
    run, model, state = run_training(tmp_path / "run")
    assert logged(run, "epoch", "step") == [(1, 5), (2, 10), (3, 15), (4, 20)]
    schedule = warmup_cosine(0.05, total_steps=STEPS * EPOCHS, warmup_steps=3)
    np.testing.assert_allclose(
        logged(run, "learning_rate"), [[float(schedule(step))] for step in (5, 10, 15, 20)], rtol=1e-5
    )
    for record in run.epochs():
        assert record["samples_per_second"] > 0
        assert 0 <= record["data_wait_share"] <= 1
    assert int(model.optimizer.iterations) == state.step == 20
    assert state.epoch == EPOCHS


def test_under_xla_a_run_is_what_it_is_without(tmp_path):
    runs = []
    for xla in (False, True):
        keras.utils.set_random_seed(0)
        layers = keras.layers  # no bias before normalisation, whose gradient is nothing but rounding
        model = Network(layers.Dense(6, use_bias=False), layers.BatchNormalization(), layers.Dense(1))
        model.compile(optimizer=KernelAdamW(warmup_cosine(0.05, total_steps=20, warmup_steps=3)), loss="mse")
        runs.append(run_training(tmp_path / f"{xla}", model=model, xla=xla)[:2])
    (plain, model), (compiled, twin) = runs
    np.testing.assert_allclose(logged(compiled, "loss"), logged(plain, "loss"), rtol=1e-4)
    for one, other in zip(twin.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "step", "share"),
    [
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.05, 0.0, 1.0), (0.0, 0.05, 0.0))),
        (0.02, 0.05, 0.0),
        (0.1, 0.05, 0.5),
    ],
)
def test_waiting_for_data_is_the_time_in_which_the_step_stands_still(tmp_path, data, step, share):
    """Seconds that a batch and a step take; the next batch is made while the step goes on."""

    class Slow(Network):
        def train_step(self, batch):
            with tf.control_dependencies(tf.nest.flatten(batch)):
                slept = tf.numpy_function(lambda: time.sleep(step) or np.float32(0), [], tf.float32)
                slept = tf.ensure_shape(slept, ())
            x, y = batch
            return super().train_step((x + slept, y))

    def slow_batches(first_step):
        def late(x, y):
            x = tf.numpy_function(lambda x: time.sleep(data) or x, [x], tf.float32)
            return tf.ensure_shape(x, [BATCH, 3]), y

        return batches_from(first_step).map(late).prefetch(1)

    model = Slow(keras.layers.Dense(1))
    model.compile(optimizer=KernelAdamW(0.01, weight_decay=0.0), loss="mse")
    run, _, _ = run_training(tmp_path / "run", model=model, batches=slow_batches, steps_per_execution=STEPS)
    assert statistics.median(record["data_wait_share"] for record in run.epochs()) == pytest.approx(share, abs=0.3)


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps(tmp_path):
    class Recorder(GuardedModel):
        """Its "loss" in step t is t."""

        def __init__(self):
            super().__init__()
            self.steps = self.add_weight(name="steps", shape=(), initializer="zeros", trainable=False)
            self.mean = keras.metrics.Mean(name="loss")

        def train_step(self, data):
            self.steps.assign_add(1.0)
            self.mean.update_state(self.steps)
            return {"loss": self.mean.result()}

    model = Recorder()
    model.compile(optimizer=KernelAdamW(0.1))
    for per_execution in (None, 1, 2):
        folder = tmp_path / str(per_execution)
        model = Recorder()
        model.compile(optimizer=KernelAdamW(0.1))
        run, _, _ = run_training(folder, model=model, steps_per_execution=per_execution)
        assert logged(run, "loss") == [(3.0,), (8.0,), (13.0,), (18.0,)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, without_graph_optimisation):
    """The run of the default settings and its model."""
    return run_training(tmp_path_factory.mktemp("uninterrupted") / "whole")[:2]


@pytest.mark.parametrize("stop_in", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_run_that_was_stopped_and_continued_is_the_uninterrupted_run(tmp_path, uninterrupted, stop_in):
    whole, model = uninterrupted
    with pytest.raises(InterruptedRunError):
        run_training(tmp_path / "parts", hook=dies_in(stop_in))
    parts, continued, state = run_training(tmp_path / "parts", model=new_model(seed=99))
    assert (state.epoch, state.step) == (EPOCHS, STEPS * EPOCHS)
    for one, other in zip(model.variables, continued.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    for one, other in zip(model.optimizer.variables, continued.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    assert logged(parts, "epoch", "step", "loss", "learning_rate") == logged(
        whole, "epoch", "step", "loss", "learning_rate"
    )


def signalling(step, number=signal.SIGTERM):
    """Batches of which the one of `step` sends a signal to this process."""

    def send(this_step, batch):
        def kill():
            os.kill(os.getpid(), number)
            return np.int64(0)

        nothing = tf.cond(
            this_step == step, lambda: tf.numpy_function(kill, [], tf.int64), lambda: tf.constant(0, tf.int64)
        )
        with tf.control_dependencies([nothing]):
            return tuple(map(tf.identity, batch))

    return lambda first: tf.data.Dataset.zip(tf.data.Dataset.counter(start=first), batches_from(first)).map(send)


def same_variables(one, other):
    for mine, yours in zip(
        [*one.variables, *one.optimizer.variables], [*other.variables, *other.optimizer.variables], strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), yours.numpy(), err_msg=mine.path)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (0, signal.SIGINT),
        (7, signal.SIGTERM),
        *(
            pytest.param(step, number, marks=pytest.mark.slow)
            for step, number in (
                (0, signal.SIGTERM),
                (7, signal.SIGINT),
                (9, signal.SIGTERM),
                (9, signal.SIGINT),
            )
        ),
    ],
)
def test_a_signal_saves_at_once_and_the_continued_run_is_the_uninterrupted_one(tmp_path, uninterrupted, step, number):
    whole, model = uninterrupted
    before = signal.getsignal(number)
    with pytest.raises(TerminationError) as raised:
        run_training(tmp_path / "parts", batches=signalling(step, number), checkpoint_every="9e", steps_per_execution=1)
    assert raised.value.exit_status == 128 + number
    assert signal.getsignal(number) == before
    (checkpoint,) = (tmp_path / "parts" / "checkpoints").iterdir()
    assert 1 <= int(checkpoint.stem.removeprefix("step-")) <= step + 1  # the input pipeline reads a little ahead
    parts, continued, _ = run_training(tmp_path / "parts", model=new_model(seed=99), checkpoint_every="9e")
    same_variables(model, continued)
    names = ("epoch", "step", "loss", "learning_rate")
    assert logged(parts, *names) == logged(whole, *names)


@pytest.mark.parametrize(
    "interval", [pytest.param("1", marks=pytest.mark.slow), "3", pytest.param("7", marks=pytest.mark.slow)]
)
def test_checkpoints_by_steps_lie_within_epochs_and_lose_nothing(tmp_path, uninterrupted, interval):
    whole, model = uninterrupted
    with pytest.raises(InterruptedRunError):
        run_training(tmp_path / "parts", hook=dies_in(3), checkpoint_every=interval)
    newest = max(int(path.stem.removeprefix("step-")) for path in (tmp_path / "parts" / "checkpoints").iterdir())
    assert newest == {"1": 14, "3": 12, "7": 14}[interval]  # the end of epoch 3, step 15, was not saved
    parts, continued, _ = run_training(tmp_path / "parts", model=new_model(seed=99), checkpoint_every=interval)
    same_variables(model, continued)
    assert logged(parts, "epoch", "step", "loss") == logged(whole, "epoch", "step", "loss")


def test_which_data_a_run_sees_is_that_of_its_last_start_and_a_change_at_any_start_is_kept(tmp_path):
    with pytest.raises(InterruptedRunError):
        run_training(tmp_path, hook=dies_in(2), state=TrainingState(data="aaa"))
    with pytest.raises(InterruptedRunError):
        run_training(tmp_path, hook=dies_in(3), state=TrainingState(data="bbb", changed_data="other labels"))
    for said, kept in (("", "other labels"), ("other labels", "other labels"), ("new", "other labels; new")):
        state = TrainingState(data="bbb", changed_data=said)
        run_training(tmp_path, state=state)
        assert (state.data, state.changed_data) == ("bbb", kept)


def test_the_checkpoint_of_another_version_is_continued_with_a_warning(tmp_path, caplog, monkeypatch):
    with pytest.raises(InterruptedRunError):
        run_training(tmp_path, hook=dies_in(3))
    monkeypatch.setattr(keras, "__version__", "99.0")
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        run, _, _ = run_training(tmp_path)
    assert "checkpoint is of keras 3" in caplog.text
    assert "this is keras 99.0" in caplog.text
    assert len(run.epochs()) == EPOCHS


def test_the_number_of_kept_checkpoints_is_the_users(tmp_path):
    run_training(tmp_path, checkpoints_kept=3)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_epochs_after_the_last_checkpoint_are_repeated_and_logged_once(tmp_path):
    def hook(epoch, record):
        if epoch == 4:
            raise InterruptedRunError
        return False

    with pytest.raises(InterruptedRunError):
        run_training(tmp_path, hook=hook, checkpoint_every="2e")
    run = RunDirectory(tmp_path)
    assert logged(run, "epoch") == [(1,), (2,), (3,)]
    seen = []
    run_training(tmp_path, hook=lambda epoch, record: seen.append(epoch), checkpoint_every="2e")
    assert seen == [3, 4]
    assert logged(run, "epoch") == [(1,), (2,), (3,), (4,)]


def test_without_a_readable_checkpoint_it_starts_over_and_forgets_the_log(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.claim(config())
        run.log_epoch({"epoch": 1, "loss": 5.0})
    run_training(tmp_path)
    assert logged(run, "epoch") == [(1,), (2,), (3,), (4,)]


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_is_continued(tmp_path, uninterrupted, caplog):
    whole, model = uninterrupted
    with pytest.raises(InterruptedRunError):
        run_training(tmp_path / "run", hook=dies_in(4))
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        run, continued, _ = run_training(tmp_path / "run")
    assert f"{newest} is damaged" in caplog.text
    assert "after epoch 2 (step 10)" in caplog.text
    assert logged(run, "epoch", "loss") == logged(whole, "epoch", "loss")
    for one, other in zip(model.variables, continued.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def test_the_hook_stops_training_for_good(tmp_path):
    run, _, state = run_training(tmp_path, hook=lambda epoch, record: epoch == 2)
    assert state.stopped
    assert logged(run, "epoch") == [(1,), (2,)]
    seen = []
    _, _, state = run_training(tmp_path, hook=lambda epoch, record: seen.append(epoch))
    assert not seen
    assert (state.epoch, state.stopped) == (2, True)


def test_what_the_hook_adds_is_logged_and_what_it_keeps_is_in_the_checkpoint(tmp_path):
    state = TrainingState()

    def hook(epoch, record):
        record["val_loss"] = float(epoch)
        state.best_score, state.best_epoch, state.best_weights = 0.25, epoch, [np.full(3, epoch, np.float32)]
        return epoch == 3

    run, _, _ = run_training(tmp_path, hook=hook, state=state)
    assert logged(run, "val_loss") == [(1.0,), (2.0,), (3.0,)]
    _, _, restored = run_training(tmp_path, hook=pytest.fail)
    assert (restored.best_score, restored.best_epoch) == (0.25, 3)
    np.testing.assert_array_equal(restored.best_weights, [[3, 3, 3]])


def test_max_steps_ends_in_the_middle_of_an_epoch(tmp_path):
    run, model, state = run_training(tmp_path, max_steps=7)
    assert logged(run, "epoch", "step") == [(1, 5), (2, 7)]
    assert int(model.optimizer.iterations) == state.step == 7


def test_checkpoints_come_as_often_as_asked_and_at_the_end(tmp_path):
    def steps(folder):
        return sorted(int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").iterdir())

    run_training(tmp_path / "often", checkpoint_every="1e", checkpoints_kept=9)
    run_training(tmp_path / "rarely", checkpoint_every="3e", checkpoints_kept=9)
    run_training(tmp_path / "late", checkpoint_every="9m", checkpoints_kept=9)
    assert steps(tmp_path / "often") == [5, 10, 15, 20]
    assert steps(tmp_path / "rarely") == [15, 20]
    assert steps(tmp_path / "late") == [20]


def spoilt(*bad_steps):
    """Batches of which some have a NaN in each sample."""

    def spoil(step, batch):
        bad = tf.reduce_any(step == tf.constant(bad_steps, tf.int64))
        return batch[0] + tf.where(bad, tf.constant(math.nan), 0.0), batch[1]

    return lambda first: tf.data.Dataset.zip(tf.data.Dataset.counter(start=first), batches_from(first)).map(spoil)


def test_a_step_that_is_not_finite_is_skipped_counted_and_left_out_of_the_means(tmp_path):
    run, model, _ = run_training(tmp_path, batches=spoilt(0, 7, 8, 19), max_bad_steps=3)
    assert logged(run, "bad_steps") == [(1,), (2,), (0,), (1,)]
    assert int(model.bad_steps) == 4
    assert int(model.optimizer.iterations) == STEPS * EPOCHS - 4
    assert np.isfinite(logged(run, "loss")).all()
    assert all(np.isfinite(variable.numpy()).all() for variable in model.variables)


def test_counts_of_bad_steps_are_continued(tmp_path):
    batches = spoilt(5, 7, 8)
    whole, model, _ = run_training(tmp_path / "whole", batches=batches)
    for start in range(2):
        with pytest.raises(InterruptedRunError):
            run_training(tmp_path / "parts", batches=batches, hook=dies_in(2 + start), checkpoint_every="4")
    parts, continued, _ = run_training(tmp_path / "parts", batches=batches, checkpoint_every="4")
    same_variables(model, continued)
    assert logged(parts, "bad_steps", "loss") == logged(whole, "bad_steps", "loss")


@pytest.mark.parametrize(
    ("bad", "per_execution", "stops"),
    [
        ((6, 7, 8), 1, "3 bad steps in a row from step 7 on, whose batch has rows of 6"),
        # Good steps follow in the same call.
        ((3, 6, 7, 8, 11), 64, "3 bad steps in a row from step 7 on, whose batch has rows of 6"),
        (range(6, 90), 2, r"[34] bad steps in a row from step 7 on, whose batch has rows of 6"),
        ((6, 7, 9, 10), 1, None),
    ],
)
def test_too_many_bad_steps_in_a_row_end_training_in_one_line_and_keep_the_checkpoint_before(
    tmp_path, bad, per_execution, stops
):
    options = {
        "batches": spoilt(*bad),
        "max_bad_steps": 3,
        "steps_per_execution": per_execution,
        "describe_batch": lambda step: f"rows of {step}",
    }
    if stops is None:
        run_training(tmp_path, **options)
        return
    for _ in range(2):  # the second time it continues from the checkpoint, and says the same
        with pytest.raises(
            InputError, match=rf"must be finite in at least one of --max_bad_steps.*Received: {stops}"
        ) as raised:
            run_training(tmp_path, **options)
        assert "\n" not in str(raised.value)
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000000005.npz"]


def test_a_short_run_of_bad_steps_only_is_not_a_success(tmp_path):
    with pytest.raises(InputError, match="Received: 2 bad steps in a row from step 1 on"):
        run_training(tmp_path, batches=spoilt(*range(20)), max_steps=2)


def test_where_nothing_is_known_of_the_samples_nothing_is_said_of_them(tmp_path):
    with pytest.raises(InputError, match=r"Received: 2 bad steps in a row from step 4 on$"):
        run_training(tmp_path, batches=spoilt(3, 4), max_bad_steps=2)


def ones_from(first_step):
    x, y = tf.ones((BATCH, 3)), tf.ones((BATCH, 1))
    return tf.data.Dataset.from_tensors((x, y)).repeat()


def test_float16_may_overflow_for_longer_than_bad_steps_are_borne_until_the_loss_scale_has_fallen(tmp_path):
    prepare_process(config(mixed_precision="float16"))
    model = Network(keras.layers.Dense(1))
    # The gradient of the kernel is the loss scale times 2^12, which fits into float16 at a scale of 2^3.
    model.compile(optimizer=KernelAdamW(1e-3), loss=lambda truth, output: 2.0**12 * keras.ops.mean(output))
    run, _, _ = run_training(tmp_path, model=model, batches=ones_from, max_bad_steps=10)
    assert logged(run, "bad_steps") == [(5,), (5,), (2,), (0,)]
    assert ["loss" in record for record in run.epochs()] == [False, False, True, True]
    assert float(model.optimizer.dynamic_scale) == 2.0**3
    assert int(model.optimizer.inner_optimizer.iterations) == STEPS * EPOCHS - 12
    assert run.epochs()[3]["loss"] < run.epochs()[2]["loss"]


def test_under_float16_a_loss_that_is_not_finite_is_borne_no_longer_than_elsewhere(tmp_path):
    prepare_process(config(mixed_precision="float16"))
    with pytest.raises(InputError, match="Received: 3 bad steps in a row from step 7 on"):
        run_training(tmp_path, batches=spoilt(*range(6, 90)), max_bad_steps=3, steps_per_execution=1)


class NoGradient(keras.layers.Layer):
    """Its output is finite, its gradient is not."""

    def call(self, inputs):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: upstream * math.nan

        return identity(inputs)


@pytest.mark.parametrize(
    ("max_steps", "stops"),
    [
        (None, "3 bad steps in a row from step 3 on"),
        (2, "2 bad steps in a row from step 1 on"),  # nothing was learnt
    ],
)
def test_a_gradient_that_no_loss_scale_makes_finite_ends_the_run(tmp_path, max_steps, stops):
    prepare_process(config(mixed_precision="float16"))
    model = Network(keras.layers.Dense(1), NoGradient())
    optimizer = keras.optimizers.LossScaleOptimizer(KernelAdamW(1e-3), initial_scale=4.0)
    model.compile(optimizer=optimizer, loss="mse")
    with pytest.raises(InputError, match=f"Received: {stops}"):
        run_training(tmp_path, model=model, max_bad_steps=3, max_steps=max_steps)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_an_epoch_of_bad_steps_has_no_loss(tmp_path):
    run, _, _ = run_training(tmp_path, batches=spoilt(*range(5, 10)))
    assert ["loss" in record for record in run.epochs()] == [True, False, True, True]


def test_the_compiled_step_is_traced_once(tmp_path):
    class Counting(Network):
        traces = 0

        def train_step(self, data):
            Counting.traces += 1
            return super().train_step(data)

    keras.utils.set_random_seed(0)
    model = Counting(keras.layers.Dense(1))
    model.compile(optimizer=KernelAdamW(0.1), loss="mse")
    run_training(tmp_path, model=model, steps_per_execution=2)
    assert Counting.traces <= 2  # the loop's body, and what tf.function may try once to find its shapes


def test_under_float16_the_loss_scale_is_continued_too(tmp_path):
    prepare_process(config(mixed_precision="float16"))
    with pytest.raises(InterruptedRunError):
        run_training(tmp_path / "parts", hook=dies_in(3))
    _, continued, _ = run_training(tmp_path / "parts", model=new_model(seed=5))
    _, whole, _ = run_training(tmp_path / "whole")
    assert isinstance(whole.optimizer, keras.optimizers.LossScaleOptimizer)
    for one, other in zip(whole.optimizer.variables, continued.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    for one, other in zip(whole.variables, continued.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def test_the_process_is_seeded_and_gets_its_arithmetic():
    draws = []
    for seed, precision, policy in ((3, "none", "float32"), (3, "bfloat16", "mixed_bfloat16"), (4, "none", "float32")):
        prepare_process(config(seed=seed, mixed_precision=precision))
        assert keras.mixed_precision.dtype_policy().name == policy
        draws.append((float(keras.random.uniform(())), float(tf.random.uniform(())), np.random.rand()))
    assert draws[0] == draws[1]
    assert all(one != other for one, other in zip(draws[0], draws[2], strict=True))


def test_progress_is_plain_json():
    state = TrainingState(epoch=2, best_weights=[np.zeros(3)])
    expected = {
        "data": "",
        "frozen_weights": "",
        "changed_data": "",
        "epoch": 2,
        "step": 0,
        "seconds": 0.0,
        "best_score": -math.inf,
    }
    assert json.loads(json.dumps(state.progress())) == expected | {
        "timed_seconds": 0.0,
        "timed_steps": 0,
        "best_epoch": 0,
        "stopped": False,
    }
    assert len(state.best_weights) == 1


def test_a_broken_image_ends_the_run_with_its_name(tmp_path):
    paths = np.array([str(tmp_path / f"{number}.png") for number in range(STEPS * EPOCHS)], object)
    for path in paths:
        pathlib.Path(path).write_bytes(tf.io.encode_png(np.zeros((4, 4, 3), np.uint8)).numpy())
    pathlib.Path(paths[8]).write_bytes(b"\x89PNG, not really")  # read in step 8, of the second epoch
    asked = []

    def batches(first_step):
        def batch(step):
            image = tf.io.decode_png(tf.io.read_file(tf.gather(paths.astype(str), step)))
            return tf.zeros((BATCH, 3)) + tf.cast(tf.reduce_sum(image), tf.float32), tf.zeros((BATCH, 1))

        return tf.data.Dataset.counter(start=first_step).map(batch)

    def inputs_of(first_step, num_steps):
        asked.append((first_step, num_steps))
        return ImageFiles(paths[first_step : first_step + num_steps])

    with pytest.raises(InputError, match=rf"Received: {paths[8]} \(an image must be a JPEG, PNG"):
        run_training(tmp_path / "run", batches=batches, inputs_of=inputs_of, steps_per_execution=2)
    ((first_step, num_steps),) = asked
    assert first_step <= 8 < first_step + num_steps <= first_step + 2


def rows_of(dataset, step):
    """The rows of a step, found in the batch itself: no two samples are alike."""
    stream = training_batches(dataset, num_views=1, augmentation=None, image_size=None, first_step=step, **ORDER)
    samples, inputs = next(iter(stream))[0].numpy(), dataset.splits["train"].inputs
    return [next(row for row, each in enumerate(inputs) if np.array_equal(each, sample)) for sample in samples]


@pytest.mark.parametrize("step", [0, 11])
def test_the_first_samples_of_a_batch_are_named_by_their_rows(step):
    dataset = tiny_images()
    rows = ", ".join(map(str, rows_of(dataset, step)[:5]))
    assert describe_batch(dataset, step, **ORDER) == f"train rows {rows}, ..."


def test_samples_that_are_not_finite_are_named_instead():
    dataset = tiny_vectors()
    rows = rows_of(dataset, 11)
    for row, value in ((rows[2], np.nan), (rows[6], -np.inf), (next(iter(set(range(64)) - set(rows))), np.nan)):
        dataset.splits["train"].inputs[row, 1] = value
    expected = f"train rows {rows[2]}, {rows[6]}, which are not finite"
    assert describe_batch(dataset, 11, **ORDER) == expected


def test_image_files_are_named_by_their_paths():
    images = tiny_images()
    rows = rows_of(images, 2)
    splits = {
        name: Split(ImageFiles(np.array([f"{name}/{row}.jpg" for row in range(len(split))], object)), split.labels)
        for name, split in images.splits.items()
    }
    dataset = MultiLabelDataset("csv", "image", images.label_names, splits)
    expected = ", ".join(f"train/{row}.jpg" for row in rows[:5])
    assert describe_batch(dataset, 2, **ORDER) == f"train images {expected}, ..."
