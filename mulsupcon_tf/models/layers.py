"""Batch normalisation of images by TensorFlow's one operation for it.

Keras 3 composes it of several operations, each of which reads and writes all activations.
"""

import keras
import tensorflow as tf

from mulsupcon_tf.models.moving_average import move_towards


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the same settings, weights and results, faster in training.

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
            x=inputs, scale=tf.convert_to_tensor(self.gamma), offset=tf.convert_to_tensor(self.beta),
            mean=nothing, variance=nothing, epsilon=self.epsilon, is_training=True,
        )  # fmt: skip
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
