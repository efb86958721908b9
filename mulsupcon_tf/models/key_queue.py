"""The queue of keys from earlier batches, with their labels and label distributions (MoCo, arXiv 1911.05722)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mulsupcon_tf.losses.keys import HIDDEN, KeyBlock, join
from mulsupcon_tf.losses.method import Counts, count
from mulsupcon_tf.models.replicas import first_row, gather_rows
from mulsupcon_tf.utils.private_apis import memory_of_devices
from mulsupcon_tf.utils.tensors import require_at_least

# Rows of the queue that a processor looks at together. Enough to keep matrix products busy; the logits of 256 anchors with
# them, 4 MB, stay in its cache.
BLOCK = 4096
# Of a GPU's memory, what a block may take: larger blocks are fewer operations to begin.
SHARE_OF_GPU = 0.02


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class KeyQueue(keras.layers.Layer):
    """Ring buffer of Q keys. Everything in it is a weight, so it is saved and restored with the model.

    Args:
        capacity: Q, at least 1; need not be a multiple of the batch size.
        embedding_size: D.
        num_labels: C.
        keeps_distributions: whether label distributions are queued beside keys and labels.
        dtype: of the keys, as in `keras.layers.Layer`; float32 whatever the dtype policy.
        **kwargs: as in `keras.layers.Layer`.

    Attributes:
        keys: `[Q, D]` float32.
        labels: `[Q, C]` bool, a quarter of the memory of float32.
        distributions: `[Q, C]` float32, or None; in half precision, replicas that differ in the last bit would round them
            apart.
        position: scalar int64, the slot that is written next.
        fill: scalar int64, how many slots hold a key; the filled slots are always the first ones.

    Raises:
        InputError: a size is below 1.
    """

    def __init__(
        self,
        capacity: int,
        embedding_size: int,
        num_labels: int,
        *,
        keeps_distributions: bool = True,
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        require_at_least(1, capacity=capacity, embedding_size=embedding_size, num_labels=num_labels)
        self.capacity, self.embedding_size, self.num_labels = capacity, embedding_size, num_labels
        state = {"initializer": "zeros", "trainable": False}
        self.keys = self.add_weight(name="keys", shape=(capacity, embedding_size), **state)
        self.labels = self.add_weight(name="labels", shape=(capacity, num_labels), dtype="bool", **state)
        self.distributions: Any = None
        if keeps_distributions:
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
        slots = tf.cast(first, tf.int64) + tf.range(count, dtype=tf.int64)
        visible = slots < self.fill.value
        slots = tf.minimum(slots, self.capacity - 1)
        keys, labels = (tf.gather(variable.value, slots) for variable in (self.keys, self.labels))
        distributions = None if self.distributions is None else tf.gather(self.distributions.value, slots)
        return KeyBlock(
            keys,
            tf.cast(labels & visible[:, None], self.keys.dtype),
            distributions,
            tf.where(visible, 0.0, HIDDEN),
        )

    def enqueue(self, keys: tf.Tensor, labels: tf.Tensor, distributions: tf.Tensor | None = None) -> None:
        """Writes a batch over the oldest slots, in place; of a batch larger than the queue the last Q rows stay.

        Args:
            keys: `[B, D]` unit rows.
            labels: `[B, C]`.
            distributions: `[B, C]`, of a queue that keeps them.
        """
        pairs: list[tuple[Any, Any]] = [
            (self.keys, keys),
            (self.labels, labels),
            (self.distributions, distributions),
        ]
        queued = [(variable, rows[-self.capacity :]) for variable, rows in pairs if variable is not None]
        count = tf.shape(queued[0][1], out_type=tf.int64)[0]
        # On a GPU bool is written at int32 indices only.
        slots = tf.cast((self.position.value + tf.range(count)) % self.capacity, tf.int32)
        for variable, rows in queued:
            # scatter_update writes in place; assigning a slice or a concatenation would copy the whole queue
            variable.value.scatter_update(tf.IndexedSlices(tf.cast(rows, variable.dtype), slots))
        self.position.assign((self.position.value + count) % self.capacity)
        self.fill.assign(tf.minimum(self.fill.value + count, self.capacity))

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        own = {"capacity": self.capacity, "embedding_size": self.embedding_size, "num_labels": self.num_labels}
        return super().get_config() | own | {"keeps_distributions": self.distributions is not None}


def memory_of_gpu() -> int | None:
    """Bytes that TensorFlow has to give out on the smallest GPU; None where there is none."""
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    return min((memory for name, memory in memory_of_devices().items() if name in gpus), default=None)


def rows_together(
    num_anchors: int, width: int, num_labels: int, *, with_distributions: bool, memory: int | None
) -> int:
    """Rows of the queue that are looked at together; the formula stands in docs/scaling.md.

    Args:
        num_anchors: B.
        width: D.
        num_labels: C.
        with_distributions: whether the keys have distributions.
        memory: bytes of the GPU; None for a processor.
    """
    if memory is None:
        return BLOCK
    a, c = (8, 7) if with_distributions else (3, 2)  # measured: floats of a key, for each anchor and for each label
    bytes_of_row = 1.5 * 4 * (a * num_anchors + width + c * num_labels)
    return max(BLOCK, 2 ** int(math.log2(SHARE_OF_GPU * memory / bytes_of_row)))


class KeyBatch(NamedTuple):
    """What every replica knows of a batch: all of its keys, so that all see the same candidates and fill equal queues.

    Attributes:
        keys: `[B, D]` unit rows.
        labels: `[B, C]` float32.
        distributions: `[B, C]`, or None.
        first: the row of this replica's first sample.
        counts: what the means of the batch run over.
    """

    keys: tf.Tensor
    labels: tf.Tensor
    distributions: tf.Tensor | None
    first: tf.Tensor | int
    counts: Counts

    def rows(self) -> list[tf.Tensor]:
        """What is queued of it, as `KeyQueue.enqueue` takes it."""
        return [rows for rows in (self.keys, self.labels, self.distributions) if rows is not None]


def gather_key_batch(keys: tf.Tensor, labels: tf.Tensor, distributions: tf.Tensor | None = None) -> KeyBatch:
    """Puts the replicas' shares `[b, ...]` of a batch together; no gradient flows into them."""
    shares = [keys, tf.cast(labels, tf.float32)]
    if distributions is not None:
        shares.append(distributions)
    first = first_row(keys)
    gathered = gather_rows([tf.stop_gradient(share) for share in shares])
    keys, labels = gathered[:2]
    return KeyBatch(keys, labels, gathered[2] if len(gathered) > 2 else None, first, count(labels))


