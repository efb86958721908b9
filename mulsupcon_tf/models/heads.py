"""What stands on a backbone: the projection to the embedding, and linear layers with an output a label."""

import contextlib
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import layers, ops

from mulsupcon_tf.utils.errors import InputError
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


def encoded_by(backbone: keras.Model, projection_head: keras.Model, inputs, *, training) -> tuple[Any, Any]:
    """What a network with a projection head makes of samples.

    Args:
        backbone: from `[N, ...]` to `[N, R]`.
        projection_head: from `[N, R]` to `[N, D]`.
        inputs: `[N, ...]`.
        training: whether dropout and batch normalisation act as in training.

    Returns:
        r `[N, R]`, in the dtype of the backbone, and unit rows `[N, D]`, float32.
    """
    features = backbone(inputs, training=training)
    return features, ops.normalize(ops.cast(projection_head(features, training=training), "float32"), axis=-1)


def require_networks(**networks: keras.Model) -> None:
    """Raises `InputError` for the first network whose shapes are not known yet: what is built on it needs them."""
    for name, network in networks.items():
        shapes = []
        with contextlib.suppress(AttributeError):
            shapes = [network.input_shape, network.output_shape]
        if not all(isinstance(shape, tuple) and len(shape) > 1 for shape in shapes) or not shapes:
            raise InputError(
                f"{name} must be a functional or sequential model that begins with keras.Input and gives rows [B, R]. "
                f"Received: {type(network).__name__} {getattr(network, 'name', '')!r} without known shapes"
            )


def build_projection_head(num_features: int, embedding_size: int) -> keras.Model:
    """The head of the contrastive loss: R -> 256, batch normalisation, ReLU -> D, as in SimCLR (arXiv 2002.05709) but for its width.

    Args:
        num_features: R, at least 1.
        embedding_size: D, at least 2.

    Returns:
        A functional model named "projection_head" from `[B, R]` to `[B, D]`, rows that are not yet normalised.

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
