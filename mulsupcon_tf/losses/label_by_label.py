"""Losses of logits in which every label counts for itself, and what all losses of logits have in common.

References:
    [1] Ridnik et al., Asymmetric Loss for Multi-Label Classification (ASL), ICCV 2021, arXiv 2009.14119.
    [2] Durand et al., Learning a Deep ConvNet for Multi-label Classification with Partial Labels, CVPR 2019.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import float_tensors, require_not_negative

_PACKAGE = "mulsupcon_tf"


class LossOfLogits(keras.losses.Loss):
    """A loss of logits `[B, C]` and labels `[B, C]`: 0, 1, or NaN where it is unknown whether a sample has a label.

    An unknown label is left out, as if the sample had not been asked about it.

    Args:
        name: as in `keras.losses.Loss`.
        reduction: as in `keras.losses.Loss`.
        dtype: as in `keras.losses.Loss`.

    Attributes:
        zero_is_even: whether a logit of 0 means a probability of 1/2 when the loss is at its minimum.
    """

    zero_is_even = False

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The loss of a batch.

        Args:
            y_true: labels `[B, C]`.
            y_pred: logits `[B, C]`.
            sample_weight: `[B]` or `[B, 1]`; None: 1.

        Returns:
            Scalar float32, or `[B]` with reduction "none".

        Raises:
            InputError: shapes disagree; there is a weight a label, by which Keras would multiply the loss of the whole sample.
        """
        if sample_weight is not None:
            sample_weight = ops.convert_to_tensor(sample_weight)
            shape = sample_weight.shape
            if getattr(shape, "rank", 0) is not None and len(shape) > 1 and tuple(shape[1:]) != (1,):
                raise InputError(
                    "sample_weight must be one number a sample, [B] or [B, 1]; a label that is not to count is NaN. "
                    f"Received: shape {tuple(shape)}"
                )
        return super().__call__(y_true, y_pred, sample_weight)


