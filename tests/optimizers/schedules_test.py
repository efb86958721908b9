import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.optimizers.schedules import MomentumRamp, StepSchedule, build_schedule, warmup_cosine
from mulsupcon_tf.utils.errors import InputError


@pytest.mark.parametrize("final", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("warmup", [0, 4])
def test_warmup_cosine_is_its_closed_form(warmup, final):
    peak, total = 0.5, 20
    schedule = warmup_cosine(peak, total_steps=total, warmup_steps=warmup, final_scale=final)
    for step in range(total + 5):
        if step < warmup:
            expected = peak * step / warmup
        else:
            progress = min(1.0, (step - warmup) / (total - warmup))
            expected = peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
        np.testing.assert_allclose(float(schedule(step)), expected, rtol=1e-5, atol=1e-7)


def test_warmup_cosine_is_kerass_own_schedule_without_its_condition():
    ours = warmup_cosine(0.5, total_steps=20, warmup_steps=7)
    theirs = keras.optimizers.schedules.CosineDecay.from_config(ours.get_config())
    graphs = [tf.function(schedule).get_concrete_function(tf.TensorSpec((), tf.int64)) for schedule in (ours, theirs)]
    for step in tf.range(25, dtype=tf.int64):
        assert float(graphs[0](step)) == pytest.approx(float(graphs[1](step)), abs=1e-7), int(step)
    conditions = [[op.type for op in graph.graph.get_operations() if "If" in op.type] for graph in graphs]
    assert conditions == [[], ["StatelessIf"]]
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(ours))
    assert (type(twin), twin.get_config()) == (type(ours), ours.get_config())


@pytest.mark.parametrize("warmup", [5, 10])
def test_a_warm_up_of_all_steps_would_never_end_and_is_refused(warmup):
    with pytest.raises(InputError, match=rf"below total_steps=5\. Received: warmup_steps={warmup}$"):
        warmup_cosine(1.0, total_steps=5, warmup_steps=warmup)
    schedule = warmup_cosine(1.0, total_steps=5, warmup_steps=4)
    assert [float(schedule(step)) for step in range(6)] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.01])


def naive_restarts(step, *, peak, first, factor, lowest):
    """SGDR (arXiv 1608.03983), (5): a half cosine over each period, which is `factor` times as long as the last."""
    length = first
    while step >= length:
        step, length = step - length, length * factor
    return lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * step / length))


@pytest.mark.parametrize(("epochs", "factor"), [(5.0, 2.0), (5.0, 1.0), (2.5, 3.0), (50.0, 2.0)])
def test_restarts_are_their_closed_form(epochs, factor):
    config = TrainingConfig(
        workdir="w",
        schedule="restarts",
        learning_rate=4e-4,
        restart_epochs=epochs,
        restart_factor=factor,
        final_learning_rate_scale=0.25,
    )
    schedule = build_schedule(config, steps_per_epoch=4)
    restarts = {round(4 * epochs * sum(factor**period for period in range(number))) for number in range(8)}
    for step in {*range(0, 800, 17), *(restart + near for restart in restarts for near in (-1, 0, 1))} - {-1}:
        expected = naive_restarts(step, peak=4e-4, first=4 * epochs, factor=factor, lowest=1e-4)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-3), step


def test_a_schedule_counts_epochs_in_steps():
    config = TrainingConfig(workdir="w", learning_rate=0.5, epochs=10, warmup_epochs=2.5, final_learning_rate_scale=0.1)
    schedule, expected = build_schedule(config, 4), warmup_cosine(0.5, total_steps=40, warmup_steps=10, final_scale=0.1)
    assert [float(schedule(step)) for step in range(45)] == [float(expected(step)) for step in range(45)]
    assert float(schedule(10)) == 0.5
    assert float(schedule(40)) == pytest.approx(0.05)


def test_momentum_ramp_is_its_closed_form_and_ends_at_m():
    ramp = MomentumRamp(0.999)
    for step in (0, 1, 10, 500, 8989):
        np.testing.assert_allclose(float(ramp(step)), (1 + step) / (10 + step), rtol=1e-6)
    assert float(ramp(8995)) == float(ramp(10**6)) == np.float32(0.999)
    assert float(MomentumRamp(0.5)(1000)) == 0.5


def test_step_schedule_switches_on_at_its_step():
    assert [float(StepSchedule(3)(tf.constant(step, tf.int64))) for step in range(5)] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("schedule", [MomentumRamp(0.99), StepSchedule(7)])
def test_schedules_are_rebuilt_from_their_config(schedule):
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert twin.get_config() == schedule.get_config()
    assert [float(twin(step)) for step in (0, 7, 50)] == [float(schedule(step)) for step in (0, 7, 50)]
