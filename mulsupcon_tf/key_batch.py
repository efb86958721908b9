"""The key side of a batch, over all replicas, and the keys that its anchors are compared with."""

from typing import NamedTuple

import tensorflow as tf

from mulsupcon_tf.key_queue import KeyQueue
from mulsupcon_tf.pretraining_losses import CandidateKeys, Counts, count
from mulsupcon_tf.replicas import first_row, gather_rows, num_replicas


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


def candidate_keys(batch: KeyBatch, queue: KeyQueue) -> CandidateKeys:
    """The batch's own keys, then the queue's."""
    return CandidateKeys(
        tf.concat([batch.keys, queue.keys.value], axis=0),
        tf.concat([batch.labels, queue.labels.value], axis=0),
        tf.concat([batch.distributions, queue.distributions.value], axis=0),
        tf.concat([tf.ones(tf.shape(batch.keys)[:1], tf.bool), queue.filled()], axis=0),
    )
