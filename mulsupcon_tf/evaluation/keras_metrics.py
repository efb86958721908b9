"""The six metrics as `keras.metrics.Metric`, for `model.compile`; mAP stands in `keras_average_precision`.

`y_true` is `[B, C]`, 0 or 1. `y_pred` is `[B, C]`: probabilities, or logits with `from_logits=True`. `sample_weight` is
`[B]` or `[B, 1]`, not negative; a sample of weight 2 counts like two samples. Over an epoch each metric gives what its
namesake in `mulsupcon_tf.evaluation.metrics` gives for all batches together (`MeanAveragePrecision` up to the rounding that it
states). All state is in variables that are summed over the replicas of a distribution strategy.

A prediction that is NaN, or not in [0, 1] without `from_logits`, and a label that is neither 0 nor 1 make the result
NaN until the state is reset: a wrong number would pass for a right one. Tables of the wrong rank, of different shapes,
or with another number of labels than the metric was made for raise `InputError`.

`keras.metrics.F1Score` is not used for the F1s: it adds 1e-7 to every denominator, which shows at small sample weights,
has no result before the first batch, and takes no logits.
"""

import math
from typing import Any

import keras
from keras import ops

from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import float_tensors, require_at_least

PACKAGE = "mulsupcon_tf"


def _cut(threshold: float, from_logits: bool) -> float:
    """The threshold on the scale of the predictions."""
    if not 0 < threshold < 1:
        raise InputError(f"threshold must be between 0 and 1. Received: threshold={threshold}")
    return math.log(threshold / (1 - threshold)) if from_logits else threshold


def checked_batch(
    y_true: Any, y_pred: Any, sample_weight: Any, *, from_logits: bool, num_labels: int | None = None
) -> tuple[Any, Any, Any]:
    """Labels and predictions `[B, C]` and weights `[B]`, float32; a sample with a bad value gets the weight NaN.

    Args:
        y_true: labels `[B, C]`, 0 or 1.
        y_pred: probabilities `[B, C]`, or logits.
        sample_weight: `[B]` or `[B, 1]`, or None.
        from_logits: whether `y_pred` are logits.
        num_labels: what C must be; None: anything.

    Raises:
        InputError: the tables are of another rank, their shapes disagree, or they have another number of labels.
    """
    if sample_weight is not None:
        sample_weight = ops.convert_to_tensor(sample_weight)
        if len(sample_weight.shape) == 2 and sample_weight.shape[1] == 1:
            sample_weight = ops.squeeze(sample_weight, axis=1)
    tensors = float_tensors(y_pred=(y_pred, "BC"), y_true=(y_true, "BC"), sample_weight=(sample_weight, "B"))
    predictions, labels = (ops.cast(tensor, "float32") for tensor in tensors[:2])
    if num_labels is not None and predictions.shape[1] not in (None, num_labels):
        raise InputError(f"y_pred must have num_labels={num_labels} columns. Received: {predictions.shape[1]}")
    weights = ops.ones_like(predictions[:, 0]) if tensors[2] is None else ops.cast(tensors[2], "float32")
    good = ops.logical_or(labels == 0, labels == 1)
    if from_logits:
        good = ops.logical_and(good, ops.logical_not(ops.isnan(predictions)))
    else:
        good = ops.logical_and(good, ops.logical_and(predictions >= 0, predictions <= 1))
    return labels, predictions, ops.where(ops.all(good, axis=1), weights, float("nan"))


class _SampleMean(keras.metrics.Mean):
    """Weighted mean of a value of each sample; subclasses say which."""

    _direction = "up"  # callbacks that watch it need no `mode`

    def __init__(self, *, from_logits: bool, name: str, dtype: Any):
        super().__init__(name=name, dtype=dtype)
        self.from_logits = from_logits

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            y_true: labels `[B, C]`, 0 or 1.
            y_pred: probabilities `[B, C]`, or logits with `from_logits`.
            sample_weight: `[B]` or `[B, 1]`, at least 0; None: 1 each.

        Raises:
            InputError: the tables are of another rank, or their shapes disagree.
        """
        labels, predictions, weights = checked_batch(y_true, y_pred, sample_weight, from_logits=self.from_logits)
        super().update_state(self._sample_values(labels, predictions), weights)

    def _sample_values(self, labels: Any, predictions: Any) -> Any:
        """`[B]` values of labels and predictions `[B, C]`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package=PACKAGE)
class PrecisionAtOne(_SampleMean):
    """Share of samples whose highest-scored label is one of theirs; see `mulsupcon_tf.evaluation.metrics.precision_at_1`.

    A sample without labels counts as wrong.

    Args:
        from_logits: whether `y_pred` are logits.
        name: of the metric.
        dtype: of the state and the result.

    Raises:
        InputError: shapes disagree when updated.
    """

    def __init__(self, from_logits: bool = False, name: str = "precision_at_1", dtype: Any = None):
        super().__init__(from_logits=from_logits, name=name, dtype=dtype)

    def _sample_values(self, labels: Any, predictions: Any) -> Any:
        top = ops.cast(predictions == ops.max(predictions, axis=1, keepdims=True), "float32")
        return ops.divide_no_nan(ops.sum(top * labels, axis=1), ops.sum(top, axis=1))


