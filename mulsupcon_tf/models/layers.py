"""Layers of Keras, made faster: batch normalisation and dropout; how moving averages move; what is copied and added of layers."""

import collections
import contextlib
import math
import threading
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from mulsupcon_tf.utils.private_apis import layers_within

LEVELS = 256  # of a byte
SMALL = 16384  # numbers in a tensor: most of a network's variables have fewer
_thread = threading.local()  # `moves`: what `postponed_moves` notes


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the same settings, weights and results, faster in training.

    Keras composes it of several operations, each of which reads and writes all activations; this is TensorFlow's single one.
    It has Keras' own name since weight files name layers by their class. Half precision keeps its activations as they
    are and has statistics in float32. What is not the training of `[B, H, W, channels]` on one device is left to Keras.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Normalises by the statistics of the batch in training, which move the moving ones, else by the moving ones.

        Args:
            inputs: `[B, H, W, channels]`; other ranks are left to Keras.
            training: whether in training.
            mask: left to Keras.
        """
        moves = getattr(_thread, "moves", None)
        if not (training and self.trainable and mask is None and self._is_one_operation(inputs)):
            if moves is not None:
                moves.note_made_at_once(self.moving_mean)
                moves.note_made_at_once(self.moving_variance)
            return super().call(inputs, training=training, mask=mask)
        nothing = tf.zeros([0])  # in training the operation reads no statistics
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=nothing,
            variance=nothing,
            epsilon=self.epsilon,
            is_training=True,
        )
        # The operation's variance is by n - 1, Keras' by n.
        n = tf.cast(tf.size(inputs) / inputs.shape[-1], "float32")
        share = 1 - self.momentum
        for average, value, factor in (
            (self.moving_mean, mean, tf.ones([])),
            (self.moving_variance, variance, (n - 1) / n),
        ):
            if moves is None:
                move_towards(average, value * factor, share)
            else:
                moves.add(average, value, factor, share)
        return tf.cast(outputs, self.compute_dtype)

    def _is_one_operation(self, inputs: tf.Tensor) -> bool:
        return (
            len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not getattr(self, "renorm", False)  # Keras has it since 3.14
            and not self.synchronized
            and self.variable_dtype == "float32"
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
        )


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose bias is not trained: models that an earlier version saved hold it.

    Batch normalisation, which follows, takes any bias away again. Networks that are built today have none there.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes kernel and bias for inputs of this shape."""
        super().build(input_shape)
        if self.bias is not None:
            self.bias.trainable = False


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class Dropout(keras.layers.Dropout):
    """`keras.layers.Dropout` that draws a byte for each unit, four in a random number.

    The rate is rounded to a multiple of 1/256; what is kept is divided by the share that is kept, so the mean stays as
    it is. It has Keras' own name since weight files name layers by their class.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops units in training.

        Args:
            inputs: of any shape.
            training: whether in training.
        """
        dropped = round(self.rate * LEVELS)
        if not training or self.noise_shape is not None or dropped in (0, LEVELS):
            return super().call(inputs, training=training)
        size = tf.size(inputs)
        numbers = tf.random.stateless_uniform(
            [(size + 3) // 4], self.seed_generator.next(), minval=None, maxval=None, dtype=tf.int32
        )
        levels = tf.reshape(tf.reshape(tf.bitcast(numbers, tf.uint8), [-1])[:size], tf.shape(inputs))
        kept = tf.cast(levels >= dropped, inputs.dtype)
        return inputs * (kept * (LEVELS / (LEVELS - dropped)))


def move_towards(average: keras.Variable, value: tf.Tensor | keras.Variable, share: tf.Tensor | float) -> None:
    """Moves an average: a <- a - s (a - v), which is (1 - s) a + s v.

    Args:
        average: a, on the device of this replica.
        value: v, of its shape and dtype.
        share: s, scalar.
    """
    # Two operations; `assign_sub` would take one pass over the memory more, the sum of two products two operations more.
    tf.raw_ops.ResourceApplyGradientDescent(
        var=average.value.handle, alpha=tf.cast(share, average.dtype), delta=average.value - tf.convert_to_tensor(value)
    )


def move_all_towards(
    averages: Sequence[keras.Variable],
    values: Sequence[tf.Tensor | keras.Variable],
    share: tf.Tensor | float,
    factors: Sequence[tf.Tensor] | None = None,
) -> None:
    """`move_towards` of many averages, the small ones together: to begin an operation takes longer than their arithmetic.

    Args:
        averages: on the device of this replica.
        values: as many, of their shapes and dtypes.
        share: s, scalar.
        factors: scalars float32, by which the values are multiplied first; None to leave them as they are.
    """
    small: list[int] = []
    for number, (average, value) in enumerate(zip(averages, values, strict=True)):
        if average.dtype == "float32" and math.prod(average.shape) <= SMALL:
            small.append(number)
        else:
            move_towards(average, value if factors is None else value * factors[number], share)
    if not small:
        return
    sizes = [math.prod(averages[number].shape) for number in small]
    old, new = (
        tf.concat([tf.reshape(tf.convert_to_tensor(side[number]), [-1]) for number in small], axis=0)
        for side in (averages, values)
    )
    if factors is not None:
        new *= tf.repeat(tf.stack([factors[number] for number in small]), sizes)
    parts = tf.split(old - tf.cast(share, tf.float32) * (old - new), sizes)
    for number, part in zip(small, parts, strict=True):
        average = averages[number]
        tf.raw_ops.AssignVariableOp(resource=average.value.handle, value=tf.reshape(part, average.shape))


class PostponedMoves:
    """Moves of the statistics of batch normalisation that are still to be made.

    Attributes:
        values: of each move, what the statistic is to move towards: a tensor, and a scalar that it is multiplied by.
    """

    def __init__(self) -> None:
        self.values: list[tuple[tf.Tensor, tf.Tensor]] = []
        self._moves: list[tuple[keras.Variable, float]] = []
        self._made_at_once: set[int] = set()
        self._graph = tf.compat.v1.get_default_graph()

    def add(self, average: keras.Variable, value: tf.Tensor, factor: tf.Tensor, share: float) -> None:
        """Postpones a move, or makes it where its value cannot be had later: in a loop or a condition."""
        if tf.compat.v1.get_default_graph() is self._graph:
            self._moves.append((average, share))
            self.values.append((value, factor))
        else:
            self.note_made_at_once(average)
            move_towards(average, value * factor, share)

    def note_made_at_once(self, average: keras.Variable) -> None:
        """Takes note that a statistic has been moved already."""
        self._made_at_once.add(id(average))

    def still_as_before(self) -> set[int]:
        """The `id` of each statistic whose moves have all been postponed."""
        return {id(average) for average, _ in self._moves} - self._made_at_once

    def make(self, values: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> None:
        """Makes the moves.

        Args:
            values: the attribute's, as a function or a condition has been given them.
        """
        seen: collections.Counter[int] = collections.Counter()
        together: dict[tuple[int, float], list[tuple[keras.Variable, tf.Tensor, tf.Tensor]]] = {}
        for (average, share), (value, factor) in zip(self._moves, values, strict=True):
            # A layer that is called twice moves its statistics twice, one after the other.
            together.setdefault((seen[id(average)], share), []).append((average, value, factor))
            seen[id(average)] += 1
        for (_, share), moves in together.items():
            averages, tensors, factors = zip(*moves, strict=True)
            move_all_towards(averages, tensors, share, factors)


@contextlib.contextmanager
def postponed_moves() -> Iterator[PostponedMoves]:
    """Batch normalisation in here does not move its statistics, but notes how; for this thread, that is this replica."""
    outer = getattr(_thread, "moves", None)
    _thread.moves = PostponedMoves()
    try:
        yield _thread.moves
    finally:
        _thread.moves = outer


def copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Gives a layer or model the weights of another one of the same structure, and all that is made of them.

    Args:
        source: the other one.
        target: what gets them.
    """
    target.set_weights(source.get_weights())
    for layer in layers_within(target):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with constants, which it makes of its weights here only


def penalties(networks: Sequence[keras.layers.Layer]) -> list[tf.Tensor]:
    """What regularisers and `add_loss` ask to be minimised besides, as of the last call of each network: scalars float32."""
    return [tf.reduce_sum(tf.cast(loss, "float32")) for network in networks for loss in network.losses]
