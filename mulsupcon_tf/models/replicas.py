"""What the replicas of a model have to settle with each other within a training step.

A replica is the part of a `tf.distribute` strategy that trains on its own share of each batch; without a strategy there
is one. All functions are called in a replica's own context, where `strategy.run` puts a train step, and cost nothing
where there is only one replica.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mulsupcon_tf.utils.private_apis import layers_within, replicas_reduce_anywhere


def num_replicas() -> int:
    """Replicas that train in step with each other, over all workers."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def synchronise_normalisation(layers: Iterable[keras.layers.Layer]) -> None:
    """Makes batch normalisation use the statistics of the whole batch where there are several replicas.

    Without it each replica would normalise by its own share, and their moving statistics would drift apart.
    """
    for layer in (inner for outer in layers for inner in layers_within(outer)):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = num_replicas() > 1


def sum_over_replicas(tensor: tf.Tensor) -> tf.Tensor:
    """The sum of what each replica has, on every replica."""
    if num_replicas() == 1:
        return tensor
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def weight_of_share(size: tf.Tensor) -> tf.Tensor | float:
    """What a replica's mean counts in the mean over all: Keras takes it for one of equals, but a last batch may be short."""
    if num_replicas() == 1:
        return 1.0
    size = tf.cast(size, tf.float32)
    return size * num_replicas() / sum_over_replicas(size)


def sum_by_name(scalars: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The sums of what each replica has under a name, on every replica; in one exchange."""
    if num_replicas() == 1:
        return scalars
    return dict(zip(scalars, tf.unstack(sum_over_replicas(tf.stack(list(scalars.values())))), strict=True))


def gather_rows(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The rows of all replicas, in the order of the global batch.

    Args:
        tensors: `[b, ...]` float32 of rank 2, of this replica's share of the batch.

    Returns:
        `[B, ...]` each, the same on every replica.
    """
    if num_replicas() == 1:
        return list(tensors)
    widths = [tensor.shape[-1] for tensor in tensors]
    # one exchange for all of them: on a network each has its own latency
    gathered = tf.distribute.get_replica_context().all_gather(tf.concat(tensors, axis=-1), axis=0)
    return tf.split(gathered, widths, axis=-1)


def first_row(tensor: tf.Tensor) -> tf.Tensor | int:
    """The row of the global batch that is this replica's first one; the last batch of a pass may be shared unevenly."""
    if num_replicas() == 1:
        return 0
    context = tf.distribute.get_replica_context()
    counts = context.all_gather(tf.shape(tensor)[:1], axis=0)
    return tf.reduce_sum(counts[: context.replica_id_in_sync_group])


def replica_cond(
    predicate: tf.Tensor, on_true: Callable[..., None], on_false: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """Calls `on_true(*args)` or `on_false(*args)` on every replica.

    `tf.cond` alone cannot be used in a step: what is called may reduce over the replicas, which TensorFlow allows only
    where they all have met.

    Args:
        predicate: scalar bool, the same on every replica.
        on_true: must reach this replica's tensors through its arguments only.
        on_false: as `on_true`.
        args: structures of tensors.
    """
    if replicas_reduce_anywhere():
        tf.cond(predicate, lambda: on_true(*args), lambda: on_false(*args))
        return

    def choose(strategy, predicate, *args):
        first = strategy.experimental_local_results(predicate)[0]
        each = strategy.extended.call_for_each_replica
        tf.cond(first, lambda: each(on_true, args=args), lambda: each(on_false, args=args))

    tf.distribute.get_replica_context().merge_call(choose, args=(predicate, *args))
