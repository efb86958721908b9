"""Which samples make which batch: a function of seed and step alone, so that a continued run sees the same ones."""

import dataclasses

import numpy as np
import tensorflow as tf

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.utils.errors import InputError

SHOWN_SAMPLES = 5


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Full batches in one pass; the shuffle changes with the epoch, so no sample is left out for long.

    Raises:
        InputError: the split is smaller than one batch.
    """
    if batch_size > len(split):
        raise InputError(
            f"--batch_size must be at most the {len(split)} training samples. Received: --batch_size={batch_size}"
        )
    return len(split) // batch_size


def training_rows(
    dataset: MultiLabelDataset, first_step: int, num_steps: int, *, batch_size: int, seed: int
) -> np.ndarray:
    """`[num_steps · B]` the samples that the batches of some steps are made of, over all workers, in order."""
    num_samples = len(dataset.splits["train"])
    order = SamplingOrder(num_samples, batch_size, num_samples // batch_size, seed, first=0, count=batch_size)
    steps = range(first_step, first_step + num_steps)
    return np.concatenate([order.rows(tf.constant(step)).numpy() for step in steps])


def training_inputs(
    dataset: MultiLabelDataset, first_step: int, num_steps: int, *, batch_size: int, seed: int
) -> np.ndarray | ImageFiles:
    """The inputs of `training_rows`."""
    return dataset.splits["train"].inputs[
        training_rows(dataset, first_step, num_steps, batch_size=batch_size, seed=seed)
    ]


@dataclasses.dataclass(frozen=True)
class SamplingOrder:
    """Which samples make which batch: a function of seed and step, in another order each epoch.

    Attributes:
        num_samples: N.
        batch_size: B.
        num_batches: in an epoch.
        seed: of the shuffle.
        first: place in the batch of this worker's first sample.
        count: samples of each batch that this worker gets.
    """

    num_samples: int
    batch_size: int
    num_batches: int
    seed: int
    first: int
    count: int

    def rows(self, step: tf.Tensor) -> tf.Tensor:
        """`[count]` int64, this worker's samples of a step."""
        return self.row(step, self.first + tf.range(self.count, dtype=tf.int64))

    def row(self, step: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        """The sample at a place, or the samples at some places, of a step's batch."""
        step = tf.cast(step, tf.int64)
        epoch, position = step // self.num_batches, step % self.num_batches
        # The shuffle reads 8 bits of each of its three words only: seed and epoch are mixed into all of them, or epoch e would
        # have the order of e + 256.
        words = tf.random.stateless_uniform(
            [3], tf.stack([tf.constant(self.seed, tf.int64), epoch]), minval=None, maxval=None, dtype=tf.int32
        )
        return tf.raw_ops.RandomIndexShuffle(
            index=position * self.batch_size + place,
            seed=words,
            max_index=tf.constant(self.num_samples - 1, tf.int64),
            rounds=4,
        )


class InOrder(SamplingOrder):
    """The samples as they are stored, once; the last one fills the last batch up."""

    def row(self, step: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        """The sample at a place, or the samples at some places, of a step's batch."""
        return tf.minimum(tf.cast(step, tf.int64) * self.batch_size + place, self.num_samples - 1)


def describe_batch(dataset: MultiLabelDataset, step: int, *, batch_size: int, seed: int) -> str:
    """Names the samples of a step's batch that are not finite themselves, or else the first few of all of them.

    Args:
        dataset: what is trained on.
        step: counted from 0.
        batch_size: B, over all workers.
        seed: of the order.
    """
    rows = training_rows(dataset, step, 1, batch_size=batch_size, seed=seed)
    inputs = dataset.splits["train"].inputs
    if isinstance(inputs, ImageFiles):
        return f"train images {_first(list(inputs.paths[rows]))}"
    finite = np.isfinite(inputs[rows]).reshape(len(rows), -1).all(axis=1)
    if finite.all():
        return f"train rows {_first(rows.tolist())}"
    return f"train rows {_first(rows[~finite].tolist())}, which are not finite"


def _first(names: list) -> str:
    return ", ".join(map(str, names[:SHOWN_SAMPLES])) + (", ..." if len(names) > SHOWN_SAMPLES else "")


def steps_from(first: int) -> tf.data.Dataset:
    """The numbers of steps from one on, without end. Not `Dataset.counter`, which calls a function for each number."""
    return tf.data.Dataset.range(first, tf.int64.max)
