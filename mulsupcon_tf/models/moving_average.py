"""Exponential moving averages, as the key encoder and the statistics of batch normalisation are."""

import keras
import tensorflow as tf


def move_towards(average: keras.Variable, value: tf.Tensor | keras.Variable, share: tf.Tensor | float) -> None:
    """Moves an average: a <- a - s (a - v), which is (1 - s) a + s v.

    Args:
        average: a, on the device of this replica.
        value: v, of its shape and dtype.
        share: s, scalar.
    """
    # Two operations; `assign_sub` would take one pass over the memory more, the sum of two products two operations more.
    tf.raw_ops.ResourceApplyGradientDescent(
        var=average.value.handle, alpha=tf.cast(share, average.dtype), delta=average.value - tf.convert_to_tensor(value)
    )
