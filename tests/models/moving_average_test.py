import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.moving_average import move_towards


@pytest.mark.parametrize("compiled", [False, True])
def test_an_average_moves_by_its_share_of_the_way(compiled):
    rng = np.random.default_rng(0)
    start, values = rng.standard_normal((3, 2)), rng.standard_normal((4, 3, 2))
    average = keras.Variable(start.astype(np.float32))

    def step(value):
        move_towards(average, value, tf.constant(0.3))

    step = tf.function(step) if compiled else step
    for value in values:
        step(tf.constant(value, tf.float32))
        start = 0.7 * start + 0.3 * value
    np.testing.assert_allclose(average.numpy(), start, rtol=1e-5, atol=1e-6)


def test_a_variable_is_a_value_too_and_keeps_its_own():
    average, value = keras.Variable(np.zeros(2, np.float32)), keras.Variable(np.array([4.0, -8.0], np.float32))
    move_towards(average, value, 0.25)
    np.testing.assert_array_equal(average.numpy(), [1.0, -2.0])
    np.testing.assert_array_equal(value.numpy(), [4.0, -8.0])
