"""Dropout with cheaper random numbers.

On a processor they are most of its cost, and it an eighth of a step on small vector sets.
"""

import keras
import tensorflow as tf

LEVELS = 256  # of a byte


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
