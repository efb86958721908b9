"""The key side of momentum contrast: a copy of the query side that follows it as a moving average."""

from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from mulsupcon_tf.models.layers import copy_weights, move_all_towards
from mulsupcon_tf.utils.errors import InputError

Layers = Sequence[keras.layers.Layer]


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
    """K <- m k + (1 - m) q for every weight, the batch normalisation statistics too."""
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
