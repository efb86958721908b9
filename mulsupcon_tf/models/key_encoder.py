"""The key side of momentum contrast: a copy of the query side that follows it as a moving average."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mulsupcon_tf.models.guarded_model import GuardedModel
from mulsupcon_tf.models.heads import encoded_by
from mulsupcon_tf.models.layers import copy_weights, move_all_towards
from mulsupcon_tf.models.replicas import synchronise_normalisation
from mulsupcon_tf.utils.errors import InputError

Layers = Sequence[keras.layers.Layer]


class ModelWithKeyEncoder(GuardedModel):
    """A guarded model of two views with a loss of its own, whose key side is a copy of its query side that no gradient reaches.

    Attributes:
        num_labels: C.
    """

    num_labels: int

    def compile(self, optimizer="adamw", **kwargs) -> None:
        """As `keras.Model.compile`, without a loss and metrics.

        Args:
            optimizer: as of `keras.Model.compile`.
            **kwargs: as of `keras.Model.compile`.

        Raises:
            InputError: one is given.
        """
        names = ("loss", "metrics", "weighted_metrics", "loss_weights")
        given = next((name for name in names if kwargs.get(name) is not None), None)
        if given:
            raise InputError(
                f"{type(self).__name__} has its own loss; compile takes none and no metrics. Received: {given}"
            )
        super().compile(optimizer, **kwargs)

    def views_and_labels(self, data: Any) -> tuple[Sequence[Any], Any]:
        """The two views and the labels of what Keras hands to a step.

        Args:
            data: `((view_1, view_2), labels)`.

        Returns:
            Two views `[B, ...]` and the labels `[B, C]`.

        Raises:
            InputError: there are not two views or not C labels, or there are weights of samples, which a loss of pairs does not have.
        """
        views, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not isinstance(views, (list, tuple)) or len(views) != 2 or labels is None:
            found = f"{len(views)} views" if isinstance(views, (list, tuple)) else "one view"
            raise InputError(
                f"{type(self).__name__} takes ((view_1, view_2), labels), as training_batches(num_views=2) gives them. "
                f"Received: {found}{' without labels' if labels is None else ''}"
            )
        if sample_weight is not None:
            raise InputError(
                f"{type(self).__name__} takes no sample_weight: its loss is of pairs. Received: sample_weight"
            )
        if not tf.TensorShape(labels.shape).is_compatible_with((None, self.num_labels)):
            raise InputError(
                f"labels must have the shape [B, {self.num_labels}]. Received: shape {tuple(labels.shape)}"
            )
        return views, labels

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
        # What the optimizer does not train on the query side, and the same of the key side.
        return [
            each
            for query, key in zip(self._query_side, self._key_side, strict=True)
            for source, target in zip(query.variables, key.variables, strict=True)
            for each in (source, target)
            if not source.trainable
        ]

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
