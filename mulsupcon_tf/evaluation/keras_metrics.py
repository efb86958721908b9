"""The six metrics as `keras.metrics.Metric`, for `model.compile`; mAP stands in `keras_average_precision`.

`y_true` is `[B, C]`, 0, 1, or NaN where it is unknown whether a sample has a label, which is left out. `y_pred` is `[B, C]`:
probabilities, or logits with `from_logits=True`. `sample_weight` is `[B]` or `[B, 1]`, not negative; a sample of weight 2 counts
like two samples. Over an epoch each metric gives what its namesake in `mulsupcon_tf.evaluation.metrics` gives for all batches
together (`MeanAveragePrecision` up to the rounding that it states). All state is in variables that are summed over the replicas
of a distribution strategy.

A prediction that is NaN, or not in [0, 1] without `from_logits`, and a label that is another number make the result
NaN until the state is reset: a wrong number would pass for a right one. Tables of the wrong rank, of different shapes,
or with another number of labels than the metric was made for raise `InputError`.

`keras.metrics.F1Score` is not used for the F1s: it adds 1e-7 to every denominator, which shows at small sample weights,
has no result before the first batch, and takes no logits.
"""

from typing import Any

import keras
from keras import ops

from mulsupcon_tf.evaluation.metric_batches import MetricBatch, cut_of
from mulsupcon_tf.utils.keras_registry import PACKAGE
from mulsupcon_tf.utils.tensors import require_at_least


class _SampleMean(keras.metrics.Mean):
    """Weighted mean of a value of each sample; subclasses say which."""

    _direction = "up"  # callbacks that watch it need no `mode`

    def __init__(self, *, from_logits: bool, name: str, dtype: Any):
        super().__init__(name=name, dtype=dtype)
        self.from_logits = from_logits

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            y_true: labels `[B, C]`, 0, 1, or NaN where unknown.
            y_pred: probabilities `[B, C]`, or logits with `from_logits`.
            sample_weight: `[B]` or `[B, 1]`, at least 0; None: 1 each.

        Raises:
            InputError: the tables are of another rank, or their shapes disagree.
        """
        batch = MetricBatch.of(y_true, y_pred, sample_weight, from_logits=self.from_logits)
        super().update_state(self._sample_values(batch), batch.weights * self._share(batch.known))

    def _sample_values(self, batch: MetricBatch) -> Any:
        """`[B]` values of the samples."""
        raise NotImplementedError

    def _share(self, known: Any) -> Any:
        """How much of each sample counts, `[B]`: nothing where no label is known."""
        return ops.cast(ops.any(known > 0, axis=1), "float32")

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

    def _sample_values(self, batch: MetricBatch) -> Any:
        scores = ops.where(batch.known > 0, batch.predictions, float("-inf"))
        # Without an initial value a replica's empty share is an error.
        highest = ops.max(scores, axis=1, keepdims=True, initial=float("-inf"))
        top = ops.cast(scores == highest, "float32")
        return ops.divide_no_nan(ops.sum(top * batch.labels, axis=1), ops.sum(top, axis=1))


class _ThresholdedSampleMean(_SampleMean):
    """A `_SampleMean` over predicted labels."""

    def __init__(self, *, threshold: float, from_logits: bool, name: str, dtype: Any):
        super().__init__(from_logits=from_logits, name=name, dtype=dtype)
        self.threshold = threshold
        self._cut = cut_of(threshold, from_logits=from_logits)

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

    def _sample_values(self, batch: MetricBatch) -> Any:
        right = ops.cast(batch.labels == batch.given(self._cut), "float32") * batch.known
        return ops.divide_no_nan(ops.sum(right, axis=1), ops.sum(batch.known, axis=1))

    def _share(self, known: Any) -> Any:
        return ops.mean(known, axis=1)  # all decisions count alike, so a sample by how many there are of it


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

    def _sample_values(self, batch: MetricBatch) -> Any:
        labels, predicted = batch.labels, batch.given(self._cut)
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
        self._cut = cut_of(threshold, from_logits=from_logits)
        require_at_least(1, num_labels=1 if num_labels is None else num_labels)
        shape = () if num_labels is None else (num_labels,)
        self.hits = self.add_variable(shape=shape, initializer="zeros", name="hits")
        self.marked = self.add_variable(shape=shape, initializer="zeros", name="marked")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            y_true: labels `[B, C]`, 0, 1, or NaN where unknown.
            y_pred: probabilities `[B, C]`, or logits with `from_logits`.
            sample_weight: `[B]` or `[B, 1]`, at least 0; None: 1 each.

        Raises:
            InputError: the tables are of another rank, their shapes disagree, or C is not `num_labels`.
        """
        batch = MetricBatch.of(y_true, y_pred, sample_weight, from_logits=self.from_logits, num_labels=self.num_labels)
        labels, predicted, weights = batch.labels, batch.given(self._cut), batch.weights[:, None]
        axis = None if self.num_labels is None else 0
        for variable, counts in ((self.hits, labels * predicted), (self.marked, labels + predicted)):
            variable.assign_add(ops.cast(ops.sum(counts * weights, axis=axis), variable.dtype))

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
