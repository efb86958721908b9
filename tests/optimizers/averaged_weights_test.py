import keras
import numpy as np
import pytest

from mulsupcon_tf.optimizers.averaged_weights import averaged_weights
from mulsupcon_tf.optimizers.registry import build_optimizer
from mulsupcon_tf.optimizers.schedules import warmup_cosine

M = 0.75


def weights_of(model):
    return [np.array(variable.value) for variable in model.trainable_variables]


def model_with(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.BatchNormalization()])
    model.compile(optimizer, loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("half", [False, True], ids=["float32", "scaled"])
@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_they_are_those_of_every_step_and_go_away_again(name, half):
    optimizer = build_optimizer(name, warmup_cosine(0.1, total_steps=9, warmup_steps=0), 0.1, ema_momentum=M)
    model = model_with(keras.optimizers.LossScaleOptimizer(optimizer) if half else optimizer)
    rng, average = np.random.default_rng(0), None
    for _ in range(5):
        model.train_on_batch(rng.normal(size=(8, 3)), rng.normal(size=(8, 4)))
        weights = weights_of(model)
        average = [M * a + (1 - M) * w for a, w in zip(average or weights, weights, strict=True)]
    statistics = np.array(model.layers[-1].moving_mean.value)
    with averaged_weights(model):
        for found, expected in zip(weights_of(model), average, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
        assert max(np.abs(a - w).max() for a, w in zip(weights_of(model), weights, strict=True)) > 1e-3
        np.testing.assert_array_equal(model.layers[-1].moving_mean.value, statistics)
    for found, weight in zip(weights_of(model), weights, strict=True):
        np.testing.assert_array_equal(found, weight)


def test_the_weights_come_back_after_an_error():
    model = model_with(build_optimizer("sgd", warmup_cosine(0.1, total_steps=9, warmup_steps=0), 0.0, ema_momentum=M))
    for _ in range(2):
        model.train_on_batch(np.ones((8, 3)), np.eye(8, 4))
    before = weights_of(model)
    with pytest.raises(KeyError), averaged_weights(model):
        raise KeyError
    for found, weight in zip(weights_of(model), before, strict=True):
        np.testing.assert_array_equal(found, weight)


def test_a_model_whose_optimizer_keeps_none_stays_as_it_is():
    model = model_with("sgd")
    before = weights_of(model)
    with averaged_weights(model):
        for found, weight in zip(weights_of(model), before, strict=True):
            np.testing.assert_array_equal(found, weight)
