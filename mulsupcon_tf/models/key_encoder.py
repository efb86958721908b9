"""The key side of momentum contrast: a copy of the query side that follows it as a moving average."""

from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from mulsupcon_tf.models.guarded_model import ModelOfViews
from mulsupcon_tf.models.heads import encoded_by
from mulsupcon_tf.models.layers import copy_weights, move_all_towards
from mulsupcon_tf.models.replicas import synchronise_normalisation
from mulsupcon_tf.utils.errors import InputError

Layers = Sequence[keras.layers.Layer]


class ModelWithKeyEncoder(ModelOfViews):
    """A model of two views with a key side: a copy of its query side, which no gradient reaches."""

    def _add_key_side(self, backbone: keras.Model, projection_head: keras.Model) -> None:
        """Makes the key side, once the other layers of the query side are there.

        Args:
            backbone: from `[B, ...]` to `[B, R]`.
            projection_head: from `[B, R]` to `[B, D]`.
        """
        self.key_backbone = keras.models.clone_model(backbone)
        self.key_projection_head = keras.models.clone_model(projection_head)
        self._query_side = [backbone, projection_head]
        self._key_side = [self.key_backbone, self.key_projection_head]
        start_as_copy(self._query_side, self._key_side)
        synchronise_normalisation([*self._query_side, *self._key_side])

    @property
    def written_by_forward_pass(self) -> list[keras.Variable]:
        """Statistics of normalisation and seeds of dropout, of the query and of the key side."""
        return list(written_by_forward_pass(self._query_side, self._key_side))

    def encode_keys(self, inputs, training=True) -> tf.Tensor:
        """Keys of samples by the key encoder, without gradient.

        Args:
            inputs: `[B, ...]`, as the backbone takes them.
            training: whether dropout and batch normalisation act as in training.

        Returns:
            k `[B, D]`, unit rows, float32.
        """
        return tf.stop_gradient(encoded_by(self.key_backbone, self.key_projection_head, inputs, training=training)[1])


def require_whole_precision(query_side: Layers) -> None:
    """Checks that the key side can follow: in half precision the small steps of a moving average are rounded away.

    Raises:
        InputError: a weight is float16 or bfloat16.
    """
    kinds = {weight.dtype for layer in query_side for weight in layer.weights} & {"float16", "bfloat16"}
    if kinds:
        name = sorted(kinds)[0]
        raise InputError(
            f"weights must be float32, which the key encoder's moving average needs: use the policy mixed_{name}. "
            f"Received: weights in {name}"
        )


def start_as_copy(query_side: Layers, key_side: Layers) -> None:
    """Gives the key side the weights of the query side and takes it out of training.

    Args:
        query_side: layers and models that are trained.
        key_side: as many, of the same structure.
    """
    for query, key in zip(query_side, key_side, strict=True):
        copy_weights(query, key)
        # Not `key.trainable = False`: that would also put its batch normalisation into inference mode.
        for variable in key.variables:
            variable.trainable = False


def follow(query_side: Layers, key_side: Layers, momentum: tf.Tensor) -> None:
    """K <- m k + (1 - m) q for every weight, the batch normalisation statistics too (MoCo, arXiv 1911.05722, eq. 2).

    Args:
        query_side: layers and models that are trained.
        key_side: as many, of the same structure.
        momentum: m, scalar float32.
    """
    keys, queries = [], []
    for query, key in zip(query_side, key_side, strict=True):
        for source, target in zip(query.weights, key.weights, strict=True):
            if target.dtype.startswith("float"):
                keys.append(target)
                queries.append(source)
    move_all_towards(keys, queries, 1.0 - momentum)


def written_by_forward_pass(query_side: Layers, key_side: Layers) -> Iterator[keras.Variable]:
    """Statistics of normalisation and seeds of dropout on both sides: what the optimizer does not train on the query side."""
    for query, key in zip(query_side, key_side, strict=True):
        for source, target in zip(query.variables, key.variables, strict=True):
            if not source.trainable:
                yield source
                yield target
