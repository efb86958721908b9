"""A batch in parts, one after the other, so that a small device holds the activations of one part only."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from mulsupcon_tf.models.replicas import num_replicas


def map_microbatches(
    function: Callable[..., tuple[Any, Sequence[tf.Tensor]]],
    batch: Sequence[tf.Tensor],
    num_parts: int,
    *,
    zeros: Any = (),
    widths: Sequence[int] = (),
) -> tuple[Any, list[tf.Tensor]]:
    """Calls a function on each part of a batch: in one loop of the graph, or written out where there are several replicas.

    Args:
        function: from the number of the part's first sample and the part's tensors to a pair: a structure of tensors
            that is summed over the parts, and rows `[B / A, width]` float32 that are put one below the other.
        batch: tensors `[B, ...]`.
        num_parts: A, a divisor of B.
        zeros: zeros of the shapes that are summed, in their structure.
        widths: of the rows.

    Returns:
        The sums, and the rows `[B, width]`.
    """
    size = tf.shape(batch[0])[0] // num_parts
    whole = tf.debugging.assert_equal(
        tf.shape(batch[0])[0], size * num_parts, message=f"A batch must be a multiple of its {num_parts} parts."
    )
    with tf.control_dependencies([whole] if whole is not None else []):
        if num_replicas() > 1:
            return _written_out(function, batch, num_parts, size)
        return _looped(function, batch, num_parts, size, zeros=zeros, widths=widths)


def _looped(function, batch, num_parts: int, size, *, zeros, widths):
    arrays = [tf.TensorArray(tf.float32, num_parts, element_shape=(None, width)) for width in widths]

    def body(part, sums, arrays):
        first = part * size
        terms, rows = function(first, *(slice_rows(tensor, first, size) for tensor in batch))
        sums = tf.nest.map_structure(tf.add, sums, terms)
        return part + 1, sums, [array.write(part, each) for array, each in zip(arrays, rows, strict=True)]

    # One at a time: a loop whose turns overlap would hold several parts' activations.
    _, sums, arrays = tf.while_loop(lambda part, *_: part < num_parts, body, (0, zeros, arrays), parallel_iterations=1)
    return sums, [tf.reshape(array.stack(), (-1, width)) for array, width in zip(arrays, widths, strict=True)]


def _written_out(function, batch, num_parts: int, size):
    """The replicas exchange statistics within each part, which TensorFlow does not allow in a loop."""
    sums, rows = None, []
    before: list[tf.Tensor] = []
    for part in range(num_parts):
        with tf.control_dependencies(before):  # one at a time, as in the loop
            terms, made = function(part * size, *(slice_rows(tensor, part * size, size) for tensor in batch))
        sums = terms if sums is None else tf.nest.map_structure(tf.add, sums, terms)
        rows.append(made)
        before = [*tf.nest.flatten(terms), *made]
    return sums, [tf.concat(each, axis=0) for each in zip(*rows, strict=True)]


def rows_in_parts(
    function: Callable[[tf.Tensor], tf.Tensor], batch: tf.Tensor, num_parts: int, width: int
) -> tf.Tensor:
    """What a function makes of a batch `[B, ...]`, part by part: rows `[B, width]` float32."""
    _, (rows,) = map_microbatches(lambda _, part: ((), [function(part)]), [batch], num_parts, widths=[width])
    return rows


def slice_rows(tensor: tf.Tensor, first: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """`tensor[first : first + count]`, whose length XLA knows where it knows the count but not where the rows begin."""
    others = tensor.shape.rank - 1
    return tf.slice(tensor, [first, *[0] * others], [count, *[-1] * others])


def accumulate_gradients(
    losses_of_part: Callable[..., tuple[dict[str, tf.Tensor], tf.Tensor]],
    batch: Sequence[tf.Tensor],
    num_parts: int,
    *,
    variables: Sequence,
    names: Iterable[str],
    width: int,
    scale_loss: Callable[[tf.Tensor], tf.Tensor],
) -> tuple[dict[str, tf.Tensor], tf.Tensor, list[tf.Tensor]]:
    """Losses and gradients of a batch, of which one part's activations are held at a time.

    Args:
        losses_of_part: from the number of the part's first sample and the part's tensors to a pair: what the part adds
            to each loss of the batch, among them "loss", and rows `[B / A, width]` float32.
        batch: tensors `[B, ...]`.
        num_parts: A, a divisor of B.
        variables: Keras variables that the gradients are of.
        names: of the losses that are added up.
        width: of the rows.
        scale_loss: applied to the loss before its gradient is taken.

    Returns:
        The losses, the rows `[B, width]`, and a gradient for each variable.
    """

    def gradients_of_part(first, *part):
        with tf.GradientTape() as tape:
            losses, rows = losses_of_part(first, *part)
            loss = scale_loss(losses["loss"])
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        counted = {name: losses[name] for name in zeros[0]}
        return (counted, [tf.convert_to_tensor(gradient) for gradient in gradients]), [tf.stop_gradient(rows)]

    zeros = ({name: tf.zeros(()) for name in names}, [tf.zeros(v.shape, v.dtype) for v in variables])
    (losses, gradients), (rows,) = map_microbatches(gradients_of_part, batch, num_parts, zeros=zeros, widths=[width])
    return losses, rows, gradients
