"""The queue of keys from earlier batches, with their labels and label distributions (MoCo, arXiv 1911.05722)."""

import keras
import tensorflow as tf

from mulsupcon_tf.losses.contrastive import HIDDEN
from mulsupcon_tf.losses.partial_sums import KeyBlock


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class KeyQueue(keras.layers.Layer):
    """Ring buffer of Q keys. Everything in it is a weight, so it is saved and restored with the model.

    Args:
        capacity: Q, at least 1; need not be a multiple of the batch size.
        embedding_size: D.
        num_labels: C.
        dtype: of the keys, as in `keras.layers.Layer`; float32 whatever the dtype policy.
        **kwargs: as in `keras.layers.Layer`.

    Attributes:
        keys: `[Q, D]` float32.
        labels: `[Q, C]` bool, a quarter of the memory of float32.
        distributions: `[Q, C]` float32; in half precision, replicas that differ in the last bit would round them apart.
        position: scalar int64, the slot that is written next.
        fill: scalar int64, how many slots hold a key; the filled slots are always the first ones.
    """

    def __init__(self, capacity: int, embedding_size: int, num_labels: int, *, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least 1. Received: capacity={capacity}")
        self.capacity, self.embedding_size, self.num_labels = capacity, embedding_size, num_labels
        state = {"initializer": "zeros", "trainable": False}
        self.keys = self.add_weight(name="keys", shape=(capacity, embedding_size), **state)
        self.labels = self.add_weight(name="labels", shape=(capacity, num_labels), dtype="bool", **state)
        self.distributions = self.add_weight(name="distributions", shape=(capacity, num_labels), **state)
        self.position = self.add_weight(name="position", shape=(), dtype="int64", **state)
        self.fill = self.add_weight(name="fill", shape=(), dtype="int64", **state)
        self.built = True

    def block(self, first: int | tf.Tensor, count: int) -> KeyBlock:
        """The keys in some slots, float32.

        Gathered: after the first scattered write, reading a whole variable copies it.

        Args:
            first: the first slot.
            count: N, how many; those beyond the last slot are hidden, like those that hold no key yet.
        """
        slots = first + tf.range(count, dtype=tf.int64)
        visible = slots < self.fill.value
        slots = tf.minimum(slots, self.capacity - 1)
        keys, labels, distributions = (
            tf.gather(variable.value, slots) for variable in (self.keys, self.labels, self.distributions)
        )
        return KeyBlock(
            keys,
            tf.cast(labels & visible[:, None], keys.dtype),
            distributions,
            tf.where(visible, 0.0, HIDDEN),
        )

    def enqueue(self, keys: tf.Tensor, labels: tf.Tensor, distributions: tf.Tensor) -> None:
        """Writes a batch over the oldest slots, in place; of a batch larger than the queue the last Q rows stay.

        Args:
            keys: `[B, D]` unit rows.
            labels: `[B, C]`.
            distributions: `[B, C]`.
        """
        keys, labels, distributions = (tensor[-self.capacity :] for tensor in (keys, labels, distributions))
        count = tf.shape(keys, out_type=tf.int64)[0]
        # On a GPU bool is written at int32 indices only.
        slots = tf.cast((self.position.value + tf.range(count)) % self.capacity, tf.int32)
        for variable, rows in ((self.keys, keys), (self.labels, labels), (self.distributions, distributions)):
            # scatter_update writes in place; assigning a slice or a concatenation would copy the whole queue
            variable.value.scatter_update(tf.IndexedSlices(tf.cast(rows, variable.dtype), slots))
        self.position.assign((self.position.value + count) % self.capacity)
        self.fill.assign(tf.minimum(self.fill.value + count, self.capacity))

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return super().get_config() | {
            "capacity": self.capacity, "embedding_size": self.embedding_size, "num_labels": self.num_labels,
        }  # fmt: skip