class _LabelByLabel(LossOfLogits):
    """Mean over the known labels of a sample [2, eq. 1] of a loss of each; subclasses say which."""

    def __init__(self, *, weights: Any, name: str, reduction: str, dtype: Any):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.weights = None if weights is None else _checked_weights(weights)

    def call(self, y_true, y_pred):
        """The loss of each sample.

        Args:
            y_true: labels `[B, C]`: 0, 1, or NaN where it is unknown whether a sample has a label.
            y_pred: logits x `[B, C]`.

        Returns:
            `[B]`, float32 (float64 for float64 logits); 0 of a sample of which no label is known.

        Raises:
            InputError: shapes disagree.
        """
        logits, labels = float_tensors(y_pred=(y_pred, "BC"), y_true=(y_true, "BC"))
        known = ops.logical_not(ops.isnan(labels))
        labels = ops.where(known, labels, 0.0)
        losses = ops.where(known, self._of_each(labels, logits), 0.0)
        if self.weights is not None:
            absent, present = (ops.convert_to_tensor(row, losses.dtype) for row in self.weights)
            losses = losses * (labels * present + (1.0 - labels) * absent)
        number = ops.sum(ops.cast(known, losses.dtype), axis=-1)
        return ops.sum(losses, axis=-1) / ops.maximum(number, 1.0)

    def _of_each(self, labels, logits):
        """Losses `[B, C]`."""
        raise NotImplementedError

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "weights": self.weights}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class MultiLabelCrossentropy(_LabelByLabel):
    """Binary cross-entropy of each label: −y log p − (1 − y) log(1 − p), p = sigmoid(x), in the mean over the known labels.

    Args:
        weights: `[2][C]`: what a label counts where it is absent, and where it is present; None: 1. See
            `balanced_weights`.
        name: as in `keras.losses.Loss`.
        reduction: as in `keras.losses.Loss`.
        dtype: as in `keras.losses.Loss`.

    Raises:
        InputError: the weights are no two rows of finite numbers of at least 0; shapes disagree when called.
    """

    def __init__(self, weights=None, name="multi_label_crossentropy", reduction="sum_over_batch_size", dtype=None):
        super().__init__(weights=weights, name=name, reduction=reduction, dtype=dtype)

    @property
    def zero_is_even(self) -> bool:  # type: ignore[override]
        """Weights move the logits of a label by log(w_present / w_absent)."""
        return self.weights is None

    def _of_each(self, labels, logits):
        return ops.binary_crossentropy(labels, logits, from_logits=True)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class AsymmetricLoss(_LabelByLabel):
    """Focusing that lets go of easy negatives sooner than of positives [1, eq. 4 to 7], in the mean over the labels.

    −y (1 − p)^γ₊ log p − (1 − y) q^γ₋ log(1 − q), p = sigmoid(x), q = max(p − m, 0): negatives below the margin m count
    nothing. Logits come out higher than those of binary cross-entropy: negatives count less.

    Args:
        gamma_negative: γ₋ >= 0.
        gamma_positive: γ₊ >= 0.
        margin: m, from 0 to below 1.
        weights: as in `MultiLabelCrossentropy`.
        name: as in `keras.losses.Loss`.
        reduction: as in `keras.losses.Loss`.
        dtype: as in `keras.losses.Loss`.

    Raises:
        InputError: a setting is out of range; shapes disagree when called.
    """

    def __init__(
        self,
        gamma_negative=4.0,
        gamma_positive=1.0,
        margin=0.05,
        *,
        weights=None,
        name="asymmetric_loss",
        reduction="sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(weights=weights, name=name, reduction=reduction, dtype=dtype)
        require_not_negative(gamma_negative=gamma_negative, gamma_positive=gamma_positive, margin=margin)
        if margin >= 1:
            raise InputError(f"margin must be below 1. Received: margin={margin}")
        self.gamma_negative, self.gamma_positive, self.margin = gamma_negative, gamma_positive, margin

    def _of_each(self, labels, logits):
        # Made of log p and log(1 − p): p itself is rounded to 1 of what is sure, where 1 − p has no logarithm and its power no slope.
        log_p, log_rest = ops.log_sigmoid(logits), ops.log_sigmoid(-logits)
        positive = ops.exp(self.gamma_positive * log_rest) * log_p
        negative = self._beyond_margin(logits) if self.margin else ops.exp(self.gamma_negative * log_p) * log_rest
        return -labels * positive - (1.0 - labels) * negative

    def _beyond_margin(self, logits):
        """q^γ₋ log(1 − q) at a margin above 0, `[B, C]`."""
        q = ops.maximum(ops.sigmoid(logits) - self.margin, 0.0)
        # Near 1 from 1 − p, since a small margin is lost in a rounded q.
        log_of_small = ops.log(ops.sigmoid(-logits) + self.margin)
        log_rest = ops.where(q < 0.5, ops.log1p(-ops.minimum(q, 0.5)), log_of_small)
        return _power(q, self.gamma_negative) * log_rest

    def get_config(self):
        """Arguments of the constructor."""
        names = ("gamma_negative", "gamma_positive", "margin")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _power(base, exponent: float):
    """`base` to a power, with a gradient of 0 at 0, where that of an exponent below 1 is infinite or undefined."""
    above = base > 0
    return ops.where(above, ops.power(ops.where(above, base, 1.0), exponent), 0.0 if exponent else 1.0)


def _checked_weights(weights: Sequence[Sequence[float]]) -> list[list[float]]:
    table = np.asarray(weights, np.float64)
    if table.ndim != 2 or len(table) != 2:
        raise InputError(f"weights must be two rows of one number a label. Received: shape {table.shape}")
    if not (np.isfinite(table) & (table >= 0)).all():
        raise InputError(f"weights must be finite and at least 0. Received: {table.min()} as minimum")
    return table.tolist()
