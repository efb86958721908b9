"""The key side of a batch, over all replicas, and the keys that its anchors are compared with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from mulsupcon_tf.losses.methods import Counts, count
from mulsupcon_tf.losses.partial_sums import KeyBlock, join
from mulsupcon_tf.models.key_queue import KeyQueue
from mulsupcon_tf.models.replicas import first_row, gather_rows, num_replicas

# Rows of the queue that are looked at together. Enough to keep matrix products busy; the logits of 256 anchors with them,
# 4 MB, stay in a processor's cache.
BLOCK = 4096


class KeyBatch(NamedTuple):
    """What every replica knows of a batch: all of its keys, so that all see the same candidates and fill equal queues.

    Attributes:
        keys: `[B, D]` unit rows.
        labels: `[B, C]` float32.
        distributions: `[B, C]`.
        first: the row of this replica's first sample.
        counts: what the means of the batch run over; None where this replica has the whole batch.
    """

    keys: tf.Tensor
    labels: tf.Tensor
    distributions: tf.Tensor
    first: tf.Tensor | int
    counts: Counts | None


def gather_key_batch(keys: tf.Tensor, labels: tf.Tensor, distributions: tf.Tensor) -> KeyBatch:
    """Puts the replicas' shares `[b, ...]` of a batch together."""
    labels = tf.cast(labels, tf.float32)
    first = first_row(keys)
    keys, labels, distributions = gather_rows([keys, labels, distributions])
    return KeyBatch(keys, labels, distributions, first, count(labels) if num_replicas() > 1 else None)


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
        capacity = self.queue.capacity
        num_blocks = -(-capacity // BLOCK)
        size = -(-capacity // num_blocks)
        queued = self.queue.block(0, size)
        own = KeyBlock(*self.batch[:3], tf.zeros(tf.shape(self.batch.keys)[:1]))
        gathered = of_block(KeyBlock(*(tf.concat(pair, axis=0) for pair in zip(own, queued, strict=True))))
        if num_blocks == 1:
            return gathered
        _, gathered = tf.while_loop(
            lambda first, _: first < self.queue.fill.value,
            lambda first, gathered: (first + size, join(gathered, of_block(self.queue.block(first, size)))),
            (tf.constant(size, tf.int64), gathered), parallel_iterations=1,
        )  # fmt: skip
        return gathered
