"""Convolutions before batch normalisation, as the networks of keras.applications have them."""

import keras


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
