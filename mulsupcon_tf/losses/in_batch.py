"""The contrastive losses within one batch as a Keras loss, for a training loop of your own.

References:
    [1] Khosla et al., Supervised Contrastive Learning (SupCon), arXiv 2004.11362.
    [2] Zhang and Wu, Multi-Label Supervised Contrastive Learning (MulSupCon), AAAI 2024.
"""

import keras
from keras import ops

from mulsupcon_tf.losses.keys import HIDDEN
from mulsupcon_tf.losses.positives import all_positives, any_positives, jaccard_positives
from mulsupcon_tf.utils.choices import TEMPERATURE
from mulsupcon_tf.utils.tensors import float_tensors, require_choice, require_positive, unit_rows


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class MultiLabelContrastiveLoss(keras.losses.Loss):
    """The contrastive losses within one batch, for a training loop of your own: no queue, no key encoder.

    `loss(y_true, y_pred)` takes labels `[B, C]`, 0 or 1, and embeddings `[B, D]`, which are brought to unit length
    here. The keys of an anchor are the batch's other samples; gradient flows into both sides. An anchor without
    positives has loss 0, and the losses of the others are scaled by B / their number, so that Keras' mean over the
    batch is the mean over the anchors that have a positive. The formulas are SupCon's L_out [1, eq. 2] and MulSupCon's [2].

    Args:
        positives: `"mulsupcon"` (each label of the anchor counts alike; averaged over anchors, as
            `MulSupCon(average="anchor")`, not over pairs as [2] is published), `"any"` (keys that share a label),
            `"all"` (keys with the same labels) or `"jaccard"` (keys weighted by their Jaccard index of at least 0.5).
        temperature: τ > 0.
        name: as in `keras.losses.Loss`.
        reduction: as in `keras.losses.Loss`.
        dtype: as in `keras.losses.Loss`.

    Raises:
        InputError: an unknown kind of positives, or a temperature that is not above 0; shapes disagree when called.
    """

    def __init__(
        self,
        positives="mulsupcon",
        temperature=TEMPERATURE,
        name="multi_label_contrastive_loss",
        reduction="sum_over_batch_size",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        require_choice(_IN_BATCH_POSITIVES, positives=positives)
        require_positive(temperature=temperature)
        self.positives = positives
        self.temperature = temperature

    def call(self, y_true, y_pred):
        """The loss of each anchor.

        Args:
            y_true: labels `[B, C]`, 0 or 1.
            y_pred: embeddings `[B, D]`, of any length.

        Returns:
            `[B]`, float32 (float64 for float64 embeddings).

        Raises:
            InputError: shapes disagree.
        """
        embeddings, labels = float_tensors(y_pred=(y_pred, "BD"), y_true=(y_true, "BC"))
        embeddings = unit_rows(embeddings)
        batch_size = ops.shape(embeddings)[0]
        others = 1.0 - ops.eye(batch_size, dtype=embeddings.dtype)
        logits = ops.matmul(embeddings / self.temperature, ops.transpose(embeddings))
        positives = _IN_BATCH_POSITIVES[self.positives](labels, labels) * others
        mass = ops.sum(positives, axis=-1)
        has_positive = ops.cast(mass > 0, logits.dtype)
        attraction = ops.sum(positives * logits, axis=-1) / ops.where(mass > 0, mass, 1.0)
        losses = ops.logsumexp(logits + (1.0 - others) * HIDDEN, axis=-1) - attraction
        scale = ops.cast(batch_size, losses.dtype) / ops.maximum(ops.sum(has_positive), 1.0)
        return losses * has_positive * scale

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "positives": self.positives, "temperature": self.temperature}


def _mulsupcon_positives(labels, key_labels):
    """Row i weights the keys by Σ_j w_ij y_pj / n_j, where n_j does not count the anchor, which is one of the keys."""
    counts = ops.sum(key_labels, axis=0) - labels
    weights = ops.where(counts > 0, labels, 0.0)
    weights = weights / ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 1.0)
    return ops.matmul(weights / ops.maximum(counts, 1.0), ops.transpose(key_labels))


_IN_BATCH_POSITIVES = {
    "mulsupcon": _mulsupcon_positives,
    "any": any_positives,
    "all": all_positives,
    "jaccard": jaccard_positives,
}
