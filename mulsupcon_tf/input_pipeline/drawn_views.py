"""Which of its fixed views stands for a sample in a step: a function of seed and step alone."""

import tensorflow as tf

from mulsupcon_tf.datasets.fixed_views import FixedViews
from mulsupcon_tf.input_pipeline.sampling_order import SamplingOrder


def draw_views(num_fixed: int, num_views: int, order: SamplingOrder, step: tf.Tensor) -> list[tf.Tensor]:
    """Draws for the samples of a step's batch, over all workers.

    Args:
        num_fixed: V, views that there are of each sample.
        num_views: 1, or 2 different ones.
        order: of the samples.
        step: counted from 0.

    Returns:
        `[B]` int32 from 0 to V - 1 for each view.
    """
    # No other draw of a run has a seed whose second word is negative.
    seed = tf.stack([tf.constant(order.seed, tf.int64), -1 - tf.cast(step, tf.int64)])
    place, distance = tf.unstack(tf.random.stateless_uniform([2, order.batch_size], seed))
    first = tf.cast(place * num_fixed, tf.int32)
    second = (first + 1 + tf.cast(distance * (num_fixed - 1), tf.int32)) % num_fixed
    return [first, second][:num_views]


def read_views(views: FixedViews, rows: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """`[B, F]`, one view of each sample, from arrays that are larger than what memory should hold.

    Args:
        views: of all samples.
        rows: `[B]`, the samples.
        numbers: `[B]`, which view of each.
    """
    read = tf.numpy_function(views.read, [rows, numbers], tf.float32, stateful=False)
    return tf.ensure_shape(read, (rows.shape[0], views.parts[0][0].shape[1]))
