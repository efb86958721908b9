"""Losses of logits in which positives are held against negatives.

References:
    [1] Kobayashi, Two-way Multi-Label Loss, CVPR 2023.
    [2] Su et al., ZLPR: A Novel Loss for Multi-label Classification, arXiv 2208.02955.
"""

import keras
from keras import ops

from mulsupcon_tf.losses.keys import HIDDEN
from mulsupcon_tf.losses.label_by_label import LossOfLogits
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import float_tensors, require_positive

_PACKAGE = "mulsupcon_tf"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class TwoWayLoss(LossOfLogits):
    """The highest negatives held against the lowest positives, of each sample and of each label in the batch [1].

    softplus(T₋ log Σ_n exp(x_n / T₋) + T₊ log Σ_p exp(−x_p / T₊)) over the labels of a sample, in the mean over the samples
    that have one, plus the same over the samples of a label, in the mean over the labels that occur in the batch. Only
    differences of logits count: their zero means nothing.

    Args:
        positive_temperature: T₊ > 0.
        negative_temperature: T₋ > 0.
        name: as in `keras.losses.Loss`.
        reduction: as in `keras.losses.Loss`.
        dtype: as in `keras.losses.Loss`.

    Raises:
        InputError: a temperature is not above 0; shapes disagree or samples are weighted when called.
    """

    def __init__(
        self,
        positive_temperature=4.0,
        negative_temperature=1.0,
        name="two_way_loss",
        reduction="sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        require_positive(positive_temperature=positive_temperature, negative_temperature=negative_temperature)
        self.positive_temperature, self.negative_temperature = positive_temperature, negative_temperature

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The loss of a batch; samples that are compared with each other have no weights of their own.

        Args:
            y_true: as of `call`.
            y_pred: as of `call`.
            sample_weight: None.

        Returns:
            Scalar float32.

        Raises:
            InputError: shapes disagree, or samples are weighted.
        """
        if sample_weight is not None:
            raise InputError("TwoWayLoss compares samples and takes no sample_weight. Received: sample_weight")
        return super().__call__(y_true, y_pred)

    def call(self, y_true, y_pred):
        """The loss of a batch.

        Args:
            y_true: labels `[B, C]`: 0, 1, or NaN where it is unknown whether a sample has a label.
            y_pred: logits x `[B, C]`.

        Returns:
            Scalar, float32 (float64 for float64 logits).

        Raises:
            InputError: shapes disagree.
        """
        logits, labels = float_tensors(y_pred=(y_pred, "BC"), y_true=(y_true, "BC"))
        return self._along(labels, logits, axis=1) + self._along(labels, logits, axis=0)

    def _along(self, labels, logits, *, axis: int):
        """Mean over the rows (axis 1) or the columns (axis 0) that hold a positive."""
        losses = ops.softplus(
            _soft_maximum(logits, labels == 0, self.negative_temperature, axis)
            + _soft_maximum(-logits, labels > 0, self.positive_temperature, axis)
        )
        counted = ops.cast(ops.any(labels > 0, axis=axis), losses.dtype)
        return ops.sum(losses * counted) / ops.maximum(ops.sum(counted), 1.0)

    def get_config(self):
        """Arguments of the constructor."""
        names = ("positive_temperature", "negative_temperature")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class ZLPRLoss(LossOfLogits):
    """log(1 + Σ_n exp(x_n)) + log(1 + Σ_p exp(−x_p)) over the negatives n and the positives p of a sample [2, eq. 5].

    Zero-bounded: positives are to lie above 0, negatives below.

    Args:
        name: as in `keras.losses.Loss`.
        reduction: as in `keras.losses.Loss`.
        dtype: as in `keras.losses.Loss`.

    Raises:
        InputError: shapes disagree when called.
    """

    def __init__(self, name="zlpr_loss", reduction="sum_over_batch_size", dtype=None):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true, y_pred):
        """The loss of each sample.

        Args:
            y_true: labels `[B, C]`: 0, 1, or NaN where it is unknown whether a sample has a label.
            y_pred: logits x `[B, C]`.

        Returns:
            `[B]`, float32 (float64 for float64 logits).

        Raises:
            InputError: shapes disagree.
        """
        logits, labels = float_tensors(y_pred=(y_pred, "BC"), y_true=(y_true, "BC"))
        highest_negative = _soft_maximum(logits, labels == 0, 1.0, axis=1)
        return ops.softplus(highest_negative) + ops.softplus(_soft_maximum(-logits, labels > 0, 1.0, axis=1))


def _soft_maximum(values, members, temperature: float, axis: int):
    """T log Σ exp(v / T) over the members of a row (axis 1) or a column (axis 0); far below zero where there is none."""
    hidden = ops.where(members, values / temperature, HIDDEN)
    return temperature * ops.logsumexp(hidden, axis=axis)
