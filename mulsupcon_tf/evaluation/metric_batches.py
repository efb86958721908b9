"""What the metrics of `keras_metrics` are given: labels and predictions of a batch, and how much each of its decisions counts."""

import math
from typing import Any, NamedTuple

from keras import ops

from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import float_tensors


def cut_of(threshold: float, *, from_logits: bool) -> float:
    """A threshold of probabilities on the scale of the predictions.

    Raises:
        InputError: it is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise InputError(f"threshold must be between 0 and 1. Received: threshold={threshold}")
    return math.log(threshold / (1 - threshold)) if from_logits else threshold


class MetricBatch(NamedTuple):
    """A batch as metrics count it, all float32.

    Attributes:
        labels: `[B, C]`, 0 or 1; 0 where unknown.
        predictions: `[B, C]`.
        known: `[B, C]`, 1 where the label is known, else 0.
        weights: `[B]`; NaN of a sample with a bad value.
    """

    labels: Any
    predictions: Any
    known: Any
    weights: Any

    @classmethod
    def of(
        cls, y_true: Any, y_pred: Any, sample_weight: Any, *, from_logits: bool, num_labels: int | None = None
    ) -> "MetricBatch":
        """The batch that a metric's `update_state` is given.

        Args:
            y_true: `[B, C]`, 0, 1 or NaN.
            y_pred: `[B, C]`.
            sample_weight: `[B]` or `[B, 1]`, or None.
            from_logits: whether `y_pred` are logits.
            num_labels: C, where the metric is made for a certain one.

        Raises:
            InputError: tables are of the wrong rank, of different shapes, or have another C.
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
        unknown = ops.isnan(labels)
        labels = ops.where(unknown, 0.0, labels)
        good = ops.logical_or(labels == 0, labels == 1)
        if from_logits:
            good = ops.logical_and(good, ops.logical_not(ops.isnan(predictions)))
        else:
            good = ops.logical_and(good, ops.logical_and(predictions >= 0, predictions <= 1))
        weights = ops.where(ops.all(good, axis=1), weights, float("nan"))
        return cls(labels, predictions, 1.0 - ops.cast(unknown, "float32"), weights)

    def given(self, cut: float) -> Any:
        """Which labels are given, `[B, C]`, of those that are known: 1 where the prediction is above the cut."""
        return ops.cast(self.predictions > cut, "float32") * self.known