class _ThresholdedSampleMean(_SampleMean):
    """A `_SampleMean` over predicted labels."""

    def __init__(self, *, threshold: float, from_logits: bool, name: str, dtype: Any):
        super().__init__(from_logits=from_logits, name=name, dtype=dtype)
        self.threshold = threshold
        self._cut = _cut(threshold, from_logits)

    def _sample_values(self, labels: Any, predictions: Any) -> Any:
        return self._label_set_values(labels, ops.cast(predictions > self._cut, "float32"))

    def _label_set_values(self, labels: Any, predicted: Any) -> Any:
        """`[B]` values of labels and predicted labels `[B, C]`, both 0 or 1."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "threshold": self.threshold}


@keras.saving.register_keras_serializable(package=PACKAGE)
class HammingAccuracy(_ThresholdedSampleMean):
    """Share of all decisions that are right; see `mulsupcon_tf.evaluation.metrics.hamming_accuracy`.

    Args:
        threshold: a label is predicted when its probability is above it; between 0 and 1.
        from_logits: whether `y_pred` are logits.
        name: of the metric.
        dtype: of the state and the result.

    Raises:
        InputError: the threshold is not between 0 and 1; shapes disagree when updated.
    """

    def __init__(
        self, threshold: float = 0.5, from_logits: bool = False, name: str = "hamming_accuracy", dtype: Any = None
    ):
        super().__init__(threshold=threshold, from_logits=from_logits, name=name, dtype=dtype)

    def _label_set_values(self, labels: Any, predicted: Any) -> Any:
        return ops.mean(ops.cast(labels == predicted, "float32"), axis=1)


@keras.saving.register_keras_serializable(package=PACKAGE)
class ExampleF1Score(_ThresholdedSampleMean):
    """Mean F1 of the samples; see `mulsupcon_tf.evaluation.metrics.example_f1`.

    Args:
        threshold: a label is predicted when its probability is above it; between 0 and 1.
        from_logits: whether `y_pred` are logits.
        name: of the metric.
        dtype: of the state and the result.

    Raises:
        InputError: the threshold is not between 0 and 1; shapes disagree when updated.
    """

    def __init__(self, threshold: float = 0.5, from_logits: bool = False, name: str = "example_f1", dtype: Any = None):
        super().__init__(threshold=threshold, from_logits=from_logits, name=name, dtype=dtype)

    def _label_set_values(self, labels: Any, predicted: Any) -> Any:
        marked = ops.sum(labels + predicted, axis=1)
        return ops.where(marked > 0, ops.divide_no_nan(2 * ops.sum(labels * predicted, axis=1), marked), 1.0)


class _CountedF1(keras.metrics.Metric):
    """F1 = 2 TP / (present + predicted): the mean over labels, or pooled where `num_labels` is None."""

    _direction = "up"

    def __init__(self, *, num_labels: int | None, threshold: float, from_logits: bool, name: str, dtype: Any):
        super().__init__(name=name, dtype=dtype)
        self.threshold = threshold
        self.from_logits = from_logits
        self.num_labels = num_labels
        self._cut = _cut(threshold, from_logits)
        require_at_least(1, num_labels=1 if num_labels is None else num_labels)
        shape = () if num_labels is None else (num_labels,)
        self.hits = self.add_variable(shape=shape, initializer="zeros", name="hits")
        self.marked = self.add_variable(shape=shape, initializer="zeros", name="marked")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            y_true: labels `[B, C]`, 0 or 1.
            y_pred: probabilities `[B, C]`, or logits with `from_logits`.
            sample_weight: `[B]` or `[B, 1]`, at least 0; None: 1 each.

        Raises:
            InputError: the tables are of another rank, their shapes disagree, or C is not `num_labels`.
        """
        labels, predictions, weights = checked_batch(
            y_true, y_pred, sample_weight, from_logits=self.from_logits, num_labels=self.num_labels
        )
        predicted = ops.cast(predictions > self._cut, "float32")
        axis = None if self.num_labels is None else 0
        for variable, counts in ((self.hits, labels * predicted), (self.marked, labels + predicted)):
            variable.assign_add(ops.cast(ops.sum(counts * weights[:, None], axis=axis), variable.dtype))

    def result(self) -> Any:
        """F1 of all batches since the last reset.

        Returns:
            Scalar in [0, 1], 0 before the first batch, NaN after a bad value.
        """
        return ops.mean(ops.divide_no_nan(2 * self.hits, self.marked))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "threshold": self.threshold, "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package=PACKAGE)
class MicroF1Score(_CountedF1):
    """F1 of all decisions pooled; see `mulsupcon_tf.evaluation.metrics.micro_f1`.

    Args:
        threshold: a label is predicted when its probability is above it; between 0 and 1.
        from_logits: whether `y_pred` are logits.
        name: of the metric.
        dtype: of the state and the result.

    Raises:
        InputError: the threshold is not between 0 and 1; shapes disagree when updated.
    """

    def __init__(self, threshold: float = 0.5, from_logits: bool = False, name: str = "micro_f1", dtype: Any = None):
        super().__init__(num_labels=None, threshold=threshold, from_logits=from_logits, name=name, dtype=dtype)


@keras.saving.register_keras_serializable(package=PACKAGE)
class MacroF1Score(_CountedF1):
    """Mean over the labels of their F1; see `mulsupcon_tf.evaluation.metrics.macro_f1`.

    Args:
        num_labels: C, at least 1.
        threshold: a label is predicted when its probability is above it; between 0 and 1.
        from_logits: whether `y_pred` are logits.
        name: of the metric.
        dtype: of the state and the result.

    Raises:
        InputError: a number is out of range; shapes disagree, or C is another, when updated.
    """

    def __init__(
        self,
        num_labels: int,
        threshold: float = 0.5,
        from_logits: bool = False,
        name: str = "macro_f1",
        dtype: Any = None,
    ):
        super().__init__(num_labels=num_labels, threshold=threshold, from_logits=from_logits, name=name, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "num_labels": self.num_labels}
