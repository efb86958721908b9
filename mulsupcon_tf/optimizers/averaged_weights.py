"""Moving averages of the weights in place of the weights."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Within it a model has the moving averages of its trainable weights, where its optimizer keeps them (Keras' `use_ema`).

    After step t the average is m times that of step t − 1 plus 1 − m times the weights; after the first step it is the
    weights, so that none has to be corrected for its beginning. Statistics of batch normalisation, averages themselves, stay.

    Args:
        model: compiled; between two steps.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # float16 wraps the one that keeps them
    if not optimizer.use_ema:
        yield
        return
    weights = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, weights, strict=True):
            variable.assign(value)
