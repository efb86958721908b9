"""What stands on a backbone in pretraining: the projection to the embedding, and the layer of label distributions."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class DistributionHead(keras.layers.Layer):
    """Linear map from representations `[B, R]` to the logits `[B, C]` of label distributions: u = W r + b.

    W and b start at zero, so d starts uniform and the first step is one of MulSupCon. Computes in float32 whatever the
    dtype policy. `kernel` `[R, C]` is W, for its penalty β ||W||²_F.

    Args:
        num_labels: C.
        dtype: as in `keras.layers.Layer`.
        **kwargs: as in `keras.layers.Layer`.
    """

    def __init__(self, num_labels, *, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.num_labels = num_labels

    def build(self, input_shape):
        """Create W and b."""
        self.kernel = self.add_weight(shape=(input_shape[-1], self.num_labels), initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(self.num_labels,), initializer="zeros", name="bias")

    def call(self, representations):
        """Logits `[B, C]` of representations `[B, R]`."""
        return ops.matmul(representations, self.kernel) + self.bias

    def compute_output_shape(self, input_shape):
        """`[B, R]` -> `[B, C]`."""
        return (*input_shape[:-1], self.num_labels)

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "num_labels": self.num_labels}


def build_projection_head(num_features: int, embedding_size: int) -> keras.Model:
    """The head of the contrastive loss: R -> 256, batch normalisation, ReLU -> D. Rows are not yet normalised.

    Args:
        num_features: R.
        embedding_size: D.
    """
    features = keras.Input((num_features,))
    x = layers.Dense(256)(features)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    return keras.Model(features, layers.Dense(embedding_size)(x), name="projection_head")