class CandidateKeys(NamedTuple):
    """What the anchors of a batch are compared with: the batch's own keys, and the filled part of the queue.

    Attributes:
        batch: its own keys.
        queue: those of earlier batches.
    """

    batch: KeyBatch
    queue: KeyQueue

    def number(self) -> tf.Tensor:
        """K, scalar float32."""
        own = tf.shape(self.batch.keys, out_type=tf.int64)[0]
        return tf.cast(own + self.queue.fill.value, tf.float32)

    def statistics(self, of_block: Callable[[KeyBlock], dict[str, Any]]) -> dict[str, Any]:
        """Gathers statistics of all keys.

        One block of the queue after the other: never are there more than one beside the queue itself. A queue that is
        no larger than a block goes with the batch.

        Args:
            of_block: from some of the keys to their statistics, by name.
        """
        queue, capacity = self.queue, self.queue.capacity
        together = rows_together(
            self.batch.keys.shape[0] or BLOCK,  # more than there will be, where it is known only while running
            queue.embedding_size,
            queue.num_labels,
            with_distributions=queue.distributions is not None,
            memory=memory_of_gpu(),
        )
        num_blocks = -(-capacity // together)
        size = -(-capacity // num_blocks)
        queued = self.queue.block(0, size)
        own = KeyBlock(*self.batch[:3], tf.zeros(tf.shape(self.batch.keys)[:1]))
        both = (
            None if rows is None else tf.concat([rows, more], axis=0) for rows, more in zip(own, queued, strict=True)
        )
        gathered = of_block(KeyBlock(*both))
        if num_blocks == 1:
            return gathered

        def add_block(number, gathered):
            return number + 1, join(gathered, of_block(self.queue.block(number * size, size)))

        # Counted in int32, which stays with the host: it would wait for a GPU in each turn.
        filled = tf.cast((self.queue.fill.value + size - 1) // size, tf.int32)
        start = (tf.constant(1), gathered)
        return tf.while_loop(lambda number, _: number < filled, add_block, start, parallel_iterations=1)[1]
