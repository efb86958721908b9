import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.models.gradient_accumulation import accumulate_gradients, map_microbatches, rows_in_parts

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
    sums, (doubles, column) = (tf.function(run, autograph=False) if compiled else run)(
        tf.constant(ROWS), tf.constant(numbers)
    )
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


def test_rows_are_made_part_by_part():
    sizes = []

    def made(part):
        sizes.append(len(part))
        return part[:, :2] + 1

    np.testing.assert_array_equal(rows_in_parts(made, tf.constant(ROWS), 3, 2), ROWS[:, :2] + 1)
    assert sizes == [4, 4, 4]


@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_of_the_parts_are_summed_and_losses_that_nobody_asked_for_are_left_out(parts):
    kernel, unused = tf.Variable([[1.0], [2.0], [3.0]]), tf.Variable([5.0])

    def losses_of_part(first, rows):
        made = rows @ kernel
        return {"loss": tf.reduce_sum(made**2), "more": tf.reduce_sum(made)}, made

    losses, rows, gradients = accumulate_gradients(
        losses_of_part,
        [tf.constant(ROWS)],
        parts,
        variables=[kernel, unused],
        names={"loss"},
        width=1,
        scale_loss=lambda loss: 4 * loss,
    )
    made = ROWS.astype(np.float64) @ kernel.numpy()
    assert losses.keys() == {"loss"}
    np.testing.assert_allclose(losses["loss"], (made**2).sum(), rtol=1e-5)
    np.testing.assert_allclose(rows, made, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients[0], 8 * ROWS.T @ made, rtol=1e-4)
    np.testing.assert_array_equal(gradients[1], [0.0])
