import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.gradient_accumulation import map_microbatches

ROWS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def squares_and_doubles(first, rows, numbers):
    weight = tf.cast(first, tf.float32)
    return {"sum": tf.reduce_sum(rows**2), "firsts": [weight]}, [2 * rows, numbers[:, None]]


@pytest.mark.parametrize("parts", [1, 3, 12])
@pytest.mark.parametrize("compiled", [False, True])
def test_sums_are_over_the_parts_and_rows_are_in_order(parts, compiled):
    def run(rows, numbers):
        zeros = {"sum": tf.zeros(()), "firsts": [tf.zeros(())]}
        return map_microbatches(squares_and_doubles, [rows, numbers], parts, zeros=zeros, widths=(3, 1))

    numbers = np.arange(12, dtype=np.float32)
    sums, (doubles, column) = (tf.function(run) if compiled else run)(tf.constant(ROWS), tf.constant(numbers))
    np.testing.assert_allclose(sums["sum"], (ROWS.astype(np.float64) ** 2).sum(), rtol=1e-6)
    assert float(sums["firsts"][0]) == sum(range(0, 12, 12 // parts))
    np.testing.assert_array_equal(doubles, 2 * ROWS)
    np.testing.assert_array_equal(column[:, 0], numbers)


def test_a_batch_whose_size_is_known_only_while_running_is_cut_too():
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32)])
    def doubled(rows):
        return map_microbatches(lambda first, part: ((), [2 * part]), [rows], 4, widths=(3,))[1][0]

    for size in (4, 12):
        np.testing.assert_array_equal(doubled(tf.constant(ROWS[:size])), 2 * ROWS[:size])
    with pytest.raises(tf.errors.InvalidArgumentError, match="A batch must be a multiple of its 4 parts"):
        doubled(tf.constant(ROWS[:7]))
