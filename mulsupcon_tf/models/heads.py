"""What stands on a backbone: the projection to the embedding, and linear layers with an output a label."""

from typing import NamedTuple

import keras
import tensorflow as tf
from keras import layers

from mulsupcon_tf.utils.tensors import require_at_least


class QuerySide(NamedTuple):
    """What the query encoder makes of samples.

    Attributes:
        features: r `[N, R]`, in the dtype of the backbone.
        embeddings: z `[N, D]` unit rows, float32.
        distributions: d `[N, C]`, float32, or None.
    """

    features: tf.Tensor
    embeddings: tf.Tensor
    distributions: tf.Tensor | None


def build_projection_head(num_features: int, embedding_size: int) -> keras.Model:
    """The head of the contrastive loss: R -> 256, batch normalisation, ReLU -> D. Rows are not yet normalised.

    Args:
        num_features: R.
        embedding_size: D, at least 2.

    Raises:
        InputError: a size is out of range.
    """
    require_at_least(1, num_features=num_features)
    require_at_least(2, embedding_size=embedding_size)
    features = keras.Input((num_features,))
    x = layers.Dense(256)(features)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    return keras.Model(features, layers.Dense(embedding_size)(x), name="projection_head")


def build_label_layer(num_features: int, num_labels: int, name: str) -> keras.layers.Dense:
    """A linear layer R -> C, built, in float32 whatever the dtype policy.

    Its softmax is a label distribution, its sigmoid the probabilities of labels.

    Args:
        num_features: R.
        num_labels: C.
        name: of the layer.
    """
    layer = layers.Dense(num_labels, dtype="float32", name=name)
    layer.build((None, num_features))
    return layer
