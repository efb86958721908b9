"""Layers of Keras, made faster: batch normalisation, convolution and dropout; and how a moving average moves."""

import keras
import tensorflow as tf

LEVELS = 256  # of a byte


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the same settings, weights and results, faster in training.

    Keras composes it of several operations, each of which reads and writes all activations; this is TensorFlow's single one.
    It has Keras' own name since weight files name layers by their class. Half precision keeps its activations as they
    are and has statistics in float32. What is not the training of `[B, H, W, channels]` on one device is left to Keras.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Normalises by the statistics of the batch in training, which move the moving ones, else by the moving ones.

        Args:
            inputs: `[B, H, W, channels]`; other ranks are left to Keras.
            training: whether in training.
            mask: left to Keras.
        """
        if not (training and self.trainable and mask is None and self._is_one_operation(inputs)):
            return super().call(inputs, training=training, mask=mask)
        nothing = tf.zeros([0])  # in training the operation reads no statistics
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=nothing,
            variance=nothing,
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation's variance is by n - 1, Keras' by n.
        n = tf.cast(tf.size(inputs) / inputs.shape[-1], "float32")
        move_towards(self.moving_mean, mean, 1 - self.momentum)
        move_towards(self.moving_variance, variance * ((n - 1) / n), 1 - self.momentum)
        return tf.cast(outputs, self.compute_dtype)

    def _is_one_operation(self, inputs: tf.Tensor) -> bool:
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not getattr(self, "renorm", False)  # Keras has it since 3.14
            and not self.synchronized
            and self.variable_dtype == "float32"
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
        )


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose bias is not trained, for where batch normalisation follows.

    Normalisation by the statistics of a batch takes any bias away again, so its gradient is 0 but for rounding, which
    Adam would make steps of full size of; and summing it up took a quarter of a GPU's time in the training of a
    ResNet-50. It has Keras' own name since weight files name layers by their class.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes kernel and bias for inputs of this shape."""
        super().build(input_shape)
        if self.bias is not None:
            self.bias.trainable = False


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` that draws a byte for each unit, four in a random number.

    The rate is rounded to a multiple of 1/256; what is kept is divided by the share that is kept, so the mean stays as
    it is. It has Keras' own name since weight files name layers by their class.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops units in training.

        Args:
            inputs: of any shape.
            training: whether in training.
        """
        dropped = round(self.rate * LEVELS)
        if not training or self.noise_shape is not None or dropped in (0, LEVELS):
            return super().call(inputs, training=training)
        size = tf.size(inputs)
        numbers = tf.random.stateless_uniform(
            [(size + 3) // 4], self.seed_generator.next(), minval=None, maxval=None, dtype=tf.int32
        )
        levels = tf.reshape(tf.reshape(tf.bitcast(numbers, tf.uint8), [-1])[:size], tf.shape(inputs))
        kept = tf.cast(levels >= dropped, inputs.dtype)
        return inputs * (kept * (LEVELS / (LEVELS - dropped)))


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
